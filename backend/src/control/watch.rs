//! Who is shown frames, and how they are told: names and words instead of numbers.

use std::net::SocketAddr;

use jiff::{SignedDuration, Timestamp};
use vswitch::frame::arp::{Arp, op};
use vswitch::frame::ethernet::{self, ethertype};
use vswitch::frame::headers::{Fragment, Headers};
use vswitch::pipeline::Verdict;
use vswitch::refusal::{Object, Refusal, Refused};
use vswitch::trace::filter::Filter;
use vswitch::{Direction, PortId};

use super::types::{ArrivalView, CaptureSpec, TraceSpec, TraceView};
use super::{Switch, check, explain, rule};
use crate::watch::{Arrival, Fate, MAX_WATCHERS, Spec, Watching, Way, What};

/// Longest part of a frame that is captured: longer than any frame.
pub(crate) const SNAPLEN: u64 = 1 << 18;

/// Fewest frames that one of may be looked at.
const SAMPLE: u64 = 1_000_000;

impl Switch {
    /// Begins a trace.
    pub fn trace(&self, spec: &TraceSpec) -> Result<Watching, Refused> {
        let TraceSpec { port, drops, filter, sample, count: _ } = spec;
        let request = |why: Refusal| why.of(Object::Request);
        let sample = check::range("sample", sample.unwrap_or(1), 1, SAMPLE, "frames").map_err(request)?;
        let (drops, sample) = (*drops == Some(true), sample as u32);
        let (port, filter) =
            (self.watched(port.as_deref())?, self::filter(filter.as_deref()).map_err(request)?);
        self.watch(Spec { port, drops, filter, sample, what: What::Steps })
    }

    /// Begins a capture; beside it what every port is called, by number.
    pub fn capture(&self, spec: &CaptureSpec) -> Result<(Watching, Vec<(PortId, String)>), Refused> {
        let CaptureSpec { port, direction, snaplen, drops, filter, count: _ } = spec;
        let request = |why: Refusal| why.of(Object::Request);
        let snaplen =
            check::range("snaplen", snaplen.unwrap_or(SNAPLEN), 1, SNAPLEN, "bytes").map_err(request)?;
        let (out, inward) = match direction.as_deref() {
            None | Some("both") => (true, true),
            Some("out") => (true, false),
            Some("in") => (false, true),
            Some(other) => {
                let why = Refusal::BadDirection { value: other.to_owned(), valid: "in, out or both" };
                return Err(request(why));
            }
        };
        let (port, filter) =
            (self.watched(port.as_deref())?, self::filter(filter.as_deref()).map_err(request)?);
        let what = What::Bytes { out, inward, snaplen: snaplen as u32 };
        let watching = self.watch(Spec { port, drops: *drops == Some(true), filter, sample: 1, what })?;
        let mut names: Vec<_> = self
            .ports
            .values()
            .map(|entry| (entry.config.id, entry.config.name.clone()))
            .filter(|(id, _)| port.is_none_or(|port| port == *id))
            .collect();
        names.sort_unstable();
        Ok((watching, names))
    }

    fn watched(&self, port: Option<&str>) -> Result<Option<PortId>, Refused> {
        port.map(|name| {
            let entry = self.entry(name).map_err(|why| why.of(Object::Port(name.to_owned())))?;
            Ok(entry.config.id)
        })
        .transpose()
    }

    fn watch(&self, spec: Spec) -> Result<Watching, Refused> {
        let data = self.data.as_ref().ok_or(Refusal::Stopping.of(Object::Switch))?;
        let many = Refusal::TooManyWatchers { limit: MAX_WATCHERS };
        data.watch(spec).ok_or_else(|| many.of(Object::Switch))
    }
}

fn filter(text: Option<&str>) -> Result<Filter, Refusal> {
    let text = text.unwrap_or_default();
    Filter::parse(text).map_err(|error| {
        let setting = "filter".to_owned();
        if error.word.is_empty() {
            let value = text.chars().take(200).collect();
            return Refusal::BadValue { setting, value, valid: format!("behind it, {}", error.valid) };
        }
        Refusal::BadValue { setting, value: error.word, valid: error.valid }
    })
}

