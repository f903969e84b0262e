//! What happened lately: a bounded, numbered list of events that can be read back and followed.
//!
//! Every event gets the next sequence number and the wall-clock time; ports are shown by name, resolved when the event
//! happens, because the port may be gone when somebody reads. The list holds the last [`CAPACITY`] events; a reader that
//! was away longer sees the gap in the numbers.
//!
//! Threading: [`EventLog::emit`] may be called from any thread, also from a worker: it takes one mutex for as long as it
//! takes to append, and does no I/O (the log is written by a thread of its own, [`EventLog::log_until_closed`]).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::watch;
use vswitch::PortId;
use vswitch::event::Event;

use crate::spec::EventSink;

/// Events kept for readers.
pub const CAPACITY: usize = 4096;

/// Log lines per second at most; what exceeds it is only counted, so that a hostile guest cannot fill a disk.
const LOGGED_PER_SECOND: u64 = 100;

/// One event as readers see it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// When it happened (UTC, RFC 3339).
    pub time: String,
    /// `kind` and the fields of that kind; ports by name.
    #[serde(flatten)]
    pub body: Map<String, Value>,
}

impl Record {
    /// The event as one line for people, without number and time: the kind, the port, then the other fields.
    pub fn text(&self) -> String {
        let kind = self.body.get("kind").and_then(Value::as_str).unwrap_or("event");
        let port = self.body.get_key_value("port");
        let others = self.body.iter().filter(|(key, _)| !matches!(key.as_str(), "kind" | "port"));
        let mut text = kind.to_owned();
        for (key, value) in port.into_iter().chain(others) {
            text.push(' ');
            text.push_str(key);
            text.push('=');
            text.push_str(&shown(value));
        }
        text
    }
}

