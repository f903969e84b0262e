//! Numbered datagrams in both directions. One thread sends at a fixed rate, one receives; they share the number that was received last,
//! which every datagram carries back, so that the other end sees when something got through.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Until, Words, unix_us};

const MAGIC: u32 = 0x5450_5052;
const SIZE: usize = 48;
/// Datagrams that one run can count: 18 hours at 1 kHz.
const MOST: u64 = 1 << 26;
/// Silences listed at most.
const GAPS: usize = 4096;
/// Datagrams listed after each silence.
const AFTER: usize = 48;
/// Room for what comes in one lump after a silence.
const BUFFER: usize = 8 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Is anybody there? Answered by the like; begins a run without counting address resolution.
    Hello = 0,
    /// A counted datagram.
    Data = 1,
    /// No more come; `number` says how many there were.
    End = 2,
}

#[derive(Clone, Copy)]
struct Datagram {
    kind: Kind,
    number: u64,
    /// When it was sent, microseconds of Unix time of the sender.
    sent: u64,
    /// The `sent` of the last one that its sender had received by then.
    echo: u64,
}

impl Datagram {
    fn bytes(self) -> [u8; SIZE] {
        let mut b = [0; SIZE];
        b[..4].copy_from_slice(&MAGIC.to_be_bytes());
        b[4] = self.kind as u8;
        b[8..16].copy_from_slice(&self.number.to_be_bytes());
        b[16..24].copy_from_slice(&self.sent.to_be_bytes());
        b[24..32].copy_from_slice(&self.echo.to_be_bytes());
        b
    }

    fn read(b: &[u8]) -> Option<Self> {
        let word = |at: usize| b.get(at..at + 8).and_then(|w| w.try_into().ok()).map(u64::from_be_bytes);
        if b.get(..4)? != MAGIC.to_be_bytes() {
            return None;
        }
        let kind = match b.get(4)? {
            0 => Kind::Hello,
            1 => Kind::Data,
            2 => Kind::End,
            _ => return None,
        };
        Some(Self { kind, number: word(8)?, sent: word(16)?, echo: word(24)? })
    }
}

/// A silence and what came after it.
struct Gap {
    at: u64,
    length: u64,
    /// (received, number, its echo), in microseconds.
    after: Vec<(u64, u64, u64)>,
}

/// What was received.
#[derive(Default)]
struct Received {
    seen: Vec<u64>,
    unique: u64,
    duplicated: u64,
    reordered: u64,
    next: u64,
    last: u64,
    longest: u64,
    /// Runs of missing numbers that were closed by a later one: (first, how many); some may still come.
    gaps: Vec<Gap>,
}

