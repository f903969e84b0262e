//! Device state between a scripted front end and a keeper of ours, over a relay that runs.

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::pipe::pipe;

use super::tests::{Scene, port_with};
use super::*;
use crate::spec::StateKeeper;

const SAVE: u32 = 0;
const LOAD: u32 = 1;
const ACCEPTED: u64 = NO_DESCRIPTOR;
const REFUSED: u64 = NO_DESCRIPTOR | 1;

/// Gives one state away, tells what it is given, and can be made to wait.
struct Keeper {
    state: Result<Vec<u8>, String>,
    loaded: Mutex<Sender<Vec<u8>>>,
    refuse: Option<String>,
    /// Held by who wants the keeper to wait.
    gate: Mutex<()>,
}

impl StateKeeper for Keeper {
    fn save(&self, id: vswitch::PortId) -> Result<Vec<u8>, String> {
        assert_eq!(id, vswitch::PortId(3));
        let _gate = self.gate.lock();
        self.state.clone()
    }

    fn load(&self, id: vswitch::PortId, sealed: &[u8]) -> Result<(), String> {
        assert_eq!(id, vswitch::PortId(3));
        let _gate = self.gate.lock();
        self.loaded.lock().unwrap().send(sealed.to_vec()).unwrap();
        self.refuse.clone().map_or(Ok(()), Err)
    }
}

/// A scene whose library answers every question, so that only the transfer is left to play.
struct Play {
    scene: Scene,
    keeper: Arc<Keeper>,
    loaded: Receiver<Vec<u8>>,
}

fn state(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

impl Play {
    fn new(state: Result<Vec<u8>, String>, refuse: Option<&str>) -> Self {
        let (sender, loaded) = channel();
        let refuse = refuse.map(str::to_owned);
        let keeper = Arc::new(Keeper { state, loaded: Mutex::new(sender), refuse, gate: Mutex::new(()) });
        let scene = Scene::of(|notes| port_with(notes, Arc::clone(&keeper) as _));
        scene.negotiate(PROTOCOL_REPLY_ACK | PROTOCOL_DEVICE_STATE);
        let library = scene.library.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok(message) = Message::read(&library) {
                if matches!(message.request, request::GET_FEATURES) || message.needs_reply() {
                    let _ = message.reply(0).write(&library);
                }
            }
        });
        Self { scene, keeper, loaded }
    }

    fn ask(&self, direction: u32, phase: u32, fd: impl AsFd) -> u64 {
        let body = [direction.to_ne_bytes(), phase.to_ne_bytes()].concat();
        let mut message = Message::new(request::SET_DEVICE_STATE_FD, &body);
        message.fds.push(fd.as_fd().try_clone_to_owned().unwrap());
        message.write(&self.scene.front).unwrap();
        self.scene.answer()
    }

    fn ask_check(&self) {
        Message::new(request::CHECK_DEVICE_STATE, &[]).write(&self.scene.front).unwrap();
    }

    fn check(&self) -> u64 {
        self.ask_check();
        self.scene.answer()
    }

    /// Saves over a pipe, or a socket, and returns what came and what the check said.
    fn save(&self, socket: bool) -> (Vec<u8>, u64) {
        let mut bytes = Vec::new();
        if socket {
            let (ours, theirs) = UnixStream::pair().unwrap();
            assert_eq!(self.ask(SAVE, 0, &theirs), ACCEPTED);
            // Kept open: the end must show all the same.
            (&ours).read_to_end(&mut bytes).unwrap();
        } else {
            let (reader, writer) = pipe().unwrap();
            assert_eq!(self.ask(SAVE, 0, &writer), ACCEPTED);
            drop(writer);
            File::from(reader).read_to_end(&mut bytes).unwrap();
        }
        (bytes, self.check())
    }

    fn load(&self, bytes: &[u8], socket: bool) -> u64 {
        if socket {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            assert_eq!(self.ask(LOAD, 0, theirs), ACCEPTED);
            // One that reads too much closes its end.
            let _ = ours.write_all(bytes);
        } else {
            let (reader, writer) = pipe().unwrap();
            assert_eq!(self.ask(LOAD, 0, reader), ACCEPTED);
            let _ = File::from(writer).write_all(bytes);
        }
        self.check()
    }

    /// The front end hangs up; everything must be over soon.
    fn end(self) -> Receiver<Vec<u8>> {
        let Self { scene, loaded, .. } = self;
        let began = Instant::now();
        drop(scene.front);
        let _ = scene.relay.join().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "the relay took {:?} to end", began.elapsed());
        loaded
    }
}

