//! What a table may hold, and that it finds what a plain list would; and whatever a controller may say.

use proptest::prelude::*;

use super::table::Flow;
use super::*;

#[test]
fn h21_entries_and_masks_are_bounded() {
    let scene = Scene::new();
    for n in 0..128_u32 {
        let mask = (u64::MAX << 16 >> 16 ^ u64::from(n)).to_be_bytes();
        scene.add(&Mod::new(1, &[masked(3, &[0; 6], &mask[2..])], &[]));
    }
    let one_more = Mod::new(1, &[oxm(0, &[0, 0, 0, 9])], &[]);
    assert_eq!(scene.error(kind::FLOW_MOD, &one_more.body()), (5, 1), "a mask too many");
    scene.add(&Mod { command: 3, ..Mod::default() });
    for n in 0..table::MOST_FLOWS as u32 {
        scene.add(&Mod::new(1, &[oxm(0, &n.to_be_bytes())], &[]));
    }
    assert_eq!(scene.error(kind::FLOW_MOD, &Mod::new(1, &[oxm(0, &[1, 0, 0, 0])], &[]).body()), (5, 1));
    scene.add(&Mod::new(1, &[oxm(0, &[0, 0, 0, 9])], &[output(2)]));
    // All of it is told, in messages that are each short enough.
    let mut request = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for number in [ANY, ANY, 0] {
        put32(&mut request, number);
    }
    zeros(&mut request, 16);
    matching(&mut request, &[]);
    let said = scene.say(kind::MULTIPART_REQUEST, &request);
    assert!(said.len() > 10 && said.iter().rev().skip(1).all(|(_, body)| body[3] == 1), "more follows");
    let entries = said.iter().flat_map(|(_, body)| {
        let mut rest = Reader(&body[8..]);
        std::iter::from_fn(move || {
            let len = Reader(rest.0).u16()?;
            rest.take(usize::from(len))
        })
    });
    assert_eq!(entries.count(), table::MOST_FLOWS);
}

/// Matches over few values, so that they meet.
fn some_match() -> impl Strategy<Value = Vec<u8>> {
    let value = 0_u8..3;
    let field = prop_oneof![
        value.clone().prop_map(|v| oxm(0, &[0, 0, 0, v])),
        value.clone().prop_map(|v| oxm(3, &[2, 0, 0, 0, 0, v])),
        (value.clone(), 0_u8..4).prop_map(|(v, m)| masked(
            4,
            &[2, 0, 0, 0, 0, v & m],
            &[255, 255, 255, 255, 255, m]
        )),
        value.clone().prop_map(|v| [oxm(5, &[8, 0]), oxm(10, &[17]), oxm(16, &[0, v])].concat()),
        (value, 0_u8..4).prop_map(|(v, m)| [
            oxm(5, &[8, 0]),
            masked(12, &[10, 0, 0, v & m], &[255, 255, 255, m])
        ]
        .concat()),
        Just(Vec::new()),
    ];
    field
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn of13_the_table_finds_what_a_list_of_entries_would(
        steps in prop::collection::vec((some_match(), 0_u16..4, prop::bool::weighted(0.2), any::<bool>()), 1..40),
        frames in prop::collection::vec((0_u16..3, 0_u16..3, 0_u16..3), 1..20),
    ) {
        let mut table = Table::default();
        let mut list: Vec<(oxm::Match, u16, u64)> = Vec::new();
        for (cookie, (fields, priority, delete, strict)) in steps.into_iter().enumerate() {
            let mut wire = Vec::new();
            matching(&mut wire, &fields);
            let matching = oxm::Match::read(&mut Reader(&wire)).expect("a match");
            if delete {
                list.retain(|(other, at, _)| if strict { *at != priority || !other.is_same(&matching) } else { !other.is_within(&matching) });
                table.delete(&table::Filter {
                    matching, strict: strict.then_some(priority), cookie: 0, cookie_mask: 0, out_port: ANY, out_group: ANY,
                });
                continue;
            }
            list.retain(|(other, at, _)| *at != priority || !other.is_same(&matching));
            list.push((matching.clone(), priority, cookie as u64));
            let flow = Flow {
                priority, cookie: cookie as u64, idle: 0, hard: 0, flags: 0, matching, instructions: Vec::new(),
                program: Program::default(), since: 0, used: AtomicU64::new(0), count: group::Count::default(),
            };
            prop_assert!(table.add(flow).is_ok());
        }
        prop_assert_eq!(table.len(), list.len());
        for (from, to, port) in frames {
            let frame = udp(PortId(to), PortId(from), port, 0);
            let sight = Sight::new(0, Direction::Out, PortId(from), &frame, frame.len() as u32);
            let (fields, _) = Fields::of(&sight, PortId(from));
            let matches = |entry: &&(oxm::Match, u16, u64)| fields.masked(&entry.0.mask) == entry.0.key;
            let best = list.iter().filter(matches).map(|entry| entry.1).max();
            let found = table.find(&fields);
            prop_assert_eq!(found.map(|flow| flow.priority), best);
            if let Some(flow) = found {
                prop_assert!(list.iter().any(|entry| entry.2 == flow.cookie && matches(&entry)));
            }
        }
    }

    #[test]
    fn h21_whatever_a_controller_says_is_answered_or_hung_up_on(
        messages in prop::collection::vec((0_u8..31, prop::collection::vec(any::<u8>(), 0..120)), 0..30),
    ) {
        let scene = Scene::new();
        for (kind, body) in messages {
            let mut effects = scene.hear(0, Heard::Bytes(&framed(kind, &body)));
            prop_assert!(effects.take_injected().len() <= Effects::MOST_INJECTED);
        }
        scene.goes(A, &udp(B, A, 53, 0));
    }
}

