//! The comparison: one function for each group of needs. Order of the answer: conversation and state, port, device, network, policy,
//! room, extensions.

use std::fmt::Display;

use vswitch::port::vlan::Vlan;
use vswitch::port::{Mirror, PortKind};
use vswitch::snapshot::SwitchKind;

use super::{Kind, List, Manifest, Offer, OfferedPort, Problem, RING_PACKED};

/// How far apart the clocks of switches with a fleet key may be, in milliseconds: beyond it a state counts as a replay.
const CLOCKS: u64 = 10 * 60 * 1000;

/// virtio features by bit, as far as they have a name of their own in an answer.
const OFFLOADS: [(u32, &str); 9] = [
    (0, "csum"),
    (1, "guest-csum"),
    (7, "guest-tso4"),
    (8, "guest-tso6"),
    (9, "guest-ecn"),
    (11, "host-tso4"),
    (12, "host-tso6"),
    (13, "host-ecn"),
    (15, "mrg-rxbuf"),
];
const RINGS: [(u32, &str); 4] = [(22, "mq"), (28, "indirect-desc"), (29, "event-idx"), (35, "in-order")];
const OTHERS: [(u32, &str); 2] = [(3, "mtu"), (21, "guest-announce")];

/// Bits that are of the conversation with the front end or come and go with a migration, not of the device.
const NOT_DEVICE: u64 = 1 << 26 | 1 << 30;

/// Everything that hinders the port of `manifest` from moving to where `offer` is. Empty = nothing does.
pub fn check(manifest: &Manifest, offer: &Offer) -> Vec<Problem> {
    let mut found = Found { port: format!("port '{}'", manifest.name), problems: Vec::new() };
    conversation(&mut found, manifest, offer);
    place(&mut found, manifest, offer);
    if let Some(port) = &offer.port {
        device(&mut found, manifest, port);
    }
    network(&mut found, manifest, offer);
    if let Some(port) = &offer.port
        && !carries_policy(manifest, offer)
    {
        configured(&mut found, manifest, port);
    }
    neighbours(&mut found, manifest, offer);
    room(&mut found, manifest, offer);
    extensions(&mut found, manifest, offer);
    found.problems
}

/// Whether the port's policy goes with it: the way it comes says whose word it is, or the seal does.
fn carries_policy(manifest: &Manifest, offer: &Offer) -> bool {
    offer.channel || manifest.key.is_some() && manifest.key == offer.key
}

struct Found {
    port: String,
    problems: Vec<Problem>,
}

impl Found {
    fn add(
        &mut self,
        kind: Kind,
        object: impl Into<String>,
        need: impl Display,
        have: impl Display,
        fix: impl Into<String>,
    ) {
        self.problems.push(Problem {
            code: kind.code().to_owned(),
            severity: kind.severity(),
            object: object.into(),
            need: need.to_string(),
            have: have.to_string(),
            fix: fix.into(),
        });
    }

    fn port(&mut self, kind: Kind, need: impl Display, have: impl Display, fix: impl Into<String>) {
        self.add(kind, self.port.clone(), need, have, fix);
    }
}

fn conversation(found: &mut Found, m: &Manifest, o: &Offer) {
    let host = format!("host '{}'", o.host);
    if m.handoff != o.handoff {
        let fix = "run the same version of turnpike on both hosts, or move the port in its VMM's own stream";
        let (need, have) = (format!("handoff version {}", m.handoff), format!("version {}", o.handoff));
        found.add(Kind::HandoffVersion, &host, need, have, fix);
    }
    let (oldest, newest) = o.formats;
    if !(oldest..=newest).contains(&m.format) {
        let have = format!("formats {oldest} to {newest}");
        let fix = if m.format > newest { "upgrade turnpike there" } else { "upgrade turnpike at the source" };
        found.add(Kind::FormatVersion, &host, format!("state format {}", m.format), have, fix);
    }
    if m.state_bytes > o.max_state {
        let have = format!("room for {} bytes", o.max_state);
        let fix = format!("end sessions: turnpike session flush {}", m.name);
        found.add(Kind::StateTooLarge, &host, format!("{} bytes of state", m.state_bytes), have, fix);
    }
    match (&m.key, &o.key) {
        // The channel says whose word it is, and how old a state is does not matter.
        _ if o.channel => fresh(found, m, o),
        (Some(mine), None) => {
            let fix = "start that switch with serve --fleet-key FILE and the same key; otherwise its own policy stays";
            found.add(Kind::KeyMissing, &host, format!("fleet key {mine}"), "no fleet key", fix);
        }
        (None, Some(theirs)) => {
            let fix = "start the source with serve --fleet-key FILE and the same key";
            found.add(Kind::NotSealed, &host, "no fleet key", format!("fleet key {theirs}"), fix);
        }
        (Some(mine), Some(theirs)) if mine != theirs => {
            let fix = "give both switches the same file with serve --fleet-key FILE";
            let have = format!("fleet key {theirs}");
            found.add(Kind::KeyDiffers, &host, format!("fleet key {mine}"), have, fix);
        }
        (Some(_), Some(_)) => sealed(found, &host, m, o),
        (None, None) => {}
    }
    if m.host == o.host {
        let fix = "name the hosts apart with serve --host-id NAME";
        found.add(Kind::SameHost, &host, "two host names", format!("'{}' twice", m.host), fix);
    }
}

