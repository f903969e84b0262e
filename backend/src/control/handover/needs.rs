//! What a port needs where it goes, and what this switch has for one that wants to come. Changes nothing.

use migration::check::{
    Device as DeviceNeed, HANDOFF_VERSION, List as ListNeed, Manifest, Offer, OfferedPort, OfferedUplink,
    Policy as PolicyNeed, digest,
};
use migration::state::{Identity, PortState};
use migration::{format, seal};
use vswitch::port::vlan::Vlan;
use vswitch::port::{Mirror, PortKind};
use vswitch::refusal::{Object, Refused};
use vswitch::session;

use super::unix_ms;
use crate::control::list::{Item, List};
use crate::control::model::{Device, MAX_PORTS, PortConfig};
use crate::control::types::LinkState;
use crate::control::{Entry, Switch, acl, rule};
use crate::spec::PortState as Life;

impl Switch {
    /// What a port needs at its destination.
    pub fn manifest(&self, name: &str) -> Result<Manifest, Refused> {
        let state = self.portable(name);
        let state = self.noted(state, || Object::Port(name.to_owned()))?;
        let entry = self.entry(name).map_err(|why| why.of(Object::Port(name.to_owned())))?;
        Ok(self.needs(&entry.config, state))
    }

    fn needs(&self, config: &PortConfig, state: PortState) -> Manifest {
        let state_bytes = format::encode(&state).map_or(0, |bytes| bytes.len() as u64);
        let Identity { name, mac } = state.identity;
        let same_vm = |entry: &&Entry| {
            let policy = &entry.config.policy;
            policy.vm.is_some() && policy.vm == config.policy.vm && entry.config.name != config.name
        };
        let remembered = state.extensions.into_iter().filter(|e| !e.data.is_empty());
        Manifest {
            siblings: self.guests().filter(same_vm).map(|e| e.config.name.clone()).collect(),
            name,
            mac,
            host: state.host,
            handoff: HANDOFF_VERSION,
            format: format::VERSION.0,
            state_bytes,
            epoch: state.epoch,
            key: self.fleet_key.as_ref().map(seal::FleetKey::id),
            kind: self.settings.kind,
            uplink_mtu: self.uplink().filter(|uplink| uplink.up).map(|uplink| uplink.mtu),
            device: DeviceNeed {
                features: state.device.features,
                queue_pairs: state.device.queue_pairs,
                mtu: state.device.mtu,
            },
            policy: policy(config),
            metered: config.metering.is_some(),
            required_extensions: config.policy.require_extension.clone(),
            sessions: state.sessions.len() as u64,
            learned: state.learned.len() as u64,
            used_addresses: state.used.len() as u64,
            extensions: remembered.map(|e| (e.name, e.version)).collect(),
        }
    }

    /// What this switch has for the port that a manifest describes. `channel`: it comes from a switch that has shown who it is;
    /// `migration`: the port of this name is part of that one already.
    pub fn offer(&self, manifest: &Manifest, channel: bool, migration: Option<String>) -> Offer {
        let data = self.data.as_ref();
        let port = self.ports.get(&manifest.name);
        let owner =
            self.ports.values().find(|e| e.config.mac == manifest.mac && e.config.name != manifest.name);
        let vlan: Option<Vlan> = manifest.policy.vlan.parse().ok();
        let conflict = vlan.and_then(|vlan| self.check_private_vlans(&manifest.name, &vlan).err());
        let monitors = |e: &&Entry| e.config.policy.mirror == Mirror::Destination;
        let sessions = data.map_or(0, |data| data.sessions(None).len()) as u64;
        let mine =
            port.and_then(|e| Some(data?.sessions(Some(e.config.id)).len() as u64)).unwrap_or_default();
        let learned = data.map_or(0, |data| data.fdb().len()) as u64;
        let freed = port.map_or(0, |e| counted(&e.config.acl) + counted(&e.config.rules));
        Offer {
            host: self.host.id.clone(),
            handoff: HANDOFF_VERSION,
            formats: (format::VERSION.0, format::VERSION.0),
            max_state: format::MAX_SIZE as u64,
            now_ms: unix_ms(),
            channel,
            key: self.fleet_key.as_ref().map(seal::FleetKey::id),
            kind: self.settings.kind,
            uplink: self.uplink(),
            port: port.map(|entry| self.offered(entry, migration)),
            mac_owner: owner.map(|e| e.config.name.clone()),
            free_ports: MAX_PORTS.saturating_sub(self.ports.len()) as u64,
            private_vlans: conflict.map(|why| why.to_string()),
            guests: self.guests().map(|e| e.config.name.clone()).collect(),
            monitors: self
                .ports
                .values()
                .filter(monitors)
                .map(|e| e.config.name.clone())
                .filter(|name| *name != manifest.name)
                .collect(),
            max_list: (acl::LIMIT as u64, rule::LIMIT as u64),
            free_counters: self.tallies.left() + freed,
            free_sessions: session_share()
                .min((u64::from(session::DEFAULT_LIMIT) + mine).saturating_sub(sessions)),
            free_addresses: u64::from(self.settings.fdb_size).saturating_sub(learned),
            extensions: self.offered_extensions(),
        }
    }

