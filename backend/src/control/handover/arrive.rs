//! A port's state as it arrives: put into force as a whole, or refused as a whole.

use std::sync::Arc;

use migration::seal::{self, Freshness};
use migration::state::{Identity, PortState};
use vswitch::event::Event;
use vswitch::port::PortKind;
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::{PortId, Tally};

use super::{Arrival, refused, state, unix_ms};
use crate::control::list::List;
use crate::control::model::{Carried, Device, PortConfig};
use crate::control::{Switch, admit};
use crate::guest::features;
use crate::spec::{EventSink, PortState as Life};

/// How a state came here, and so what it may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Through a front end, which may be in a tenant's hands: its seal says who wrote it, if the switch has a fleet key.
    Seal,
    /// From another switch of the same operator, over a channel that authenticated it.
    Channel,
    /// From a file that an operator gave.
    Operator,
}

impl Switch {
    /// Puts a state into force for a port whose rings do not run. It is provisional until they do.
    pub fn arrive(&mut self, id: PortId, bytes: &[u8], trust: Trust) -> Result<(), Refused> {
        self.follow_port(id);
        let name = self.name_of(id)?;
        let result = self.take_in(&name, bytes, trust);
        if let Err(why) = &result {
            self.events.emit(Event::StateRefused { port: id, reason: why.to_string() });
        }
        self.noted(result, || Object::Port(name))
    }

    /// Makes a port, whose rings do not run, what a file says it was. Says which port that is.
    pub fn import_port(&mut self, bytes: &[u8]) -> Result<String, Refused> {
        let named = seal::peek(bytes).map_err(|e| refused(&e));
        let name = self.noted(named, || Object::Request)?.name;
        let result = self.take_in(&name, bytes, Trust::Operator);
        self.noted(result, || Object::Port(name.clone()))?;
        if let Ok(id) = self.entry(&name).map(|entry| entry.config.id) {
            self.settle(id);
        }
        Ok(name)
    }

    fn take_in(&mut self, name: &str, bytes: &[u8], trust: Trust) -> Result<(), Refusal> {
        let entry = self.entry(name)?;
        let before = entry.config.clone();
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let still = data.status(before.id).filter(|status| status.state != Life::Running);
        let status = still.ok_or(Refusal::NotStandingStill)?;
        if let Some(arrival) = &entry.arrival {
            if !arrival.restored {
                return Err(Refusal::StateArrived);
            }
            // The front end that brought it is gone, and this one knows better.
            self.undo(before.id, "another state comes after the switch was started anew");
            return self.take_in(name, bytes, trust);
        }
        let Device::Guest { .. } = before.device else {
            let (setting, valid) = ("migration", "only guest ports have it");
            return Err(Refusal::NotApplicable { setting, kind: before.device.kind(), valid });
        };
        // What was saved here last and has not run since is no older than what is known: the guest may stay on its host.
        let saved_here = entry.departure.is_some_and(|departure| departure.epoch == before.epoch);
        let known = if saved_here { before.epoch.saturating_sub(1) } else { before.epoch };
        let (known, freshness) = match trust {
            Trust::Seal => (known, Freshness::Live),
            Trust::Channel => (known, Freshness::Offline),
            Trust::Operator => (0, Freshness::Offline),
        };
        let identity = Identity { name: before.name.clone(), mac: before.mac };
        // Without a seal to look at, the channel or the operator vouches for the content.
        let key = self.fleet_key.as_ref().filter(|_| trust == Trust::Seal);
        let opened =
            seal::open(bytes, key, &identity, known, unix_ms(), freshness).map_err(|e| refused(&e))?;
        let trusted = opened.authenticated || trust != Trust::Seal;
        if trust == Trust::Channel && opened.state.epoch <= known {
            return Err(refused(&seal::SealError::Replayed { epoch: opened.state.epoch, known }));
        }
        fits(&before, &opened.state)?;
        let tallies = self.tallies.clone();
        let id = before.id;
        let result = self.meant(&before, &opened.state, trusted).and_then(|new| {
            self.put_in_force(before, new, &opened.state, trusted, &status, trust == Trust::Seal)
        });
        result.inspect_err(|_| self.tallies = tallies)?;
        if trust != Trust::Operator {
            self.kept.put(id, trust, bytes);
        }
        Ok(())
    }