/// What a switch with the same key would say of a state saved now.
fn sealed(found: &mut Found, host: &str, m: &Manifest, o: &Offer) {
    if m.epoch.abs_diff(o.now_ms) > CLOCKS {
        let apart = m.epoch.abs_diff(o.now_ms) / 1000;
        let have = format!("{apart} s between them");
        found.add(
            Kind::ClockDiffers,
            host,
            "clocks at most 600 s apart",
            have,
            "set the clocks of both hosts (NTP)",
        );
    }
    fresh(found, m, o);
}

/// That the state would be newer than what is known there.
fn fresh(found: &mut Found, m: &Manifest, o: &Offer) {
    let known = o.port.as_ref().map_or(0, |p| p.epoch);
    if m.epoch <= known {
        let fix = "move the port from the host where it was last; or set the source's clock";
        found.port(Kind::EpochStale, format!("an epoch below {}", m.epoch), format!("epoch {known}"), fix);
    }
}

fn place(found: &mut Found, m: &Manifest, o: &Offer) {
    if let Some(owner) = &o.mac_owner {
        let fix = format!("turnpike port remove {owner}, or give one of the two another address");
        found.add(
            Kind::DuplicateMac,
            format!("address {}", m.mac),
            "it to be free",
            format!("port '{owner}' with it"),
            fix,
        );
    }
    let Some(port) = &o.port else {
        if o.free_ports == 0 {
            let fix = "remove a port there";
            return found.port(Kind::NoRoom, "one more port", "as many as a switch can have", fix);
        }
        let fix = format!(
            "turnpike port add {} --socket PATH --mac {} --queues {} --mtu {}",
            m.name, m.mac, m.device.queue_pairs, m.device.mtu
        );
        return found.port(Kind::PortMissing, "a guest port of this name", "none", fix);
    };
    if port.kind != PortKind::Guest {
        let have = if port.kind == PortKind::Host { "a host port" } else { "an uplink" };
        let fix = format!("rename one: turnpike port remove {} there, then port add", m.name);
        found.port(Kind::PortKind, "a guest port", have, fix);
    }
    if let Some(fault) = &port.fault {
        found.port(Kind::PortFailed, "a port that works", fault, format!("turnpike port show {}", m.name));
    }
    if let Some(id) = &port.migration {
        let fix = format!("turnpike migrate cancel {} or wait for its end", m.name);
        found.port(Kind::PortMigrating, "no other migration", format!("migration {id}"), fix);
    }
    if port.running {
        let fix = "stop the guest that uses it";
        found.port(Kind::PortRunning, "a port without a guest", "a guest that runs", fix);
    }
    if port.mac != m.mac {
        let fix = format!("turnpike port remove {}, then port add with --mac {}", m.name, m.mac);
        found.port(Kind::MacDiffers, m.mac, port.mac, fix);
    }
}

