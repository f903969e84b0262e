//! The thread that serves extensions outside the data path: it gives them time, sends what they want sent, keeps their byte streams
//! ([`streams`]), and tells operators of faults.
//!
//! Invariant: workers never wait for it. What they have for it is in [`Outputs`](crate::worker::Outputs), which is bounded. It sleeps while no
//! extension is enabled, and else looks ten times a second, and when a stream has something.

pub mod streams;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vswitch::PortId;
use vswitch::event::Event;
use vswitch::extension::{Counters, Effects, Heard, Output, PortCounters, Stack};

use crate::guest::tsc;
use crate::spec::DataplaneError;
use crate::tally::Tallies;
use crate::worker::{self, Shared, View};
use streams::{Streams, Wake};

/// How often extensions get time.
const TICK: Duration = Duration::from_millis(100);

/// Lines of one second that extensions may log, all together; the rest is counted and forgotten.
const LINES: u32 = 50;

/// The running thread; ends when it is dropped.
pub struct Runner {
    stop: Arc<AtomicBool>,
    wake: Wake,
    thread: Option<JoinHandle<()>>,
}

impl Runner {
    /// Starts it.
    pub fn start(shared: Arc<Shared>, tallies: Arc<Tallies>) -> Result<Self, DataplaneError> {
        let system = |source| DataplaneError::System { what: "thread that serves extensions", source };
        let stop = Arc::new(AtomicBool::new(false));
        let wake = Wake::new().map_err(system)?;
        shared.outputs.wake_by(wake.clone());
        let (stopped, woken) = (Arc::clone(&stop), wake.clone());
        let now = Instant::now();
        let mut service = Service {
            shared,
            tallies,
            streams: Streams::default(),
            ticked: None,
            v4: None,
            v6: None,
            lines: (now, 0),
            limits_told: now,
        };
        let run = move || {
            while !stopped.load(Ordering::Acquire) {
                let rest = service.round();
                service.streams.sleep(&woken, rest);
            }
        };
        let thread = std::thread::Builder::new().name("extensions".into()).spawn(run).map_err(system)?;
        Ok(Self { stop, wake, thread: Some(thread) })
    }

