//! A stateful firewall with a small intrusion detection.
//!
//! ```toml
//! connections = 65536                     # of all ports together
//! share = 4096                            # of one port
//! default = { out = "allow", in = "deny" } # what no rule decides; directions are the guest's
//! timeouts = { opening = 30, tcp = 7200, closing = 10, udp = 60, other = 30 } # seconds without a packet
//!
//! [[sets.web]]                            # rules in order; an absent condition is any
//! action = "allow"                        # allow, deny
//! direction = "in"
//! protocol = "tcp"                        # tcp, udp, icmp, icmpv6, any, a number
//! remote = ["10.0.0.0/8"]                 # prefixes; "local" is the guest's address
//! local-ports = [80, "8000-8010"]         # and "remote-ports"
//!
//! [intrusion]                             # each is off unless it is here
//! port-scan = { ports = 20, hosts = 50, window = 10, block = 60 }
//! syn-flood = { half-open = 64, block = 60 }
//! payloads = [{ name = "worm", hex = "cafebabe", protocol = "tcp", block = 60 }]
//! ```
//!
//! Settings of a port (or of the switch, for ports without any): `{"sets": ["web"]}`. The first rule of these sets that matches decides. Ports
//! without settings are not looked at.
//!
//! # What passes
//! - A packet of a connection that was allowed, in both directions, until the connection ends (RST, or FIN of both sides and a moment)
//!   or is silent. TCP connections may also be met in their middle, if the rules allow that packet; a segment that answers an
//!   opening (SYN with ACK) never opens one. ICMP answers go by their request, ICMP errors by the packet they quote.
//! - What is no IP, and IPv6 neighbour discovery: other policies are for that. DHCP answers are not found by the question (it
//!   goes to everybody): let them in with a rule.
//! - Fragments that show no ports: between hosts that have a connection, or by a rule that does not depend on ports.
//!
//! VLANs of a trunk port are not told apart: a connection belongs to the port.
//!
//! When rules or settings change, connections that would not be allowed any more end.
//!
//! # How long answers stand
//! For packets of a connection a second, so that the end of a connection is felt by all workers within one; for what ends here, for ICMP, and
//! for packets whose payload is still to be inspected (the first few with payload, in each direction), one frame.
//!
//! # Threading
//! One lock for each port. It is taken once a second for each flow, and for frames of which each is asked about.

mod config;
mod connections;
mod packet;
mod port;
mod rules;
mod saved;
mod watch;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};

use super::{ConfigError, lock, secret};
use crate::extension::{
    Answer, Change, Counters, Effects, Extension, Judgement, Kind, Output, Reason, Scope, Sight, Veto,
};
use crate::hash;
use crate::port::MAX_PORTS;
use crate::{Direction, Nanos, PortId};
use config::Config;
use connections::Room;
use packet::Seen;
use port::{By, End, Port};
use rules::Rules;
use watch::Why;

/// Its name.
pub const NAME: &str = "firewall";

const REASONS: [&str; 6] = ["denied", "malformed", "no-room", "port-scan", "syn-flood", "known-payload"];

const fn reason(end: End) -> Reason {
    Reason(match end {
        End::Denied => 0,
        End::Malformed => 1,
        End::NoRoom => 2,
        End::Blocked(Why::Scan) => 3,
        End::Blocked(Why::Flood) => 4,
        End::Blocked(Why::Payload) => 5,
    })
}

/// One instance.
#[derive(Debug)]
pub struct Firewall {
    config: Config,
    room: Room,
    /// By port number.
    ports: Vec<Mutex<Port>>,
    /// The switch's settings.
    common: Mutex<Option<Arc<Rules>>>,
    /// Answers given so far may be wrong.
    stale: AtomicBool,
    /// The last tick, for what is shown to operators.
    now: AtomicU64,
}

impl Firewall {
    /// An instance with this configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(config: &Value) -> Result<Self, ConfigError> {
        let config = Config::new(config)?;
        let total = AtomicU32::new(0);
        let room = Room { timeouts: config.timeouts, share: config.share, most: config.connections, total };
        let seed = secret();
        let port = |number| Mutex::new(Port::new(hash::expand(seed, number as u64)));
        Ok(Self {
            config,
            room,
            ports: (0..=MAX_PORTS).map(port).collect(),
            common: Mutex::default(),
            stale: AtomicBool::new(false),
            now: AtomicU64::new(0),
        })
    }

    fn port(&self, id: PortId) -> Option<MutexGuard<'_, Port>> {
        self.ports.get(id.index()).map(lock)
    }

    /// Has all be asked again, if that is necessary.
    fn refresh(&self, effects: &mut Effects) {
        if self.stale.load(Ordering::Relaxed) && self.stale.swap(false, Ordering::AcqRel) {
            effects.refresh();
        }
    }

    /// Puts the rules of a port in force: its own settings' or the switch's.
    fn rule(&self, port: &mut Port, common: Option<&Arc<Rules>>) {
        let rules = port.own.as_ref().or(common).map(Arc::clone);
        port.rule(rules, &self.room);
        self.stale.store(true, Ordering::Release);
    }
}

