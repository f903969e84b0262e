//! One port to attack, two neighbours who must not notice.
//!
//! [`Arena::start`] brings up a switch with the ports `n1` and `n2`, whose guests talk to each other without pause, and the
//! port `evil`. The test then does its worst there. [`Arena::finish`] asserts what must hold after any attack:
//! the switch runs and has not panicked, the neighbours lost nothing and were answered in time before, during and
//! after, an honest guest can use the port `evil`, and descriptors, threads and memory are back to what they were.
//!
//! ```no_run
//! use turnpike_tests::{Arena, Message, message};
//! Arena::run(|arena| {
//!     for size in [0, 3, 65_535] {
//!         let channel = arena.negotiated();
//!         channel.say(&Message::vring(message::SET_VRING_NUM, 0, size));
//!         arena.settle(&channel);
//!     }
//! });
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::features::{self, protocol};
use crate::message::{self, Channel, Message};
use crate::switch::SwitchOptions;
use crate::{Frame, Guest, Memory, NetHdr, Options, PATIENCE, Switch, eventually};

/// What a neighbour's answer may take while others attack. Far above the switch's own delay: the machine is shared with
/// other tests; far below any stall that a user would notice as one.
const LONGEST_ANSWER: Duration = Duration::from_secs(2);

/// Memory of its own (KiB) that the switch may hold more after an attack than before (allocator caches, thread stacks).
const MEMORY_SLACK_KIB: u64 = 16 * 1024;

/// Ports (beside `n1`, `n2` and `evil`) that an arena has for guests who are to see what the attacker sends.
pub const WITNESSES: [&str; 2] = ["witness", "witness2"];

/// Two guests in conversation on a thread of their own.
pub struct Neighbours {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    worst_us: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Neighbours {
    /// Attaches two guests to the ports `n1` and `n2` and lets them talk.
    #[must_use]
    pub fn start(switch: &Switch) -> Self {
        let mut one = Guest::attach(switch, "n1", Options::default().ring_size(64));
        let mut two = Guest::attach(switch, "n2", Options::default().ring_size(64));
        let stop = Arc::new(AtomicBool::new(false));
        let rounds = Arc::new(AtomicU64::new(0));
        let worst_us = Arc::new(AtomicU64::new(0));
        let (stopped, counter, worst) = (stop.clone(), rounds.clone(), worst_us.clone());
        let thread = std::thread::spawn(move || {
            for round in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let len = 60 + (round as usize * 97) % 1400;
                let (there, back) =
                    (Frame::of_len(&one, &two, len, round), Frame::of_len(&two, &one, len, round));
                let asked = Instant::now();
                one.send(&there);
                receive_own(&mut two, &there);
                two.send(&back);
                receive_own(&mut one, &back);
                worst.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
                counter.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, rounds, worst_us, thread: Some(thread) }
    }

    /// Waits until the neighbours have talked on for some rounds; fails if they do not or were kept waiting.
    #[track_caller]
    pub fn check(&self) {
        let from = self.rounds.load(Ordering::Relaxed);
        let talking = eventually(|| {
            self.rounds.load(Ordering::Relaxed) >= from + 5
                || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
        });
        let dead = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
        assert!(talking && !dead, "the neighbours no longer reach each other");
        let worst = Duration::from_micros(self.worst_us.load(Ordering::Relaxed));
        assert!(worst < LONGEST_ANSWER, "a neighbour waited {worst:?} for an answer");
    }

    /// Longest time from a question to its answer so far.
    #[must_use]
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.worst_us.load(Ordering::Relaxed))
    }

