//! H30: every truncation and every flipped bit of tunnels and of questions. Nothing panics, and what is taken is within the frame.

use std::net::IpAddr;

use vswitch::frame::offload::Offload;
use vswitch::frame::protocol;
use vswitch::nv::answer::{
    Advertised, arp_reply, echo_reply, neighbour_advertisement, time_exceeded, too_big,
};
use vswitch::nv::model::Encap;
use vswitch::nv::wire::{ecn, entropy, open, rewrite, tos};

use super::reference::{carried, complete, example, outer};
use crate::packets::{arp, framed, icmp, neighbour, tagged, v4, v6};
use crate::support::{Random, mac_of, stranger};

/// Everything that takes a stranger's bytes.
fn try_all(frame: &[u8], len: u32, out: &mut Vec<u8>) {
    if let Some(Ok(found)) = open(frame, len) {
        assert!(found.inner as u64 + u64::from(found.inner_len) <= u64::from(len));
        assert!(found.inner_len >= 14 && (4096..=16_777_214).contains(&found.vsid));
    }
    let _ = (entropy(frame, len), tos(frame));
    let mut changed = frame.to_vec();
    for address in [IpAddr::from([192, 168, 1, 1]), IpAddr::from([0xfd; 16])] {
        let before = changed.clone();
        if rewrite::apply(&mut changed, address, address, &Offload::None).is_err() {
            assert_eq!(changed, before, "what is refused is left alone");
        }
        let _ = rewrite::apply(&mut changed, address, address, &Offload::Checksum { start: 34, offset: 6 });
    }
    let _ = (rewrite::hop(&mut changed), ecn::arrive(&mut changed, 3));
    rewrite::macs(&mut changed, stranger(1), stranger(2));
    let says = Advertised { router: true, certain: true };
    let target = "fd00::2".parse().expect("an address");
    let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd; 16]));
    for answered in [
        arp_reply(frame, stranger(1), [10, 0, 0, 1].into(), out),
        neighbour_advertisement(frame, stranger(1), target, says, out),
        echo_reply(frame, out),
        time_exceeded(frame, v4, stranger(1), out),
        time_exceeded(frame, v6, stranger(1), out),
        too_big(frame, v4, stranger(1), 1400, out),
        too_big(frame, v6, stranger(1), 1400, out),
    ] {
        assert!(out.len() <= 1294 + 4 || answered && out.len() <= frame.len());
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![example()];
    for encap in [Encap::Nvgre, Encap::Vxlan] {
        for six in [false, true] {
            seeds.push(carried(&outer(encap, six), &example()));
        }
    }
    seeds.push(carried(&outer(Encap::Vxlan, true), &seeds[1]));
    seeds.push(tagged(&[], 0x0806, &arp(1, mac_of(1), "10.0.0.1", "10.0.0.2")));
    seeds.push(framed(&v6("fd00::1", "ff02::1:ff00:2", protocol::ICMPV6, &neighbour(135, "fd00::2", None))));
    seeds.push(framed(&complete(v4("10.0.0.1", "10.0.0.2", protocol::ICMP, &icmp(8, b"\0\x01\0\x01ping")))));
    let quoted = [&[0; 4], &example()[14..]].concat();
    seeds.push(framed(&complete(v4("10.0.0.1", "10.0.0.2", protocol::ICMP, &icmp(3, &quoted)))));
    let quoted = [&[0; 4], &v6("fd00::1", "fd00::2", 58, &icmp(128, b"\0\x01\0\x01ping"))[..]].concat();
    seeds.push(framed(&v6("fd00::1", "fd00::2", protocol::ICMPV6, &icmp(2, &quoted))));
    seeds
}

#[test]
fn h30_no_truncation_and_no_flipped_bit_is_too_much() {
    let mut out = Vec::new();
    for seed in seeds() {
        for end in 0..=seed.len() {
            try_all(&seed[..end], end as u32, &mut out);
            try_all(&seed[..end], seed.len() as u32, &mut out);
            try_all(&seed, end as u32, &mut out);
        }
        for bit in 0..seed.len() * 8 {
            let mut frame = seed.clone();
            frame[bit / 8] ^= 1 << (bit % 8);
            try_all(&frame, frame.len() as u32, &mut out);
        }
    }
}

#[test]
fn h30_random_bytes_in_the_place_of_headers_are_not_too_much() {
    let mut random = Random(30);
    let mut out = Vec::new();
    for seed in seeds() {
        for _ in 0..2_000 {
            let mut frame = seed.clone();
            for _ in 0..=random.below(4) {
                let at = random.below(frame.len());
                frame[at] = [0, 0xff, 0x45, 0x60, 0x2c, random.next() as u8][random.below(6)];
            }
            let end = random.below(frame.len() + 1);
            try_all(&frame[..end], frame.len() as u32, &mut out);
        }
    }
}
