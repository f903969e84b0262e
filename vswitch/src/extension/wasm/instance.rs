//! A module at one switch, as the switch knows it: an [`Extension`].
//!
//! After its first fault the module is not called any more. A fault in a call whose answer cannot say so (a change, settings, saving)
//! is what the next frame and the next tick get for an answer.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

use super::live::{Fault, Live};
use super::module::About;
use super::{MOST_TEXT, layout};
use crate::extension::{
    Answer, Change, Counters, Destination, Effects, Extension, Judgement, Kind, MOST_SAVED, Sample, Scope,
    Sight, Veto,
};
use crate::port::MAX_PORTS;
use crate::{Direction, Nanos, PortId};

/// The number of the switch itself, where a port is expected.
const SWITCH: u32 = 0;

/// The `Extension` that [`super::Module::start`] makes.
#[derive(Debug)]
pub(super) struct Instance {
    about: Arc<About>,
    inner: Mutex<Inner>,
    fault: OnceLock<Fault>,
}

#[derive(Debug)]
struct Inner {
    live: Live,
    /// Of which counters are asked for.
    ports: BTreeSet<PortId>,
}

impl Instance {
    pub(super) fn new(about: Arc<About>, live: Live) -> Self {
        Self { about, inner: Mutex::new(Inner { live, ports: BTreeSet::new() }), fault: OnceLock::new() }
    }

    /// A panic in here would be the host's, and leaves the module as it was between two calls.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the module unless it has failed, and remembers if it fails now.
    fn with<R>(&self, call: impl FnOnce(&mut Inner) -> Result<R, Fault>) -> Result<R, Fault> {
        if let Some(fault) = self.fault.get() {
            return Err(fault.clone());
        }
        let mut inner = self.inner();
        call(&mut inner).inspect_err(|fault| {
            let _ = self.fault.set(fault.clone()); // the first one stays
        })
    }

    /// As [`Instance::with`], for calls that may be refused.
    fn may_refuse(
        &self,
        call: impl FnOnce(&mut Inner) -> Result<Result<(), Veto>, Fault>,
    ) -> Result<(), Veto> {
        self.with(call).unwrap_or_else(|fault| Err(Veto::new(format!("it has failed: {fault}"))))
    }
}

impl Inner {
    /// The module's reason not to want something.
    fn veto(&self, name: &str, answer: u64) -> Result<Result<(), Veto>, Fault> {
        Ok(match self.live.given(name, answer, MOST_TEXT)? {
            None => Ok(()),
            Some([]) => Err(Veto::new("it does not say why")),
            Some(text) => Err(Veto::new(String::from_utf8_lossy(text))),
        })
    }

    fn change(&mut self, now: Nanos, change: &Change<'_>) -> Result<Result<(), Veto>, Fault> {
        let Some(func) = self.live.funcs.change.clone() else { return Ok(Ok(())) };
        let (mut bytes, value) = layout::change(change);
        let mut at = None;
        if let Some(value) = value.as_ref().filter(|value| value.len() <= MOST_TEXT) {
            at = self.live.put(&[&bytes, value.as_bytes()])?;
        }
        if at.is_none() {
            if value.is_some() {
                layout::without_value(&mut bytes);
            }
            at = self.live.put(&[&bytes])?;
        }
        let at = at.ok_or_else(|| format!("tp_buffer has no room for a change ({} bytes)", bytes.len()))?;
        let answer = self.live.call("tp_change", &func, (now, at))?;
        self.veto("tp_change", answer)
    }

    fn tick(&mut self, now: Nanos, counters: &dyn Counters) -> Result<(), Fault> {
        let Self { live, ports } = self;
        live.store.data_mut().tick(); // of one that wants no ticks too
        let Some(func) = live.funcs.tick.clone() else { return Ok(()) };
        let host = live.store.data_mut();
        host.counters.clear();
        host.counters.extend(ports.iter().filter_map(|&port| Some((port, counters.of(port)?))));
        let done = live.call("tp_tick", &func, now);
        live.store.data_mut().counters.clear();
        done
    }
}

impl Extension for Instance {
    fn kind(&self) -> Kind {
        self.about.kind
    }

    fn reasons(&self) -> &[&str] {
        &self.about.reasons
    }

    fn judges(&self, direction: Direction) -> bool {
        self.about.judges.get(direction as usize).copied().unwrap_or(false)
    }

    fn judge(&self, sight: &Sight<'_>, effects: &mut Effects) -> Answer {
        let answer = self.with(|Inner { live, .. }| {
            live.store.data_mut().dry = sight.dry;
            let write = |place: &mut [u8]| layout::sight(sight, place);
            let answer = live.show("tp_judge", |funcs| funcs.judge.as_ref(), write);
            live.after(sight.dry, effects);
            let Some(answer) = answer? else { return Ok((Judgement::Pass, Scope::Flow)) };
            let head = || live.shown(layout::shown(sight.head).len());
            layout::judgement(answer, head).map_err(|lie| format!("tp_judge: {lie}"))
        });
        match answer {
            Ok((judgement, scope)) => Answer { judgement, scope },
            Err(fault) => Answer { judgement: Judgement::Fault(fault), scope: Scope::Frame },
        }
    }

