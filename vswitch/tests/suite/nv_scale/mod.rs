//! A whole cloud in one process: hosts with the switch's own code, a policy store between them, guests that move. In virtual time, the same
//! on every run of one seed.
//!
//! What is asserted follows from the model ([`store`], [`cloud`]): a move is known everywhere one message after it is in the store; no frame
//! to a guest on the move, or by one that has just moved, is lost or doubled; nobody is told of networks that have no guest there, or holds their records; nothing ever
//! reaches another customer network. The figures are printed.

mod cloud;
mod growth;
mod host;
mod plan;
mod store;

use vswitch::nv::records::GRACE;

use self::cloud::{Cloud, Frame, Move, Sent};
use self::plan::Size;
use self::store::{SLOWEST, Traffic};
use crate::support::SECOND;

/// A size, how many guests move at one a second, and how many at a thousand a second.
fn cloud(size: Size, slow: usize, fast: usize) {
    let mut cloud = Cloud::new(size, 22);
    joined(&cloud);
    cloud.sample(3);
    sampled(&cloud.frames);
    for (count, a_second) in [(slow, 1), (fast, 1000)] {
        let (frames, moves) = (cloud.frames.len(), cloud.moves.len());
        let before: Vec<Traffic> = cloud.hosts.iter().map(|host| host.heard).collect();
        cloud.move_some(count, a_second);
        println!("{count} moves, {a_second} a second:");
        converged(&cloud.moves[moves..]);
        delivered(&cloud.frames[frames..]);
        told(&cloud, &before, &cloud.moves[moves..]);
    }
    cloud.run(cloud.now + GRACE + 3 * SECOND);
    cloud.settled();
    let from = cloud.frames.len();
    cloud.sample(1);
    sampled(&cloud.frames[from..]);
}

/// What hosts have when they have joined, and what that took.
fn joined(cloud: &Cloud) {
    let hosts = cloud.hosts.len() as u64;
    let held: Vec<u64> = cloud.hosts.iter().map(|host| host.state.nv.records.len() as u64).collect();
    let records: u64 = held.iter().sum();
    let each = cloud.record_bytes / records;
    println!(
        "{hosts} hosts, {} customer networks, {} guests; records at a host: {}",
        cloud.plan.tenants.len(),
        cloud.plan.guests.len(),
        spread(&held)
    );
    println!(
        "{each} bytes a record, {} kB of records at a host, {} kB for its switch and policy",
        cloud.record_bytes / hosts / 1000,
        cloud.bare_bytes / hosts / 1000
    );
    assert!(each < 200, "{each} bytes a record");
    let bytes: Vec<u64> = cloud.store.sent.iter().map(|sent| sent.bytes).collect();
    let messages: Vec<u64> = cloud.store.sent.iter().map(|sent| sent.messages).collect();
    let total: u64 = bytes.iter().sum();
    println!("joining, records: {} messages and {} kB", spread(&messages), spread(&thousands(&bytes)));
    // Nobody reads more than all of it, and all hosts together far less than that.
    let all = cloud.plan.guests.len() as u64;
    println!("  {} kB for one that reads everything", total / records * all / 1000);
    assert!(held.iter().all(|&held| held <= all));
    cloud.settled();
}

/// How long after it was in the store a move was known at every host, and after the guest ran.
fn converged(moves: &[Move]) {
    let known: Vec<u64> = moves.iter().map(|it| it.known - it.committed).collect();
    let since: Vec<u64> = moves.iter().map(|it| it.known - it.ran).collect();
    for it in moves {
        assert_eq!(it.heard, it.told, "{it:?}");
        assert!(it.known - it.committed <= SLOWEST, "{it:?}");
    }
    println!(
        "  known everywhere, µs: after the commit {}; after the guest runs {}",
        quantiles(&known),
        quantiles(&since)
    );
}

