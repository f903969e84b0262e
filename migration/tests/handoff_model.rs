//! Every interleaving of a move between two switches: the two machines of `migration::handoff`, a network that loses, repeats, reorders
//! and is cut, switches that crash, operators that cancel, and a VMM that stops, starts, resumes and dies as it likes, but never runs a
//! guest twice.
//!
//! All time limits are zero, so any of them may pass at any moment. What the model lets happen is more than what can: TLS over TCP
//! neither repeats nor reorders.

use std::collections::HashMap;

use migration::handoff::{
    Body, Destination, DestinationAction, DestinationInput, DestinationStep, Limits, Message, MigrationId,
    Outcome, Source, SourceAction, SourceInput, SourceStep,
};

const NO_TIME: Limits =
    Limits { offer: 0, freeze: 0, capture: 0, transfer: 0, commit: 0, end: 0, silence: 0, gate: 0 };
const EPOCH: u64 = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Guest {
    /// Runs at the source.
    Source,
    /// Stopped; can go on at either side.
    Paused,
    /// Stopped; the VMM of the destination is gone.
    Back,
    /// Runs at the destination, as far as its VMM is concerned.
    Destination,
    /// Both VMMs are gone.
    Dead,
}

/// How often each thing may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Faults {
    lose: u8,
    repeat: u8,
    cut: u8,
    crash_source: u8,
    crash_destination: u8,
    cancel: u8,
    stop: u8,
    refuse: u8,
}

#[allow(clippy::struct_excessive_bools, reason = "each says something of its own")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    guest: Guest,
    faults: Faults,
    source: Option<Source>,
    /// What the source has heard of its rings.
    source_view: bool,
    capturing: bool,
    linked: bool,
    connecting: bool,
    /// The source has given the port away.
    released: bool,
    destination: Option<Destination>,
    reserving: bool,
    loading: bool,
    undoing: bool,
    gate_closed: bool,
    attached: bool,
    rings: bool,
    rings_told: bool,
    wanted_told: bool,
    /// The state is in force at the destination.
    loaded: bool,
    /// It is stored there.
    committed: bool,
    cut_seen: Option<u32>,
    /// On the way, sorted.
    to_source: Vec<Message>,
    to_destination: Vec<Message>,
}

type Step<'a> = &'a mut dyn FnMut(bool, &dyn Fn(&mut World));

impl World {
    fn new(faults: Faults) -> Self {
        let (source, actions) = Source::begin(MigrationId(1), NO_TIME, true, 0);
        let mut world = Self {
            guest: Guest::Source,
            faults,
            source: Some(source),
            source_view: true,
            capturing: false,
            linked: false,
            connecting: false,
            released: false,
            destination: None,
            reserving: false,
            loading: false,
            undoing: false,
            gate_closed: false,
            attached: true,
            rings: false,
            rings_told: false,
            wanted_told: false,
            loaded: false,
            committed: false,
            cut_seen: None,
            to_source: Vec::new(),
            to_destination: Vec::new(),
        };
        world.source_acts(actions);
        world
    }

    fn source_acts(&mut self, actions: Vec<SourceAction>) {
        for action in actions {
            match action {
                SourceAction::Connect => self.connecting = true,
                SourceAction::Send(message) => put(&mut self.to_destination, message),
                SourceAction::Hold | SourceAction::Keep | SourceAction::Forward => {}
                SourceAction::Capture => self.capturing = true,
                SourceAction::Release => {
                    assert!(!self.released, "released twice");
                    self.released = true;
                }
                SourceAction::Disconnect => self.connecting = false,
            }
        }
    }

    fn tell_source(&mut self, input: SourceInput) {
        let actions = self.source.as_mut().map(|s| s.input(input, 0)).unwrap_or_default();
        self.source_acts(actions);
    }

    fn destination_acts(&mut self, actions: Vec<DestinationAction>) {
        for action in actions {
            match action {
                DestinationAction::Send(message) => put(&mut self.to_source, message),
                DestinationAction::Reserve => self.reserving = true,
                DestinationAction::PutInForce => self.loading = true,
                DestinationAction::Open | DestinationAction::RunWithout => {
                    self.gate_closed = false;
                    self.rings_follow();
                }
                DestinationAction::Undo => self.undoing = true,
                DestinationAction::Commit => {
                    assert!(
                        self.loaded && !self.committed,
                        "what is committed is in force, and committed once"
                    );
                    self.committed = true;
                }
                DestinationAction::Disconnect => {}
            }
        }
    }

    fn tell_destination(&mut self, input: DestinationInput) {
        let actions = self.destination.as_mut().map(|d| d.input(input, 0)).unwrap_or_default();
        self.destination_acts(actions);
    }