impl Received {
    fn take(&mut self, d: Datagram, now: u64, silence: u64) {
        if d.number >= MOST {
            return;
        }
        let (word, bit) = ((d.number / 64) as usize, 1 << (d.number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            self.duplicated += 1;
            return;
        }
        self.seen[word] |= bit;
        self.unique += 1;
        if d.number < self.next {
            self.reordered += 1;
        } else {
            self.next = d.number + 1;
        }
        if self.last != 0 {
            let length = now.saturating_sub(self.last);
            self.longest = self.longest.max(length);
            if length >= silence && self.gaps.len() < GAPS {
                self.gaps.push(Gap { at: self.last, length, after: Vec::with_capacity(AFTER) });
            }
        }
        // What says nothing new about the other direction is left out: that one may stay silent for longer.
        let news = |g: &Gap| g.after.last().is_none_or(|(_, _, echo)| *echo != d.echo);
        if let Some(gap) = self.gaps.last_mut().filter(|g| g.after.len() < AFTER && news(g)) {
            gap.after.push((now, d.number, d.echo));
        }
        self.last = now;
    }

    /// The first ranges of numbers below `sent` that never came.
    fn missing(&self, sent: u64) -> String {
        let mut text = String::new();
        let (mut at, mut listed) = (0, 0);
        let there = |n: u64| self.seen.get((n / 64) as usize).is_some_and(|w| w & (1 << (n % 64)) != 0);
        while at < sent.min(MOST) && listed < 100 {
            if there(at) {
                at += 1;
                continue;
            }
            let first = at;
            while at < sent.min(MOST) && !there(at) {
                at += 1;
            }
            let _ = write!(text, "{}[{first},{}]", if listed > 0 { "," } else { "" }, at - first);
            listed += 1;
        }
        text
    }
}

/// What the two threads share.
struct Shared {
    socket: UdpSocket,
    peer: SocketAddr,
    until: Until,
    /// Whether this end speaks before it has heard the other.
    begins: bool,
    echo: AtomicU64,
    heard: AtomicBool,
    sent: AtomicU64,
    /// Datagrams of any kind that left, and that came.
    all_out: AtomicU64,
    all_in: AtomicU64,
    /// The peer has said that no more come.
    ended: AtomicBool,
    finished: AtomicBool,
}

impl Shared {
    fn say(&self, kind: Kind, number: u64) -> bool {
        let d = Datagram { kind, number, sent: unix_us(), echo: self.echo.load(Ordering::Relaxed) };
        let sent = self.socket.send_to(&d.bytes(), self.peer).is_ok();
        self.all_out.fetch_add(sent as u64, Ordering::Relaxed);
        sent
    }

    fn send(&self, rate: u64) {
        // Nothing is counted before both ends have heard each other: address resolution may lose some.
        while !self.heard.load(Ordering::Acquire) && !self.until.reached() {
            if self.begins {
                self.say(Kind::Hello, 0);
            }
            thread::sleep(Duration::from_millis(20));
        }
        for _ in 0..5 {
            self.say(Kind::Hello, 0);
        }
        let step = Duration::from_nanos(1_000_000_000 / rate.max(1));
        let (mut number, mut at) = (0, Instant::now());
        loop {
            if number % (rate / 8).clamp(1, 64) == 0 && self.until.reached() {
                break;
            }
            // A number is used up only when the kernel has taken the datagram.
            if self.say(Kind::Data, number) {
                number += 1;
            }
            at += step;
            let now = Instant::now();
            if now > at + Duration::from_millis(100) {
                at = now; // it was not allowed to run for long: no burst to catch up
            }
            thread::sleep(at.saturating_duration_since(now));
        }
        self.sent.store(number, Ordering::Release);
        let began = Instant::now();
        let mut more = 20;
        while more > 0 && began.elapsed() < Duration::from_secs(20) {
            self.say(Kind::End, number);
            thread::sleep(Duration::from_millis(25));
            if self.ended.load(Ordering::Acquire) && began.elapsed() > Duration::from_secs(1) {
                more -= 1;
            }
        }
        // The other end may still speak, and must not hear that nobody listens; it may run seldom.
        let (mut heard, mut since) = (self.all_in.load(Ordering::Relaxed), Instant::now());
        while since.elapsed() < Duration::from_secs(2) && began.elapsed() < Duration::from_secs(40) {
            thread::sleep(Duration::from_millis(50));
            let now = self.all_in.load(Ordering::Relaxed);
            if now != heard {
                (heard, since) = (now, Instant::now());
            }
        }
        self.finished.store(true, Ordering::Release);
    }

