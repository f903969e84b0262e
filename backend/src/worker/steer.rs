//! Which receive queue of a multi-queue port a frame goes to: the same one for all frames of a flow, whichever of its two
//! directions they have, so that nothing is reordered.

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const TCP: u8 = 6;
const UDP: u8 = 17;

fn word(head: &[u8], at: usize) -> u64 {
    head.get(at..at + 4).map_or(0, |b| u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])))
}

fn ports(head: &[u8], at: usize) -> u64 {
    let ports = word(head, at);
    (ports >> 16) ^ (ports & 0xffff)
}

/// A number that is equal for all frames of a flow and its answers.
pub(super) fn flow_hash(head: &[u8]) -> u64 {
    let ethertype = |at: usize| head.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    let mut network = 14;
    let mut kind = ethertype(12);
    if kind == ETHERTYPE_VLAN {
        kind = ethertype(16);
        network = 18;
    }
    let key = match kind {
        ETHERTYPE_IPV4 => {
            let addresses = word(head, network + 12) ^ word(head, network + 16);
            let protocol = head.get(network + 9).copied().unwrap_or(0);
            // A fragment has its ports elsewhere; all fragments of a flow go by address alone.
            let fragment = (word(head, network + 6) >> 16) as u16 & 0x3fff;
            let header = usize::from(head.get(network).map_or(0, |b| b & 0xf)) * 4;
            let l4 = if fragment == 0 && matches!(protocol, TCP | UDP) {
                ports(head, network + header)
            } else {
                0
            };
            addresses << 16 ^ l4
        }
        ETHERTYPE_IPV6 => {
            let addresses = (0..8).fold(0, |sum, i| sum ^ word(head, network + 8 + 4 * i));
            let plain = matches!(head.get(network + 6), Some(&TCP | &UDP));
            addresses << 16 ^ if plain { ports(head, network + 40) } else { 0 }
        }
        _ => word(head, 2) ^ word(head, 8),
    };
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32
}

/// The `n`-th queue pair of those whose bit is set in `running`, chosen by the frame's flow. `running` must not be 0.
#[inline]
pub(super) fn queue_pair(running: u64, head: &[u8]) -> usize {
    let count = running.count_ones();
    if count <= 1 {
        return running.trailing_zeros() as usize;
    }
    let mut left = running;
    for _ in 0..flow_hash(head) % u64::from(count) {
        left &= left - 1;
    }
    left.trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(src: [u8; 4], dst: [u8; 4], ports: (u16, u16)) -> Vec<u8> {
        let mut frame = vec![0; 42];
        frame[12] = 8;
        frame[14] = 0x45;
        frame[23] = UDP;
        frame[26..30].copy_from_slice(&src);
        frame[30..34].copy_from_slice(&dst);
        frame[34..36].copy_from_slice(&ports.0.to_be_bytes());
        frame[36..38].copy_from_slice(&ports.1.to_be_bytes());
        frame
    }

    #[test]
    fn both_directions_of_a_flow_use_one_queue() {
        for port in 0..100 {
            let there = udp([10, 0, 0, 1], [10, 0, 0, 2], (port, 80));
            let back = udp([10, 0, 0, 2], [10, 0, 0, 1], (80, port));
            assert_eq!(queue_pair(0b1101, &there), queue_pair(0b1101, &back));
        }
    }

    #[test]
    fn flows_spread_over_all_running_queues_and_no_other() {
        let mut used = 0u64;
        for port in 0..200 {
            used |= 1 << queue_pair(0b1011, &udp([10, 0, 0, 1], [10, 0, 0, 2], (port, 80)));
        }
        assert_eq!(used, 0b1011);
    }

    #[test]
    fn a_frame_of_any_length_has_a_queue() {
        let frame = udp([1; 4], [2; 4], (1, 2));
        for len in 0..frame.len() {
            assert!(queue_pair(0b11, &frame[..len]) < 2);
        }
    }
}
