//! A load that costs its driver less than any switch: one virtio-net card that sends the same frame as fast as its ring is emptied, and one that
//! takes whatever comes.
//!
//! `flood --send SOCKET --receive SOCKET --listen 0|1 --from MAC,IP --to MAC,IP --size BYTES [--flows N] [--until FILE]`
//!
//! Both cards are front ends in this process, whose one thread does nothing but move ring indices: the frames lie in the rings for ever.
//! With `--listen 1` the switch connects to the sockets. Every 100 ms a line says how many frames went and came in all, and when
//! (nanoseconds): `sent received time`. It ends when FILE exists.

use std::net::IpAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use turnpike_tests::features::EVENT_IDX;
use turnpike_tests::options::Resume;
use turnpike_tests::{Frame, Guest, NetHdr, Options, Shape};

/// Entries of each ring.
const RING: u16 = 1024;

/// How often the counts are printed.
const LAP: Duration = Duration::from_millis(100);

#[path = "prober/words.rs"]
mod words;
use words::Words;

/// A card's addresses.
struct Card {
    mac: [u8; 6],
    ip: IpAddr,
}

impl std::str::FromStr for Card {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (mac, ip) = text.split_once(',').ok_or(())?;
        let bytes: Vec<u8> = mac.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        Ok(Self { mac: bytes.try_into().map_err(|_| ())?, ip: ip.parse().map_err(|_| ())? })
    }
}

fn card(words: &Words, name: &str, mac: [u8; 6]) -> Result<Guest, String> {
    let path = PathBuf::from(words.text(name)?);
    // Without EVENT_IDX a flag says once and for all that nobody wants to be called.
    let options = Options::default().ring_size(RING).shape(Shape::Whole).without(EVENT_IDX);
    let mut guest = if words.or("listen", 0)? == 1 {
        let listener = UnixListener::bind(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("listening {name}");
        Guest::accept(&listener, options)
    } else {
        Guest::connect(&path, options)
    };
    guest.mac = mac;
    guest.rx[0].suppress_calls();
    guest.tx[0].suppress_calls();
    Ok(guest)
}

fn run(words: &Words) -> Result<(), String> {
    let (from, to) = (words.get::<Card>("from")?, words.get::<Card>("to")?);
    let (size, flows) = (words.get::<usize>("size")?, words.or::<u16>("flows", 1)?.max(1));
    let mut receiver = card(words, "receive", to.mac)?;
    let mut sender = card(words, "send", from.mac)?;
    // A switch that takes frames as they are offered would leave only a few to go round.
    sender.stop().map_err(|e| e.to_string())?;
    let headers = if from.ip.is_ipv4() { 42 } else { 62 };
    for number in 0..RING {
        let frame = Frame::between(&sender, &receiver);
        let frame = if from.ip.is_ipv4() { frame.ipv4() } else { frame.ipv6() };
        let frame = frame.from_ip(from.ip).to_ip(to.ip).udp(1024 + number % flows, 9);
        let frame = frame.payload(&vec![0; size.saturating_sub(headers)]).build();
        if !sender.enqueue(0, NetHdr::default(), &frame) {
            return Err("the ring is smaller than it should be".into());
        }
    }
    sender.go_on(Resume::Used).map_err(|e| e.to_string())?;
    println!("running");
    let (began, until) = (Instant::now(), words.text("until").ok().map(Path::new));
    let (mut sent, mut received, mut lap) = (0_u64, 0_u64, LAP);
    loop {
        let (went, came) = (sender.tx[0].again(), receiver.rx[0].again());
        // What comes that way (a question for an address) is not looked at.
        let _ = (sender.rx[0].again(), receiver.tx[0].again());
        (sent, received) = (sent + u64::from(went), received + u64::from(came));
        if went + came == 0 {
            std::thread::yield_now();
        }
        let now = began.elapsed();
        if now >= lap {
            lap = now + LAP;
            println!("{sent} {received} {}", now.as_nanos());
            if until.is_some_and(Path::exists) {
                return Ok(());
            }
        }
    }
}

fn main() {
    if let Err(why) = Words::parse(std::env::args().skip(1)).and_then(|words| run(&words)) {
        eprintln!("flood: {why}");
        std::process::exit(1);
    }
}
