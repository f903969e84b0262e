//! Many datagrams in one frame: what comes out are the datagrams that went in, each with headers that hold.

use proptest::prelude::*;
use vswitch::frame::checksum::{checksum, complete_checksum};
use vswitch::frame::datagrams::{Datagrams, MAX_DATAGRAMS, Place, UDP_CHECKSUM};

use crate::packets::{ethertype_of, tagged, v4, v6, with_options};
use crate::support::slow_sum;

/// A frame with one datagram of this payload.
fn frame(is_v6: bool, options: usize, tag: bool, payload: &[u8]) -> Vec<u8> {
    let udp = [&[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0], payload].concat();
    let packet = if is_v6 {
        v6("fd00::1", "fd00::2", 17, &udp)
    } else {
        with_options(v4("10.0.0.1", "10.0.0.2", 17, &udp), options)
    };
    let tags: &[(u16, u16)] = if tag { &[(0x8100, 7)] } else { &[] };
    let mut frame = tagged(tags, ethertype_of(&packet), &packet);
    // No padding: kernels hand such frames on without.
    frame.truncate(14 + 4 * tags.len() + packet.len());
    frame
}

/// Takes a frame apart; each datagram with its checksum completed.
fn apart(frame: &[u8], size: u16) -> Option<Vec<Vec<u8>>> {
    let mut many = Datagrams::new(frame, size)?;
    let mut all = Vec::new();
    let mut out = vec![0; many.longest()];
    while let Some(len) = many.next(frame, &mut out) {
        let mut one = out[..len].to_vec();
        assert!(complete_checksum(&mut one, many.udp() as u16, UDP_CHECKSUM as u16));
        all.push(one);
    }
    Some(all)
}

/// The payload of a datagram whose headers hold.
fn payload(frame: &[u8], is_v6: bool, network: usize, udp: usize) -> Vec<u8> {
    let packet = &frame[network..];
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (length, addresses) = if is_v6 {
        (usize::from(word(network + 4)) + 40, &packet[8..40])
    } else {
        assert_eq!(checksum(&packet[..udp - network]), 0, "IPv4's header checksum");
        (usize::from(word(network + 2)), &packet[12..20])
    };
    assert_eq!(length, packet.len());
    assert_eq!(usize::from(word(udp + 4)), frame.len() - udp, "UDP's length");
    let pseudo = [addresses, &[0, 17], &((frame.len() - udp) as u16).to_be_bytes(), &frame[udp..]].concat();
    assert_eq!(slow_sum(&[&pseudo]), 0xffff, "UDP's checksum");
    frame[udp + 8..].to_vec()
}

proptest! {
    #[test]
    fn datagrams_come_out_whole_and_in_order(
        is_v6: bool, options in 0usize..4, tag: bool, size in 1u16..1500, payloads in prop::collection::vec(any::<u8>(), 1..20_000),
    ) {
        let whole = frame(is_v6, 4 * options, tag, &payloads);
        let network = if tag { 18 } else { 14 };
        let udp = network + if is_v6 { 40 } else { 20 + 4 * options };
        let count = payloads.len().div_ceil(size.into());
        let Some(all) = apart(&whole, size) else {
            prop_assert!(count > MAX_DATAGRAMS);
            return Ok(());
        };
        prop_assert_eq!(all.len(), count);
        let found: Vec<Vec<u8>> = all.iter().map(|one| payload(one, is_v6, network, udp)).collect();
        prop_assert!(found.iter().rev().skip(1).all(|one| one.len() == usize::from(size)));
        prop_assert_eq!(found.concat(), payloads);
        if !is_v6 {
            let ids: Vec<u16> = all.iter().map(|one| u16::from_be_bytes([one[network + 4], one[network + 5]])).collect();
            prop_assert!(ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "identifications count up");
        }
    }

    #[test]
    fn any_bytes_are_datagrams_or_are_not(bytes in prop::collection::vec(any::<u8>(), 0..200), size: u16, cut in 0usize..200) {
        let mut whole = frame(bytes.len() % 2 == 0, 0, false, &bytes);
        whole.truncate(cut);
        for frame in [&whole, &bytes] {
            if let Some(all) = apart(frame, size) {
                prop_assert!(all.len() <= MAX_DATAGRAMS);
            }
            if let Some(place) = Place::of(frame) {
                let _ = place.resize(&mut bytes.clone(), size.into(), 1);
            }
        }
    }
}

#[test]
fn fragments_and_what_is_no_datagram_are_not_taken_apart() {
    let udp = [0; 100];
    for packet in [
        crate::packets::v4_piece("10.0.0.1", "10.0.0.2", 17, 0, true, &udp),
        crate::packets::v4_piece("10.0.0.1", "10.0.0.2", 17, 64, false, &udp),
        v4("10.0.0.1", "10.0.0.2", 6, &udp),
        v6("fd00::1", "fd00::2", 58, &udp),
    ] {
        assert!(Datagrams::new(&tagged(&[], ethertype_of(&packet), &packet), 10).is_none());
    }
    assert!(Datagrams::new(&frame(false, 0, false, &udp), 0).is_none(), "of no length");
    assert!(Datagrams::new(&frame(false, 0, false, &[0; 2000]), 1).is_none(), "more than anybody sends");
}