/// Whether nobody holds the other end of a pipe or socket any more.
fn is_dropped(mut end: impl Write) -> bool {
    end.write_all(b"x").is_err()
}

#[test]
fn s20_a_state_goes_out_and_comes_in_whole_by_pipe_and_by_socket() {
    for len in [1, 4096, 65_536, 65_537, 1_000_000, 8 << 20] {
        let play = Play::new(Ok(state(len)), None);
        for socket in [false, true] {
            assert_eq!(play.save(socket), (state(len), 0), "{len} bytes out");
            assert_eq!(play.load(&state(len), socket), 0, "{len} bytes in");
            assert_eq!(play.loaded.recv().unwrap(), state(len));
        }
        play.end();
    }
}

#[test]
fn s20_saving_does_not_take_the_state_away() {
    let play = Play::new(Ok(state(100)), None);
    assert_eq!(play.save(false), play.save(true));
    play.end();
}

#[test]
fn s20_a_source_without_state_is_no_error() {
    let play = Play::new(Ok(Vec::new()), None);
    assert_eq!(play.load(&[], false), 0);
    assert_eq!(play.load(&[], true), 0);
    assert!(play.loaded.try_recv().is_err(), "the keeper is not bothered");
    assert_eq!(play.save(false), (vec![], 0));
    play.end();
}

#[test]
fn s20_the_check_tells_what_the_keeper_said() {
    let play = Play::new(Err("not this one".to_owned()), Some("nor that"));
    assert_eq!(play.save(false), (vec![], 1));
    assert_eq!(play.load(b"state", false), 1);
    play.end();
}

#[test]
fn h27_a_check_without_a_transfer_fails_and_so_does_a_second_one() {
    let play = Play::new(Ok(state(5)), None);
    assert_eq!(play.check(), 1);
    assert_eq!(play.save(false).1, 0);
    assert_eq!(play.check(), 1);
    play.end();
}

#[test]
fn h27_more_than_eight_mebibytes_are_refused() {
    let play = Play::new(Ok(state((8 << 20) + 1)), None);
    assert_eq!(play.save(false), (vec![], 1));
    for socket in [false, true] {
        assert_eq!(play.load(&state((8 << 20) + 1), socket), 1);
    }
    assert!(play.loaded.try_recv().is_err());
    play.end();
}

#[test]
fn h27_a_second_transfer_waits_for_the_first_to_end() {
    let play = Play::new(Ok(state(5)), None);
    let (reader, writer) = pipe().unwrap();
    assert_eq!(play.ask(LOAD, 0, reader), ACCEPTED);
    let (other, into) = pipe().unwrap();
    assert_eq!(play.ask(SAVE, 0, &into), REFUSED);
    assert_eq!(play.ask(LOAD, 0, &other), REFUSED);
    File::from(writer).write_all(b"the first").unwrap();
    assert_eq!(play.check(), 0);
    assert_eq!(play.loaded.recv().unwrap(), b"the first");
    assert_eq!(play.save(false), (state(5), 0));
    play.end();
}

#[test]
fn h27_unknown_directions_and_phases_are_refused() {
    let play = Play::new(Ok(state(5)), None);
    let (reader, writer) = pipe().unwrap();
    for (direction, phase) in [(2, 0), (0, 1), (1, 1), (u32::MAX, 0), (0, u32::MAX)] {
        assert_eq!(play.ask(direction, phase, &reader), REFUSED);
        assert_eq!(play.ask(direction, phase, &writer), REFUSED);
    }
    assert_eq!(play.check(), 1);
    play.end();
}

