//! The steps of a move between two switches, as [`crate::migrate`] asks for them. Ports are named, because a move outlives the number that
//! a port has.

use migration::check::{self, Manifest, Problem};
use vswitch::refusal::{Object, Refusal, Refused};

use super::Trust;
use crate::control::Switch;
use crate::control::model::Device;
use crate::spec::PortState as Life;

/// What a port is doing, as far as a move depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether its rings run.
    pub running: bool,
    /// How often they have started.
    pub starts: u32,
    /// How many front ends have attached, and whether the last one is there.
    pub attachments: u32,
    /// See [`Self::attachments`].
    pub attached: bool,
    /// Whether the front end wants rings to run that the gate keeps from running.
    pub knocks: bool,
    /// Epoch of the last state with which its rings ran here, or that was saved here.
    pub epoch: u64,
}

impl Switch {
    /// What a port is doing; `None` for one that is not there.
    pub fn standing(&self, name: &str) -> Option<Standing> {
        let entry = self.ports.get(name)?;
        let status = self.data.as_ref()?.status(entry.config.id)?;
        Some(Standing {
            running: status.state == Life::Running,
            starts: status.starts,
            attachments: status.attachments,
            attached: status.attached,
            knocks: status.knocks,
            epoch: entry.arrival.as_ref().map_or(entry.config.epoch, |arrival| arrival.before.epoch),
        })
    }

    /// That a port can leave at all.
    pub fn can_leave(&self, name: &str) -> Result<(), Refused> {
        let fit = self.entry(name).and_then(|entry| match entry.config.device {
            Device::Guest { .. } if entry.arrival.is_some() => Err(Refusal::StateArrived),
            Device::Guest { .. } => Ok(()),
            _ => {
                let (setting, valid) = ("migration", "only guest ports have it");
                Err(Refusal::NotApplicable { setting, kind: entry.config.device.kind(), valid })
            }
        });
        self.noted(fit, || Object::Port(name.to_owned()))
    }

    /// What comes for a port's guest while it stands still is held from now on.
    pub fn hold_port(&self, name: &str) {
        if let (Some(entry), Some(data)) = (self.ports.get(name), &self.data) {
            data.hold(entry.config.id, true);
        }
    }

    /// The port stays. What is held waits for its rings, as long as frames are held at all; says whether that is still to be ended.
    pub fn keep_port(&mut self, name: &str) -> bool {
        let Some((id, departed)) = self.ports.get(name).map(|e| (e.config.id, e.departure.is_some())) else {
            return false;
        };
        // What was saved is looked after until the guest runs again.
        if departed {
            self.follow_port(id);
            return false;
        }
        let Some(data) = &self.data else { return false };
        let running = data.status(id).is_some_and(|status| status.state == Life::Running);
        if running {
            data.hold(id, false);
        }
        !running
    }

    /// Ends the holding of a port whose guest has not come back.
    pub fn give_up_holding(&self, name: &str) {
        if let (Some(entry), Some(data)) = (self.ports.get(name), &self.data)
            && entry.departure.is_none()
        {
            data.hold(entry.config.id, false);
        }
    }

    /// Saves a port's state because its guest leaves: the state and its epoch.
    pub fn depart_port(&mut self, name: &str) -> Result<(Vec<u8>, u64), Refused> {
        let id =
            self.entry(name).map(|e| e.config.id).map_err(|why| why.of(Object::Port(name.to_owned())))?;
        let bytes = self.depart(id)?;
        Ok((bytes, self.ports.get(name).map_or(0, |e| e.config.epoch)))
    }

    /// The guest runs elsewhere: what was held for it goes there.
    pub fn release_port(&mut self, name: &str) {
        if let Some(id) = self.ports.get(name).map(|e| e.config.id) {
            self.heard_elsewhere(id);
            if let Some(data) = &self.data {
                data.forward_held(id);
            }
        }
    }

    /// Gets ready for a port to come, or says everything that does not fit; warnings are said in either case.
    pub fn reserve(
        &mut self,
        manifest: &Manifest,
        other: Option<String>,
    ) -> Result<Vec<Problem>, Vec<Problem>> {
        let restored = |e: &&crate::control::Entry| e.arrival.as_ref().is_some_and(|a| a.restored);
        if let Some(id) = self.ports.get(&manifest.name).filter(restored).map(|e| e.config.id) {
            self.undo(id, "the source gives it again after the switch was started anew");
        }
        let problems = check::check(manifest, &self.offer(manifest, true, other.clone()));
        let (Some(entry), Some(data)) = (self.ports.get(&manifest.name), &self.data) else {
            return Err(problems);
        };
        if !check::passes(&problems) {
            return Err(problems);
        }
        let id = entry.config.id;
        data.gate(id, true);
        // Its rings may have started just before the gate was there.
        let late = check::check(manifest, &self.offer(manifest, true, other));
        if check::passes(&late) {
            self.nv_reserved(id, true);
            return Ok(late);
        }
        data.gate(id, false);
        Err(late)
    }

    /// Puts the state of a port in force that another switch has sent.
    pub fn arrive_port(&mut self, name: &str, bytes: &[u8]) -> Result<(), Refused> {
        let id =
            self.entry(name).map(|e| e.config.id).map_err(|why| why.of(Object::Port(name.to_owned())))?;
        self.arrive(id, bytes, Trust::Channel)
    }

    /// The rings of a port may run.
    pub fn open_port(&mut self, name: &str) {
        if let (Some(entry), Some(data)) = (self.ports.get(name), &self.data) {
            let id = entry.config.id;
            data.gate(id, false);
            self.nv_reserved(id, false);
        }
    }

    /// Makes a port what it was before it was reserved, unless its rings run with what has arrived; says whether it did.
    pub fn take_back(&mut self, name: &str, reason: &str) -> bool {
        let Some(id) = self.ports.get(name).map(|e| e.config.id) else { return true };
        if let Some(data) = &self.data {
            // From here on rings cannot start; those that did are seen by the next look.
            data.gate(id, true);
        }
        let arrived = |switch: &Self| switch.ports.get(name).is_some_and(|e| e.arrival.is_some());
        let had = arrived(self);
        let started = had && self.has_started(name);
        if had && !started {
            self.undo(id, reason);
        }
        self.open_port(name);
        !started
    }

    /// Whether a port's rings have started since a state arrived for it.
    fn has_started(&self, name: &str) -> bool {
        let Some(entry) = self.ports.get(name) else { return false };
        let Some(status) = self.data.as_ref().and_then(|data| data.status(entry.config.id)) else {
            return false;
        };
        entry.arrival.as_ref().is_some_and(|arrival| status.starts != arrival.starts)
    }

    /// Whether a state that has arrived for a port is still provisional.
    pub fn awaits(&self, name: &str) -> bool {
        self.ports.get(name).is_some_and(|e| e.arrival.is_some())
    }
}
