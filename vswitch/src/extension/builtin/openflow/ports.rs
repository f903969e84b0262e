//! The switch's ports as controllers see them: their number is the port's, their name too.

use std::collections::BTreeMap;

use super::message::{put_text, put32, put64, zeros};
use crate::extension::PortCounters;
use crate::{Mac, Nanos, PortId};

/// Why a port-status is sent (`OFPPR_*`).
pub(super) const ADDED: u8 = 0;
pub(super) const DELETED: u8 = 1;
pub(super) const MODIFIED: u8 = 2;

/// Nothing is plugged in.
const LINK_DOWN: u32 = 1;

#[derive(Clone, Debug)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
    pub(super) up: bool,
    pub(super) since: Nanos,
}

pub(super) type Ports = BTreeMap<PortId, Port>;

impl Port {
    /// An `ofp_port`.
    pub(super) fn describe(&self, id: PortId) -> Vec<u8> {
        let mut out = Vec::new();
        put32(&mut out, u32::from(id.0));
        zeros(&mut out, 4);
        out.extend_from_slice(&self.mac.map_or([0; 6], |mac| mac.0));
        zeros(&mut out, 2);
        put_text(&mut out, &self.name, 16);
        put32(&mut out, 0);
        put32(&mut out, if self.up { 0 } else { LINK_DOWN });
        zeros(&mut out, 24); // of memory there is no speed
        out
    }

    /// An `ofp_port_stats`. What the guest sends the port receives.
    pub(super) fn stats(&self, id: PortId, now: Nanos, counted: &PortCounters) -> Vec<u8> {
        let mut out = Vec::new();
        put32(&mut out, u32::from(id.0));
        zeros(&mut out, 4);
        for number in [
            counted.out_packets,
            counted.in_packets,
            counted.out_bytes,
            counted.in_bytes,
            counted.out_drops,
            counted.in_drops,
        ] {
            put64(&mut out, number);
        }
        zeros(&mut out, 48); // a port of memory has no errors and no collisions
        let age = now.saturating_sub(self.since);
        put32(&mut out, (age / 1_000_000_000) as u32);
        put32(&mut out, (age % 1_000_000_000) as u32);
        out
    }
}
