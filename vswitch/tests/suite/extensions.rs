//! Extensions on the real pipeline and flow cache: order, answers and how long they stand, samples, faults.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vswitch::extension::stack::{MOST_ENABLED, StackError};
use vswitch::extension::{
    Added, Answer, Destination, Effects, Extension, FailMode, Head, Injection, Judgement, Kind, Reason,
    Sample, Scope, Sight, Slot, Stack,
};
use vswitch::flow::{Forwarder, Plan};
use vswitch::pipeline::Verdict;
use vswitch::port::{Policy, Port, acl};
use vswitch::snapshot::{FloodSet, Snapshot, SwitchConfig, SwitchKind};
use vswitch::state::State;
use vswitch::trace::DropReason;
use vswitch::{Direction, PortId, Tally};

use crate::support::{SECOND, frame, guest, mac_of};

type Judge = Box<dyn Fn(&Sight<'_>, &mut Effects) -> Answer + Send + Sync>;

/// An extension that does what a test says, and notes whom it was asked about.
struct Told {
    kind: Kind,
    judge: Judge,
    to: Destination,
    sampling: u32,
    asked: AtomicU32,
    log: Arc<Mutex<Vec<String>>>,
    name: &'static str,
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Extension for Told {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn reasons(&self) -> &[&str] {
        &["unwanted", "too-old"]
    }

    fn judges(&self, _: Direction) -> bool {
        true
    }

    fn judge(&self, sight: &Sight<'_>, effects: &mut Effects) -> Answer {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.log.lock().unwrap().push(format!("{} {} {}", self.name, sight.direction, sight.port));
        (self.judge)(sight, effects)
    }

    fn forward(&self, _: &Sight<'_>, _: &mut Effects) -> Result<(Destination, Scope), String> {
        Ok((self.to, Scope::Flow))
    }

    fn sampling(&self) -> u32 {
        self.sampling
    }

    fn sample(&self, sample: &Sample<'_>, _: &mut Effects) -> Result<(), String> {
        self.log.lock().unwrap().push(format!("sample {} of {}", sample.from, sample.pool));
        Ok(())
    }
}

fn told(
    kind: Kind,
    name: &'static str,
    judge: impl Fn(&Sight<'_>, &mut Effects) -> Answer + Send + Sync + 'static,
) -> Told {
    let judge = Box::new(judge);
    Told {
        kind,
        judge,
        to: Destination::Native,
        sampling: 0,
        asked: AtomicU32::new(0),
        log: Arc::default(),
        name,
    }
}

struct Bench {
    snap: Snapshot,
    state: State,
    forwarder: Forwarder,
}

impl Bench {
    fn new(extensions: &[(&Arc<Told>, FailMode)]) -> Self {
        Self::of(extensions, vec![guest(1), guest(2), guest(3)])
    }

    fn of(extensions: &[(&Arc<Told>, FailMode)], ports: Vec<Port>) -> Self {
        let slots = extensions.iter().map(|(told, fail)| {
            let instance: Arc<dyn Extension> = Arc::clone(*told) as _;
            Slot::new(told.name, instance, *fail, &[Tally(7), Tally(8)])
        });
        let stack = Stack::new(slots.collect()).expect("a stack");
        let config = SwitchConfig { kind: SwitchKind::Private, ..SwitchConfig::default() };
        let snap = Snapshot::new(1, config, ports).with_extensions(Arc::new(stack));
        Self { snap, state: State::new(64, 7), forwarder: Forwarder::new(3, 64) }
    }

    /// Sends one frame from port 1 through the cache.
    fn send(&mut self, to: u16, at: u64) -> (Verdict, Plan) {
        self.forwarder.begin(&self.snap, &self.state, at, PortId(1));
        let mut bytes = frame(mac_of(to), mac_of(1), None);
        bytes[12..14].copy_from_slice(&[0x88, 0xb5]); // local experimental (IEEE 802): nothing above Ethernet
        let mut plan = Plan::default();
        let len = bytes.len() as u32;
        let verdict = self.forwarder.judge(&self.snap, &self.state, at, PortId(1), &bytes, len, &mut plan);
        (verdict, plan)
    }

    /// Sends what extensions added, and what they add because of that; returns what became of each.
    fn send_added(&mut self) -> Vec<Verdict> {
        let (mut verdicts, mut waiting) = (Vec::new(), self.forwarder.effects().take_injected());
        while !waiting.is_empty() {
            assert!(verdicts.len() < 1000, "it does not end");
            let Added { place, makers, injection } = waiting.remove(0);
            let (from, above) = (injection.from.unwrap_or(PortId::SWITCH), u32::from(place) + 1);
            let (head, mut plan) = (&injection.frame, Plan::default());
            let (snap, state) = (&self.snap, &self.state);
            self.forwarder.effects().descend(makers);
            let len = head.len() as u32;
            verdicts.push(self.forwarder.judge_below(snap, state, SECOND, from, above, head, len, &mut plan));
            self.forwarder.effects().descend(0);
            waiting.extend(self.forwarder.effects().take_injected());
        }
        verdicts
    }
}

#[test]
fn s15_1_frames_go_down_the_stack_and_up_again_and_order_is_by_kind() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let make = |kind, name| {
        let mut one = told(kind, name, |_, _| Answer::PASS);
        one.log = Arc::clone(&log);
        Arc::new(one)
    };
    let (filter, capture) = (make(Kind::Filter, "filter"), make(Kind::Capture, "capture"));
    let mut bench = Bench::new(&[(&filter, FailMode::Open), (&capture, FailMode::Open)]);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(2)));
    let expected = ["capture out 1", "filter out 1", "filter in 2", "capture in 2"];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn s15_an_answer_for_a_flow_is_kept_and_one_for_a_frame_is_not() {
    let (flow, each) = (told(Kind::Filter, "flow", |_, _| Answer::PASS), |s: &Sight<'_>, _: &mut Effects| {
        if s.direction == Direction::Out { Answer::PASS_ONE } else { Answer::PASS }
    });
    let (flow, each) = (Arc::new(flow), Arc::new(told(Kind::Filter, "each", each)));
    let mut bench = Bench::new(&[(&flow, FailMode::Open), (&each, FailMode::Open)]);
    for n in 0..10 {
        assert_eq!(bench.send(2, SECOND + n).0, Verdict::Unicast(PortId(2)));
    }
    assert_eq!(flow.asked.load(Ordering::Relaxed), 2, "once in each direction");
    assert_eq!(each.asked.load(Ordering::Relaxed), 11, "each frame it sends, once where it goes");
    assert_eq!(bench.forwarder.counters().misses, 1);
}

