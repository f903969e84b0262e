//! What becomes of ports on the move: settled, undone, or gone elsewhere. Everything is decided from what the data path says now, so
//! that events may be late, doubled or missing.

use std::time::Instant;

use vswitch::event::Event;
use vswitch::port::PortKind;
use vswitch::{PortId, announce};

use super::Announcement;
use crate::control::{Entry, Switch};
use crate::spec::{EventSink, PortState as Life, PortStatus};

impl Switch {
    /// Follows ports whose rings started or stopped, or whose front end came or went. The frames that tell the network of guests that
    /// have arrived are to be sent, several times.
    pub fn follow(&mut self, ports: impl IntoIterator<Item = PortId>) -> Vec<Announcement> {
        let arrived = ports.into_iter().filter_map(|id| self.follow_port(id)).collect();
        self.publish_presence();
        self.nv_coming();
        self.follow_cards();
        self.follow_faults();
        arrived
    }

    /// The guest of a port was heard behind the uplink.
    pub fn heard_elsewhere(&mut self, id: PortId) {
        let Some(entry) = self.ports.values_mut().find(|entry| entry.config.id == id) else { return };
        let Some(departure) = &mut entry.departure else { return };
        if !departure.elsewhere
            && let Some(data) = &self.data
        {
            departure.elsewhere = true;
            data.forward_held(id);
            self.events.emit(Event::GuestLeft { port: id, epoch: departure.epoch });
        }
    }

    /// Sends the frames that tell the network where a guest is.
    pub fn announce(&self, announcement: &Announcement) {
        if let Some(data) = &self.data {
            data.announce(announcement.port, &announcement.frames);
        }
    }

    pub(super) fn follow_port(&mut self, id: PortId) -> Option<Announcement> {
        let status = self.data.as_ref()?.status(id)?;
        let (name, entry) = self.ports.iter_mut().find(|(_, entry)| entry.config.id == id)?;
        let name = name.clone();
        let mut announcement = None;
        if let Some(arrival) = &mut entry.arrival {
            if status.attached && arrival.awaited.take().is_some() {
                arrival.attachments = status.attachments;
            }
            if status.starts != arrival.starts {
                announcement = self.settle(id);
            } else if let Some(until) = arrival.awaited {
                if Instant::now() >= until {
                    self.undo(id, "its front end did not come back after the switch was started anew");
                }
            } else if arrival.bound && (!status.attached || status.attachments != arrival.attachments) {
                self.undo(id, "its front end went before its rings ran");
            }
        }
        if let Some(departure) = self.ports.get(&name).and_then(|entry| entry.departure) {
            if status.starts != departure.starts {
                self.stay(&name);
            } else if !departure.stored {
                self.remember_epoch(&name);
            }
        }
        announcement
    }

    /// Makes an arrival final.
    pub(in crate::control) fn settle(&mut self, id: PortId) -> Option<Announcement> {
        let entry = self.ports.values_mut().find(|entry| entry.config.id == id)?;
        let arrival = entry.arrival.take()?;
        entry.departure = None;
        let config = entry.config.clone();
        if let Some(data) = &self.data {
            data.expect(id, false);
            data.hold(id, false);
        }
        if let Err(why) = self.store.put(None, &[(Some(&arrival.before), Some(&config))]) {
            // The guest runs here whatever the disk says; what is in force is right, and is stored with the next change.
            log::error!("port '{}': {why}", config.name);
        }
        self.kept.forget(id);
        if let Some(data) = &self.data {
            data.settle_counters(id, None);
        }
        let kept: std::collections::HashSet<_> = config.tallies().collect();
        self.release(arrival.before.tallies().filter(|tally| !kept.contains(tally)));
        self.nv_arrived(&config);
        self.events.emit(Event::GuestArrived { port: id, from: arrival.host, epoch: config.epoch });
        let owned = config.policy.addresses.iter().flat_map(|list| list.iter());
        let owned = owned.filter(|net| net.prefix_len() == net.max_prefix_len()).map(ipnet::IpNet::addr);
        Some(Announcement { port: id, frames: announce::frames(config.mac, owned) })
    }

    /// Makes a port what it was before a state arrived for it.
    pub fn undo(&mut self, id: PortId, reason: &str) {
        let Some(entry) = self.ports.values_mut().find(|entry| entry.config.id == id) else { return };
        let Some(arrival) = entry.arrival.take() else { return };
        self.kept.forget(id);
        let provisional = std::mem::replace(&mut entry.config, arrival.before.clone());
        entry.present = false;
        self.extensions_undo(&provisional, &arrival.before, &arrival.memories);
        self.publish();
        if let Some(data) = &self.data {
            data.expect(id, false);
            data.discard_held(id);
            data.forget_port(id);
            data.restore_port(id, &arrival.memory);
            data.settle_counters(id, Some(&arrival.counters));
            for &(tally, (packets, bytes)) in &arrival.tallies {
                data.set_tally(tally, packets, bytes);
            }
        }
        let kept: std::collections::HashSet<_> = arrival.before.tallies().collect();
        self.release(provisional.tallies().filter(|tally| !kept.contains(tally)));
        self.events.emit(Event::ArrivalUndone { port: id, reason: reason.to_owned() });
    }

    /// A guest that was to leave runs on here.
    fn stay(&mut self, name: &str) {
        let Some(entry) = self.ports.get_mut(name) else { return };
        if entry.departure.take().is_some() {
            let id = entry.config.id;
            if let Some(data) = &self.data {
                data.hold(id, false);
            }
            self.events.emit(Event::GuestStayed { port: id });
        }
    }

    /// Stores the epoch under which a port was saved. Later than the save, because the guest stands still meanwhile: should the switch be
    /// killed in between, the next epoch is later all the same, because time has gone on.
    fn remember_epoch(&mut self, name: &str) {
        let Some(entry) = self.ports.get_mut(name) else { return };
        let config = entry.config.clone();
        match self.store.put(None, &[(Some(&config), Some(&config))]) {
            Ok(()) => {
                if let Some(departure) = &mut entry.departure {
                    departure.stored = true;
                }
            }
            Err(why) => log::warn!("port '{name}': {why}"),
        }
    }

    /// Publishes which ports have their guest, if that changed.
    pub(super) fn publish_presence(&mut self) {
        let Some(data) = &self.data else { return };
        let mut changed = false;
        for entry in self.ports.values_mut().filter(|entry| entry.config.device.kind() == PortKind::Guest) {
            let present = is_present(entry, data.status(entry.config.id).as_ref());
            changed |= present != entry.present;
            entry.present = present;
        }
        if changed {
            self.publish();
        }
    }
}

fn is_present(entry: &Entry, status: Option<&PortStatus>) -> bool {
    entry.arrival.is_some() || status.is_some_and(|status| status.state == Life::Running)
}
