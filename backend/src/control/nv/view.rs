//! Network virtualization as it is shown.

use vswitch::PortId;
use vswitch::nv::resolve::Step;
use vswitch::refusal::{Object as About, Refusal, Refused};

use super::check::{self, say};
use super::object::{Object, RecordKey};
use super::objects::routers;
use crate::control::Switch;
use crate::control::types::{
    GatewaySpec, NetworkSpec, NvDocument, PolicyStoreView, ProviderSpec, RecordSpec, ResolutionView,
    RouteSpec, SubnetSpec,
};
use crate::control::view::word;

impl Switch {
    /// The customer networks.
    pub fn nv_networks(&self) -> Vec<NetworkSpec> {
        self.nv.objects.networks().map(say::network).collect()
    }

    /// The virtual subnets, each with the addresses of its router.
    pub fn nv_subnets(&self) -> Vec<SubnetSpec> {
        let shown = |subnet| {
            let gateway = routers(subnet).map(|it| it.to_string()).collect();
            SubnetSpec { gateway, ..say::subnet(subnet) }
        };
        self.nv.objects.subnets().map(shown).collect()
    }

    /// The customer routes.
    pub fn nv_routes(&self) -> Vec<RouteSpec> {
        self.nv.objects.routes().map(say::route).collect()
    }

    /// The provider addresses of this host.
    pub fn nv_providers(&self) -> Vec<ProviderSpec> {
        self.nv.objects.providers().map(say::provider).collect()
    }

    /// The gateways at this host.
    pub fn nv_gateways(&self) -> Vec<GatewaySpec> {
        self.nv.objects.gateways().map(say::gateway).collect()
    }

    /// The lookup records that this host holds, learned ones included; of one virtual subnet or of all.
    pub fn nv_records(&self, vsid: Option<u32>) -> Vec<RecordSpec> {
        let records = self.records().map(|table| table.list(vsid)).unwrap_or_default();
        records.iter().map(say::record).collect()
    }

    /// Why packets that a guest of a virtual subnet sends to a customer address go where they go.
    pub fn nv_resolve(&self, vsid: u64, ca: &str) -> Result<ResolutionView, Refused> {
        let about = |why: Refusal| why.of(About::Nv { noun: "address", key: format!("{vsid}/{ca}") });
        let (number, address) = (check::vsid(vsid).map_err(about)?, check::address(ca).map_err(about)?);
        if !self.settings.nv {
            let valid = "'turnpike switch set --nv on' first".to_owned();
            return Err(about(Refusal::Missing { what: "network virtualization".into(), valid }));
        }
        let data = self.data.as_ref().ok_or(Refusal::Stopping).map_err(about)?;
        let found = data.resolve(number, address);
        let name = |id: PortId| {
            let port = self.ports.values().find(|entry| entry.config.id == id);
            port.map_or_else(|| id.to_string(), |entry| entry.config.name.clone())
        };
        let mut view = ResolutionView { vsid: number, ca: address.to_string(), ..ResolutionView::default() };
        for step in &found.steps {
            let mut words = step.to_string();
            match step {
                Step::Record { pa, mac, .. } => {
                    view.pa = Some(pa.to_string());
                    view.mac = Some(mac.to_string());
                }
                Step::Port { port } => {
                    view.port = Some(name(*port));
                    words = format!("at this host, behind port '{}'", name(*port));
                }
                Step::Provider { from, to, uplink, next_hop, mac, path_mtu, mtu } => {
                    (view.path_mtu, view.mtu) = (Some(*path_mtu), Some(*mtu));
                    (view.uplink, view.next_hop) = (Some(name(*uplink)), Some(next_hop.to_string()));
                    let known = mac.map_or_else(|| "has not answered yet".to_owned(), |mac| mac.to_string());
                    let uplink = name(*uplink);
                    words = format!(
                        "from {from} to {to} by uplink '{uplink}', next hop {next_hop} ({known}), \
                         path MTU {path_mtu}, of which the guest may use {mtu}"
                    );
                }
                _ => {}
            }
            view.steps.push(words);
        }
        view.dropped = found.dropped.map(|reason| word(&reason));
        Ok(view)
    }

    /// The policy store and how it fares.
    pub fn policy_store_view(&self) -> PolicyStoreView {
        let Some(store) = &self.policy else {
            let (kind, reason) =
                if self.nv.shared { ("etcd", "the switch is starting") } else { ("embedded", "") };
            let up = !self.nv.shared;
            return PolicyStoreView {
                kind: kind.into(),
                up,
                from_memory: self.nv.from_memory,
                reason: reason.into(),
                ..PolicyStoreView::default()
            };
        };
        let status = store.status();
        let (written, to_write) = status.writing();
        PolicyStoreView {
            kind: "etcd".into(),
            up: status.is_up(),
            member: status.endpoint(),
            reason: status.reason(),
            revision: status.revision(),
            newest: status.newest(),
            silent_ms: u64::try_from(status.silence().as_millis()).unwrap_or(u64::MAX),
            losses: status.losses(),
            reloads: status.reloads(),
            changes: status.applied(),
            skipped: status.skipped_count() as u64,
            skipped_keys: status.skipped(),
            hosts: status.hosts(),
            subnets: status.followed(),
            reading: status.reading(),
            to_write,
            written,
            from_memory: self.nv.from_memory,
        }
    }

    /// Everything that somebody configured, as one document; of records that hosts share, those that are known ([`Self::nv_knowing`]).
    pub fn nv_export(&self) -> NvDocument {
        let records = self.nv_configured();
        NvDocument {
            network: self.nv_networks(),
            subnet: self.nv.objects.subnets().map(say::subnet).collect(),
            route: self.nv_routes(),
            provider: self.nv_providers(),
            gateway: self.nv_gateways(),
            record: records.iter().map(say::record).collect(),
        }
    }
}

/// An object in one line, without its name.
pub(in crate::control) fn described(object: &Object) -> String {
    match object {
        Object::Network(it) => format!("rdid {}", it.rdid),
        Object::Subnet(it) => {
            let prefixes: Vec<_> = it.prefixes.iter().map(ToString::to_string).collect();
            format!("network {}, prefix {}", it.network, prefixes.join(","))
        }
        Object::Route(it) => format!("metric {}", it.metric),
        Object::Provider(it) => {
            let vlan = it.vlan.map_or_else(String::new, |id| format!(", vlan {id}"));
            let gateway = it.gateway.map_or_else(String::new, |ip| format!(", gateway {ip}"));
            format!("{}, uplink {}{vlan}{gateway}", it.address, it.uplink)
        }
        Object::Gateway(it) => format!("{}, uplink {}", say::gateway(it).mode, it.uplink),
        Object::Record(it) => {
            let mac = match RecordKey::of(it) {
                RecordKey::Address(..) => format!("mac {}, ", it.mac),
                RecordKey::L2Only(..) => String::new(),
            };
            let next = it.next.map_or_else(String::new, |next| format!(", next {next}"));
            format!("{mac}pa {}{next}, {}", it.pa, say::encap(it.encap))
        }
    }
}