#[test]
fn s15_an_answer_for_a_second_is_asked_for_again_after_one() {
    let answer = Answer { judgement: Judgement::Pass, scope: Scope::Second };
    let one = Arc::new(told(Kind::Filter, "f", move |_, _| answer.clone()));
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    let (at, later) = (SECOND, 4 * SECOND);
    for at in [at, at, later] {
        bench.send(2, at);
    }
    assert_eq!(one.asked.load(Ordering::Relaxed), 4);
}

#[test]
fn s15_2_a_drop_counts_on_the_extensions_own_account() {
    let one = Arc::new(told(Kind::Filter, "f", |s, _| {
        let unwanted = s.direction == Direction::In && s.port == PortId(2);
        if unwanted { Answer::drop(Reason(1)) } else { Answer::PASS }
    }));
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    for _ in 0..2 {
        let (verdict, plan) = bench.send(2, SECOND);
        assert_eq!(verdict, Verdict::Refuse(DropReason::ExtensionFiltered, PortId(2)));
        assert_eq!(plan.actions.inward.tallies[2], Tally(8), "that of its second reason");
    }
    assert_eq!(bench.send(3, SECOND).0, Verdict::Unicast(PortId(3)));
}

#[test]
fn s15_2_a_drop_of_each_frame_counts_on_the_extensions_own_account_too() {
    let dropping = Answer { judgement: Judgement::Drop(Reason(0)), scope: Scope::Frame };
    let one = Arc::new(told(Kind::Filter, "f", move |_, _| dropping.clone()));
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    for _ in 0..3 {
        let (verdict, plan) = bench.send(2, SECOND);
        assert_eq!(verdict, Verdict::Drop(DropReason::ExtensionFiltered));
        assert_eq!(plan.actions.out.tallies[2], Tally(7));
    }
    assert_eq!(one.asked.load(Ordering::Relaxed), 3);
}

