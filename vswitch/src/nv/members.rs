//! Which hosts have guests of a virtual subnet: where a flooded frame is replicated to, one copy for each host and never one for each
//! guest. Kept with the records, one change at a time.

use std::collections::HashMap;

use super::model::Encap;
use super::overlay::{PaId, Reach};
use crate::hash;

/// One host's guests of one virtual subnet.
#[derive(Clone, Copy, Debug)]
struct Host {
    pa: PaId,
    /// Records by encapsulation: NVGRE, VXLAN. IP rewrite cannot say which virtual subnet a frame is of.
    all: [u32; 2],
    /// Of those, the ones of guests whose address is not known.
    unknown: [u32; 2],
}

/// By virtual subnet.
#[derive(Debug)]
pub(super) struct Members {
    subnets: HashMap<u64, Vec<Host>, hash::Seeded>,
}

/// One record's part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) vsid: u32,
    pub(super) pa: PaId,
    pub(super) encap: Encap,
    /// Its address is not known.
    pub(super) unknown: bool,
}

impl Members {
    pub(super) fn new(seed: u64) -> Self {
        Self { subnets: HashMap::with_hasher(hash::Seeded(seed)) }
    }

    pub(super) fn add(&mut self, member: Member) {
        let Some(by) = slot(member.encap) else { return };
        let hosts = self.subnets.entry(u64::from(member.vsid)).or_default();
        let at = hosts.iter().position(|host| host.pa == member.pa).unwrap_or_else(|| {
            if hosts.len() < 4 {
                hosts.reserve_exact(1); // most virtual subnets are on a few hosts, and there may be very many of them
            }
            hosts.push(Host { pa: member.pa, all: [0; 2], unknown: [0; 2] });
            hosts.len() - 1
        });
        if let Some(host) = hosts.get_mut(at) {
            host.all[by] += 1;
            host.unknown[by] += u32::from(member.unknown);
        }
    }

    pub(super) fn remove(&mut self, member: Member) {
        let Some(by) = slot(member.encap) else { return };
        let key = u64::from(member.vsid);
        let Some(hosts) = self.subnets.get_mut(&key) else { return };
        let Some(at) = hosts.iter().position(|host| host.pa == member.pa) else { return };
        hosts[at].all[by] = hosts[at].all[by].saturating_sub(1);
        hosts[at].unknown[by] = hosts[at].unknown[by].saturating_sub(u32::from(member.unknown));
        if hosts[at].all == [0; 2] {
            hosts.swap_remove(at);
        }
        if hosts.is_empty() {
            self.subnets.remove(&key);
        }
    }

    /// Whether any guest's address is not known.
    pub(super) fn any_unknown(&self, vsid: u32) -> bool {
        self.subnets.get(&u64::from(vsid)).is_some_and(|hosts| hosts.iter().any(|h| h.unknown != [0; 2]))
    }

    /// The hosts a frame is replicated to, and how it gets there. A host that has guests under both encapsulations gets it by NVGRE.
    pub(super) fn list(&self, vsid: u32, reach: Reach) -> impl Iterator<Item = (PaId, Encap)> {
        self.subnets.get(&u64::from(vsid)).into_iter().flatten().filter_map(move |host| {
            let counts = match reach {
                Reach::All => host.all,
                Reach::Unknown => host.unknown,
            };
            match counts {
                [0, 0] => None,
                [0, _] => Some((host.pa, Encap::Vxlan)),
                _ => Some((host.pa, Encap::Nvgre)),
            }
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let entry = size_of::<(u64, Vec<Host>)>() + 1;
        let lists: usize = self.subnets.values().map(|hosts| hosts.capacity() * size_of::<Host>() + 16).sum();
        self.subnets.capacity() * 8 / 7 * entry + lists
    }
}

fn slot(encap: Encap) -> Option<usize> {
    match encap {
        Encap::Nvgre => Some(0),
        Encap::Vxlan => Some(1),
        Encap::Rewrite => None,
    }
}