    fn rings_follow(&mut self) {
        self.rings = self.guest == Guest::Destination && self.attached && !self.gate_closed;
        self.rings_told &= self.rings;
    }

    fn deliver(&mut self, message: &Message) {
        if self.destination.is_some() {
            return self.tell_destination(DestinationInput::Message(message.clone()));
        }
        let committed = self.committed.then_some(EPOCH);
        if let Some((destination, actions)) = Destination::begin(message, committed, NO_TIME, 0) {
            self.destination = Some(destination);
            self.destination_acts(actions);
        }
    }

    fn source_end(&self) -> Option<(Outcome, bool)> {
        match self.source.as_ref()?.step() {
            SourceStep::Done(end) => Some((end.outcome, end.confirmed)),
            _ => None,
        }
    }

    fn destination_end(&self) -> Option<(Outcome, bool)> {
        match self.destination.as_ref()?.step() {
            DestinationStep::Done(end) => Some((end.outcome, end.confirmed)),
            _ => None,
        }
    }

    /// Whether everything is over as it should be.
    fn settled(&self) -> bool {
        let runs = match self.guest {
            Guest::Destination => self.rings,
            Guest::Source | Guest::Dead => true,
            Guest::Paused | Guest::Back => false,
        };
        let clean = self.loaded == self.committed && !self.gate_closed;
        let source = self.source.is_none() || self.source_end().is_some();
        let destination = self.destination.is_none() || self.destination_end().is_some();
        runs && clean && source && destination
    }

    /// What holds at every moment.
    fn judge(&self) {
        assert!(!self.rings || self.guest == Guest::Destination, "rings run without a guest");
        assert!(!(self.rings && self.gate_closed), "rings run behind a closed gate");
        if self.released {
            assert!(self.committed, "the source gave away what nobody has");
            assert_eq!(self.guest, Guest::Destination, "the source gave away what does not run there");
        }
        if let Some((outcome, confirmed)) = self.source_end() {
            assert_eq!(outcome == Outcome::Committed, self.released);
            assert!(
                outcome == Outcome::Committed || !confirmed || !self.committed,
                "two owners of one state: {self:#?}"
            );
        }
        match self.destination.as_ref().map(Destination::step) {
            Some(DestinationStep::InForce | DestinationStep::Running) => assert!(self.loaded),
            Some(DestinationStep::Done(end)) => {
                assert_eq!(end.outcome == Outcome::Committed, self.committed, "{end:?}");
            }
            _ => {}
        }
    }

    /// Every next world, and whether the step to it must come some time; faults and free decisions need not.
    fn next(&self) -> Vec<(bool, World)> {
        let mut all = Vec::new();
        let mut step = |must: bool, change: &dyn Fn(&mut World)| {
            let mut next = self.clone();
            change(&mut next);
            all.push((must, next));
        };
        self.network(&mut step);
        self.vmm(&mut step);
        self.crashes(&mut step);
        self.at_source(&mut step);
        self.at_destination(&mut step);
        all
    }

    fn network(&self, step: Step) {
        let Faults { lose, repeat, cut, .. } = self.faults;
        for at in 0..self.to_source.len() {
            step(true, &|w| {
                let message = w.to_source.remove(at);
                w.tell_source(SourceInput::Message(message));
            });
            if lose > 0 {
                step(false, &|w| {
                    w.faults.lose -= 1;
                    w.to_source.remove(at);
                });
            }
            if repeat > 0 {
                step(false, &|w| {
                    w.faults.repeat -= 1;
                    w.tell_source(SourceInput::Message(w.to_source[at].clone()));
                });
            }
        }
        for at in 0..self.to_destination.len() {
            step(true, &|w| {
                let message = w.to_destination.remove(at);
                w.deliver(&message);
            });
            if lose > 0 {
                step(false, &|w| {
                    w.faults.lose -= 1;
                    w.to_destination.remove(at);
                });
            }
            if repeat > 0 {
                step(false, &|w| {
                    w.faults.repeat -= 1;
                    w.deliver(&w.to_destination[at].clone());
                });
            }
        }
        if self.connecting && !self.linked {
            step(true, &|w| {
                (w.connecting, w.linked) = (false, true);
                w.tell_source(SourceInput::Linked);
            });
        }
        if self.linked && cut > 0 {
            step(false, &|w| {
                w.faults.cut -= 1;
                w.linked = false;
                w.cut_seen = w.destination.as_ref().map(Destination::attempt);
                w.tell_source(SourceInput::Cut);
            });
        }
        if let Some(attempt) = self.cut_seen {
            step(true, &|w| {
                w.cut_seen = None;
                // The end of a connection says nothing of the next one.
                if w.destination.as_ref().is_some_and(|d| d.attempt() == attempt) {
                    w.tell_destination(DestinationInput::Cut);
                }
            });
        }
    }

