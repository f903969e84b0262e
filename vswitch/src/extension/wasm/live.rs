//! A module at work: its memory, its functions, and each call of one.
//!
//! Whatever goes wrong in a call comes back as a text that names the function and the cause. No pointer, length or number of a module is
//! used before it was checked.

use wasmtime::{AsContextMut, InstancePre, Memory, Store, Trap, TypedFunc, WasmParams, WasmResults};

use super::imports::{Broken, Host};
use super::{Limits, layout};
use crate::extension::{Effects, Head};

/// A fault in words.
pub(super) type Fault = String;

/// What a module exports. Those that are `None` stand for the default.
pub(super) struct Funcs {
    pub(super) abi: TypedFunc<(), u32>,
    pub(super) kind: TypedFunc<(), u32>,
    pub(super) reasons: Option<TypedFunc<(), u64>>,
    pub(super) buffer: Option<TypedFunc<u32, u32>>,
    pub(super) judges: Option<TypedFunc<u32, u32>>,
    pub(super) judge: Option<TypedFunc<u32, u32>>,
    pub(super) forward: Option<TypedFunc<u32, u32>>,
    pub(super) reflective: Option<TypedFunc<(), u32>>,
    pub(super) sampling: Option<TypedFunc<(), u32>>,
    pub(super) sample: Option<TypedFunc<u32, ()>>,
    pub(super) tick: Option<TypedFunc<u64, ()>>,
    pub(super) change: Option<TypedFunc<(u64, u32), u64>>,
    pub(super) set: Option<TypedFunc<(u32, u32, u32), u64>>,
    pub(super) status: Option<TypedFunc<u32, u64>>,
    pub(super) save: Option<TypedFunc<(u64, u32), u64>>,
    pub(super) restore: Option<TypedFunc<(u64, u32, u32, u32), u64>>,
}

/// One instance, as the sandbox has it.
pub(super) struct Live {
    pub(super) store: Store<Host>,
    pub(super) funcs: Funcs,
    memory: Memory,
    /// Where the frame of a call goes; 0 = it is never shown one.
    place: u32,
    frame_fuel: u64,
    call_fuel: u64,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("host", self.store.data()).finish_non_exhaustive()
    }
}

impl Live {
    /// Gives it memory and runs its start function, if it has one.
    pub(super) fn new(pre: &InstancePre<Host>, limits: &Limits) -> Result<Self, Fault> {
        let mut store = Store::new(pre.module().engine(), Host::new(limits));
        store.limiter(|host| &mut host.limits);
        let began = store.set_fuel(limits.call_fuel).and_then(|()| pre.instantiate(&mut store));
        let instance = began.map_err(|error| why("its start", limits.call_fuel, &error))?;
        let memory = instance.get_memory(&mut store, "memory").ok_or("it has no memory")?;
        store.data_mut().memory = Some(memory);
        let needed = |name: &str| format!("it exports no {name}");
        let funcs = Funcs {
            abi: func(&instance, &mut store, "tp_abi").ok_or_else(|| needed("tp_abi"))?,
            kind: func(&instance, &mut store, "tp_kind").ok_or_else(|| needed("tp_kind"))?,
            reasons: func(&instance, &mut store, "tp_reasons"),
            buffer: func(&instance, &mut store, "tp_buffer"),
            judges: func(&instance, &mut store, "tp_judges"),
            judge: func(&instance, &mut store, "tp_judge"),
            forward: func(&instance, &mut store, "tp_forward"),
            reflective: func(&instance, &mut store, "tp_reflective"),
            sampling: func(&instance, &mut store, "tp_sampling"),
            sample: func(&instance, &mut store, "tp_sample"),
            tick: func(&instance, &mut store, "tp_tick"),
            change: func(&instance, &mut store, "tp_change"),
            set: func(&instance, &mut store, "tp_set"),
            status: func(&instance, &mut store, "tp_status"),
            save: func(&instance, &mut store, "tp_save"),
            restore: func(&instance, &mut store, "tp_restore"),
        };
        let (frame_fuel, call_fuel) = (limits.frame_fuel, limits.call_fuel);
        Ok(Self { store, funcs, memory, place: 0, frame_fuel, call_fuel })
    }

    /// Asks once where frames go.
    pub(super) fn find_place(&mut self) -> Result<(), Fault> {
        if self.funcs.judge.is_some() || self.funcs.forward.is_some() || self.funcs.sample.is_some() {
            let found = self.room(layout::FRAME)?;
            self.place = found
                .ok_or_else(|| format!("tp_buffer has no room for a frame ({} bytes)", layout::FRAME))?;
        }
        Ok(())
    }

    /// Calls what is not about a single frame.
    pub(super) fn call<P: WasmParams, R: WasmResults>(
        &mut self,
        name: &str,
        func: &TypedFunc<P, R>,
        args: P,
    ) -> Result<R, Fault> {
        run(&mut self.store, name, func, args, self.call_fuel)
    }

