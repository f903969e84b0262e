//! Streams of known bytes in both directions of every connection: a byte's value follows from its connection, direction and offset, so each
//! end checks what it reads without having been told anything else. Two threads per connection.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::{Until, Words};

/// How often a writer writes.
const STEP: Duration = Duration::from_millis(100);
/// A connection on which nothing moves for so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
const STACK: usize = 96 * 1024;

/// The byte at `offset` of direction `way` (0 = from the dialling side) of connection `id`: no short period, cheap to compute.
fn known(id: u64, way: u64, offset: u64) -> u8 {
    let x = (offset >> 3).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(id << 1 | way);
    let mixed = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    (mixed ^ (mixed >> 32)).to_le_bytes()[(offset & 7) as usize]
}

fn fill(buffer: &mut [u8], id: u64, way: u64, offset: u64) {
    for (at, byte) in (offset..).zip(buffer) {
        *byte = known(id, way, at);
    }
}

/// Sums over all connections of this end.
#[derive(Default)]
struct Sums {
    connections: AtomicU64,
    finished: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
    wrong: AtomicU64,
    failed: AtomicU64,
    longest_us: AtomicU64,
    /// The first thing that went wrong.
    why: std::sync::Mutex<String>,
}

impl Sums {
    fn fail(&self, what: &str, e: &std::io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if let Ok(mut why) = self.why.lock()
            && why.is_empty()
        {
            *why = format!("{what}: {e}").replace(['"', '\\'], "'");
        }
    }

    fn report(&self) -> String {
        let get = |n: &AtomicU64| n.load(Ordering::Acquire);
        format!(
            r#"{{"connections":{},"finished":{},"sent":{},"received":{},"wrong":{},"failed":{},"longest_gap_us":{},"why":"{}"}}"#,
            get(&self.connections),
            get(&self.finished),
            get(&self.sent),
            get(&self.received),
            get(&self.wrong),
            get(&self.failed),
            get(&self.longest_us),
            self.why.lock().map(|w| w.clone()).unwrap_or_default(),
        )
    }
}

/// Writes known bytes at `rate` bytes a second until it is told to stop, then ends its direction.
fn write(mut stream: &TcpStream, id: u64, way: u64, rate: u64, stop: &AtomicBool, sums: &Sums) {
    let mut buffer = vec![0; (rate * STEP.as_millis() as u64 / 1000).max(1) as usize];
    let mut offset = 0;
    let mut at = Instant::now();
    while !stop.load(Ordering::Acquire) {
        fill(&mut buffer, id, way, offset);
        if let Err(e) = stream.write_all(&buffer) {
            return sums.fail("write", &e);
        }
        offset += buffer.len() as u64;
        sums.sent.fetch_add(buffer.len() as u64, Ordering::AcqRel);
        let now = Instant::now();
        at = if now > at + 2 * STEP { now } else { at + STEP }; // no burst to catch up
        thread::sleep(at.saturating_duration_since(now));
    }
    if let Err(e) = stream.shutdown(Shutdown::Write) {
        sums.fail("shutdown", &e);
    }
}