impl Extension for Firewall {
    fn kind(&self) -> Kind {
        Kind::Filter
    }

    fn reasons(&self) -> &[&str] {
        &REASONS
    }

    fn judges(&self, _: Direction) -> bool {
        true
    }

    fn judge(&self, sight: &Sight<'_>, effects: &mut Effects) -> Answer {
        if !sight.dry {
            self.refresh(effects);
        }
        let Some(mut port) = self.port(sight.port) else { return Answer::PASS };
        let Some(rules) = port.rules.clone() else { return Answer::PASS };
        let outcome = match packet::see(sight) {
            Seen::Other => return Answer::PASS,
            Seen::Unreadable => Err(End::Malformed),
            Seen::Ip(packet) => {
                let (now, dry, config, room) = (sight.now, sight.dry, &self.config, &self.room);
                let by = By { now, dry, rules: &rules, config, room };
                let mut say = |text| {
                    effects.output(Output::Log(format!("port {}: {text}", sight.port)));
                };
                port.judge(&by, &packet, &mut say)
            }
        };
        match outcome {
            Ok(scope) => Answer { judgement: Judgement::Pass, scope },
            // What ends now may belong to a connection in a moment.
            Err(end) => Answer { judgement: Judgement::Drop(reason(end)), scope: Scope::Frame },
        }
    }

    fn tick(&self, now: Nanos, _: &dyn Counters, effects: &mut Effects) -> Result<(), String> {
        self.now.store(now, Ordering::Relaxed);
        self.refresh(effects);
        for port in &self.ports {
            let mut port = lock(port);
            if port.table.len() != 0 {
                port.sweep(now, &self.room);
            }
        }
        Ok(())
    }

    fn change(&self, _: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        match *change {
            Change::PortCreate { port, .. } => {
                let common = lock(&self.common);
                if let Some(mut port) = self.port(port) {
                    self.rule(&mut port, common.as_ref());
                }
            }
            Change::NicDelete { port } => {
                if let Some(mut port) = self.port(port) {
                    port.forget(&self.room);
                }
            }
            Change::PortDelete { port } => {
                if let Some(mut port) = self.port(port) {
                    port.own = None;
                    port.forget(&self.room);
                    self.rule(&mut port, None);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn set(&self, port: Option<PortId>, settings: Option<&Value>) -> Result<(), Veto> {
        let rules = settings.map(|settings| self.config.apply(settings)).transpose()?;
        let mut common = lock(&self.common);
        if let Some(id) = port {
            let mut port = self.port(id).ok_or_else(|| Veto::new(format!("there is no port {id}")))?;
            port.own = rules;
            self.rule(&mut port, common.as_ref());
            return Ok(());
        }
        *common = rules;
        for port in &self.ports {
            self.rule(&mut lock(port), common.as_ref());
        }
        Ok(())
    }

    fn status(&self, port: Option<PortId>) -> Value {
        let Some(id) = port else {
            return json!({
                "connections": self.room.total.load(Ordering::Relaxed),
                "most-connections": self.room.most,
                "sets": self.config.sets().collect::<Vec<_>>(),
            });
        };
        let Some(port) = self.port(id) else { return Value::Null };
        let Some(rules) = &port.rules else { return Value::Null };
        let now = self.now.load(Ordering::Relaxed);
        let blocked = port.sources.all_blocked(now).map(|(source, why, until)| {
            let seconds = (until - now).div_ceil(1_000_000_000);
            json!({ "source": source.to_string(), "reason": why.name(), "seconds": seconds })
        });
        json!({
            "sets": rules.sets(),
            "connections": port.table.len(),
            "half-open": port.table.iter().filter(|one| one.half_open()).count(),
            "blocked": blocked.collect::<Vec<_>>(),
        })
    }

    fn save(&self, now: Nanos, port: PortId) -> Option<Vec<u8>> {
        let port = self.port(port)?;
        let lasting = port.table.iter().filter(|one| !one.is_over(now, &self.room.timeouts));
        let mut blocks = port.sources.all_blocked(now).peekable();
        if port.table.len() == 0 && blocks.peek().is_none() {
            return None;
        }
        Some(saved::write(now, lasting, blocks))
    }

    fn restore(&self, now: Nanos, port: PortId, saved: &[u8]) -> Result<(), Veto> {
        let (connections, blocks) = saved::read(now, saved).map_err(Veto::new)?;
        let mut port = self.port(port).ok_or_else(|| Veto::new(format!("there is no port {port}")))?;
        port.forget(&self.room);
        for connection in connections {
            // Where the share is smaller here, those that come first stay: a firewall forgets what it has no room for.
            port.admit(now, connection, &self.room);
        }
        for (source, why, until) in blocks {
            port.sources.block(source, why, now, until);
        }
        let rules = port.rules.clone();
        if rules.is_some() {
            port.rule(rules, &self.room);
        }
        self.stale.store(true, Ordering::Release);
        Ok(())
    }
}