#[test]
fn s15_2_a_changed_frame_is_judged_again_as_what_it_is_and_not_by_those_above() {
    let change = |sight: &Sight<'_>, _: &mut Effects| {
        if sight.direction == Direction::In {
            return Answer::PASS;
        }
        let mut head = Box::new(Head::new(sight.head));
        head.bytes_mut()[..6].copy_from_slice(&mac_of(3).0);
        Answer { judgement: Judgement::Replace(head), scope: Scope::Frame }
    };
    let (one, below) = (
        Arc::new(told(Kind::Filter, "one", change)),
        Arc::new(told(Kind::Filter, "below", |_, _| Answer::PASS)),
    );
    let mut bench = Bench::new(&[(&one, FailMode::Open), (&below, FailMode::Open)]);
    for _ in 0..2 {
        assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(3)));
        let head = bench.forwarder.take_replaced().expect("a new beginning");
        assert_eq!(head.bytes()[..6], mac_of(3).0);
    }
    assert_eq!(*one.log.lock().unwrap(), ["one out 1", "one in 3", "one out 1", "one in 3"]);
    assert_eq!(below.log.lock().unwrap().iter().filter(|l| *l == "below out 1").count(), 2);
}

#[test]
fn s15_1_the_forwarding_extension_chooses_and_policy_stays_in_force() {
    let mut one = told(Kind::Forwarding, "f", |_, _| Answer::PASS);
    one.to = Destination::Port(PortId(3));
    let one = Arc::new(one);
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Unicast(PortId(3)));
    let mut all = told(Kind::Forwarding, "f", |_, _| Answer::PASS);
    all.to = Destination::All;
    let mut bench = Bench::new(&[(&Arc::new(all), FailMode::Open)]);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Flood(FloodSet::Members));
    let mut gone = told(Kind::Forwarding, "f", |_, _| Answer::PASS);
    gone.to = Destination::Port(PortId(9));
    let mut bench = Bench::new(&[(&Arc::new(gone), FailMode::Open)]);
    assert_eq!(bench.send(2, SECOND).0, Verdict::Drop(DropReason::ReceiverNotRunning));
}

#[test]
fn what_breaks_the_contract_is_not_asked_again_and_fails_as_it_is_to() {
    let lies: [(&str, Kind, Judgement); 5] = [
        ("a capture dropped a frame", Kind::Capture, Judgement::Drop(Reason(0))),
        ("a capture changed a frame", Kind::Capture, Judgement::Replace(Box::new(Head::new(&[0; 60])))),
        ("it dropped a frame for reason 9, of 2", Kind::Filter, Judgement::Drop(Reason(9))),
        ("it put 3 bytes in place of 64", Kind::Filter, Judgement::Replace(Box::new(Head::new(&[0; 3])))),
        ("trap: unreachable", Kind::Filter, Judgement::Fault("trap: unreachable".into())),
    ];
    for (why, kind, judgement) in lies {
        for (fail, verdict) in [
            (FailMode::Open, Verdict::Unicast(PortId(2))),
            (FailMode::Closed, Verdict::Drop(DropReason::ExtensionFailed)),
        ] {
            let answer = Answer { judgement: judgement.clone(), scope: Scope::Flow };
            let one = Arc::new(told(kind, "f", move |_, _| answer.clone()));
            let mut bench = Bench::new(&[(&one, fail)]);
            for _ in 0..3 {
                assert_eq!(bench.send(2, SECOND).0, verdict, "{why}");
            }
            assert_eq!(one.asked.load(Ordering::Relaxed), 1, "{why}");
            assert_eq!(bench.snap.extensions().unwrap().slots()[0].fault(), Some(why));
        }
    }
}

