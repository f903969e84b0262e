//! Traffic of which every frame and every byte is accounted for, for measuring what a network loses: it runs on hosts and, copied into the
//! initramfs, in guests.
//!
//! `prober udp --bind IP:PORT --peer IP:PORT --until FILE [--rate N] [--begin 0|1]`: both ends (one of
//! which may wait until it hears the other) send numbered datagrams to each other and count what was
//! lost, doubled or overtaken; silences are listed with what came first after them.
//! `prober tcp-serve --bind IP:PORT --until FILE` and `prober tcp-dial --to IP:PORT --until FILE [--connections N] [--rate BYTES]`: streams
//! in both directions in which every byte is known to both ends.
//!
//! `prober flows --to IP --from IP --count N`: begins N conversations, one datagram each.
//!
//! All but the last run until FILE exists, end in an orderly way (so that what is on its way is counted) and print one line of JSON.

#[path = "prober/flows.rs"]
mod flows;
#[path = "prober/tcp.rs"]
mod tcp;
#[path = "prober/udp.rs"]
mod udp;
#[path = "prober/words.rs"]
mod words;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use words::Words;

/// Ends a run: a file that appears.
#[derive(Clone)]
struct Until(PathBuf);

impl Until {
    /// Whether it is time to end. A system call: ask some ten times a second.
    fn reached(&self) -> bool {
        self.0.exists()
    }
}

/// Wall-clock time in microseconds of Unix time: comparable between processes of one host.
fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros() as u64
}

fn main() {
    let mut words = std::env::args().skip(1);
    let mode = words.next().unwrap_or_default();
    let done = Words::parse(words).and_then(|options| match mode.as_str() {
        "flows" => flows::run(&options),
        "udp" => udp::run(&options),
        "tcp-serve" => tcp::serve(&options),
        "tcp-dial" => tcp::dial(&options),
        _ => Err("usage: prober udp|tcp-serve|tcp-dial|flows --option value …".to_owned()),
    });
    match done {
        Ok(report) => println!("{report}"),
        Err(why) => {
            eprintln!("prober: {why}");
            std::process::exit(1);
        }
    }
}