    fn forward(&self, sight: &Sight<'_>, effects: &mut Effects) -> Result<(Destination, Scope), String> {
        self.with(|Inner { live, .. }| {
            live.store.data_mut().dry = sight.dry;
            let write = |place: &mut [u8]| layout::sight(sight, place);
            let answer = live.show("tp_forward", |funcs| funcs.forward.as_ref(), write);
            live.after(sight.dry, effects);
            let Some(answer) = answer? else { return Ok((Destination::Native, Scope::Flow)) };
            layout::destination(answer).map_err(|lie| format!("tp_forward: {lie}"))
        })
    }

    fn reflective(&self) -> bool {
        self.about.reflective
    }

    fn sampling(&self) -> u32 {
        self.about.sampling
    }

    fn sample(&self, sample: &Sample<'_>, effects: &mut Effects) -> Result<(), String> {
        self.with(|Inner { live, .. }| {
            let write = |place: &mut [u8]| layout::sample(sample, place);
            let done = live.show("tp_sample", |funcs| funcs.sample.as_ref(), write);
            live.after(false, effects);
            done.map(|_| ())
        })
    }

    fn tick(&self, now: Nanos, counters: &dyn Counters, effects: &mut Effects) -> Result<(), String> {
        self.with(|inner| {
            let done = inner.tick(now, counters);
            inner.live.after(false, effects);
            done
        })
    }

    fn change(&self, now: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        let heard = self.with(|inner| {
            let answer = inner.change(now, change)?;
            match *change {
                Change::PortCreate { port, .. } if answer.is_ok() && inner.ports.len() < MAX_PORTS => {
                    inner.ports.insert(port);
                }
                Change::PortDelete { port } => {
                    inner.ports.remove(&port);
                }
                _ => {}
            }
            Ok(answer)
        });
        // An instance that has failed is no reason to keep an operator from what the others agree to.
        heard.unwrap_or(Ok(()))
    }

    fn set(&self, port: Option<PortId>, settings: Option<&Value>) -> Result<(), Veto> {
        self.may_refuse(|inner| {
            let Some(func) = inner.live.funcs.set.clone() else {
                let refused = settings.is_some();
                return Ok(if refused { Err(Veto::new("it has no settings")) } else { Ok(()) });
            };
            let port = port.map_or(SWITCH, |port| port.0.into());
            let text = settings.map_or_else(String::new, Value::to_string);
            let at = match text.len() {
                0 => Some(0),
                1..=MOST_TEXT => inner.live.put(&[text.as_bytes()])?,
                _ => None,
            };
            let Some(at) = at else {
                return Ok(Err(Veto::new(format!("it has no room for settings of {} bytes", text.len()))));
            };
            let answer = inner.live.call("tp_set", &func, (port, at, text.len() as u32))?;
            inner.veto("tp_set", answer)
        })
    }

    fn status(&self, port: Option<PortId>) -> Value {
        let status = self.with(|inner| {
            let Some(func) = inner.live.funcs.status.clone() else { return Ok(Value::Null) };
            let port = port.map_or(SWITCH, |port| port.0.into());
            let answer = inner.live.call("tp_status", &func, port)?;
            let text = inner.live.given("tp_status", answer, MOST_TEXT)?;
            let read =
                |text| serde_json::from_slice(text).map_err(|why| format!("tp_status gave no JSON: {why}"));
            text.map_or(Ok(Value::Null), read)
        });
        status.unwrap_or(Value::Null)
    }

    fn save(&self, now: Nanos, port: PortId) -> Option<Vec<u8>> {
        let saved = self.with(|inner| {
            let Some(func) = inner.live.funcs.save.clone() else { return Ok(None) };
            let answer = inner.live.call("tp_save", &func, (now, port.0.into()))?;
            Ok(inner.live.given("tp_save", answer, MOST_SAVED)?.map(<[u8]>::to_vec))
        });
        saved.unwrap_or(None)
    }

    fn fault(&self) -> Option<String> {
        self.fault.get().cloned()
    }

    fn restore(&self, now: Nanos, port: PortId, saved: &[u8]) -> Result<(), Veto> {
        self.may_refuse(|inner| {
            let Some(func) = inner.live.funcs.restore.clone() else { return Ok(Ok(())) };
            let Some(at) = inner.live.put(&[saved])? else {
                return Ok(Err(Veto::new(format!("it has no room for a state of {} bytes", saved.len()))));
            };
            let answer =
                inner.live.call("tp_restore", &func, (now, port.0.into(), at, saved.len() as u32))?;
            inner.veto("tp_restore", answer)
        })
    }
}