    fn offered(&self, entry: &Entry, migration: Option<String>) -> OfferedPort {
        let config = &entry.config;
        let status = self.data.as_ref().and_then(|data| data.status(config.id));
        let (queue_pairs, mtu) = match &config.device {
            Device::Guest { queues, mtu, .. } => (*queues, *mtu),
            _ => (1, entry.mtu),
        };
        // Under what was saved here last and has not run elsewhere the guest may come back.
        let saved_here = entry.departure.is_some_and(|departure| departure.epoch == config.epoch);
        OfferedPort {
            kind: config.device.kind(),
            mac: config.mac,
            queue_pairs,
            mtu,
            features: config.device.feature_bits().unwrap_or(0),
            running: status.is_some_and(|status| status.state == Life::Running),
            fault: entry.fault.clone(),
            migration: migration
                .or_else(|| entry.arrival.as_ref().map(|_| "of a state that has arrived".into())),
            epoch: config.epoch - u64::from(saved_here),
            policy: policy(config),
            metered: config.metering.is_some(),
        }
    }

    fn guests(&self) -> impl Iterator<Item = &Entry> {
        self.ports.values().filter(|e| e.config.device.kind() == PortKind::Guest)
    }

    fn uplink(&self) -> Option<OfferedUplink> {
        let entry = self.ports.values().find(|e| e.config.device.kind() == PortKind::Uplink)?;
        let status = self.data.as_ref()?.status(entry.config.id);
        let up = status.is_some_and(|status| status.state == Life::Running);
        Some(OfferedUplink { name: entry.config.name.clone(), mtu: entry.mtu, up })
    }
}

/// Sessions that one port may have.
fn session_share() -> u64 {
    session::Sessions::new(session::DEFAULT_LIMIT, 0).share().into()
}

fn counted<I: Item>(list: &List<I>) -> u64 {
    list.items().filter(|item| item.counts()).count() as u64
}

fn list<I: Item>(list: &List<I>) -> ListNeed {
    let count = list.items().count() as u64;
    ListNeed { count, counted: counted(list), digest: digest(list.items().map(Item::text)) }
}

fn policy(config: &PortConfig) -> PolicyNeed {
    let p = &config.policy;
    let switch = |on: bool| if on { "on" } else { "off" }.to_owned();
    PolicyNeed {
        vlan: p.vlan.to_string(),
        vsid: p.vsid,
        addresses: p.addresses.as_ref().map(|list| list.to_vec()),
        address_limit: p.address_limit,
        vm: p.vm.clone(),
        teaming: p.teaming,
        mirror: p.mirror,
        link_down: p.link == LinkState::Down,
        settings: [
            ("mac-spoofing".to_owned(), switch(p.mac_spoofing)),
            ("teaming".to_owned(), switch(p.teaming)),
            ("dhcp-guard".to_owned(), switch(p.dhcp_guard)),
            ("router-guard".to_owned(), switch(p.router_guard)),
            ("priority-tag".to_owned(), switch(p.priority_tag)),
            ("storm-limit".to_owned(), p.storm_limit.to_string()),
            ("require-extension".to_owned(), p.require_extension.join(",")),
        ]
        .into(),
        acl: list(&config.acl),
        rules: list(&config.rules),
    }
}
