//! How long bytes of tunnels take: not a test.

use std::hint::black_box;
use std::time::Instant;

use vswitch::frame::offload::Offload;
use vswitch::frame::protocol;
use vswitch::nv::model::{Encap, Rdid};
use vswitch::nv::nat::{Nat, Share};
use vswitch::nv::wire::{OUTER_MAX, entropy, open, rewrite, tos};

use super::reference::{carried, complete, example, outer};
use crate::packets::{framed, ip, udp, v4};

/// Nanoseconds of the fastest of several rounds.
fn cost(mut work: impl FnMut()) -> f64 {
    const TIMES: u32 = 200_000;
    let round = |_| {
        let begin = Instant::now();
        (0..TIMES).for_each(|_| work());
        begin.elapsed().as_secs_f64() * 1e9 / f64::from(TIMES)
    };
    (0..7).map(round).fold(f64::INFINITY, f64::min)
}

#[test]
#[ignore = "a measurement: cargo test --release -p turnpike-vswitch --test suite nv_wire::figures -- --ignored --nocapture"]
fn bytes_of_one_packet() {
    let inner = framed(&complete(v4("10.16.1.3", "10.16.1.7", protocol::UDP, &udp(40_000, 53, b"query"))));
    for encap in [Encap::Nvgre, Encap::Vxlan] {
        for six in [false, true] {
            let template = outer(encap, six).template().expect("a template");
            let mut out = [0; OUTER_MAX];
            let flow = entropy(&inner, inner.len() as u32);
            let emit = cost(|| {
                black_box(black_box(&template).emit(flow, black_box(inner.len()), 0, 0, &mut out));
            });
            let frame = carried(&outer(encap, six), &inner);
            let opened = cost(|| {
                black_box(open(black_box(&frame), frame.len() as u32).is_some());
            });
            println!("{encap:?} over IPv{}: emit {emit:.1} ns, open {opened:.1} ns", if six { 6 } else { 4 });
        }
    }
    let flow = cost(|| {
        black_box(entropy(black_box(&inner), inner.len() as u32));
    });
    let marks = cost(|| {
        black_box(tos(black_box(&inner)));
    });
    let plain = cost(|| {
        black_box(open(black_box(&inner), inner.len() as u32).is_some());
    });
    println!("entropy {flow:.1} ns, tos {marks:.1} ns, open of what is no tunnel {plain:.1} ns");
    let mut frame = example();
    let (a, b) = (ip("192.168.1.10"), ip("192.168.1.12"));
    let rewritten = cost(|| {
        rewrite::apply(black_box(&mut frame), a, b, &Offload::None).expect("a plain packet");
    });
    let hop = cost(|| {
        frame[22] = 64;
        rewrite::hop(black_box(&mut frame)).expect("life");
    });
    let nat = Nat::new(ip("203.0.113.7"), 3, Share::default());
    let tenant = nat.admit(Rdid(1)).expect("room");
    let before = example();
    let translated = cost(|| {
        frame.copy_from_slice(&before);
        nat.translate_out(1, tenant, black_box(&mut frame), &Offload::None).expect("a session");
    });
    println!("rewrite {rewritten:.1} ns, hop {hop:.1} ns, address translation {translated:.1} ns");
}