#[test]
fn h27_only_pipes_of_the_right_end_and_stream_sockets_carry_state() {
    let play = Play::new(Ok(state(5)), None);
    let (reader, writer) = pipe().unwrap();
    let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let memory = rustix::fs::memfd_create("state", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let fifo = File::options().read(true).write(true).open(fifo).unwrap();
    for way in [SAVE, LOAD] {
        let wrong = if way == SAVE { reader.as_fd() } else { writer.as_fd() };
        for fd in [wrong, datagram.as_fd(), tcp.as_fd(), memory.as_fd(), fifo.as_fd()] {
            assert_eq!(play.ask(way, 0, fd), REFUSED, "{way} {fd:?}");
        }
    }
    play.end();
}

#[test]
fn h27_nothing_is_saved_or_loaded_while_a_ring_runs() {
    let play = Play::new(Ok(state(5)), None);
    let (reader, writer) = pipe().unwrap();
    for queue in &play.scene.port.queues {
        queue.set_live(true);
        assert_eq!(play.ask(SAVE, 0, &writer), REFUSED);
        assert_eq!(play.ask(LOAD, 0, &reader), REFUSED);
        queue.set_live(false);
    }
    assert_eq!(play.save(false), (state(5), 0));
    play.end();
}

#[test]
fn h27_no_ring_starts_before_a_load_is_over() {
    let play = Play::new(Ok(state(5)), None);
    let (reader, writer) = pipe().unwrap();
    assert_eq!(play.ask(LOAD, 0, reader), ACCEPTED);
    play.scene.say(request::SET_VRING_ENABLE, 1 << 32);
    play.scene.front.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!((&play.scene.front).read(&mut [0]).is_err(), "a ring was enabled in the middle of a load");
    drop(writer);
    play.scene.front.set_read_timeout(None).unwrap();
    assert_eq!(play.scene.answer(), 0, "now it is");
    assert_eq!(play.check(), 0);
    play.end();
}

#[test]
fn h27_one_who_never_closes_or_sends_byte_by_byte_meets_the_deadline() {
    let silent = Play::new(Ok(state(200_000)), None);
    let slow = Play::new(Ok(state(5)), None);
    let deaf = Play::new(Ok(state(200_000)), None);
    let began = Instant::now();
    let (reader, _kept) = pipe().unwrap();
    assert_eq!(silent.ask(LOAD, 0, reader), ACCEPTED);
    let (theirs, mut ours) = UnixStream::pair().unwrap();
    assert_eq!(slow.ask(LOAD, 0, theirs), ACCEPTED);
    let (_unread, writer) = pipe().unwrap();
    assert_eq!(deaf.ask(SAVE, 0, &writer), ACCEPTED);
    for play in [&silent, &slow, &deaf] {
        play.ask_check();
    }
    while began.elapsed() < Duration::from_secs(11) && ours.write_all(b"x").is_ok() {
        std::thread::sleep(Duration::from_millis(200));
    }
    for play in [silent, slow, deaf] {
        assert_eq!(play.scene.answer(), 1);
        let took = began.elapsed();
        assert!((10..14).contains(&took.as_secs()), "after {took:?}");
        assert!(play.loaded.try_recv().is_err());
        play.end();
    }
}

#[test]
fn h27_a_connection_that_ends_takes_its_transfer_along() {
    for checked in [false, true] {
        let play = Play::new(Ok(state(200_000)), None);
        let (reader, kept) = pipe().unwrap();
        assert_eq!(play.ask(LOAD, 0, reader), ACCEPTED);
        if checked {
            play.ask_check();
        }
        let loaded = play.end();
        assert!(is_dropped(File::from(kept)), "the thread goes on without its connection");
        assert!(loaded.try_recv().is_err(), "half a state was loaded");

        let play = Play::new(Ok(state(200_000)), None);
        let (unread, writer) = UnixStream::pair().unwrap();
        let filled = state(1 << 20);
        assert_eq!(play.ask(SAVE, 0, &writer), ACCEPTED);
        drop((writer, filled));
        if checked {
            play.ask_check();
        }
        play.end();
        assert!(is_dropped(&unread), "the thread goes on without its connection");
    }
}

#[test]
fn h27_a_port_is_removed_even_while_its_keeper_waits_for_the_remover() {
    let play = Play::new(Ok(state(5)), None);
    let gate = play.keeper.gate.lock().unwrap();
    let (reader, writer) = pipe().unwrap();
    assert_eq!(play.ask(LOAD, 0, reader), ACCEPTED);
    File::from(writer).write_all(b"state").unwrap();
    play.ask_check();
    std::thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    rustix::io::write(&play.scene.stop, &1u64.to_ne_bytes()).unwrap();
    let _ = play.scene.relay.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    drop(gate);
    assert_eq!(play.loaded.recv().unwrap(), b"state", "the keeper ends on its own");
}

#[test]
fn h27_a_front_end_that_goes_waits_for_the_keeper_so_that_what_comes_after_comes_after() {
    let play = Play::new(Ok(state(5)), None);
    let gate = play.keeper.gate.lock().unwrap();
    let (reader, writer) = pipe().unwrap();
    assert_eq!(play.ask(LOAD, 0, reader), ACCEPTED);
    File::from(writer).write_all(b"state").unwrap();
    play.ask_check();
    std::thread::sleep(Duration::from_millis(50));
    let Play { scene, loaded, .. } = &play;
    scene.front.shutdown(std::net::Shutdown::Both).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert!(!scene.relay.is_finished(), "the connection is over before its state is in force");
    drop(gate);
    assert_eq!(loaded.recv().unwrap(), b"state");
    play.end();
}
