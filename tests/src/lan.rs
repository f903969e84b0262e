//! A switch with a guest on every port: who hears what is sent.
//!
//! ```no_run
//! use turnpike_tests::Lan;
//! let mut lan = Lan::new(&[("a", "--vlan access:5"), ("b", "--vlan access:5"), ("c", "")]);
//! let frame = lan.frame("a", "b").ipv4().udp(1, 2).build();
//! assert_eq!(lan.send("a", &frame).by(), ["b"]);
//! lan.dropped("a", &lan.frame("a", "c").build(), ("a", "out"), "vlan-filtered");
//! ```
//!
//! The guest number N (from 1, in the order of the ports) has the MAC address 52:54:00:00:00:N and so, in frames made by
//! [`Frame`], the IP addresses 10.0.0.N and fd00::N. The switch gives a descriptor back only after it has delivered the
//! frame to everybody, so nothing here has to wait for silence.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::frame::Mac;
use crate::switch::SwitchOptions;
use crate::{Frame, Guest, NetHdr, Options, PATIENCE, Received, Switch};

/// A switch with guests.
pub struct Lan {
    /// The switch.
    pub switch: Switch,
    guests: Vec<(String, Guest)>,
}

/// Who received what, in the order of the ports.
#[derive(Debug)]
pub struct Heard(pub Vec<(String, Received)>);

impl Heard {
    /// The receivers' names; one that received two frames is there twice.
    #[must_use]
    pub fn by(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The frames that a guest received.
    #[must_use]
    pub fn frames(&self, name: &str) -> Vec<&[u8]> {
        self.0.iter().filter(|(by, _)| by == name).map(|(_, received)| received.frame.as_slice()).collect()
    }

    /// The one frame that a guest received.
    #[track_caller]
    #[must_use]
    pub fn only(&self, name: &str) -> &Received {
        let mut list = self.0.iter().filter(|(by, _)| by == name);
        match (list.next(), list.next()) {
            (Some((_, received)), None) => received,
            (first, _) => panic!(
                "{name} received {} frames, expected one",
                if first.is_none() { "no" } else { "several" }
            ),
        }
    }
}

/// MAC address of the guest with this number.
#[must_use]
pub fn mac(number: u8) -> Mac {
    [0x52, 0x54, 0, 0, 0, number]
}

/// IPv4 address of the guest with this number.
#[must_use]
pub fn v4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, number)
}

/// IPv6 address of the guest with this number.
#[must_use]
pub fn v6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into())
}

