//! Scripted guests for tests of the switch: the real `turnpike` process on one side, this library on the other.
//!
//! Everything a virtual machine can do to its network card can be done here from a few lines of Rust, rightly or
//! wrongly, without a VMM and without a kernel: the front end's vhost-user messages, its memory, its rings, its frames.
//!
//! ```no_run
//! use std::time::Duration;
//! use turnpike_tests::{Frame, Guest, Options, Switch};
//!
//! let switch = Switch::start();
//! let mut a = Guest::attach(&switch, "a", Options::default());
//! let mut b = Guest::attach(&switch, "b", Options::default().ring_size(64));
//! let frame = Frame::between(&a, &b).udp(1000, 2000).payload(b"hello").build();
//! a.send(&frame);
//! b.expect(&frame);
//! assert_eq!(switch.port("a")["counters"]["out_packets"], 1);
//! ```
//!
//! From the wire up:
//! - [`frame`]: builders for frames with right (or deliberately partial) checksums, and an independent reader of them;
//! - [`memory`]: guest memory, several memfd regions with their own guest and front-end addresses;
//! - [`ring`]: the driver's side of a split virtqueue, from `offer this chain` down to `write this descriptor word`;
//! - [`message`]: vhost-user messages as bytes and descriptors, for saying what no well-behaved front end says;
//! - [`guest`]: a whole well-behaved guest (handshake by the `vhost` crate), of which every part can be misused;
//! - [`migration`]: the copying of a running guest by the switch's dirty log;
//! - [`device_state`]: the port's state, taken along by the front end;
//! - [`switch`]: the process under test, its command line, its log and its resources;
//! - [`protocols`]: ARP, neighbour discovery, router messages and DHCP as frames;
//! - [`lan`]: a switch with a guest on every port, for tests of who hears what;
//! - [`watcher`]: commands that show frames or events while the test goes on;
//! - [`reference`]: port ACLs and rules as the rule book reads, linear and obvious, to compare the switch with;
//! - [`arena`]: a switch with two neighbours in conversation and one port to attack; a hostile case in a dozen lines.
//!
//! A failed expectation panics with what was expected and what came, because a panic is how a Rust test fails.
//! Helpers which a test may want to see fail return a `Result` or an `Option` and say so.
//! Every wait has a limit; [`PATIENCE`] is the one for things that must happen.

#![forbid(unsafe_code)]
// The helpers panic to fail the test that calls them: repeating this on each of them would tell nobody anything.
#![allow(clippy::missing_panics_doc)]

use std::time::Duration;

pub mod arena;
pub mod device_state;
pub mod extension;
pub mod features;
pub mod frame;
pub mod guest;
pub mod lan;
pub mod memory;
pub mod message;
pub mod migration;
pub mod net_hdr;
pub mod options;
pub mod packed;
pub mod packet;
pub mod protocols;
pub mod reference;
pub mod ring;
pub mod switch;
pub mod traffic;
pub mod watcher;

pub use arena::{Arena, Neighbours};
pub use frame::Frame;
pub use guest::{Guest, Line};
pub use lan::Lan;
pub use memory::Memory;
pub use message::{Channel, Message};
pub use net_hdr::NetHdr;
pub use options::{Options, Shape};
pub use packet::Packet;
pub use ring::{Buffer, Ring};
pub use switch::Switch;
pub use traffic::Received;

/// How long something that must happen may take. Generous: a test machine may be busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How long to watch for something that must not happen.
pub const SILENCE: Duration = Duration::from_millis(150);

/// Lets this process and the switches it starts open as many descriptors as the system allows: a guest needs about a dozen.
pub fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit);
}

/// Says on stderr, past the capture of passing tests, that a test cannot run on this machine and why.
pub fn skipped(why: &str) {
    use std::io::Write;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// Polls `condition` until it holds, at most [`PATIENCE`]; says whether it did.
#[must_use]
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        if condition() {
            return true;
        }
        if std::time::Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