#[test]
fn of13_a_match_or_action_that_is_none_is_refused_for_what_is_wrong_with_it() {
    let scene = Scene::new();
    let ip = || oxm(5, &[8, 0]);
    for (fields, expected) in [
        (vec![oxm(7, &[1])], (4, 9)),
        (vec![ip(), oxm(16, &[0, 53])], (4, 9)),
        (vec![oxm(5, &[0x86, 0xdd]), oxm(11, &[10, 0, 0, 1])], (4, 9)),
        (vec![ip(), ip()], (4, 10)),
        (vec![oxm(6, &[0x20, 1])], (4, 7)),
        (vec![masked(5, &[8, 0], &[0xff, 0])], (4, 8)),
        (vec![masked(3, &[2, 0, 0, 0, 0, 9], &[0xff, 0, 0, 0, 0, 0])], (4, 5)),
        (vec![oxm(5, &[8])], (4, 1)),
        (vec![oxm(34, &[0, 0, 1])], (4, 6)),
        (vec![vec![0xff, 0xff, 0, 0]], (4, 6)),
    ] {
        assert_eq!(scene.error(kind::FLOW_MOD, &Mod::new(1, &fields, &[]).body()), expected, "{fields:?}");
    }
    let set = [&[0, 25, 0, 16][..], &oxm(3, &[2, 0, 0, 0, 0, 1]), &[0; 2]].concat();
    for (actions, expected) in [
        (vec![output(0)], (2, 4)),
        (vec![output(0xffff_fffe)], (2, 4)),
        (vec![output(port::TABLE)], (2, 4)),
        (vec![output(2); 65], (2, 7)),
        (vec![output(2), set], (2, 11)),
        (vec![output(port::NORMAL), output(2)], (2, 11)),
        (vec![vec![0, 17, 0, 8, 0x81, 0, 0, 0]], (2, 0)),
        (vec![vec![0, 0, 0, 8, 0, 0, 0, 2]], (2, 1)),
        (vec![[&[0, 25, 0, 16][..], &oxm(4, &[1, 0, 0, 0, 0, 1]), &[0; 2]].concat()], (2, 15)),
    ] {
        assert_eq!(scene.error(kind::FLOW_MOD, &Mod::new(1, &[], &actions).body()), expected, "{actions:?}");
    }
    // With the tag that it needs.
    scene.add(&Mod::new(1, &[oxm(6, &[0x10, 1]), oxm(7, &[1])], &[output(2)]));
    let tagged = [&ether(B, A, 0x8100, &[0x20, 1])[..], &[0x88, 0xb5], &[0; 46]].concat();
    assert_eq!(scene.goes(A, &tagged), Destination::Port(B));
    assert_eq!(scene.goes(A, &ether(B, A, 0x88b5, &[0; 46])), Destination::Drop(NO_MATCH));
    assert_eq!(scene.of.status(None)["flow-count"], 1);
}
