//! sFlow version 5: samples of what ports send, and the counters of ports, in datagrams to a collector.
//!
//! ```toml
//! collector = "192.0.2.9:6343"  # where to; the port may be left out
//! agent = "192.0.2.1"           # under which address the collector knows this switch
//! sampling = 1000               # one frame in so many, at random; 0 = none
//! polling = 20                  # counters of each port every so many seconds; 0 = never
//! sub-agent = 0                 # tells several switches of one agent apart
//! ```
//!
//! The random skip is the switch's, over all ports together, so the switch as a whole is the source of flow samples (`entPhysicalEntry` 1),
//! and each port (`ifIndex` = its number) that of its counters. A sample's pool is what it was drawn from; of samples that could not be
//! sent the next ones tell. Lengths are those of the frames as guests sent them: a TSO frame counts as the one it was.
//!
//! Samples wait for company until a datagram is full, and not longer than a second.
//!
//! # Threading
//! One lock; it is taken for a sample, that is for one frame in `sampling`, and for a tick.

pub mod datagram;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ConfigError, lock, read, within};
use crate::extension::change::Edit;
use crate::extension::{Change, Counters, Effects, Extension, Kind, Output, Sample, Veto};
use crate::pipeline::Verdict;
use crate::port::PortKind;
use crate::port::vlan::Vlan;
use crate::{Nanos, PortId};
use datagram::{Drawn, LONGEST, Tagged};

/// Its name.
pub const NAME: &str = "sflow";

/// The collector's port if none is named (IANA).
pub const PORT: u16 = 6343;

const SECOND: Nanos = 1_000_000_000;

/// A sample waits at most this long for a tick that finds it; ticks are a tenth of a second apart, so it is on its way within a second.
const WAITS: Nanos = 850_000_000;

/// Ports whose counters are taken in one tick: more would not fit in what one tick may send.
const PER_TICK: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Config {
    collector: String,
    agent: IpAddr,
    #[serde(default = "sampling")]
    sampling: u32,
    #[serde(default = "polling")]
    polling: u32,
    #[serde(default)]
    sub_agent: u32,
}

const fn sampling() -> u32 {
    1000
}

const fn polling() -> u32 {
    20
}

/// One instance: one collector.
#[derive(Debug)]
pub struct Sflow {
    collector: SocketAddr,
    agent: IpAddr,
    sub_agent: u32,
    sampling: u32,
    polling: Nanos,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// When it was first called: uptime counts from here.
    began: Option<Nanos>,
    /// Datagrams so far.
    sequence: u32,
    /// Flow samples so far.
    drawn: u32,
    /// Samples that there was no room for.
    lost: u32,
    waiting: Vec<Vec<u8>>,
    /// Bytes of those.
    bytes: usize,
    /// Since when the first of them waits.
    since: Nanos,
    ports: BTreeMap<PortId, Known>,
}

/// What is known of a port.
#[derive(Debug)]
struct Known {
    kind: PortKind,
    vlan: Vlan,
    /// Its priorities are kept.
    priority: bool,
    /// When its counters are due; not yet known until the first tick.
    due: Option<Nanos>,
    /// Counter samples so far.
    sequence: u32,
}

impl Sflow {
    /// An instance with this configuration.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(config: &Value) -> Result<Self, ConfigError> {
        let config: Config = read(NAME, config)?;
        let text = &config.collector;
        let collector = match (text.parse(), text.trim_matches(['[', ']']).parse::<IpAddr>()) {
            (Ok(address), _) => address,
            (_, Ok(address)) => SocketAddr::new(address, PORT),
            _ => {
                let valid =
                    "write an IP address, with a port unless it is 6343: 192.0.2.9, [2001:db8::9]:6344";
                return Err(ConfigError::new(NAME, format!("'collector' is '{text}', no address; {valid}")));
            }
        };
        if collector.ip().is_unspecified() || collector.port() == 0 {
            let problem =
                format!("'collector' is '{text}', where nothing can be sent; name a host and a port");
            return Err(ConfigError::new(NAME, problem));
        }
        let most = 1 << 24; // beyond that a sample stands for more than a busy day
        Ok(Self {
            collector,
            agent: config.agent,
            sub_agent: config.sub_agent,
            sampling: within(NAME, "sampling", config.sampling, 0, most)?,
            polling: Nanos::from(within(NAME, "polling", config.polling, 0, 86_400)?) * SECOND,
            inner: Mutex::default(),
        })
    }

    /// Sends what waits.
    fn flush(&self, inner: &mut Inner, now: Nanos, effects: &mut Effects) {
        if inner.waiting.is_empty() {
            return;
        }
        let uptime = now.saturating_sub(inner.began.unwrap_or(now)) / 1_000_000;
        inner.sequence = inner.sequence.wrapping_add(1);
        let bytes =
            datagram::datagram(self.agent, self.sub_agent, inner.sequence, uptime as u32, &inner.waiting);
        if !effects.output(Output::Datagram { to: self.collector, bytes }) {
            inner.lost = inner.lost.wrapping_add(inner.waiting.len() as u32);
        }
        inner.waiting.clear();
        inner.bytes = 0;
    }

    /// Puts a sample with those that wait, which are sent first if it does not fit with them.
    fn add(&self, inner: &mut Inner, now: Nanos, sample: Vec<u8>, effects: &mut Effects) {
        if inner.bytes + sample.len() + datagram::overhead(self.agent) > LONGEST {
            self.flush(inner, now, effects);
        }
        if inner.waiting.is_empty() {
            inner.since = now;
        }
        inner.bytes += sample.len();
        inner.waiting.push(sample);
    }
}

