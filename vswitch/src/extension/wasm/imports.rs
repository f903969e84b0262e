//! The functions that a module may call: `turnpike.tp_…`.
//!
//! What they are asked for is bounded before anything is copied, costs fuel as if the module had done it itself, and waits in the
//! [`Host`] until a call comes that can hand it on.

use std::net::{IpAddr, SocketAddr};

use wasmtime::{
    Caller, Engine, ExternType, ImportType, Linker, Memory, StoreLimits, StoreLimitsBuilder, ValType,
};

use super::{Limits, layout};
use crate::PortId;
use crate::extension::effects::LONGEST_FRAME;
use crate::extension::{Effects, Injection, Output, PortCounters};

/// The module that they are imported from.
pub(super) const FROM: &str = "turnpike";

/// Longest line of a log, in bytes; the rest is cut off.
const LONGEST_LINE: u32 = 256;

/// Longest payload of a datagram.
const LONGEST_DATAGRAM: u32 = 9000;

/// Lines that wait for the next tick, and that each tick allows: about 100 a second.
const LINES: u32 = 10;

/// What a call of the host costs, in fuel, beside one unit for eight bytes.
const CALL: u64 = 50;

/// Their names, and how many numbers they take and give; `L` is a 64-bit one.
pub(super) const ALL: [(&str, &str, &str); 5] = [
    ("tp_log", "ii", ""),
    ("tp_inject", "iii", "i"),
    ("tp_datagram", "iiiii", "i"),
    ("tp_refresh", "", ""),
    ("tp_counters", "ii", "i"),
];

/// Why a call of the host ended the call of the module.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Broken(pub(super) String);

/// What belongs to one instance on the host's side.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) limits: StoreLimits,
    /// There is none before the module has started.
    pub(super) memory: Option<Memory>,
    /// What it wants and has not been handed on.
    effects: Effects,
    injected: usize,
    outputs: usize,
    /// What was not taken of it.
    refused: u32,
    lines: u32,
    /// Frames it may add until the next tick, and after it.
    frames: [u32; 2],
    /// Somebody only asks: nothing is to come of this call.
    pub(super) dry: bool,
    datagrams_to: Vec<SocketAddr>,
    /// What ports sent and received, during a tick.
    pub(super) counters: Vec<(PortId, PortCounters)>,
}

impl Host {
    pub(super) fn new(limits: &Limits) -> Self {
        let store = StoreLimitsBuilder::new();
        let store =
            store.memory_size(limits.memory()).memories(1).tables(4).table_elements(10_000).instances(1);
        Self {
            limits: store.build(),
            memory: None,
            effects: Effects::default(),
            injected: 0,
            outputs: 0,
            refused: 0,
            lines: LINES,
            frames: [limits.frames_per_tick; 2],
            dry: false,
            datagrams_to: limits.datagrams_to.clone(),
            counters: Vec::new(),
        }
    }

    /// Time passes: it may say and add more.
    pub(super) fn tick(&mut self) {
        self.lines = LINES;
        self.frames[0] = self.frames[1];
    }

    /// Hands on what it wants, as of the one that `effects` says is being asked.
    pub(super) fn hand_on(&mut self, effects: &mut Effects) {
        if self.refused == 0 && self.effects.is_empty() {
            return;
        }
        for added in self.effects.take_injected() {
            effects.inject(added.injection);
        }
        for (_, output) in self.effects.take_outputs() {
            effects.output(output);
        }
        if self.effects.take_refresh() {
            effects.refresh();
        }
        effects.refuse(self.refused);
        (self.injected, self.outputs, self.refused) = (0, 0, 0);
    }

    /// Whether another output fits; counts the refusal if not.
    fn output(&mut self, fits: bool) -> bool {
        let fits = fits && self.outputs < Effects::MOST_OUTPUTS;
        if fits {
            self.outputs += 1;
        } else {
            self.refused = self.refused.saturating_add(1);
        }
        fits
    }
}

/// What a module imports and there is not, in words.
pub(super) fn check(import: &ImportType<'_>) -> Result<(), String> {
    let (module, name) = (import.module(), import.name());
    let known = ALL.iter().find(|known| module == FROM && known.0 == name);
    let Some((_, takes, gives)) = known else {
        let valid: Vec<_> = ALL.iter().map(|known| known.0).collect();
        let (module, name) = (super::module::quoted(module), super::module::quoted(name));
        return Err(format!("{module} {name}; valid: 'turnpike' with {}", valid.join(", ")));
    };
    let found = signature(&import.ty());
    let expected = written(takes, gives);
    if found == expected { Ok(()) } else { Err(format!("'{module}' '{name}' as {found}; valid: {expected}")) }
}

/// A signature of [`ALL`] as it is shown.
pub(super) fn written(takes: &str, gives: &str) -> String {
    let names = |letters: &str| {
        let names: Vec<_> = letters.chars().map(|letter| if letter == 'L' { "i64" } else { "i32" }).collect();
        names.join(", ")
    };
    format!("({}) -> ({})", names(takes), names(gives))
}

/// What something is, in the same form.
pub(super) fn signature(ty: &ExternType) -> String {
    let name = |ty: ValType| match ty {
        ValType::I32 => "i32",
        ValType::I64 => "i64",
        ValType::F32 => "f32",
        ValType::F64 => "f64",
        ValType::V128 => "v128",
        ValType::Ref(_) => "a reference",
    };
    match ty {
        ExternType::Func(func) => {
            let takes: Vec<_> = func.params().map(name).collect();
            let gives: Vec<_> = func.results().map(name).collect();
            format!("({}) -> ({})", takes.join(", "), gives.join(", "))
        }
        ExternType::Global(_) => "a global".into(),
        ExternType::Table(_) => "a table".into(),
        ExternType::Memory(_) => "a memory".into(),
        ExternType::Tag(_) => "a tag".into(),
    }
}