    /// Shows a frame, which `write` puts into the module's memory, to one of its functions; `None` = it has no such function.
    #[inline]
    pub(super) fn show<R: WasmResults>(
        &mut self,
        name: &str,
        func: impl FnOnce(&Funcs) -> Option<&TypedFunc<u32, R>>,
        write: impl FnOnce(&mut [u8]) -> bool,
    ) -> Result<Option<R>, Fault> {
        let Some(func) = func(&self.funcs) else { return Ok(None) };
        let at = self.place as usize;
        let place = self.memory.data_mut(&mut self.store).get_mut(at..at + layout::FRAME);
        if !place.is_some_and(write) {
            return Err(format!("{name}: there is no room for a frame"));
        }
        run(&mut self.store, name, func, self.place, self.frame_fuel).map(Some)
    }

    /// A call is over, and what the module wants is handed on; not that of a call that was only to find out what it says.
    #[inline]
    pub(super) fn after(&mut self, dry: bool, effects: &mut Effects) {
        let host = self.store.data_mut();
        host.dry = false;
        if !dry {
            host.hand_on(effects);
        }
    }

    /// What it made of the beginning of the frame that it was shown; `len` bytes of it.
    pub(super) fn shown(&self, len: usize) -> Option<Head> {
        let at = self.place as usize + layout::FRAME_HEADER;
        self.memory.data(&self.store).get(at..at + len).map(Head::new)
    }

    /// Where the module wants this many bytes; `None` = it has no room for them.
    fn room(&mut self, len: usize) -> Result<Option<u32>, Fault> {
        let Some(buffer) = self.funcs.buffer.clone() else { return Ok(None) };
        let at = self.call("tp_buffer", &buffer, len as u32)?;
        if at == 0 {
            return Ok(None);
        }
        match self.memory.data(&self.store).get(at as usize..at as usize + len) {
            Some(_) => Ok(Some(at)),
            None => Err(format!("tp_buffer gave {len} bytes at {at:#x}, which are outside its memory")),
        }
    }

    /// Puts bytes where the module wants them; `None` = it has no room.
    pub(super) fn put(&mut self, parts: &[&[u8]]) -> Result<Option<u32>, Fault> {
        let len = parts.iter().map(|part| part.len()).sum();
        let Some(start) = self.room(len)? else { return Ok(None) };
        let mut at = start as usize;
        for part in parts {
            let written = self.memory.write(&mut self.store, at, part);
            written.map_err(|_| format!("tp_buffer gave {len} bytes that are outside its memory"))?;
            at += part.len();
        }
        Ok(Some(start))
    }

    /// The bytes of an answer (address in the lower half, length in the upper); `None` for 0.
    pub(super) fn given(&self, name: &str, answer: u64, most: usize) -> Result<Option<&[u8]>, Fault> {
        if answer == 0 {
            return Ok(None);
        }
        let (at, len) = (answer as u32 as usize, (answer >> 32) as usize);
        if len > most {
            return Err(format!("{name} gave {len} bytes; at most {most}"));
        }
        match self.memory.data(&self.store).get(at..at + len) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(format!("{name} gave {len} bytes at {at:#x}, which are outside its memory")),
        }
    }
}

fn func<P: WasmParams, R: WasmResults>(
    instance: &wasmtime::Instance,
    store: &mut Store<Host>,
    name: &str,
) -> Option<TypedFunc<P, R>> {
    instance.get_typed_func(store, name).ok()
}

#[inline]
fn run<P: WasmParams, R: WasmResults>(
    store: &mut Store<Host>,
    name: &str,
    func: &TypedFunc<P, R>,
    args: P,
    fuel: u64,
) -> Result<R, Fault> {
    let done = store.set_fuel(fuel).and_then(|()| func.call(store.as_context_mut(), args));
    done.map_err(|error| why(name, fuel, &error))
}

/// Why a call did not end as it should.
#[cold]
fn why(name: &str, fuel: u64, error: &wasmtime::Error) -> Fault {
    if let Some(Broken(broken)) = error.downcast_ref() {
        return format!("{name}: {broken}");
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => format!("{name} did not end: it was stopped after {fuel} units of fuel"),
        Some(Trap::StackOverflow) => {
            format!("{name} called too deep: its stack of {} KiB is full", super::STACK / 1024)
        }
        Some(Trap::MemoryOutOfBounds) => format!("{name} reached outside its memory"),
        Some(Trap::UnreachableCodeReached) => format!("{name} gave up (unreachable)"),
        Some(trap) => format!("{name} trapped: {}", trap.to_string().trim_start_matches("wasm trap: ")),
        None => format!("{name} failed: {}", super::imports::text(error.root_cause().to_string().as_bytes())),
    }
}
