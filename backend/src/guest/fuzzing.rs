//! An entrance for fuzzing: the whole conversation of a front end, made of arbitrary bytes.
//!
//! Compiled only with `--cfg fuzzing`. The conversation goes through the same code as a real one: relay, control protocol, rings. A
//! worker's part is played by [`Served`], which uses a queue whenever it changes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use vswitch::event::Event;
use vswitch::frame::offload::NetHeader;
use vswitch::{Mac, PortId};

use super::burst::Burst;
use super::message::{Message, request, send};
use super::ring::Kind;
use super::ring::receive::Receive;
use super::{GuestPort, Owner, connection, features, lock, vring};
use crate::spec::{EventSink, GuestSpec, StateKeeper};

/// Messages of one conversation; more are not sent, so that no socket's buffer runs full.
const MESSAGES: usize = 64;
/// Bytes of the file that stands for guest memory.
const MEMORY: u64 = 256 * 1024;

struct Silent;

impl EventSink for Silent {
    fn emit(&self, _event: Event) {}
}

impl StateKeeper for Silent {
    fn save(&self, _: PortId) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn load(&self, _: PortId, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Uses every queue that runs, once per change.
struct Served(OnceLock<Weak<GuestPort>>);

impl Owner for Served {
    fn id(&self) -> usize {
        0
    }

    fn rescan(&self) {
        let Some(port) = self.0.get().and_then(Weak::upgrade) else { return };
        let mut burst = Burst::default();
        for queue in &port.queues {
            let mut ring = queue.lock();
            let used = if queue.index % 2 == 0 {
                let (header, frame) = (NetHeader::default(), [0x55; 60]);
                let put = match ring.kind() {
                    Kind::Split(ring) => ring.put(&header, &frame, &[], 60),
                    Kind::Packed(ring) => ring.put(&header, &frame, &[], 60),
                };
                put.map(|_| ())
            } else {
                burst.clear();
                ring.take(&mut burst).map(|()| ring.complete(&burst, u64::MAX))
            };
            ring.publish();
            ring.arm();
            if used.is_err() {
                ring.stop();
                queue.set_live(false);
            }
        }
    }

    fn inject(&self, _port: PortId, frame: Vec<u8>) {
        assert_eq!(frame.len(), 60, "an announcement");
    }
}

/// Talks to a new port. `input` is a list of messages, each with two bytes before it: how many descriptors come along (255 = as many
/// as the request wants) and of which kind (0 = the right one).
///
/// # Panics
///
/// If the conversation leaves a ring running, memory mapped or a descriptor open.
pub fn front_end(input: &[u8]) {
    let before = open_descriptors();
    {
        let owner = Arc::new(Served(OnceLock::new()));
        let spec = GuestSpec {
            id: PortId(1),
            name: "fuzz".to_owned(),
            socket: "/nonexistent".into(),
            client: false,
            mac: Mac([0x52, 0x54, 0, 0, 0, 1]),
            queue_pairs: 2,
            mtu: 1500,
            features: features::DEFAULT,
        };
        let owners: Vec<Arc<dyn Owner>> = vec![Arc::clone(&owner) as _, Arc::clone(&owner) as _];
        let port = Arc::new(GuestPort::new(spec, owners, Arc::new(Silent), Arc::new(Silent)));
        let _ = owner.0.set(Arc::downgrade(&port));

        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        say(input, &ours);
        ours.shutdown(std::net::Shutdown::Write).expect("a connected socket");
        let stop = eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        connection::attend(&port, connection::Talk::new(theirs), stop.as_fd(), &AtomicBool::new(false), None);
        vring::release(&port);
        assert!(port.queues.iter().all(|queue| !queue.is_live() && !queue.lock().is_live()));
        assert!(lock(&port.memory).is_none() && lock(&port.vrings).is_empty());
        assert_eq!(Arc::strong_count(&port), 1, "nobody holds on to the port");
    }
    assert_eq!(open_descriptors(), before, "every descriptor is closed");
}

fn say(mut input: &[u8], socket: &UnixStream) {
    for _ in 0..MESSAGES {
        let Some((&[count, kind, ref header @ ..], rest)) = input.split_first_chunk::<14>() else { return };
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (number, size) = (word(0), word(8));
        let (payload, rest) = rest.split_at((size as usize).min(rest.len()));
        let mut message = Message::new(number, payload);
        let count = if count == 255 { wanted(&message) } else { usize::from(count % 40) };
        message.fds = (0..count.min(32)).filter_map(|_| descriptor(number, kind)).collect();
        // As it stands, whether or not the size is true.
        let bytes = [&header[..], payload].concat();
        let deadline = Instant::now() + Duration::from_secs(1);
        if send(socket, &bytes, &message.fds, deadline).is_err() {
            return;
        }
        input = rest;
    }
}

/// How many descriptors a front end sends with this message.
fn wanted(message: &Message) -> usize {
    match message.request {
        request::SET_MEM_TABLE => message.u32_at(0).unwrap_or(1) as usize,
        request::ADD_MEM_REG => 1,
        request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
            usize::from(message.u64_at(0).unwrap_or(0) & 0x100 == 0)
        }
        _ => 0,
    }
}

fn descriptor(number: u32, kind: u8) -> Option<OwnedFd> {
    let memory = matches!(number, request::SET_MEM_TABLE | request::ADD_MEM_REG);
    let memfd = |len| {
        let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
        rustix::fs::ftruncate(&fd, len).ok()?;
        Some(fd)
    };
    match kind % 6 {
        0 if memory => memfd(MEMORY),
        0 | 1 => eventfd(0, EventfdFlags::CLOEXEC).ok(),
        2 => memfd(4096),
        3 => rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok().map(|(reader, _)| reader),
        4 => File::open("/dev/zero").ok().map(OwnedFd::from),
        _ => UnixStream::pair().ok().map(|(end, _)| end.into()),
    }
}

fn open_descriptors() -> usize {
    // The conversation's threads are joined by now, so nobody else opens any.
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