/// Frames to guests on the move, and by guests that have just moved, arrive once.
fn delivered(frames: &[Frame]) {
    let of = |sent: Sent| frames.iter().filter(move |frame| frame.sent == sent);
    for frame in of(Sent::ToMoved).chain(of(Sent::ByMoved)) {
        assert_eq!((frame.got, frame.dropped), (1, None), "{frame:?}");
    }
    println!(
        "  {} frames to guests on the move, 0 lost, 0 doubled; {} were held, {} were sent on",
        of(Sent::ToMoved).count(),
        of(Sent::ToMoved).filter(|frame| frame.held).count(),
        of(Sent::ToMoved).filter(|frame| frame.packets > 1).count()
    );
    println!("  {} frames by guests within 10 ms of their arrival, 0 refused", of(Sent::ByMoved).count());
    assert!(of(Sent::ToMoved).count() > 0 && of(Sent::ByMoved).count() > 0);
}

/// What the store had to say to a host of these moves, against saying everything to everybody.
fn told(cloud: &Cloud, before: &[Traffic], moves: &[Move]) {
    let hosts = cloud.hosts.len() as u64;
    let seconds = moves.iter().map(|it| it.committed).max().unwrap_or_default()
        - moves.iter().map(|it| it.committed).min().unwrap_or_default();
    let part = |pick: fn(&Traffic) -> u64| -> Vec<u64> {
        cloud.hosts.iter().zip(before).map(|(host, before)| pick(&host.heard) - pick(before)).collect()
    };
    let (messages, bytes) = (part(|traffic| traffic.messages), part(|traffic| traffic.bytes));
    let expected: u64 = moves.iter().map(|it| it.traffic.bytes).sum();
    assert_eq!(bytes.iter().sum::<u64>(), expected, "what was said was heard");
    let everything: u64 = moves.iter().map(|it| it.traffic.bytes / it.told.max(1) as u64).sum();
    println!(
        "  a move is told to {} hosts; a host hears {} messages, {} bytes in {} ms; one that watches everything {} and {everything}",
        spread(&moves.iter().map(|it| it.told as u64).collect::<Vec<_>>()),
        spread(&messages),
        spread(&bytes),
        seconds / 1_000_000,
        2 * moves.len()
    );
    assert!(expected < everything * hosts);
}

/// While nobody moves, what was sent to an address that somebody in the sender's network has arrives there, and everything else nowhere.
fn sampled(frames: &[Frame]) {
    let (mut arrived, mut refused) = (0, 0);
    for frame in frames {
        assert_eq!(frame.got, u32::from(frame.to.is_some()), "{frame:?}");
        assert_eq!(frame.dropped.is_some(), frame.to.is_none(), "{frame:?}");
        arrived += usize::from(frame.got == 1);
        refused += usize::from(frame.got == 0);
    }
    println!("{arrived} frames of all customer networks arrived, {refused} had nowhere to go");
    assert!(arrived > 0 && refused > 0);
}

fn thousands(bytes: &[u64]) -> Vec<u64> {
    bytes.iter().map(|bytes| bytes / 1000).collect()
}

fn sorted(values: &[u64]) -> Vec<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values
}

/// Mean, and most.
fn spread(values: &[u64]) -> String {
    let mean = values.iter().sum::<u64>() / values.len().max(1) as u64;
    format!("{mean} (most {})", values.iter().max().copied().unwrap_or_default())
}

/// p50, p99 and most, in µs.
fn quantiles(nanos: &[u64]) -> String {
    let values = sorted(nanos);
    let at = |percent: usize| values[(values.len() - 1) * percent / 100] / 1000;
    format!("p50 {}, p99 {}, most {}", at(50), at(99), at(100))
}

#[test]
fn s20_5_in_a_cloud_moves_are_known_in_time_lose_nothing_and_are_told_to_nobody_else() {
    cloud(Size { hosts: 100, tenants: 1000, guests: 10_000 }, 30, 1000);
}

/// `cargo test -p turnpike-vswitch --release --test suite -- --ignored --nocapture figures_of_a_cloud`
#[test]
#[ignore = "figures; needs 10 GB of memory"]
fn figures_of_a_cloud() {
    cloud(Size { hosts: 1000, tenants: 10_000, guests: 100_000 }, 100, 5000);
}
