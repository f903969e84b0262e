//! A port's state as it leaves.

use migration::state::{DeviceShape, Identity, Learned, PortState, Storm, UsedAddress};
use migration::{format, seal};
use vswitch::PortId;
use vswitch::event::Event;
use vswitch::refusal::{Object, Refusal, Refused};

use super::{Departure, refused, state, unix_ms};
use crate::control::Switch;
use crate::control::model::Device;
use crate::guest::features;
use crate::spec::{EventSink, PortState as Life};

impl Switch {
    /// Saves a port's state because its guest leaves: sealed, under a new epoch. Its rings must stand still; from then on what is
    /// meant for the guest is held until it is known where it is.
    pub fn depart(&mut self, id: PortId) -> Result<Vec<u8>, Refused> {
        self.follow_port(id);
        let name = self.name_of(id)?;
        let result = self.leave(&name);
        self.noted(result, || Object::Port(name))
    }

    /// A port's state as it is now, without any change: for a backup. Of a port that runs it is that of some moment, not a state with
    /// which the guest could go on elsewhere.
    pub fn export_port(&mut self, name: &str) -> Result<Vec<u8>, Refused> {
        let result = self.portable(name).and_then(|state| self.sealed(&state));
        self.noted(result, || Object::Port(name.to_owned()))
    }

    fn leave(&mut self, name: &str) -> Result<Vec<u8>, Refusal> {
        let entry = self.entry(name)?;
        let (id, arrived) = (entry.config.id, entry.arrival.is_some());
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let status = data.status(id).filter(|status| status.state != Life::Running && !arrived);
        let status = status.ok_or(Refusal::NotStandingStill)?;
        // First of all: what comes while the state is read must not be lost.
        data.hold(id, true);
        let saved = self.portable(name).and_then(|state| Ok((self.sealed(&state)?, state)));
        let (bytes, state) = match saved {
            Ok(saved) => saved,
            Err(why) => {
                if let Some(data) = &self.data {
                    data.hold(id, false);
                }
                return Err(why);
            }
        };
        if let Some(entry) = self.ports.get_mut(name) {
            let epoch = state.epoch;
            entry.config.epoch = epoch;
            entry.departure =
                Some(Departure { epoch, stored: false, starts: status.starts, elsewhere: false });
        }
        self.events.emit(Event::StateSaved {
            port: id,
            epoch: state.epoch,
            bytes: bytes.len() as u64,
            sessions: state.sessions.len() as u64,
        });
        self.publish_presence();
        Ok(bytes)
    }

    fn sealed(&self, state: &PortState) -> Result<Vec<u8>, Refusal> {
        let bytes = format::encode(state).map_err(|e| refused(&e))?;
        Ok(seal::seal(&bytes, self.fleet_key.as_ref()))
    }

    /// Everything that belongs to a port.
    pub(super) fn portable(&self, name: &str) -> Result<PortState, Refusal> {
        let config = &self.entry(name)?.config;
        let data = self.data.as_ref().ok_or(Refusal::Stopping)?;
        let Device::Guest { queues, mtu, .. } = &config.device else {
            let (setting, valid) = ("migration", "only guest ports have it");
            return Err(Refusal::NotApplicable { setting, kind: config.device.kind(), valid });
        };
        let memory = data.save_port(config.id);
        let features = data.status(config.id).map_or(0, |status| status.features & !features::LOG_ALL);
        Ok(PortState {
            identity: Identity { name: config.name.clone(), mac: config.mac },
            epoch: seal::next_epoch(config.epoch, unix_ms()),
            host: self.host.id.clone(),
            device: DeviceShape { features, queue_pairs: *queues, mtu: *mtu },
            policy: state::policy(config, |tally| data.tally(tally)),
            metering: state::metering(config.metering.as_ref()),
            counters: state::counters(&data.counters(config.id)),
            learned: memory
                .learned
                .iter()
                .map(|&(mac, network, age_ms)| Learned { mac, network, age_ms })
                .collect(),
            sessions: memory.sessions,
            used: memory.used.iter().map(|&(address, age_ms)| UsedAddress { address, age_ms }).collect(),
            storm: Storm { used: memory.storm },
            extensions: self.extension_states(config)?,
            unknown: config.carried.unknown.clone(),
        })
    }

    pub(super) fn name_of(&self, id: PortId) -> Result<String, Refused> {
        let found = self.ports.values().find(|entry| entry.config.id == id).map(|e| e.config.name.clone());
        found.ok_or_else(|| Refusal::UnknownPort { known: self.names(false) }.of(Object::Switch))
    }
}
