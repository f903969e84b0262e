//! The switch as it is shown: answers made from the model and what the data path tells. Changes nothing.

use std::collections::BTreeMap;

use serde::Serialize;
use vswitch::PortId;
use vswitch::port::PortKind;
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::snapshot::SwitchKind;
use vswitch::trace::DropReason;

use super::model::{Device, MacKind};
use super::types::{Counters, FdbView, PortView, SwitchView, WorkerView};
use super::{Entry, Switch};
use crate::guest::features;
use crate::spec::{PortState, ReceiveDrops};

/// The word for a kind of switch.
pub(super) fn switch_kind(kind: SwitchKind) -> String {
    word(&kind)
}

/// What a port is called in a sentence.
pub(super) fn port_noun(device: &Device) -> &'static str {
    match device.kind() {
        PortKind::Guest => "guest port",
        PortKind::Host => "host port",
        PortKind::Uplink => "uplink",
    }
}

/// The name that a unit variant has in JSON.
pub(super) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(s)) => s,
        _ => String::new(),
    }
}

fn owned(names: Vec<&'static str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// What came to a link and did not reach the switch, by cause; as with drops only what there was.
fn missed(drops: ReceiveDrops) -> BTreeMap<String, u64> {
    let ReceiveDrops { overrun, too_long, malformed } = drops;
    let all = [("overrun", overrun), ("too-long", too_long), ("malformed", malformed)];
    all.into_iter().filter(|&(_, n)| n != 0).map(|(cause, n)| (cause.to_owned(), n)).collect()
}

fn drops(list: &[(DropReason, u64)]) -> BTreeMap<String, u64> {
    list.iter().map(|(reason, n)| (word(reason), *n)).collect()
}

impl Switch {
    /// The switch's settings and size.
    pub fn show(&self) -> SwitchView {
        SwitchView {
            kind: self.settings.kind,
            fdb_size: self.settings.fdb_size,
            rx_wait_us: self.settings.rx_wait_us,
            nv: self.settings.nv,
            host_id: self.host.id.clone(),
            mac_pool: self.host.pool.to_string(),
            ports: self.ports.len(),
            uplink: self.names(true).pop(),
            workers: self.data.as_ref().map_or(0, |d| d.workers().len()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Every port, by name.
    pub fn list(&self) -> Vec<PortView> {
        self.ports.values().map(|e| self.view(e)).collect()
    }

    /// The uplink, if there is one.
    pub fn list_uplinks(&self) -> Vec<PortView> {
        self.ports
            .values()
            .filter(|e| e.config.device.kind() == PortKind::Uplink)
            .map(|e| self.view(e))
            .collect()
    }

    /// One port.
    pub fn show_port(&self, name: &str) -> Result<PortView, Refused> {
        self.entry(name).map(|e| self.view(e)).map_err(|why| why.of(Object::Port(name.to_owned())))
    }

    /// One uplink.
    pub fn show_uplink(&self, name: &str) -> Result<PortView, Refused> {
        self.list_uplinks().into_iter().find(|p| p.name == name).ok_or_else(|| {
            Refusal::UnknownUplink { known: self.names(true) }.of(Object::Uplink(name.to_owned()))
        })
    }

    /// The known addresses, of one port or of all: configured ones first, then learned ones.
    pub fn fdb(&self, port: Option<&str>) -> Result<Vec<FdbView>, Refused> {
        if let Some(name) = port {
            self.entry(name).map_err(|why| why.of(Object::Port(name.to_owned())))?;
        }
        let learned = self.data.as_ref().map(|d| d.fdb()).unwrap_or_default();
        let name_of: BTreeMap<PortId, &str> =
            self.ports.values().map(|e| (e.config.id, e.config.name.as_str())).collect();
        let configured = self.ports.values().filter(|e| e.config.mac_kind != MacKind::Interface);
        let mut all: Vec<FdbView> = configured
            .filter(|e| !learned.iter().any(|l| l.mac == e.config.mac && l.port == e.config.id))
            .map(|Entry { config, .. }| FdbView {
                mac: config.mac.to_string(),
                vlan: 0,
                port: config.name.clone(),
                kind: "static".into(),
                age_ms: 0,
            })
            .collect();
        all.extend(learned.iter().filter_map(|entry| {
            Some(FdbView {
                mac: entry.mac.to_string(),
                vlan: entry.network.0 as u16,
                port: (*name_of.get(&entry.port)?).to_owned(),
                kind: word(&entry.kind),
                age_ms: entry.age_ms,
            })
        }));
        all.retain(|entry| port.is_none_or(|name| entry.port == name));
        Ok(all)
    }

    /// The workers' load.
    pub fn workers(&self) -> Vec<WorkerView> {
        let workers = self.data.as_ref().map(|d| d.workers()).unwrap_or_default();
        workers.into_iter().map(WorkerView::from).collect()
    }

    fn view(&self, entry: &Entry) -> PortView {
        let Entry { config, mtu, fault, .. } = entry;
        let data = self.data.as_ref();
        let status = data.and_then(|d| d.status(config.id));
        let counters = data.map(|d| d.counters(config.id)).unwrap_or_default();
        let state = status.as_ref().map_or(PortState::Stopped, |s| s.state);
        let guest = match &config.device {
            Device::Guest { socket, client, queues, .. } => {
                Some((socket.to_string_lossy().into_owned(), *client, *queues))
            }
            _ => None,
        };
        PortView {
            name: config.name.clone(),
            id: config.id.0,
            kind: word(&config.device.kind()),
            queues: guest.as_ref().map_or(1, |g| g.2),
            client: guest.as_ref().map(|g| g.1),
            socket: guest.map(|g| g.0),
            interface: config.device.interface().map(str::to_owned),
            driver: config.device.driver().map(|driver| driver.name().to_owned()),
            driver_mode: status.as_ref().and_then(|s| s.mode.clone()),
            state: if fault.is_some() { word(&PortState::Stopped) } else { word(&state) },
            fault: fault.clone(),
            mac: config.mac.to_string(),
            mac_kind: config.mac_kind.word().to_owned(),
            mtu: status.as_ref().map(|s| s.mtu).filter(|m| *m != 0).unwrap_or(*mtu),
            features: owned(features::names(status.as_ref().map_or(0, |s| s.features))),
            offered: owned(features::names(config.device.feature_bits().unwrap_or(0))),
            missed: status.as_ref().and_then(|s| s.missed).map(missed).unwrap_or_default(),
            worker: status.map(|s| s.workers).unwrap_or_default(),
            policy: config.policy.clone(),
            acl_entries: config.acl.len(),
            rules: config.rules.len(),
            counters: Counters {
                out_packets: counters.out_packets,
                out_bytes: counters.out_bytes,
                in_packets: counters.in_packets,
                in_bytes: counters.in_bytes,
                out_drops: drops(&counters.out_drops),
                in_drops: drops(&counters.in_drops),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_link_missed_is_shown_by_its_cause_and_nothing_where_nothing_was_missed() {
        assert!(missed(ReceiveDrops::default()).is_empty());
        let some = missed(ReceiveDrops { overrun: 5, too_long: 0, malformed: 7 });
        assert_eq!(some, BTreeMap::from([("malformed".to_owned(), 7), ("overrun".to_owned(), 5)]));
    }
}
