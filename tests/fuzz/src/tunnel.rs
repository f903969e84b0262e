//! Frames of the physical network and of guests as network virtualization takes them: what comes out of a tunnel must be within it and go
//! into another one and out again unchanged; what is rewritten must have the new addresses and nothing else that policy looks at; what is
//! answered must be as short as its standard says.
//!
//! Input: how the frame is carried (1 byte), bytes beyond the frame's first ones (1), the frame.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use vswitch::frame::datagrams::{Datagrams, Place};
use vswitch::frame::headers::{Headers, Ip};
use vswitch::frame::offload::Offload;
use vswitch::nv::answer::{self, Advertised};
use vswitch::nv::model::{Encap, MAX_VSID, MIN_VSID};
use vswitch::nv::wire::{OUTER_MAX, Outer, ecn, entropy, open, rewrite, tos};
use vswitch::{HEAD_LEN, Mac};

const ROUTER: Mac = Mac([0x02, 0, 0, 0, 0, 1]);
const V4: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 34, 8)),
    IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 42, 12)),
];
const V6: [IpAddr; 2] = [
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 8)),
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 12)),
];

fuzz_target!(|input: &[u8]| {
    let Some((&[how, more], bytes)) = input.split_first_chunk::<2>() else { return };
    let mut frame = bytes.to_vec();
    frame.resize(bytes.len() + usize::from(more), 0x5a);
    let len = frame.len() as u32;
    let head = &frame[..frame.len().min(HEAD_LEN)];
    if let Some(Ok(found)) = open(head, len) {
        let (begin, end) = (found.inner, found.inner + found.inner_len as usize);
        assert!((MIN_VSID..=MAX_VSID).contains(&found.vsid) && found.inner_len >= 14 && end <= frame.len());
        carry(&frame[begin..end], how);
        arrive(&frame[begin..end], found.ecn);
    }
    carry(&frame, how);
    changed(&frame, &Offload::None);
    if let Ok(Headers { ip: Some(ip), .. }) = Headers::parse(head, len) {
        changed(&frame, &Offload::Checksum { start: ip.upper as u16, offset: 6 });
    }
    answers(&frame);
    apart(&frame, u16::from(how) * 8 + 1);
});

/// Many datagrams in one frame: each that comes out is one.
fn apart(frame: &[u8], size: u16) {
    let Some(mut many) = Datagrams::new(frame, size) else { return };
    let mut out = vec![0; many.longest()];
    let mut payload = 0;
    while let Some(len) = many.next(frame, &mut out) {
        let place = Place::of(&out[..len]).expect("a datagram");
        assert_eq!(place.udp, many.udp());
        payload += len - place.payload();
    }
    assert!(payload <= frame.len());
}

/// Into a tunnel and out of it again.
fn carry(inner: &[u8], how: u8) {
    let bit = |n: u8| how >> n & 1 != 0;
    let [from, to] = if bit(0) { V6 } else { V4 };
    let outer = Outer {
        dst: ROUTER,
        src: ROUTER,
        vlan: bit(1).then_some(7),
        from,
        to,
        encap: if bit(2) { Encap::Vxlan } else { Encap::Nvgre },
        vsid: MIN_VSID + u32::from(how),
        ttl: 64,
        copy_dscp: bit(3),
    };
    let template = outer.template().expect("addresses of one family");
    let mut header = [0; OUTER_MAX];
    let flow = entropy(inner, inner.len() as u32);
    let marks = tos(inner);
    let Some(size) = template.emit(flow, inner.len(), marks, 0, &mut header) else {
        assert!(inner.len() > 65_000);
        return;
    };
    let mut frame = [&header[..size], inner].concat();
    frame.resize(frame.len() + usize::from(how >> 4), 0);
    let opened = open(&frame[..frame.len().min(HEAD_LEN)], frame.len() as u32).expect("a tunnel's packet");
    let tagged = inner.get(12..14).is_some_and(|kind| matches!(kind, [0x81, 0] | [0x88, 0xa8]));
    assert_eq!(opened.is_ok(), inner.len() >= 14 && !tagged, "{opened:?}");
    let Ok(found) = opened else { return };
    assert_eq!(
        (found.src, found.dst, found.encap, found.vsid, found.vlan),
        (from, to, outer.encap, outer.vsid, outer.vlan)
    );
    assert_eq!((found.ecn, found.inner, found.inner_len as usize), (marks & 3, size, inner.len()));
}

/// Marks change nothing but themselves and the sum over them.
fn arrive(inner: &[u8], outer: u8) {
    let mut after = inner.to_vec();
    let before = tos(inner);
    match ecn::arrive(&mut after, outer) {
        Err(_) => assert!(outer == 3 && before & 3 == 0 && after == inner),
        Ok(()) => assert_eq!(Ok(tos(&after) & 3), ecn::decapsulate(outer, before)),
    }
    assert_eq!(tos(&after) & !3, before & !3);
}

/// Rewritten, and once through a router.
fn changed(frame: &[u8], offload: &Offload) {
    let mut after = frame.to_vec();
    let headers =
        |frame: &[u8]| Headers::parse(frame, frame.len() as u32).ok().and_then(|headers| headers.ip);
    for [src, dst] in [V4, V6] {
        let before = after.clone();
        match rewrite::apply(&mut after, src, dst, offload) {
            Err(_) => assert_eq!(after, before, "what is refused is left alone"),
            Ok(()) => {
                let expected = headers(&before).map(|ip| Ip { src, dst, ..ip });
                assert_eq!(headers(&after), expected);
            }
        }
    }
    let before = after.clone();
    if rewrite::hop(&mut after).is_err() {
        assert_eq!(after, before);
    }
    assert_eq!(headers(&after), headers(&before));
    let before = after.clone();
    rewrite::macs(&mut after, ROUTER, ROUTER);
    assert_eq!(after.get(12..), before.get(12..));
}

fn answers(frame: &[u8]) {
    let mut out = Vec::new();
    let [from4, from6] = [V4[0], V6[0]];
    let says = Advertised { router: true, certain: true };
    if let IpAddr::V6(target) = from6 {
        answer::neighbour_advertisement(frame, ROUTER, target, says, &mut out);
    }
    if let IpAddr::V4(target) = from4 {
        answer::arp_reply(frame, ROUTER, target, &mut out);
    }
    answer::echo_reply(frame, &mut out);
    assert!(out.len() <= frame.len().max(64));
    for (from, longest) in [(from4, 576), (from6, 1280)] {
        for too_big in [false, true] {
            let said = if too_big {
                answer::too_big(frame, from, ROUTER, 1458, &mut out)
            } else {
                answer::time_exceeded(frame, from, ROUTER, &mut out)
            };
            assert_eq!(said, !out.is_empty());
            assert!(out.len() <= 18 + longest);
            // No answer to an answer: two switches must not talk to each other for ever.
            let mut again = Vec::new();
            assert!(!said || !answer::time_exceeded(&out, from, ROUTER, &mut again));
        }
    }
}