/// A value in a line of `key=value`, quoted where it would otherwise run into the next one.
fn shown(value: &Value) -> String {
    match value {
        Value::String(s) if s.contains([' ', '"']) || s.contains(char::is_control) => format!("{s:?}"),
        Value::String(s) => s.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

struct Inner {
    /// Number of the newest event; 0 = none yet.
    last: u64,
    ring: VecDeque<Arc<Record>>,
    names: HashMap<PortId, String>,
    closed: bool,
}

/// The list of events.
pub struct EventLog {
    inner: Mutex<Inner>,
    /// Wakes the thread that logs.
    grew: Condvar,
    /// Wakes followers; carries the newest number.
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        let inner = Inner { last: 0, ring: VecDeque::new(), names: HashMap::new(), closed: false };
        Self { inner: Mutex::new(inner), grew: Condvar::new(), newest: watch::channel(0).0 }
    }
}

impl EventLog {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Appending cannot leave the list half changed, so a panic elsewhere does not spoil it.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on events of port `id` show `name`.
    pub fn name_port(&self, id: PortId, name: &str) {
        self.lock().names.insert(id, name.to_owned());
    }

    /// The number `id` may be given to another port from now on.
    pub fn forget_port(&self, id: PortId) {
        self.lock().names.remove(&id);
    }

    /// The name of port `id`, as long as it has one.
    pub fn port_name(&self, id: PortId) -> Option<String> {
        self.lock().names.get(&id).cloned()
    }

    /// The events after number `seq` that are still kept, oldest first.
    pub fn since(&self, seq: u64) -> Vec<Arc<Record>> {
        let inner = self.lock();
        let missing = inner.last.saturating_sub(seq).min(inner.ring.len() as u64) as usize;
        inner.ring.iter().skip(inner.ring.len() - missing).cloned().collect()
    }

    /// A receiver that changes whenever there are new events.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Ends [`Self::log_until_closed`] once it has written what there is.
    pub fn close(&self) {
        self.lock().closed = true;
        self.grew.notify_all();
    }

    /// Writes every event to the log until [`Self::close`]; to be run on a thread of its own.
    pub fn log_until_closed(&self) {
        let (mut seen, mut written, mut skipped) = (0, 0, 0_u64);
        let mut second = std::time::Instant::now();
        loop {
            let inner = self.lock();
            let (inner, _) = self
                .grew
                .wait_timeout_while(inner, Duration::from_hours(1), |i| i.last == seen && !i.closed)
                .unwrap_or_else(PoisonError::into_inner);
            let closed = inner.closed;
            drop(inner);
            if second.elapsed() >= Duration::from_secs(1) {
                if skipped > 0 {
                    log::warn!("{skipped} events were not logged (more than {LOGGED_PER_SECOND} per second)");
                }
                (second, written, skipped) = (std::time::Instant::now(), 0, 0);
            }
            for record in self.since(seen) {
                skipped += record.seq - seen - 1;
                seen = record.seq;
                if written < LOGGED_PER_SECOND {
                    written += 1;
                    log_one(&record);
                } else {
                    skipped += 1;
                }
            }
            if closed {
                return;
            }
        }
    }
}

fn log_one(record: &Record) {
    const WARNINGS: [&str; 7] =
        ["port-failed", "queue-stopped", "mac-moved", "mac-pinned", "mac-spoofed", "fdb-full", "refused"];
    let level = match record.body.get("kind").and_then(Value::as_str) {
        Some(kind) if WARNINGS.contains(&kind) => log::Level::Warn,
        _ => log::Level::Info,
    };
    log::log!(target: "turnpike::event", level, "{}", record.text());
}

impl EventSink for EventLog {
    fn emit(&self, event: Event) {
        // An event is a tagged struct of plain fields, so this is always an object.
        let Ok(Value::Object(mut body)) = serde_json::to_value(&event) else { return };
        let now = jiff::Timestamp::now();
        let now = now.round(jiff::Unit::Millisecond).unwrap_or(now);
        let mut inner = self.lock();
        for key in ["port", "from", "to", "owner", "at"] {
            let Some(id) = body.get(key).and_then(Value::as_u64) else { continue };
            let id = PortId(id as u16);
            let name = match body.get("name") {
                // Added and removed: the name is the event's own, and the number stays as `id`.
                Some(Value::String(name)) => name.clone(),
                _ => inner.names.get(&id).cloned().unwrap_or_else(|| format!("#{id}")),
            };
            if body.remove("name").is_some() {
                body.insert("id".into(), id.0.into());
            }
            body.insert(key.into(), name.into());
        }
        inner.last += 1;
        let record = Record { seq: inner.last, time: format!("{now:.3}"), body };
        if inner.ring.len() == CAPACITY {
            inner.ring.pop_front();
        }
        inner.ring.push_back(Arc::new(record));
        self.newest.send_replace(inner.last);
        drop(inner);
        self.grew.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(log: &EventLog, id: u16) {
        log.emit(Event::PortRunning { port: PortId(id) });
    }

    #[test]
    fn ports_are_shown_by_the_name_they_had() {
        let log = EventLog::default();
        log.name_port(PortId(3), "web");
        log.emit(Event::PortAdded { port: PortId(3), name: "web".into() });
        log.emit(Event::MacMoved { mac: vswitch::Mac([2, 0, 0, 0, 0, 1]), from: PortId(3), to: PortId(9) });
        log.forget_port(PortId(3));
        let texts: Vec<_> = log.since(0).iter().map(|r| r.text()).collect();
        assert_eq!(texts, ["port-added port=web id=3", "mac-moved from=web mac=02:00:00:00:00:01 to=#9"]);
    }

    #[test]
    fn the_list_is_bounded_and_numbers_have_no_gap() {
        let log = EventLog::default();
        for _ in 0..CAPACITY + 10 {
            running(&log, 1);
        }
        let all = log.since(0);
        assert_eq!((all.len(), all[0].seq, all[CAPACITY - 1].seq), (CAPACITY, 11, CAPACITY as u64 + 10));
        assert_eq!(log.since(CAPACITY as u64 + 9).len(), 1);
        assert!(log.since(u64::MAX).is_empty());
    }

    #[test]
    fn time_is_utc_with_milliseconds() {
        let log = EventLog::default();
        running(&log, 1);
        let time = &log.since(0)[0].time;
        assert!(time.len() == 24 && time.ends_with('Z') && &time[19..20] == ".", "{time}");
    }
}