    /// Other extensions may be enabled now.
    pub fn attend(&self) {
        self.wake.wake();
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.attend();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// How often an instance that adds as many frames as it may is called again about what it heard.
const AGAIN: usize = 128;

struct Service {
    shared: Arc<Shared>,
    tallies: Arc<Tallies>,
    streams: Streams,
    /// When extensions last got time.
    ticked: Option<Instant>,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    /// Since when lines are counted, and how many there were.
    lines: (Instant, u32),
    /// When operators were told last of extensions that want too much.
    limits_told: Instant,
}

impl Service {
    /// Does what there is to do; returns how long there will be nothing unless somebody wakes. `None` = no extension is enabled.
    fn round(&mut self) -> Option<Duration> {
        let view = self.shared.view();
        let Some(stack) = view.snapshot.extensions() else {
            self.shared.outputs.take();
            self.streams.clear();
            return None;
        };
        self.streams.follow(stack);
        self.listen(&view, stack);
        if self.ticked.is_none_or(|last| last.elapsed() >= TICK) {
            self.ticked = Some(Instant::now());
            self.tick(&view, stack);
        }
        let mut said = false;
        for (name, output) in self.shared.outputs.take() {
            said |= matches!(output, Output::Stream { .. } | Output::HangUp { .. });
            if !self.put_out(&name, output)
                && let Some(slot) = stack.slot(&name)
            {
                slot.activity().refused.fetch_add(1, Ordering::Relaxed);
            }
        }
        if said {
            self.listen(&view, stack);
        }
        let since = self.ticked.map_or(TICK, |last| last.elapsed());
        Some(TICK.saturating_sub(since))
    }

    /// Moves what streams have, and tells extensions.
    fn listen(&mut self, view: &View, stack: &Stack) {
        for index in 0..self.streams.len() {
            let Some((instance, peer, news)) = self.streams.serve(index) else { continue };
            let at = stack.slots().iter().position(|slot| Arc::ptr_eq(slot.instance(), &instance));
            let Some((place, slot)) = at.and_then(|at| stack.slots().get(at).map(|slot| (at, slot))) else {
                continue;
            };
            for one in &news {
                let mut what = one.heard();
                // No more than this follows from what can be read at a time; the rest is for the next reading.
                for _ in 0..AGAIN {
                    let now = tsc::nanos(tsc::cycles());
                    let mut effects = Effects::default();
                    effects.begin(place);
                    let told = slot.heard(now, peer, what, &Counted(&self.tallies), &mut effects);
                    if let Err(why) = told {
                        log::debug!("extension '{}': {why}", slot.name());
                    }
                    let full = !effects.has_room();
                    self.settle(view, &mut effects);
                    if !full {
                        break;
                    }
                    what = Heard::Bytes(&[]);
                }
            }
        }
    }

    fn settle(&self, view: &View, effects: &mut Effects) {
        if let Some(handle) = self.shared.handles().first() {
            worker::settle(effects, &view.snapshot, &self.shared, handle);
        }
    }

    /// Gives extensions time.
    fn tick(&mut self, view: &View, stack: &Stack) {
        let now = tsc::nanos(tsc::cycles());
        let mut effects = Effects::default();
        for (place, slot) in stack.slots().iter().enumerate() {
            if slot.fault().is_none() {
                effects.begin(place);
                if let Err(why) = slot.tick(now, &Counted(&self.tallies), &mut effects) {
                    log::debug!("extension '{}': {why}", slot.name());
                }
                self.settle(view, &mut effects);
            }
            if let Some(reason) = slot.news() {
                // Answers that it gave for whole flows end with it.
                self.shared.state.take_back();
                let (extension, fail) = (slot.name().to_owned(), slot.fail_mode());
                self.shared.events.emit(Event::ExtensionFailed {
                    extension,
                    reason: reason.to_owned(),
                    fail,
                });
            }
        }
        if self.limits_told.elapsed() >= Duration::from_secs(1) {
            self.limits_told = Instant::now();
            for slot in stack.slots() {
                if let Some(refused) = slot.excess() {
                    let extension = slot.name().to_owned();
                    self.shared.events.emit(Event::ExtensionLimited { extension, refused });
                }
            }
        }
    }

    /// False = it could not be.
    fn put_out(&mut self, name: &str, output: Output) -> bool {
        match output {
            Output::Datagram { to, bytes } => self.socket(to).is_some_and(|s| s.send_to(&bytes, to).is_ok()),
            Output::Stream { peer, bytes, .. } => self.streams.say(name, usize::from(peer), &bytes, false),
            Output::HangUp { peer } => self.streams.say(name, usize::from(peer), &[], true),
            Output::Log(text) => {
                if self.lines.0.elapsed() >= Duration::from_secs(1) {
                    self.lines = (Instant::now(), 0);
                }
                self.lines.1 += 1;
                if self.lines.1 > LINES {
                    return false;
                }
                self.shared.events.emit(Event::ExtensionLog { extension: name.to_owned(), text });
                true
            }
        }
    }

    fn socket(&mut self, to: SocketAddr) -> Option<&UdpSocket> {
        let (socket, any): (_, SocketAddr) = match to {
            SocketAddr::V4(_) => (&mut self.v4, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (&mut self.v6, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if socket.is_none() {
            let new = UdpSocket::bind(any).and_then(|new| new.set_nonblocking(true).map(|()| new));
            *socket = new.inspect_err(|error| log::warn!("socket of extensions: {error}")).ok();
        }
        socket.as_ref()
    }
}

/// What ports have sent and received.
struct Counted<'a>(&'a Tallies);

impl Counters for Counted<'_> {
    fn of(&self, port: PortId) -> Option<PortCounters> {
        if port.index() == 0 || port.index() >= worker::MAX_PORTS {
            return None;
        }
        let counted = self.0.port(port);
        let sum = |drops: &[(_, u64)]| drops.iter().map(|&(_, count)| count).sum();
        Some(PortCounters {
            out_packets: counted.out_packets,
            out_bytes: counted.out_bytes,
            out_drops: sum(&counted.out_drops),
            in_packets: counted.in_packets,
            in_bytes: counted.in_bytes,
            in_drops: sum(&counted.in_drops),
        })
    }
}