impl Inner {
    /// VLAN and priority as a frame came, and as it goes.
    fn tags(&self, sample: &Sample<'_>) -> (Tagged, Tagged) {
        let tag = datagram::tag_of(sample.head);
        let own = tag.unwrap_or_default();
        let Some(port) = self.ports.get(&sample.from) else { return (own, own) };
        let segment = match port.kind {
            PortKind::Uplink => own.vlan,
            _ => port.vlan.admit(tag.map(|tag| tag.vlan)).map_or(own.vlan, |segment| segment.0 as u16),
        };
        let came = Tagged { vlan: segment, priority: own.priority };
        let kept = port.priority || port.kind == PortKind::Uplink;
        let gone = matches!(sample.verdict, Verdict::Drop(_) | Verdict::Refuse(..) | Verdict::Answer);
        let goes = match (gone, kept) {
            (true, _) => Tagged::default(),
            (false, true) => came,
            (false, false) => Tagged { priority: 0, ..came },
        };
        (came, goes)
    }
}

impl Extension for Sflow {
    fn kind(&self) -> Kind {
        Kind::Capture
    }

    fn sampling(&self) -> u32 {
        self.sampling
    }

    fn sample(&self, sample: &Sample<'_>, effects: &mut Effects) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        inner.began.get_or_insert(sample.now);
        inner.drawn = inner.drawn.wrapping_add(1);
        let (came, goes) = inner.tags(sample);
        let drawn = Drawn { sequence: inner.drawn, rate: self.sampling, lost: inner.lost, came, goes };
        let bytes = datagram::flow(sample, &drawn);
        self.add(&mut inner, sample.now, bytes, effects);
        Ok(())
    }

    fn tick(&self, now: Nanos, counters: &dyn Counters, effects: &mut Effects) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        inner.began.get_or_insert(now);
        let mut due = Vec::new();
        if self.polling != 0 {
            for (&port, known) in &mut inner.ports {
                // The first time is spread over the interval, so that a large switch does not send all at once.
                let spread = Nanos::from(port.0).wrapping_mul(0x9e37_79b9) % self.polling;
                let at = *known.due.get_or_insert(now + spread);
                if at > now || due.len() == PER_TICK {
                    continue;
                }
                known.due =
                    Some(if at + self.polling > now { at + self.polling } else { now + self.polling });
                if let Some(of) = counters.of(port) {
                    known.sequence = known.sequence.wrapping_add(1);
                    due.push(datagram::counters(port, known.sequence, &of));
                }
            }
        }
        for sample in due {
            self.add(&mut inner, now, sample, effects);
        }
        if now.saturating_sub(inner.since) >= WAITS {
            self.flush(&mut inner, now, effects);
        }
        Ok(())
    }

    fn change(&self, _: Nanos, change: &Change<'_>) -> Result<(), Veto> {
        let mut inner = lock(&self.inner);
        match *change {
            Change::PortCreate { port, kind, .. } => {
                let known = Known { kind, vlan: Vlan::None, priority: false, due: None, sequence: 0 };
                inner.ports.insert(port, known);
            }
            Change::PortDelete { port } => {
                inner.ports.remove(&port);
            }
            Change::Policy { port, edit, name, value } => {
                if let Some(known) = inner.ports.get_mut(&port) {
                    let value = Some(value).filter(|_| edit != Edit::Delete);
                    match name {
                        "vlan" => {
                            let vlan = value.and_then(Value::as_str).and_then(|text| text.parse().ok());
                            known.vlan = vlan.unwrap_or_default();
                        }
                        "priority-tag" => {
                            known.priority = value.is_some_and(|value| *value == true || *value == "on");
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn status(&self, port: Option<PortId>) -> Value {
        let inner = lock(&self.inner);
        match port {
            None => json!({
                "collector": self.collector.to_string(),
                "datagrams": inner.sequence,
                "flow-samples": inner.drawn,
                "lost-samples": inner.lost,
            }),
            Some(port) => match inner.ports.get(&port) {
                Some(known) => json!({ "counter-samples": known.sequence }),
                None => Value::Null,
            },
        }
    }
}