    fn vmm(&self, step: Step) {
        match self.guest {
            Guest::Source if self.faults.stop > 0 => step(false, &|w| {
                w.faults.stop -= 1;
                w.guest = Guest::Paused;
            }),
            Guest::Paused => {
                step(true, &|w| w.guest = Guest::Source);
                step(true, &|w| {
                    w.guest = Guest::Destination;
                    w.rings_follow();
                });
                for gone in [Guest::Back, Guest::Dead] {
                    step(false, &|w| {
                        w.guest = gone;
                        w.tell_destination(DestinationInput::FrontEndGone);
                    });
                }
            }
            Guest::Back => {
                step(true, &|w| w.guest = Guest::Source);
                step(false, &|w| w.guest = Guest::Dead);
            }
            _ => {}
        }
        if !self.attached {
            step(true, &|w| {
                w.attached = true;
                w.rings_follow();
            });
        }
    }

    fn crashes(&self, step: Step) {
        if self.faults.crash_source > 0 {
            step(false, &|w| {
                w.faults.crash_source -= 1;
                (w.source, w.capturing, w.linked, w.connecting) = (None, false, false, false);
                w.cut_seen = w.destination.as_ref().map(Destination::attempt);
                w.to_source.clear();
                w.to_destination.clear();
            });
        }
        if self.faults.crash_destination > 0 {
            step(false, &|w| {
                w.faults.crash_destination -= 1;
                w.destination = None;
                (w.reserving, w.loading, w.undoing, w.gate_closed) = (false, false, false, false);
                (w.rings, w.rings_told, w.wanted_told, w.attached) = (false, false, false, false);
                // What is not committed is not stored.
                w.loaded = w.committed;
                w.cut_seen = None;
                w.to_source.clear();
                w.to_destination.clear();
                if std::mem::take(&mut w.linked) {
                    w.tell_source(SourceInput::Cut);
                }
            });
        }
    }

    fn at_source(&self, step: Step) {
        let runs_here = self.guest == Guest::Source;
        if self.source_view != runs_here {
            step(true, &|w| {
                w.source_view = runs_here;
                w.tell_source(if runs_here { SourceInput::RingsStarted } else { SourceInput::RingsStopped });
            });
        }
        if self.capturing {
            step(true, &|w| {
                w.capturing = false;
                w.tell_source(if runs_here {
                    SourceInput::CaptureFailed("rings run".into())
                } else {
                    SourceInput::Captured { epoch: EPOCH }
                });
            });
        }
        if self.source.as_ref().is_some_and(|s| s.deadline().is_some()) {
            step(true, &|w| w.tell_source(SourceInput::Tick));
            if self.faults.cancel > 0 {
                step(false, &|w| {
                    w.faults.cancel -= 1;
                    w.tell_source(SourceInput::Cancel("operator".into()));
                });
            }
        }
    }

    fn at_destination(&self, step: Step) {
        if self.reserving {
            step(true, &|w| {
                w.reserving = false;
                if w.rings {
                    w.tell_destination(DestinationInput::Refused("port-running".into()));
                } else {
                    w.gate_closed = true;
                    w.tell_destination(DestinationInput::Reserved);
                }
            });
        }
        if self.loading {
            step(true, &|w| {
                w.loading = false;
                let before = w.rings || w.loaded || w.committed;
                assert!(!before, "a state was put in force twice, or under running rings");
                w.loaded = true;
                w.tell_destination(DestinationInput::Loaded);
            });
            if self.faults.refuse > 0 {
                step(false, &|w| {
                    w.faults.refuse -= 1;
                    w.loading = false;
                    w.tell_destination(DestinationInput::LoadFailed("it does not verify".into()));
                });
            }
        }
        if self.undoing {
            step(true, &|w| {
                w.undoing = false;
                if w.rings && w.loaded {
                    w.rings_told = true;
                    w.tell_destination(DestinationInput::RingsStarted);
                } else {
                    (w.loaded, w.gate_closed) = (false, false);
                    w.rings_follow();
                    w.tell_destination(DestinationInput::Undone);
                }
            });
        }
        if self.rings && !self.rings_told {
            step(true, &|w| {
                w.rings_told = true;
                w.tell_destination(DestinationInput::RingsStarted);
            });
        }
        let wanted = self.guest == Guest::Destination && self.attached && self.gate_closed;
        if wanted && !self.wanted_told {
            step(true, &|w| {
                w.wanted_told = true;
                w.tell_destination(DestinationInput::RingsWanted);
            });
        }
        if self.destination.as_ref().is_some_and(|d| d.deadline().is_some()) {
            step(true, &|w| w.tell_destination(DestinationInput::Tick));
            if self.faults.cancel > 0 {
                step(false, &|w| {
                    w.faults.cancel -= 1;
                    w.tell_destination(DestinationInput::Cancel("operator".into()));
                });
            }
        }
    }
}

