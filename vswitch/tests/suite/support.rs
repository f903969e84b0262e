//! What the tests share: a repeatable random source, a small switch, frames, and a checksum written the slow way.

use vswitch::frame::ethernet::ethertype;
use vswitch::pipeline::{self, Verdict};
use vswitch::port::{Port, PortKind};
use vswitch::snapshot::{FloodSet, Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Mac, PortId};

/// One second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// `SplitMix64`: small, good enough, the same on every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// The configured address of port `n`.
pub(crate) fn mac_of(n: u16) -> Mac {
    Mac([0x52, 0x54, 0, 0, (n >> 8) as u8, n as u8])
}

/// An address that no port is configured with.
pub(crate) fn stranger(n: u16) -> Mac {
    Mac([0x02, 0xaa, 0, 0, (n >> 8) as u8, n as u8])
}

pub(crate) fn port(n: u16, kind: PortKind) -> Port {
    Port::new(PortId(n), kind, mac_of(n))
}

pub(crate) fn guest(n: u16) -> Port {
    port(n, PortKind::Guest)
}

/// A guest with MAC spoofing on.
pub(crate) fn bridging(n: u16) -> Port {
    let mut port = guest(n);
    port.policy.mac_spoofing = true;
    port
}

/// The same port with this VLAN mode.
pub(crate) fn in_vlan(mut port: Port, mode: &str) -> Port {
    port.policy.vlan = mode.parse().expect("a VLAN mode");
    port
}

/// The same port with its link set down.
pub(crate) fn unplugged(mut port: Port) -> Port {
    port.policy.link_up = false;
    port
}

/// A switch to send single frames through.
pub(crate) struct Switch {
    pub(crate) snap: Snapshot,
    pub(crate) state: State,
    pub(crate) now: u64,
}

impl Switch {
    pub(crate) fn new(kind: SwitchKind, ports: Vec<Port>) -> Self {
        let config = SwitchConfig { kind, ..SwitchConfig::default() };
        Self { snap: Snapshot::new(1, config, ports), state: State::new(1024, 7), now: SECOND }
    }

    pub(crate) fn send(&self, from: u16, dst: Mac, src: Mac) -> Verdict {
        let frame = frame(dst, src, None);
        pipeline::run(&self.snap, &self.state, self.now, PortId(from), &frame, frame.len() as u32)
    }

    /// Sends from the port's own address.
    pub(crate) fn own(&self, from: u16, dst: Mac) -> Verdict {
        self.send(from, dst, mac_of(from))
    }

    pub(crate) fn flooded(&self, set: FloodSet, from: u16) -> Vec<u16> {
        let mut ports: Vec<u16> = self.snap.flood(set, PortId(from)).map(|id| id.0).collect();
        ports.sort_unstable();
        ports
    }
}

/// A 64-byte frame, tagged if there is a VLAN.
pub(crate) fn frame(dst: Mac, src: Mac, vlan: Option<u16>) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    if let Some(vlan) = vlan {
        frame.extend(ethertype::VLAN.to_be_bytes());
        frame.extend(vlan.to_be_bytes());
    }
    frame.extend(ethertype::IPV4.to_be_bytes());
    frame.resize(64, 0);
    frame
}

pub(crate) fn to(n: u16) -> Verdict {
    Verdict::Unicast(PortId(n))
}

pub(crate) fn dropped(reason: DropReason) -> Verdict {
    Verdict::Drop(reason)
}

/// The ones' complement sum, 16 bits at a time, straight from RFC 1071.
pub(crate) fn slow_sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        if sum > 0xffff {
            sum = sum - 0x1_0000 + 1;
        }
    }
    sum as u16
}