    fn receive(&self, silence: u64) -> (Received, Option<u64>) {
        let (mut got, mut total, mut buffer) = (Received::default(), None, [0; 2048]);
        while !self.finished.load(Ordering::Acquire) {
            let Ok(n) = self.socket.recv(&mut buffer) else { continue };
            let Some(d) = buffer.get(..n).and_then(Datagram::read) else { continue };
            self.all_in.fetch_add(1, Ordering::Relaxed);
            match d.kind {
                Kind::Hello => {}
                Kind::Data => {
                    self.echo.store(d.sent, Ordering::Relaxed);
                    got.take(d, unix_us(), silence);
                }
                Kind::End => {
                    total = Some(d.number);
                    self.ended.store(true, Ordering::Release);
                }
            }
            self.heard.store(true, Ordering::Release);
        }
        (got, total)
    }
}

/// Runs one end; its report.
pub(crate) fn run(options: &Words) -> Result<String, String> {
    let bind: SocketAddr = options.get("bind")?;
    let socket = UdpSocket::bind(bind).map_err(|e| format!("cannot bind {bind}: {e}"))?;
    // What a guest gets in one lump after a move must not be lost here. Only root may have so much, and only root runs this.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)
        .map_err(|e| format!("receive buffer: {e}"))?;
    socket.set_read_timeout(Some(Duration::from_millis(50))).map_err(|e| e.to_string())?;
    let shared = Arc::new(Shared {
        socket,
        peer: options.get("peer")?,
        until: Until(options.get("until")?),
        begins: options.or("begin", 1)? != 0,
        echo: AtomicU64::new(0),
        heard: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        all_out: AtomicU64::new(0),
        all_in: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        finished: AtomicBool::new(false),
    });
    let (rate, silence) = (options.or("rate", 1000)?, options.or("gap-us", 5000)?);
    let receiver = thread::spawn({
        let shared = Arc::clone(&shared);
        move || shared.receive(silence)
    });
    shared.send(rate);
    let (got, total) = receiver.join().map_err(|_| "the receiver has failed")?;
    let mut gaps = String::new();
    for gap in &got.gaps {
        let after: Vec<_> =
            gap.after.iter().map(|(at, number, echo)| format!("[{at},{number},{echo}]")).collect();
        let comma = if gaps.is_empty() { "" } else { "," };
        let _ = write!(
            gaps,
            r#"{comma}{{"at_us":{},"us":{},"after":[{}]}}"#,
            gap.at,
            gap.length,
            after.join(",")
        );
    }
    let lost = total.map_or("null".to_owned(), |t| (t.saturating_sub(got.unique)).to_string());
    Ok(format!(
        r#"{{"all_out":{},"all_in":{},"sent":{},"peer_sent":{},"received":{},"lost":{lost},"duplicated":{},"reordered":{},"longest_gap_us":{},"missing":[{}],"gaps":[{gaps}]}}"#,
        shared.all_out.load(Ordering::Acquire),
        shared.all_in.load(Ordering::Acquire),
        shared.sent.load(Ordering::Acquire),
        total.map_or("null".to_owned(), |t| t.to_string()),
        got.unique,
        got.duplicated,
        got.reordered,
        got.longest,
        got.missing(total.unwrap_or(0)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(number: u64) -> Datagram {
        Datagram { kind: Kind::Data, number, sent: 7, echo: 9 }
    }

    #[test]
    fn a_datagram_is_read_as_it_was_written() {
        let d = Datagram::read(&data(0x0123_4567_89ab_cdef).bytes()).unwrap();
        assert_eq!((d.number, d.sent, d.echo), (0x0123_4567_89ab_cdef, 7, 9));
        assert!(Datagram::read(&[0; SIZE]).is_none());
        assert!(Datagram::read(&data(1).bytes()[..20]).is_none());
    }

    #[test]
    fn what_is_lost_doubled_and_overtaken_is_told_apart() {
        let mut got = Received::default();
        for (at, number) in [0, 1, 4, 3, 4, 9, 200].into_iter().enumerate() {
            got.take(data(number), 1 + at as u64 * if number == 200 { 9000 } else { 10 }, 5000);
        }
        assert_eq!((got.unique, got.duplicated, got.reordered), (6, 1, 1));
        assert_eq!(got.missing(203), "[2,1],[5,4],[10,190],[201,2]");
        assert_eq!(got.gaps.len(), 1);
        assert_eq!(got.gaps[0].after, [(54_001, 200, 9)]);
    }
}