#[test]
fn samples_are_one_in_n_in_the_mean_and_name_their_pool() {
    let mut one = told(Kind::Capture, "s", |_, _| Answer::PASS);
    one.sampling = 50;
    let one = Arc::new(one);
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    let bytes = frame(mac_of(2), mac_of(1), None);
    let frames = 200_000;
    for burst in 0..frames / 32 {
        bench.forwarder.sample(&bench.snap, 32, |_| {
            let from = PortId(1);
            let verdict = Verdict::Unicast(PortId(2));
            Some(Sample { now: burst, from, vsid: None, head: &bytes, len: 64, verdict, pool: 0 })
        });
    }
    let log = one.log.lock().unwrap();
    let expected = frames / 50;
    let off = expected.abs_diff(log.len() as u64);
    assert!(off < expected / 20, "{} of {expected}", log.len());
    let pools: Vec<u64> = log.iter().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(pools.windows(2).all(|pair| pair[0] < pair[1] && pair[1] - pair[0] <= 99));
    assert!(*pools.last().unwrap() <= frames);
}

#[test]
fn s15_1_two_forwarding_extensions_are_refused_and_so_are_too_many() {
    let slot = |name, kind| {
        let instance: Arc<dyn Extension> = Arc::new(told(kind, name, |_, _| Answer::PASS));
        Slot::new(name, instance, FailMode::Open, &[])
    };
    let two = Stack::new(vec![slot("vepa", Kind::Forwarding), slot("openflow", Kind::Forwarding)]);
    let error = two.expect_err("two");
    assert_eq!(error.to_string(), "'openflow' forwards, and so does 'vepa': disable one of them first");
    let many = (0..=MOST_ENABLED).map(|_| slot("f", Kind::Filter)).collect();
    assert_eq!(Stack::new(many).expect_err("many"), StackError::TooMany("f".into()));
}

#[test]
fn answers_that_are_taken_back_are_asked_for_again_by_all_workers() {
    let one = Arc::new(told(Kind::Filter, "f", |_, _| Answer::PASS));
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    bench.send(2, SECOND);
    bench.send(2, SECOND);
    assert_eq!(one.asked.load(Ordering::Relaxed), 2);
    bench.state.take_back();
    bench.send(2, SECOND);
    assert_eq!(one.asked.load(Ordering::Relaxed), 4);
}

#[test]
fn what_extensions_want_is_bounded_and_named() {
    let one = Arc::new(told(Kind::Filter, "f", |sight, effects| {
        if sight.direction == Direction::Out {
            for _ in 0..100 {
                effects.inject(Injection { from: Some(sight.port), frame: sight.head.to_vec() });
            }
        }
        Answer::PASS
    }));
    let mut bench = Bench::new(&[(&one, FailMode::Open)]);
    bench.send(2, SECOND);
    let effects = bench.forwarder.effects();
    assert_eq!(effects.take_injected().len(), Effects::MOST_INJECTED);
    let refused: Vec<_> = effects.take_refused().collect();
    assert_eq!(refused, [(0, 100 - Effects::MOST_INJECTED as u64)]);
    assert!(effects.is_empty());
}

/// Lets everything pass, and adds a copy of what it is asked about in a direction, as `from`'s.
fn copying(name: &'static str, direction: Direction, from: Option<PortId>) -> Told {
    told(Kind::Filter, name, move |sight, effects| {
        if sight.direction == direction {
            effects.inject(Injection { from, frame: sight.head.to_vec() });
        }
        Answer::PASS
    })
}

#[test]
fn s15_2_an_added_frame_is_shown_in_neither_direction_to_who_made_it_and_to_all_others() {
    let log: Arc<Mutex<Vec<String>>> = Arc::default();
    let with_log = |mut one: Told| {
        one.log = Arc::clone(&log);
        Arc::new(one)
    };
    let pass = |name| with_log(told(Kind::Filter, name, |_, _| Answer::PASS));
    let (above, below) = (pass("above"), pass("below"));
    let maker = with_log(copying("maker", Direction::In, Some(PortId(1))));
    let open = FailMode::Open;
    let mut bench = Bench::new(&[(&above, open), (&maker, open), (&below, open)]);
    bench.send(2, SECOND);
    log.lock().unwrap().clear();
    assert_eq!(bench.send_added(), [Verdict::Unicast(PortId(2))]);
    assert_eq!(*log.lock().unwrap(), ["below out 1", "below in 2", "above in 2"]);
}