fn device(found: &mut Found, m: &Manifest, port: &OfferedPort) {
    let again = |option: String| format!("turnpike port remove {}, then port add with {option}", m.name);
    let need = &m.device;
    if port.queue_pairs < need.queue_pairs {
        let (wanted, have) = (format!("{} queue pairs", need.queue_pairs), port.queue_pairs);
        found.port(Kind::Queues, wanted, have, again(format!("--queues {}", need.queue_pairs)));
    }
    if port.mtu < need.mtu {
        let wanted = format!("an MTU of {} bytes", need.mtu);
        found.port(Kind::Mtu, wanted, port.mtu, again(format!("--mtu {}", need.mtu)));
    }
    let missing = need.features & !port.features & !NOT_DEVICE;
    for bit in (0..u64::BITS).filter(|bit| missing >> bit & 1 != 0) {
        let named =
            |list: &[(u32, &'static str)]| list.iter().find(|(b, _)| *b == bit).map(|(_, name)| *name);
        let (kind, name) = if let Some(name) = named(&OFFLOADS) {
            (Kind::Offload, Some(name))
        } else if let Some(name) = named(&RINGS) {
            (Kind::RingFeature, Some(name))
        } else if bit == RING_PACKED {
            let fix = again("ring-packed in --features, or without --features".to_owned());
            found.port(Kind::RingFormat, "packed rings", "split rings", fix);
            continue;
        } else {
            (Kind::Feature, named(&OTHERS))
        };
        let shown = name.map_or_else(|| format!("feature bit {bit}"), str::to_owned);
        let fix = match name {
            Some(name) => again(format!("{name} in --features, or without --features")),
            None => format!("upgrade turnpike there, or start the guest without feature bit {bit}"),
        };
        found.port(kind, shown, "a port without it", fix);
    }
}

fn network(found: &mut Found, m: &Manifest, o: &Offer) {
    let Some(before) = m.uplink_mtu else { return };
    let switch = format!("switch of host '{}'", o.host);
    match &o.uplink {
        None if o.kind == SwitchKind::External => {
            let fix = "turnpike uplink add NAME --device IF";
            found.add(Kind::UplinkMissing, switch, "an uplink", "none", fix);
        }
        None => {
            let have = if o.kind == SwitchKind::Internal { "internal" } else { "private" };
            let fix = "turnpike switch set --kind external, then turnpike uplink add NAME --device IF";
            found.add(Kind::SwitchKind, switch, "an external switch", have, fix);
        }
        Some(uplink) => {
            let object = format!("uplink '{}'", uplink.name);
            if !uplink.up {
                let fix = "look at its interface: turnpike uplink show NAME";
                found.add(Kind::UplinkDown, &object, "an uplink that works", "one that is stopped", fix);
            }
            // What the guest can send is bounded by both; if the source's uplink was small, nothing gets worse.
            let need = before.min(m.device.mtu);
            if uplink.mtu < need {
                let fix = format!("ip link set IF mtu {need}");
                found.add(Kind::UplinkMtu, object, format!("an MTU of {need} bytes"), uplink.mtu, fix);
            }
        }
    }
}

/// Without a common key the destination's policy stays: what differs there is said.
fn configured(found: &mut Found, m: &Manifest, port: &OfferedPort) {
    let (need, have) = (&m.policy, &port.policy);
    let set =
        |option: String| format!("turnpike port set {} {option}, or give both switches a fleet key", m.name);
    let vlan = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    let (need_vlan, have_vlan) = (vlan(&need.vlan), vlan(&have.vlan));
    if need_vlan != have_vlan && need_vlan.parse::<Vlan>().is_ok() {
        let fix = set(format!("--vlan {need_vlan}"));
        found.port(Kind::VlanDiffers, format!("VLAN mode {need_vlan}"), have_vlan, fix);
    }
    if need.vsid != have.vsid {
        let shown = |vsid: Option<u32>| {
            vsid.map_or_else(|| "no virtual subnet".to_owned(), |id| format!("VSID {id}"))
        };
        let value = need.vsid.map_or_else(|| "default".to_owned(), |id| id.to_string());
        found.port(Kind::VsidDiffers, shown(need.vsid), shown(have.vsid), set(format!("--vsid {value}")));
    }
    addresses(found, m, port);
    if have.address_limit != 0 && m.used_addresses > have.address_limit.into() {
        let (wanted, fix) = (m.used_addresses, set(format!("--address-limit {}", need.address_limit)));
        let limit = format!("a limit of {}", have.address_limit);
        found.port(Kind::AddressLimit, format!("{wanted} addresses in use"), limit, fix);
    }
    if need.vm != have.vm {
        let shown =
            |vm: &Option<String>| vm.as_ref().map_or_else(|| "none".to_owned(), |vm| format!("'{vm}'"));
        let fix = set(format!("--vm {}", need.vm.as_deref().unwrap_or("default")));
        found.port(Kind::VmDiffers, format!("virtual machine {}", shown(&need.vm)), shown(&have.vm), fix);
    }
    if have.link_down && !need.link_down {
        found.port(Kind::LinkDown, "a link that is up", "one that is down", set("--link up".into()));
    }
    let list = |found: &mut Found, kind, noun: &str, need: &List, have: &List| {
        if need.digest != have.digest || need.count != have.count {
            let wanted = format!("{} {noun} with digest {}", need.count, need.digest);
            let there = format!("{} with digest {}", have.count, have.digest);
            let fix = "apply the same configuration file on both hosts, or give both switches a fleet key";
            found.port(kind, wanted, there, fix);
        }
    };
    list(found, Kind::AclDiffers, "ACL entries", &need.acl, &have.acl);
    list(found, Kind::RulesDiffer, "rules", &need.rules, &have.rules);
    let mirror = |mode| match mode {
        Mirror::None => "none",
        Mirror::Source => "source",
        Mirror::Destination => "destination",
    };
    if need.mirror != have.mirror {
        let (wanted, there) = (mirror(need.mirror), mirror(have.mirror));
        found.port(Kind::MirrorDiffers, format!("mirror {wanted}"), there, set(format!("--mirror {wanted}")));
    }
    for (name, value) in &need.settings {
        if let Some(other) = have.settings.get(name)
            && other != value
        {
            let wanted = format!("{name} {value}");
            found.port(Kind::SettingDiffers, wanted, other, set(format!("--{name} {value}")));
        }
    }
    if m.metered && !port.metered {
        let fix = format!("turnpike meter enable {}", m.name);
        found.port(Kind::MetersOff, "meters", "none", fix);
    }
}

fn addresses(found: &mut Found, m: &Manifest, port: &OfferedPort) {
    let Some(have) = &port.policy.addresses else { return };
    let (covered, shown) = match &m.policy.addresses {
        None => (false, "any".to_owned()),
        Some(need) => {
            let covered = need.iter().all(|net| have.iter().any(|owned| owned.contains(net)));
            (covered, joined(need))
        }
    };
    if !covered {
        let fix =
            format!("turnpike port set {} --addresses {shown}, or give both switches a fleet key", m.name);
        found.port(Kind::AddressesDiffer, format!("addresses {shown}"), joined(have), fix);
    }
}

fn neighbours(found: &mut Found, m: &Manifest, o: &Offer) {
    if !m.policy.vlan.is_empty() && m.policy.vlan.parse::<Vlan>().is_err() {
        let fix = "upgrade turnpike there";
        found.port(Kind::VlanUnknown, format!("VLAN mode {}", m.policy.vlan), "none of this form", fix);
    } else if let Some(conflict) = &o.private_vlans {
        let fix = "give the ports of both hosts the same private VLANs (turnpike port set NAME --vlan …)";
        found.port(Kind::PrivateVlans, format!("VLAN mode {}", m.policy.vlan), conflict, fix);
    }
    for name in m.siblings.iter().filter(|name| !o.guests.contains(name)) {
        let kind = if m.policy.teaming { Kind::TeamPartner } else { Kind::Sibling };
        let need = format!("port '{name}' of the same virtual machine");
        found.port(
            kind,
            need,
            "no guest port of that name",
            format!("turnpike port add {name} --socket PATH"),
        );
    }
    if m.policy.mirror == Mirror::Source && o.monitors.is_empty() {
        let fix = "turnpike port set NAME --mirror destination on the port that is to monitor";
        found.port(Kind::MonitorMissing, "a port that monitors", "none", fix);
    }
}

fn room(found: &mut Found, m: &Manifest, o: &Offer) {
    let fewer = "remove some at the source";
    let (acl, rules) = o.max_list;
    if m.policy.acl.count > acl {
        found.port(
            Kind::AclTooLong,
            format!("{} ACL entries", m.policy.acl.count),
            format!("at most {acl}"),
            fewer,
        );
    }
    if m.policy.rules.count > rules {
        found.port(
            Kind::RulesTooLong,
            format!("{} rules", m.policy.rules.count),
            format!("at most {rules}"),
            fewer,
        );
    }
    let counters = m.policy.acl.counted + m.policy.rules.counted;
    if carries_policy(m, o) && counters > o.free_counters {
        let have = format!("{} free", o.free_counters);
        let fix = "remove ACL entries or rules of other ports there";
        found.port(Kind::Counters, format!("{counters} counters"), have, fix);
    }
    if m.sessions > o.free_sessions {
        let have = format!("room for {}", o.free_sessions);
        let fix = format!("turnpike session flush {} at the source, or of other ports there", m.name);
        found.port(Kind::Sessions, format!("{} sessions", m.sessions), have, fix);
    }
    if m.learned > o.free_addresses {
        let have = format!("room for {}", o.free_addresses);
        let fix = "turnpike switch set --fdb-size N";
        found.port(Kind::Addresses, format!("{} learned addresses", m.learned), have, fix);
    }
}

fn extensions(found: &mut Found, m: &Manifest, o: &Offer) {
    for name in m.required_extensions.iter().filter(|name| !o.extensions.contains_key(*name)) {
        let fix =
            format!("turnpike extension enable {name} there, or --require-extension none at the source");
        found.add(Kind::ExtensionRequired, format!("extension '{name}'"), "it enabled", "none", fix);
    }
    for (name, version) in &m.extensions {
        let object = format!("extension '{name}'");
        match o.extensions.get(name) {
            None => {
                let fix = "turnpike extension enable it there, or it begins without what it remembers";
                found.add(Kind::ExtensionMissing, object, format!("version {version}"), "none", fix);
            }
            Some((oldest, newest)) if !(oldest..=newest).contains(&version) => {
                let have = format!("versions {oldest} to {newest}");
                found.add(
                    Kind::ExtensionVersion,
                    object,
                    format!("version {version}"),
                    have,
                    "install the same version",
                );
            }
            Some(_) => {}
        }
    }
}

fn joined(nets: &[ipnet::IpNet]) -> String {
    nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