    /// The configuration that a state means for a port.
    fn meant(
        &mut self,
        before: &PortConfig,
        state: &PortState,
        trusted: bool,
    ) -> Result<PortConfig, Refusal> {
        let mut new = before.clone();
        new.carried = Carried { extensions: Vec::new(), unknown: state.unknown.clone() };
        self.take_extension_states(&mut new, &state.extensions, trusted)?;
        if !trusted {
            if let (Some(here), Some(there)) = (&mut new.metering, state.metering) {
                here.since_ms = there.since_ms;
            }
            return Ok(new);
        }
        // The word of nobody in particular must not make later states look old.
        new.epoch = state.epoch.max(before.epoch);
        new.policy = state::configured(&state.policy);
        admit::together(&new.policy, PortKind::Guest)?;
        self.check_private_vlans(&new.name, &new.policy.vlan)?;
        let mut acl = state::items(&state.policy.acl);
        let mut rules = state::items(&state.policy.rules);
        self.tallies.give(&mut acl)?;
        self.tallies.give(&mut rules)?;
        (new.acl, new.rules) = (Arc::new(List::new(acl)?), Arc::new(List::new(rules)?));
        new.metering = state::metered(state.metering);
        self.make_room(new.tallies())?;
        Ok(new)
    }

    fn put_in_force(
        &mut self,
        before: PortConfig,
        new: PortConfig,
        state: &PortState,
        trusted: bool,
        status: &crate::spec::PortStatus,
        bound: bool,
    ) -> Result<(), Refusal> {
        let (_, memories) = self.extensions_arrive(&before, &new, &state.extensions)?;
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let (id, name) = (before.id, before.name.clone());
        let counts = state::all_counts(&new, &state.policy);
        let mine = before.tallies().filter(|tally| *tally != Tally::NONE);
        let arrival = Arrival {
            counters: data.counters(id),
            tallies: mine.map(|tally| (tally, data.tally(tally))).collect(),
            memory: data.save_port(id),
            memories,
            starts: status.starts,
            attachments: status.attachments,
            bound,
            host: state.host.clone(),
            awaited: None,
            restored: false,
            before,
        };
        data.forget_port(id);
        data.set_counters_for_now(id, &state::counted_here(&state.counters));
        for &(tally, (packets, bytes)) in &counts {
            data.set_tally(tally, packets, bytes);
        }
        // Held before the address is this port's, so that nothing falls in between.
        data.expect(id, true);
        if let Some(entry) = self.ports.get_mut(&name) {
            entry.config = new;
            entry.arrival = Some(Box::new(arrival));
            entry.present = true;
        }
        self.publish();
        if let Some(data) = &self.data {
            data.restore_port(id, &state::memory(state));
        }
        if let Ok(entry) = self.entry(&name) {
            self.tell_orphans(id, &entry.config);
        }
        self.events.emit(Event::StateLoaded {
            port: id,
            from: state.host.clone(),
            epoch: state.epoch,
            authenticated: trusted,
            sessions: state.sessions.len() as u64,
        });
        Ok(())
    }
}

/// That the guest finds the device it has: what it negotiated cannot be taken away from it.
fn fits(port: &PortConfig, state: &PortState) -> Result<(), Refusal> {
    let Device::Guest { queues, mtu, .. } = &port.device else { return Ok(()) };
    let misfit = |what: String, valid: String| Err(Refusal::StateMisfit { what, valid });
    let missing = state.device.features & !port.device.feature_bits().unwrap_or(0);
    if missing != 0 {
        let names = features::names(missing);
        let what = if names.is_empty() { format!("feature bits {missing:#x}") } else { names.join(", ") };
        return misfit(
            format!("the guest has {what}, which this port does not offer"),
            "a port with the features of the one it left (--features)".into(),
        );
    }
    if state.device.queue_pairs > *queues {
        let (need, have) = (state.device.queue_pairs, *queues);
        return misfit(
            format!("the guest has {need} queue pairs and this port offers {have}"),
            format!("a port with --queues {need}"),
        );
    }
    if state.device.mtu > *mtu {
        let (need, have) = (state.device.mtu, *mtu);
        return misfit(
            format!("the guest's MTU is {need} and this port's {have}"),
            format!("a port with --mtu {need}"),
        );
    }
    Ok(())
}