#[test]
fn s15_2_extensions_that_copy_each_others_frames_in_any_direction_come_to_an_end() {
    for directions in [[Direction::In, Direction::In], [Direction::In, Direction::Out]] {
        let both = directions.map(|direction| Arc::new(copying("one", direction, Some(PortId(1)))));
        let mut bench = Bench::new(&[(&both[0], FailMode::Open), (&both[1], FailMode::Open)]);
        bench.send(2, SECOND);
        let added = bench.send_added();
        // Each its own copy, and at most one of the other's.
        assert!((2..=4).contains(&added.len()), "{directions:?}: {added:?}");
    }
    // Who is shown its own frames all the same, as one that forwards is, adds none because of them.
    let mut bench =
        Bench::new(&[(&Arc::new(copying("one", Direction::Out, Some(PortId(1)))), FailMode::Open)]);
    bench.forwarder.effects().descend(1);
    bench.send(2, SECOND);
    assert_eq!(bench.send_added(), []);
    assert_eq!(bench.forwarder.effects().take_refused().collect::<Vec<_>>(), [(0, 1)]);
}

#[test]
fn s15_2_a_frame_of_nobody_is_judged_by_no_policy_for_sending_and_by_that_of_its_receivers() {
    let deny = |direction| {
        let (applies, address, action) = (acl::Applies::Remote, acl::Address::AnyMac, acl::Action::Deny);
        let entry = acl::Entry { direction, applies, address, action, tally: Tally::NONE };
        Policy { acl: Arc::new(acl::Table::new(&[entry])), ..Policy::default() }
    };
    let ports = |one, two| {
        let mut ports = vec![guest(1), guest(2), guest(3)];
        (ports[0].policy, ports[1].policy) = (one, two);
        ports
    };
    let adding = Arc::new(copying("trusted", Direction::Out, None));
    let passes = Policy::default;
    let sent = |ports, to| {
        let mut bench = Bench::of(&[(&adding, FailMode::Open)], ports);
        (bench.send(to, SECOND).0, bench.send_added(), bench.forwarder.effects().take_refused().count())
    };
    let denied = Verdict::Drop(DropReason::AclDenied);
    let two = Verdict::Unicast(PortId(2));
    assert_eq!(sent(ports(deny(Direction::Out), passes()), 2), (denied, vec![two], 0));
    let refused = Verdict::Refuse(DropReason::AclDenied, PortId(2));
    assert_eq!(sent(ports(passes(), deny(Direction::In)), 2), (refused, vec![refused], 0));
    // Of one that goes nowhere no port has a count; who added it has.
    let nowhere = Verdict::Drop(DropReason::UnknownUnicast);
    assert_eq!(sent(ports(passes(), passes()), 9), (nowhere, vec![nowhere], 1));
    // Nobody else may send as nobody.
    let mut bench = Bench::new(&[]);
    let bytes = frame(mac_of(2), mac_of(1), None);
    let mut plan = Plan::default();
    let (snap, state, nobody) = (&bench.snap, &bench.state, PortId::SWITCH);
    for (len, reason) in [(64, DropReason::NoSuchPort), (2, DropReason::FrameTooShort)] {
        let bytes = &bytes[..len as usize];
        let verdict = bench.forwarder.judge(snap, state, SECOND, nobody, bytes, len, &mut plan);
        assert_eq!(verdict, Verdict::Drop(reason));
        assert_eq!(vswitch::explain::explain(snap, state, SECOND, nobody, bytes, len).verdict, verdict);
    }
}

#[test]
fn s15_2_a_frame_of_nobody_is_in_the_network_that_its_tag_says() {
    let mut ports = vec![guest(1), guest(2), guest(3)];
    ports[1].policy.vlan = vswitch::port::vlan::Vlan::Access(7);
    for (tag, verdict) in [(Some(7), true), (Some(8), false), (None, false)] {
        let tagged = told(Kind::Filter, "f", move |sight, effects| {
            if sight.direction == Direction::Out {
                let frame = frame(mac_of(2), mac_of(1), tag);
                effects.inject(Injection { from: None, frame });
            }
            Answer::PASS
        });
        let mut bench = Bench::of(&[(&Arc::new(tagged), FailMode::Open)], ports.clone());
        bench.send(3, SECOND);
        let got = bench.send_added();
        assert_eq!(got == [Verdict::Unicast(PortId(2))], verdict, "{tag:?}: {got:?}");
    }
}
