//! A port's configuration as portable state, and back. The numbers of counters mean nothing elsewhere; what they counted does.

use std::sync::Arc;

use migration::state::{self, Counted, PortPolicy};
use vswitch::port::acl;
use vswitch::port::rule::Rule;
use vswitch::trace::DropReason;
use vswitch::{Tally, state::PortMemory};

use crate::control::list::{Item, List};
use crate::control::meter::Metering;
use crate::control::model::PortConfig;
use crate::control::types::{LinkState, Policy};
use crate::spec::PortCounters;

/// A list with what its items counted.
pub(super) fn counted<I: Item>(list: &List<I>, read: impl Fn(Tally) -> (u64, u64)) -> Vec<Counted<I>> {
    let item = |item: &I| {
        let (packets, bytes) = if item.counts() { read(item.tally()) } else { (0, 0) };
        let mut item = item.clone();
        item.count_on(Tally::NONE);
        Counted { item, packets, bytes }
    };
    list.items().map(item).collect()
}

/// A port's policy with its lists.
pub(super) fn policy(config: &PortConfig, read: impl Fn(Tally) -> (u64, u64)) -> PortPolicy {
    let p = &config.policy;
    PortPolicy {
        vlan: p.vlan.clone(),
        vsid: p.vsid,
        mac_spoofing: p.mac_spoofing,
        vm: p.vm.clone(),
        teaming: p.teaming,
        dhcp_guard: p.dhcp_guard,
        router_guard: p.router_guard,
        addresses: p.addresses.as_ref().map(|list| list.to_vec()),
        address_limit: p.address_limit,
        storm_limit: p.storm_limit,
        mirror: p.mirror,
        require_extension: p.require_extension.clone(),
        priority_tag: p.priority_tag,
        link_up: p.link == LinkState::Up,
        acl: counted(&config.acl, &read),
        rules: counted(&config.rules, &read),
    }
}

/// A policy without its lists, as configured here.
pub(super) fn configured(p: &PortPolicy) -> Policy {
    Policy {
        vlan: p.vlan.clone(),
        vsid: p.vsid,
        mac_spoofing: p.mac_spoofing,
        vm: p.vm.clone(),
        teaming: p.teaming,
        dhcp_guard: p.dhcp_guard,
        router_guard: p.router_guard,
        addresses: p.addresses.as_ref().map(|list| Arc::from(list.as_slice())),
        address_limit: p.address_limit,
        storm_limit: p.storm_limit,
        mirror: p.mirror,
        require_extension: p.require_extension.clone(),
        priority_tag: p.priority_tag,
        link: if p.link_up { LinkState::Up } else { LinkState::Down },
    }
}

pub(super) fn metering(metering: Option<&Metering>) -> Option<state::Metering> {
    metering.map(|m| state::Metering { since_ms: m.since_ms, defaults: m.defaults })
}

pub(super) fn metered(metering: Option<state::Metering>) -> Option<Metering> {
    metering.map(|m| Metering { since_ms: m.since_ms, defaults: m.defaults })
}

pub(super) fn counters(c: &PortCounters) -> state::Counters {
    let named = |drops: &[(DropReason, u64)]| {
        drops.iter().map(|(reason, count)| (reason.name().to_owned(), *count)).collect()
    };
    state::Counters {
        out_packets: c.out_packets,
        out_bytes: c.out_bytes,
        in_packets: c.in_packets,
        in_bytes: c.in_bytes,
        out_drops: named(&c.out_drops),
        in_drops: named(&c.in_drops),
    }
}

/// Reasons that this version does not know are left out.
pub(super) fn counted_here(c: &state::Counters) -> PortCounters {
    let known = |drops: &[(String, u64)]| {
        let reason = |name: &str| DropReason::ALL.iter().copied().find(|reason| reason.name() == name);
        drops.iter().filter_map(|(name, count)| Some((reason(name)?, *count))).collect()
    };
    PortCounters {
        out_packets: c.out_packets,
        out_bytes: c.out_bytes,
        in_packets: c.in_packets,
        in_bytes: c.in_bytes,
        out_drops: known(&c.out_drops),
        in_drops: known(&c.in_drops),
    }
}

/// What the data path remembered, as it travels.
pub(super) fn memory(state: &state::PortState) -> PortMemory {
    PortMemory {
        learned: state.learned.iter().map(|l| (l.mac, l.network, l.age_ms)).collect(),
        sessions: state.sessions.clone(),
        used: state.used.iter().map(|u| (u.address, u.age_ms)).collect(),
        storm: state.storm.used,
        next_hops: Vec::new(), // an uplink has them, and guests move
    }
}

/// The items of a list alone.
pub(super) fn items<I: Clone>(list: &[Counted<I>]) -> Vec<I> {
    list.iter().map(|counted| counted.item.clone()).collect()
}

/// What each item of a list here counted elsewhere: those that are the same in all but where they are counted.
pub(super) fn counts<'a, I: Item>(
    list: &'a List<I>,
    elsewhere: &'a [Counted<I>],
) -> impl Iterator<Item = (Tally, (u64, u64))> + 'a {
    let same = |counted: &Counted<I>| {
        let here = list.get(&counted.item.key())?;
        let mut plain = here.clone();
        plain.count_on(Tally::NONE);
        (here.counts() && plain == counted.item).then(|| (here.tally(), (counted.packets, counted.bytes)))
    };
    elsewhere.iter().filter_map(same)
}

/// All that the lists of a port here counted elsewhere.
pub(super) fn all_counts(config: &PortConfig, policy: &PortPolicy) -> Vec<(Tally, (u64, u64))> {
    let acl: Vec<_> = counts::<acl::Entry>(&config.acl, &policy.acl).collect();
    acl.into_iter().chain(counts::<Rule>(&config.rules, &policy.rules)).collect()
}