/// All of them.
pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Host>> {
    let mut linker = Linker::new(engine);
    linker.func_wrap(FROM, "tp_log", log)?;
    linker.func_wrap(FROM, "tp_inject", inject)?;
    linker.func_wrap(FROM, "tp_datagram", datagram)?;
    linker.func_wrap(FROM, "tp_refresh", |mut caller: Caller<'_, Host>| {
        let host = caller.data_mut();
        if !host.dry {
            host.effects.refresh();
        }
    })?;
    linker.func_wrap(FROM, "tp_counters", counters)?;
    Ok(linker)
}

/// Takes fuel for so many bytes.
fn pay(caller: &mut Caller<'_, Host>, bytes: u32) -> wasmtime::Result<()> {
    let left = caller.get_fuel()?;
    caller.set_fuel(left.saturating_sub(CALL + u64::from(bytes / 8)))
}

/// Bytes of the module's memory.
fn bytes<'a>(caller: &'a Caller<'_, Host>, name: &str, at: u32, len: u32) -> wasmtime::Result<&'a [u8]> {
    let memory =
        caller.data().memory.ok_or_else(|| Broken(format!("it called {name} before it had started")))?;
    let place = at as usize..(at as usize).saturating_add(len as usize);
    let outside = || Broken(format!("it gave {name} {len} bytes at {at:#x}, which are outside its memory"));
    Ok(memory.data(caller).get(place).ok_or_else(outside)?)
}

fn log(mut caller: Caller<'_, Host>, at: u32, len: u32) -> wasmtime::Result<()> {
    let len = len.min(LONGEST_LINE);
    pay(&mut caller, len)?;
    let host = caller.data_mut();
    if host.dry || !host.output(host.lines > 0) {
        return Ok(());
    }
    host.lines -= 1;
    let line = text(bytes(&caller, "tp_log", at, len)?);
    caller.data_mut().effects.output(Output::Log(line));
    Ok(())
}

/// A line for the operator: what is no UTF-8, and control characters, are shown as what they are not.
pub(super) fn text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn inject(mut caller: Caller<'_, Host>, port: u32, at: u32, len: u32) -> wasmtime::Result<u32> {
    let from = u16::try_from(port)
        .map_err(|_| Broken(format!("it adds a frame of port {port}; valid: 0 (trusted) to 65535")))?;
    if !(14..=LONGEST_FRAME as u32).contains(&len) {
        let most = LONGEST_FRAME;
        return Err(Broken(format!("it adds a frame of {len} bytes; valid: 14 to {most}")).into());
    }
    pay(&mut caller, len)?;
    let host = caller.data_mut();
    if host.dry {
        return Ok(1);
    }
    if host.injected == Effects::MOST_INJECTED || host.frames[0] == 0 {
        host.refused = host.refused.saturating_add(1);
        return Ok(0);
    }
    host.injected += 1;
    host.frames[0] -= 1;
    let frame = bytes(&caller, "tp_inject", at, len)?.to_vec();
    caller.data_mut().effects.inject(Injection { from: (from != 0).then_some(PortId(from)), frame });
    Ok(1)
}

fn datagram(
    mut caller: Caller<'_, Host>,
    address: u32,
    address_len: u32,
    port: u32,
    at: u32,
    len: u32,
) -> wasmtime::Result<u32> {
    pay(&mut caller, len.min(LONGEST_DATAGRAM))?;
    let given = |what| Broken(format!("it sends a datagram {what}"));
    if len > LONGEST_DATAGRAM {
        return Err(given(format!("of {len} bytes; at most {LONGEST_DATAGRAM}")).into());
    }
    let port = u16::try_from(port).map_err(|_| given(format!("to port {port}; valid: 0 to 65535")))?;
    let ip = match address_len {
        4 => {
            bytes(&caller, "tp_datagram", address, 4)?.first_chunk::<4>().map(|&octets| IpAddr::from(octets))
        }
        16 => bytes(&caller, "tp_datagram", address, 16)?
            .first_chunk::<16>()
            .map(|&octets| IpAddr::from(octets)),
        _ => None,
    };
    let ip = ip.ok_or_else(|| given(format!("to an address of {address_len} bytes; valid: 4, 16")))?;
    let to = SocketAddr::new(ip, port);
    let host = caller.data_mut();
    if host.dry {
        return Ok(1);
    }
    let allowed = host.datagrams_to.contains(&to);
    if !host.output(allowed) {
        return Ok(0);
    }
    let bytes = bytes(&caller, "tp_datagram", at, len)?.to_vec();
    caller.data_mut().effects.output(Output::Datagram { to, bytes });
    Ok(1)
}

fn counters(mut caller: Caller<'_, Host>, port: u32, at: u32) -> wasmtime::Result<u32> {
    pay(&mut caller, layout::COUNTERS as u32)?;
    let known = &caller.data().counters;
    let place = known.binary_search_by_key(&port, |(port, _)| u32::from(port.0));
    let Some((_, found)) = place.ok().and_then(|place| known.get(place)) else { return Ok(0) };
    let found = layout::counters(found);
    bytes(&caller, "tp_counters", at, found.len() as u32)?;
    if let Some(memory) = caller.data().memory {
        memory.write(&mut caller, at as usize, &found)?;
    }
    Ok(1)
}