/// Messages on the way have no order, and what people read in them changes nothing: worlds that differ in this only are one.
fn put(queue: &mut Vec<Message>, mut message: Message) {
    if let Body::Cancel { reason, .. }
    | Body::Refused { reason }
    | Body::Bare { reason }
    | Body::Dropped { reason } = &mut message.body
    {
        reason.clear();
    }
    let at = queue.partition_point(|other| *other < message);
    queue.insert(at, message);
}

/// All worlds that can come of the first one; panics where one is not as it must be.
fn explore(faults: Faults) -> Vec<World> {
    let mut worlds = vec![World::new(faults)];
    let mut seen: HashMap<World, u32> = [(worlds[0].clone(), 0)].into();
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let mut at = 0;
    while at < worlds.len() {
        let world = worlds[at].clone();
        world.judge();
        for (must, next) in world.next() {
            let index = *seen.entry(next).or_insert_with_key(|next| {
                worlds.push(next.clone());
                before.push(Vec::new());
                worlds.len() as u32 - 1
            });
            if must && index as usize != at {
                before[index as usize].push(at as u32);
            }
        }
        at += 1;
    }
    // From every world there is a way, without a fault, to one where all is over and the guest runs where its VMM runs it.
    let mut good: Vec<bool> = worlds.iter().map(World::settled).collect();
    let mut queue: Vec<usize> = (0..worlds.len()).filter(|&i| good[i]).collect();
    while let Some(index) = queue.pop() {
        for &earlier in &before[index] {
            if !std::mem::replace(&mut good[earlier as usize], true) {
                queue.push(earlier as usize);
            }
        }
    }
    if let Some(lost) = good.iter().position(|good| !good) {
        panic!("the port stays on no side for ever: {:#?}", worlds[lost]);
    }
    worlds
}

const NONE: Faults = Faults {
    lose: 0,
    repeat: 0,
    cut: 0,
    crash_source: 0,
    crash_destination: 0,
    cancel: 0,
    stop: 2,
    refuse: 1,
};

/// Explores each of these, and sees that it shows something: the port comes over, both know, and it goes back.
fn explore_all(mixes: &[(&str, Faults)]) {
    let began = std::time::Instant::now();
    let mut total = 0;
    for (name, faults) in mixes {
        let worlds = explore(*faults);
        total += worlds.len();
        println!("{name}: {} states, {} ms so far", worlds.len(), began.elapsed().as_millis());
        let ends = |wanted: fn(&World) -> bool| worlds.iter().any(|w| w.settled() && wanted(w));
        let committed = Some((Outcome::Committed, true));
        assert!(ends(|w| w.committed && w.released), "{name}: the port never comes over");
        let both = worlds.iter().any(|w| w.source_end() == committed && w.destination_end() == committed);
        assert!(both, "{name}: both never know");
        let back = ends(|w| !w.committed && w.guest == Guest::Source && !w.loaded);
        assert!(back, "{name}: it never goes back");
    }
    println!("{total} states");
}

#[test]
fn s20_1_the_port_is_on_one_side_whatever_happens() {
    let once = Faults { stop: 1, refuse: 0, ..NONE };
    explore_all(&[
        ("no faults", NONE),
        ("loss", Faults { lose: 1, ..NONE }),
        ("repetition", Faults { repeat: 1, ..NONE }),
        ("a cut", Faults { cut: 1, ..once }),
        ("cancel", Faults { cancel: 1, ..once }),
        ("the source crashes", Faults { crash_source: 1, ..NONE }),
        ("the destination crashes", Faults { crash_destination: 1, ..once }),
    ]);
}

#[test]
#[ignore = "two minutes, 1 GiB"]
fn s20_1_the_port_is_on_one_side_whatever_happens_at_once() {
    explore_all(&[
        ("loss and repetition", Faults { lose: 1, repeat: 1, ..NONE }),
        ("the destination crashes, cancel", Faults { crash_destination: 1, cancel: 1, ..NONE }),
        ("crashes", Faults { crash_source: 1, crash_destination: 1, ..NONE }),
        ("cancel, cut and crash", Faults { cancel: 1, cut: 1, crash_destination: 1, stop: 1, ..NONE }),
        ("two crashes and a loss", Faults { crash_destination: 2, lose: 1, stop: 1, ..NONE }),
    ]);
}