    /// Ends the conversation; fails if anything was lost or changed in it.
    #[track_caller]
    pub fn finish(mut self) {
        self.check();
        self.stop.store(true, Ordering::Relaxed);
        assert!(
            self.thread.take().expect("finished once").join().is_ok(),
            "a neighbour's frame was lost or changed"
        );
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Receives `want`; frames to everybody (from other ports) may come in between.
fn receive_own(guest: &mut Guest, want: &[u8]) {
    loop {
        let received = guest.expect_some();
        if received.frame[0] & 1 == 0 {
            crate::traffic::assert_same(&received.frame, want);
            return;
        }
    }
}

/// A switch with neighbours and a port to attack.
pub struct Arena {
    /// The switch.
    pub switch: Switch,
    /// The two who talk.
    pub neighbours: Neighbours,
    /// Socket of the port to attack.
    pub socket: PathBuf,
    holdings: Vec<String>,
    memory_kib: u64,
}

impl Arena {
    /// Starts everything, has an honest guest use the port once, and notes what the process holds.
    #[must_use]
    pub fn start() -> Self {
        let switch = Switch::start_with(SwitchOptions { workers: 1, ..SwitchOptions::default() });
        let neighbours = Neighbours::start(&switch);
        let socket = switch.socket_of("evil", 1);
        for name in WITNESSES {
            switch.socket_of(name, 1);
        }
        let mut arena = Self { switch, neighbours, socket, holdings: Vec::new(), memory_kib: 0 };
        arena.serve_an_honest_guest();
        arena.neighbours.check();
        arena.holdings = arena.switch.holdings();
        arena.memory_kib = arena.switch.private_memory_kib();
        arena
    }

    /// Runs an attack and checks everything afterwards.
    #[track_caller]
    pub fn run(attack: impl FnOnce(&Arena)) {
        let arena = Self::start();
        attack(&arena);
        arena.finish();
    }

    /// A connection on which nothing was said yet.
    #[track_caller]
    pub fn connection(&self) -> Channel {
        let mut last = None;
        let connected = eventually(|| match Channel::connect(&self.socket) {
            Ok(channel) => {
                last = Some(channel);
                true
            }
            Err(_) => false,
        });
        assert!(connected, "nobody listens on the port any more");
        last.expect("connected")
    }

    /// A connection with features negotiated, acknowledgements included; no memory, no rings.
    #[track_caller]
    pub fn negotiated(&self) -> Channel {
        let channel = self.connection();
        let talk = || -> std::io::Result<()> {
            channel.send(&Message::new(message::SET_OWNER))?;
            let offered = channel.ask_u64(message::GET_FEATURES)?;
            let protocol_offered = channel.ask_u64(message::GET_PROTOCOL_FEATURES)?;
            channel.send(&Message::u64(message::SET_PROTOCOL_FEATURES, protocol_offered & protocol::ALL))?;
            channel.send(&Message::u64(message::SET_FEATURES, offered & features::LINUX))
        };
        talk().expect("an honest handshake");
        channel
    }

    /// A connection with features and memory (one region of `size` bytes at guest address 0), no rings.
    #[track_caller]
    pub fn with_memory(&self, size: u64) -> (Channel, Memory) {
        let channel = self.negotiated();
        let memory = Memory::new(&[(0, size)]);
        channel.confirm(Message::memory(&memory)).expect("an honest memory table");
        (channel, memory)
    }

    /// An honest guest on the port, to be misused.
    #[track_caller]
    pub fn guest(&self, options: Options) -> Guest {
        self.until_free();
        Guest::attach(&self.switch, "evil", options)
    }

    /// Waits until the switch has dealt with all that was said on the connection: it answers, or it has hung up.
    /// Says whether it still answers.
    #[track_caller]
    pub fn settle(&self, channel: &Channel) -> bool {
        // Replies to what was said before come first; the one to this question is the last.
        if channel.send(&Message::new(message::GET_FEATURES)).is_err() {
            return false;
        }
        loop {
            match channel.receive(PATIENCE) {
                Ok(reply) if reply.request == message::GET_FEATURES => return true,
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                    panic!("the switch neither answers nor hangs up")
                }
                Err(_) => return false,
            }
        }
    }

    /// The messages must be refused: the connection ends, the switch does not.
    #[track_caller]
    pub fn refused(&self, channel: &Channel, messages: &[Message]) {
        for message in messages {
            channel.say(message);
        }
        assert!(channel.is_closed_soon(), "the switch tolerates {messages:x?}");
    }

    /// Whether an honest guest passes traffic on the attacked port (the frames go to and from neighbour `n1`'s sight).
    #[track_caller]
    pub fn serve_an_honest_guest(&self) {
        let mut guest = self.guest(Options::default());
        let mut other = Guest::attach(&self.switch, WITNESSES[0], Options::default());
        for round in 0..3 {
            let frame = Frame::of_len(&guest, &other, 500, round);
            guest.send(&frame);
            other.expect(&frame);
            let frame = Frame::of_len(&other, &guest, 500, round);
            other.send(&frame);
            guest.expect(&frame);
        }
        drop((guest, other));
        self.until_free();
        self.switch.wait_state(WITNESSES[0], "waiting");
    }

    /// Waits until no front end is on the attacked port.
    #[track_caller]
    pub fn until_free(&self) {
        self.switch.wait_state("evil", "waiting");
    }

    /// Asserts what must hold after any attack.
    #[track_caller]
    pub fn finish(self) {
        assert!(self.switch.is_alive(), "the switch died");
        self.neighbours.check();
        self.serve_an_honest_guest();
        let mut extra = Vec::new();
        let back = eventually(|| {
            let mut before = self.holdings.clone();
            extra = self.switch.holdings();
            extra.retain(|item| match before.iter().position(|known| known == item) {
                Some(at) => {
                    before.swap_remove(at);
                    false
                }
                None => true,
            });
            extra.is_empty()
        });
        assert!(back, "left behind: {extra:?}");
        let memory = self.switch.private_memory_kib();
        let limit = self.memory_kib + MEMORY_SLACK_KIB;
        assert!(memory <= limit, "{memory} KiB of memory (before: {}, allowed: {limit})", self.memory_kib);
        self.neighbours.finish();
    }
}

/// Sends a frame from an attacking guest whatever becomes of it.
pub fn send_anyway(guest: &mut Guest, header: NetHdr, frame: &[u8]) {
    let _ = guest.send_within(0, header, frame, Duration::from_millis(100));
}
