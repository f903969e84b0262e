//! Frames that controllers are shown, and frames of their own.

use super::*;
use crate::extension::Injection;

#[test]
fn h21_a_port_cannot_drown_the_controller() {
    let scene = Scene::with(&json!({ "packet-ins": 10 }));
    scene.call(0);
    scene.add(&Mod::new(0, &[], &[output(port::CONTROLLER)]));
    let frame = udp(B, A, 1, 0);
    let shown = |now, from| {
        let mut effects = Effects::default();
        let sight = Sight::new(now, Direction::Out, from, &frame, 1000);
        let answer = scene.of.forward(&sight, &mut effects).expect("no fault");
        assert_eq!(answer, (Destination::Drop(NO_OUTPUT), Scope::Frame));
        effects.take_outputs().len()
    };
    let now = 100 * SECOND;
    assert_eq!((0..1000).map(|_| shown(now, A)).sum::<usize>(), 32);
    assert_eq!((0..1000).map(|_| shown(now, B)).sum::<usize>(), 32, "its neighbour has its own share");
    assert_eq!((1..=100).map(|n| shown(now + n * SECOND / 100, A)).sum::<usize>(), 10);
    assert_eq!(scene.of.status(None)["packet-ins-limited"], 968 * 2 + 90);
}

#[test]
fn of13_a_packet_in_is_followed_by_the_whole_frame() {
    let scene = Scene::new();
    scene.add(&Mod { cookie: 5, ..Mod::new(3, &[], &[output(port::CONTROLLER), output(2)]) });
    let frame = udp(B, A, 1, 0);
    let mut effects = Effects::default();
    let sight = Sight::new(scene.now, Direction::Out, A, &frame, 1000);
    assert_eq!(scene.of.forward(&sight, &mut effects), Ok((Destination::Port(B), Scope::Frame)));
    assert!(effects.lacks_frame());
    effects.give_frame(&[7; 1000]);
    let outputs = effects.take_outputs();
    let [(_, Output::Stream { peer: 0, bytes, frame: 0 })] = outputs.as_slice() else {
        panic!("{outputs:?}")
    };
    let header = Header::read(bytes).expect("a header");
    assert_eq!((header.kind, header.len), (kind::PACKET_IN, bytes.len()));
    assert_eq!(bytes[8..16], [255, 255, 255, 255, 3, 232, 1, 0], "no buffer, 1000 bytes, an action, table 0");
    assert_eq!(bytes[16..24], 5_u64.to_be_bytes());
    assert_eq!(bytes[24..36], [0, 1, 0, 12, 0x80, 0, 0, 4, 0, 0, 0, 1]);
    assert_eq!(bytes[42..], [7; 1000]);
}

fn packet_out(in_port: u32, actions: &[u8], frame: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put32(&mut out, NO_BUFFER);
    put32(&mut out, in_port);
    put16(&mut out, actions.len() as u16);
    zeros(&mut out, 6);
    [&out, actions, frame].concat()
}

#[test]
fn of13_a_packet_out_goes_where_it_says_whatever_the_table_says() {
    let scene = Scene::new();
    scene.add(&Mod::new(1, &[], &[output(3)]));
    let frame = udp(B, A, 1, 0);
    let actions = [output(2), output(3), output(1)].concat();
    let mut effects =
        scene.hear(0, Heard::Bytes(&framed(kind::PACKET_OUT, &packet_out(1, &actions, &frame))));
    let added = effects.take_injected();
    assert_eq!(added.len(), 2, "a frame does not go back to the port it is from: {added:?}");
    let expected = Injection { from: Some(A), frame: frame.clone() };
    assert!(added.iter().all(|one| one.injection == expected));
    let made = framed(kind::PACKET_OUT, &packet_out(port::CONTROLLER, &output(2), &frame));
    let added = scene.hear(0, Heard::Bytes(&made)).take_injected();
    assert!(added.len() == 1 && added[0].injection.from.is_none(), "its own is nobody's: {added:?}");
    let mut sight = scene.sight(A, &frame);
    assert_eq!(
        scene.of.forward(&sight, &mut effects),
        Ok((Destination::Port(C), Scope::Flow)),
        "the guest's own"
    );
    sight.own = true;
    for expected in [B, C] {
        assert_eq!(scene.of.forward(&sight, &mut effects), Ok((Destination::Port(expected), Scope::Frame)));
    }
    let (bad, short) = (packet_out(9, &output(2), &frame), packet_out(1, &output(2), &[0; 10]));
    assert_eq!(scene.error(kind::PACKET_OUT, &bad), (1, 11));
    assert_eq!(scene.error(kind::PACKET_OUT, &short), (1, 12));
    // Through the table.
    let through = packet_out(1, &output(port::TABLE), &frame);
    assert_eq!(scene.hear(0, Heard::Bytes(&framed(kind::PACKET_OUT, &through))).take_injected().len(), 1);
    assert_eq!(scene.of.forward(&sight, &mut effects), Ok((Destination::Port(C), Scope::Frame)));
}

#[test]
fn of13_more_packet_outs_than_fit_at_a_time_wait_for_the_next() {
    let scene = Scene::new();
    let one = framed(kind::PACKET_OUT, &packet_out(1, &output(2), &udp(B, A, 1, 0)));
    let mut left = scene.hear(0, Heard::Bytes(&one.repeat(40)));
    let mut got = Vec::new();
    while left.take_injected().len() == Effects::MOST_INJECTED {
        got.push(Effects::MOST_INJECTED);
        left = scene.hear(0, Heard::Bytes(&[]));
    }
    assert_eq!(got, [16, 16]);
    assert_eq!(scene.of.status(None)["packet-outs"], 40);
}

#[test]
fn of13_a_changed_frame_goes_where_its_entry_says_and_is_no_other() {
    let scene = Scene::new();
    let set = [&[0, 25, 0, 16][..], &oxm(3, &[2, 9, 9, 9, 9, 9]), &[0; 2]].concat();
    scene.add(&Mod::new(5, &[oxm(3, &mac(B))], &[set, output(3)]));
    let frame = udp(B, A, 1, 0);
    let answer = scene.of.judge(&scene.sight(A, &frame), &mut Effects::default());
    let Judgement::Replace(head) = answer.judgement else { panic!("{answer:?}") };
    assert_eq!((&head.bytes()[..6], &head.bytes()[6..]), (&[2, 9, 9, 9, 9, 9][..], &frame[6..]));
    let mut sight = scene.sight(A, head.bytes());
    assert_eq!(scene.goes(A, head.bytes()), Destination::Drop(NO_MATCH), "one that a guest sends like that");
    sight.own = true;
    assert_eq!(scene.of.forward(&sight, &mut Effects::default()), Ok((Destination::Port(C), Scope::Frame)));
}

#[test]
fn of13_of_a_list_of_ports_only_those_get_a_frame() {
    let scene = Scene::new();
    scene.add(&Mod::new(5, &[], &[output(2), output(4)]));
    let frame = udp(B, A, 1, 0);
    assert_eq!(scene.goes(A, &frame), Destination::All);
    for (to, gets) in [(B, true), (C, false), (PortId(4), true)] {
        let mut sight = Sight::new(scene.now, Direction::In, to, &frame, frame.len() as u32);
        sight.from = Some(A);
        let answer = scene.of.judge(&sight, &mut Effects::default());
        assert_eq!(answer.judgement == Judgement::Pass, gets, "{to}: {answer:?}");
    }
}