/// A frame's way in words; `name` knows what ports are called.
pub(crate) fn told(way: Way, not_shown: u64, name: impl Fn(PortId) -> String) -> TraceView {
    let lost = way.lost();
    let verdict = match way.verdict {
        _ if lost.is_some() => "drop",
        Verdict::Drop(_) | Verdict::Refuse(..) => "drop",
        Verdict::Unicast(_) => "unicast",
        Verdict::Flood(_) => "flood",
        Verdict::Answer => "answer",
    };
    let outer = ethernet::check(&way.head, way.len).ok();
    let arrival = |arrival: Arrival| {
        let (verdict, reason) = match arrival.fate {
            Fate::Delivered => ("deliver", None),
            Fate::Held => ("hold", None),
            Fate::Lost(reason) => ("drop", Some(reason.name().to_owned())),
        };
        ArrivalView { port: name(arrival.port), verdict: verdict.to_owned(), reason, copy: arrival.copy }
    };
    TraceView {
        time: time(way.time),
        port: name(way.port),
        direction: way.direction.name().to_owned(),
        from: name(way.from),
        src: outer.map(|outer| outer.src.to_string()).unwrap_or_default(),
        dst: outer.map(|outer| outer.dst.to_string()).unwrap_or_default(),
        vlan: outer.and_then(|outer| outer.tag),
        flow: flow(&way.head, way.len),
        len: way.len,
        steps: way.steps.into_iter().map(explain::step).collect(),
        verdict: verdict.to_owned(),
        reason: lost.map(|(reason, _)| reason.name().to_owned()),
        destinations: way.arrivals.into_iter().map(arrival).collect(),
        more_destinations: way.more,
        not_shown: usize::try_from(not_shown).unwrap_or(usize::MAX),
    }
}

fn time(since: std::time::Duration) -> String {
    let since = SignedDuration::try_from(since).ok();
    let time = since.and_then(|since| Timestamp::from_duration(since).ok()).unwrap_or_default();
    format!("{time:.9}")
}

/// What is behind Ethernet, in words.
fn flow(head: &[u8], len: u32) -> String {
    let Ok(headers) = Headers::parse(head, len) else { return "malformed".to_owned() };
    if let Some(ip) = headers.ip {
        let protocol = rule::protocol_text(ip.protocol);
        return match (ip.ports, ip.icmp) {
            (Some((from, to)), _) => {
                format!("{protocol} {} > {}", SocketAddr::new(ip.src, from), SocketAddr::new(ip.dst, to))
            }
            (None, Some((kind, code))) => {
                format!("{protocol} {} > {} type {kind} code {code}", ip.src, ip.dst)
            }
            (None, None) => {
                let part = if ip.fragment == Fragment::Later { " (later fragment)" } else { "" };
                format!("{protocol} {} > {}{part}", ip.src, ip.dst)
            }
        };
    }
    let arp = matches!(headers.ethertype, ethertype::ARP | ethertype::RARP)
        .then(|| Arp::parse(head.get(headers.payload..)?))
        .flatten();
    match arp {
        Some(arp) if arp.op == op::REQUEST => format!("arp who-has {} tell {}", arp.target, arp.sender),
        Some(arp) if arp.op == op::REPLY => format!("arp {} is-at {}", arp.sender, arp.sender_mac),
        Some(arp) => format!("arp operation {} of {}", arp.op, arp.sender_mac),
        None => format!("ethertype 0x{:04x}", headers.ethertype),
    }
}

/// Bits of a packet's flags in a capture: as its port sees it, `in` is inbound.
pub(crate) const fn direction_flags(direction: Direction) -> u32 {
    match direction {
        Direction::In => 0b01,
        Direction::Out => 0b10,
    }
}