/// Reads and checks until the other end has ended its direction.
fn read(mut stream: &TcpStream, id: u64, way: u64, sums: &Sums) {
    let mut buffer = vec![0; 32 * 1024];
    let (mut offset, mut last) = (0, Instant::now());
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => {
                sums.finished.fetch_add(1, Ordering::AcqRel);
                return;
            }
            Ok(n) => {
                let wrong =
                    (offset..).zip(&buffer[..n]).filter(|(at, byte)| known(id, way, *at) != **byte).count();
                sums.wrong.fetch_add(wrong as u64, Ordering::AcqRel);
                sums.received.fetch_add(n as u64, Ordering::AcqRel);
                sums.longest_us.fetch_max(last.elapsed().as_micros() as u64, Ordering::AcqRel);
                (offset, last) = (offset + n as u64, Instant::now());
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return sums.fail("read", &e),
        }
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, String> {
    thread::Builder::new().stack_size(STACK).spawn(work).map_err(|e| format!("no thread: {e}"))
}

fn prepare(stream: &TcpStream) {
    // Without these a dead connection would hang for ever; failing to set them only makes that possible again.
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let _ = stream.set_nodelay(true);
}

/// Both directions of a connection until both have ended. `told` ends our direction.
fn converse(
    stream: TcpStream,
    id: u64,
    ways: (u64, u64),
    rate: u64,
    told: &Arc<AtomicBool>,
    sums: &Arc<Sums>,
) -> Result<(), String> {
    sums.connections.fetch_add(1, Ordering::AcqRel);
    let stream = Arc::new(stream);
    let writer = spawn({
        let (stream, sums, told) = (Arc::clone(&stream), Arc::clone(sums), Arc::clone(told));
        move || write(&stream, id, ways.0, rate, &told, &sums)
    })?;
    read(&stream, id, ways.1, sums);
    told.store(true, Ordering::Release); // who answers ends when the other one has
    writer.join().map_err(|_| "a writer has failed".to_owned())
}

/// The side that opens connections and decides when they end.
pub(crate) fn dial(options: &Words) -> Result<String, String> {
    let (to, rate): (SocketAddr, u64) = (options.get("to")?, options.or("rate", 20_000)?);
    let (until, sums) = (Until(options.get("until")?), Arc::new(Sums::default()));
    let told = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for id in 0..options.or("connections", 1u64)? {
        let mut stream = TcpStream::connect(to).map_err(|e| format!("cannot connect to {to}: {e}"))?;
        prepare(&stream);
        let hello = [id.to_be_bytes(), rate.to_be_bytes()].concat();
        stream.write_all(&hello).map_err(|e| format!("cannot begin: {e}"))?;
        let (told, sums) = (Arc::clone(&told), Arc::clone(&sums));
        threads.push(spawn(move || {
            if let Err(why) = converse(stream, id, (0, 1), rate, &told, &sums) {
                sums.fail(&why, &std::io::Error::other("thread"));
            }
        })?);
    }
    while !until.reached() {
        thread::sleep(Duration::from_millis(50));
    }
    told.store(true, Ordering::Release);
    for t in threads {
        t.join().map_err(|_| "a connection's thread has failed")?;
    }
    Ok(sums.report())
}

/// The side that answers: it ends a connection when the other side does, and itself when all have ended and FILE exists.
pub(crate) fn serve(options: &Words) -> Result<String, String> {
    let bind: SocketAddr = options.get("bind")?;
    let (until, sums) = (Until(options.get("until")?), Arc::new(Sums::default()));
    let listener = TcpListener::bind(bind).map_err(|e| format!("cannot listen on {bind}: {e}"))?;
    listener.set_nonblocking(true).map_err(|e| e.to_string())?;
    let mut threads = Vec::new();
    while !until.reached() {
        let Ok((stream, _)) = listener.accept() else {
            thread::sleep(Duration::from_millis(20));
            continue;
        };
        stream.set_nonblocking(false).map_err(|e| e.to_string())?;
        prepare(&stream);
        let sums = Arc::clone(&sums);
        threads.push(spawn(move || {
            let (mut stream, mut hello) = (stream, [0; 16]);
            if let Err(e) = stream.read_exact(&mut hello) {
                return sums.fail("hello", &e);
            }
            let word = |at: usize| hello[at..at + 8].iter().fold(0, |w, b| w << 8 | *b as u64);
            let rate = word(8).min(1 << 30);
            if let Err(why) = converse(stream, word(0), (1, 0), rate, &Arc::default(), &sums) {
                sums.fail(&why, &std::io::Error::other("thread"));
            }
        })?);
    }
    for t in threads {
        t.join().map_err(|_| "a connection's thread has failed")?;
    }
    Ok(sums.report())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_or_moved_byte_is_seen() {
        let mut bytes = vec![0; 4096];
        fill(&mut bytes, 3, 1, 1000);
        let differing = |b: &[u8], id, way, from: u64| {
            (from..).zip(b).filter(|(at, byte)| known(id, way, *at) != **byte).count()
        };
        assert_eq!(differing(&bytes, 3, 1, 1000), 0);
        for (id, way, from) in [(3, 0, 1000), (4, 1, 1000), (3, 1, 1001), (3, 1, 2448)] {
            assert!(differing(&bytes, id, way, from) > 3500, "{id} {way} {from}");
        }
        bytes[17] ^= 1;
        assert_eq!(differing(&bytes, 3, 1, 1000), 1);
    }
}