/// A MAC address as it is written.
#[must_use]
pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Lan {
    /// A switch with these ports (name, policy options) and a Linux-like guest on each.
    #[must_use]
    pub fn new(ports: &[(&str, &str)]) -> Self {
        Self::with(SwitchOptions::default(), ports)
    }

    /// The same on a switch with options of the test's choice.
    #[must_use]
    pub fn with(options: SwitchOptions, ports: &[(&str, &str)]) -> Self {
        let mut lan = Self { switch: Switch::start_with(options), guests: Vec::new() };
        for (name, policy) in ports {
            lan.add(name, policy, Options::default());
        }
        lan
    }

    /// Adds a port with these policy options and a guest on it.
    pub fn add(&mut self, name: &str, policy: &str, options: Options) {
        let next = mac(self.guests.len() as u8 + 1);
        self.add_with_mac(name, policy, options, next);
    }

    /// The same with a MAC address of the test's choice.
    pub fn add_with_mac(&mut self, name: &str, policy: &str, options: Options, own: Mac) {
        let (own, queues) = (mac_text(own), options.pairs.to_string());
        let mut args = vec!["--mac", &own, "--mtu", "9000", "--queues", &queues];
        args.extend(policy.split_whitespace());
        self.switch.add_port(name, &args);
        let guest = Guest::attach(&self.switch, name, options);
        self.guests.push((name.to_owned(), guest));
    }

    /// Changes policy: `port set NAME OPTIONS`.
    #[track_caller]
    pub fn set(&self, name: &str, policy: &str) {
        let args: Vec<&str> = ["port", "set", name].into_iter().chain(policy.split_whitespace()).collect();
        self.switch.ok(&args);
    }

    /// Runs a command given as one line, words apart by spaces; it must succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        self.switch.ok(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// The names of the ports with guests, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.guests.iter().map(|(name, _)| name.clone()).collect()
    }

    /// The guest of a port.
    #[track_caller]
    pub fn guest(&mut self, name: &str) -> &mut Guest {
        let place = self.place(name);
        &mut self.guests[place].1
    }

    /// Takes a guest out, for a thread of its own; the port stays.
    #[track_caller]
    pub fn take(&mut self, name: &str) -> Guest {
        let place = self.place(name);
        self.guests.remove(place).1
    }

    /// Puts a guest in.
    pub fn give(&mut self, name: &str, guest: Guest) {
        self.guests.push((name.to_owned(), guest));
    }

    #[track_caller]
    fn place(&self, name: &str) -> usize {
        self.guests.iter().position(|(own, _)| own == name).unwrap_or_else(|| panic!("no guest {name}"))
    }

    /// A port's MAC address.
    #[track_caller]
    #[must_use]
    pub fn mac(&self, name: &str) -> Mac {
        self.guests[self.place(name)].1.mac
    }

    /// A frame from one guest to another.
    #[track_caller]
    #[must_use]
    pub fn frame(&self, from: &str, to: &str) -> Frame {
        Frame::new(self.mac(to), self.mac(from))
    }

    /// A frame from a guest to everybody.
    #[track_caller]
    #[must_use]
    pub fn broadcast(&self, from: &str) -> Frame {
        Frame::new(crate::frame::BROADCAST, self.mac(from)).payload(&[0x5a; 50])
    }

    /// Sends a frame and collects what everybody receives of it.
    #[track_caller]
    pub fn send(&mut self, from: &str, frame: &[u8]) -> Heard {
        self.send_with(from, NetHdr::default(), frame)
    }

    /// The same behind a header of the test's choice.
    #[track_caller]
    pub fn send_with(&mut self, from: &str, header: NetHdr, frame: &[u8]) -> Heard {
        self.send_on(from, 0, header, frame)
    }

    /// The same by a queue pair of the test's choice.
    #[track_caller]
    pub fn send_on(&mut self, from: &str, pair: usize, header: NetHdr, frame: &[u8]) -> Heard {
        let sender = self.guest(from);
        sender.send_on(pair, header, frame);
        assert!(sender.flush(PATIENCE), "the switch does not finish with a frame of {from}");
        self.heard()
    }

    /// Sends many frames of one guest and collects what everybody receives of them.
    #[track_caller]
    pub fn send_all(&mut self, from: &str, frames: &[Vec<u8>]) -> Heard {
        let mut all = Vec::new();
        // No more at once than a receive ring holds: nobody reads meanwhile.
        for part in frames.chunks(100) {
            let sender = self.guest(from);
            sender.send_all(part);
            assert!(sender.flush(PATIENCE), "the switch does not finish with frames of {from}");
            all.extend(self.heard().0);
        }
        Heard(all)
    }

    /// What everybody has received and not yet read.
    pub fn heard(&mut self) -> Heard {
        let mut all = Vec::new();
        for (name, guest) in &mut self.guests {
            while let Some(received) = guest.poll() {
                all.push((name.clone(), received));
            }
        }
        Heard(all)
    }

    /// The frame reaches exactly this guest, unchanged.
    #[track_caller]
    pub fn passes(&mut self, from: &str, to: &str, frame: &[u8]) {
        let heard = self.send(from, frame);
        assert_eq!(heard.by(), [to], "receivers of a frame of {from}");
        crate::traffic::assert_same(&heard.0[0].1.frame, frame);
    }

    /// The frame reaches nobody, and is counted once, at this port and direction, for this reason.
    #[track_caller]
    pub fn dropped(&mut self, from: &str, frame: &[u8], at: (&str, &str), reason: &str) {
        let (port, direction) = at;
        let before = self.switch.port(port);
        let heard = self.send(from, frame);
        assert!(heard.0.is_empty(), "{:?} received what {reason} should stop", heard.by());
        let after = self.switch.port(port);
        let drops = |value: &serde_json::Value| value["counters"][format!("{direction}_drops")].clone();
        let count = |value: &serde_json::Value| drops(value)[reason].as_u64().unwrap_or(0);
        assert_eq!(
            count(&after),
            count(&before) + 1,
            "{reason} at {port} ({direction}): {} before, {} now",
            drops(&before),
            drops(&after)
        );
    }
}
