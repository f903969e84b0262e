//! A successor that is not like the switch it takes over from: other numbers of workers, another version of the program.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde_json::{Value, json};
use turnpike_tests::{Frame, Guest, NetHdr, Options, PATIENCE, Switch, eventually};

// === many ports, other numbers of workers ===

/// Sends numbered frames from one guest to another until `ended`; how many were sent, and what came.
fn converse(a: &mut Guest, b: &mut Guest, ended: &AtomicBool, sent_by_all: &AtomicU64) -> (u64, Vec<u64>) {
    let mut frame = Frame::between(a, b).ipv4().udp(1000, 2000).payload(&[7; 400]).build();
    let place = frame.len() - 8;
    let (mut sent, mut came) = (0u64, Vec::new());
    let number = |frame: &[u8]| u64::from_le_bytes(frame[place..].try_into().expect("eight bytes"));
    while !ended.load(Ordering::Relaxed) {
        frame[place..].copy_from_slice(&sent.to_le_bytes());
        // No more on the way than a ring holds: what a full receiver loses is no loss of a take-over.
        if sent - (came.len() as u64) < 32 && a.send_within(0, NetHdr::default(), &frame, PATIENCE) {
            sent += 1;
            sent_by_all.fetch_add(1, Ordering::Relaxed);
        }
        came.extend(std::iter::from_fn(|| b.poll()).map(|received| number(&received.frame)));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(a.flush(PATIENCE), "the switch is done with all");
    while let Some(received) = b.receive(Duration::from_millis(500)) {
        came.push(number(&received.frame));
    }
    (sent, came)
}

#[test]
fn s20_7_many_ports_go_on_under_load_whatever_the_number_of_workers() {
    const PAIRS: usize = 16;
    let switch = Switch::start();
    let options = |n: usize| Options::default().ring_size(64).pairs(1 + n % 2);
    let mut guests: Vec<(Guest, Guest)> = (0..PAIRS)
        .map(|n| {
            let a = Guest::attach(&switch, &format!("a{n}"), options(n));
            (a, Guest::attach(&switch, &format!("b{n}"), options(n / 2)))
        })
        .collect();
    let (ended, sent_by_all) = (AtomicBool::new(false), AtomicU64::new(0));
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            guests.iter_mut().map(|(a, b)| scope.spawn(|| converse(a, b, &ended, &sent_by_all))).collect();
        for workers in [1, 4, 2, 3, 1, 2] {
            let before = sent_by_all.load(Ordering::Relaxed);
            let flows = || sent_by_all.load(Ordering::Relaxed) > before + 20 * PAIRS as u64;
            assert!(eventually(flows), "nothing moves");
            switch.take_over_by(workers);
            assert_eq!(switch.json(&["worker", "list"]).as_array().map(Vec::len), Some(workers));
        }
        ended.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a conversation")).collect()
    });
    for (n, (sent, came)) in results.iter().enumerate() {
        let whole = came.iter().copied().eq(0..*sent);
        assert!(whole, "pair {n}: {sent} sent, {} came, not each once in order", came.len());
    }
    println!("{} frames of {PAIRS} pairs, none lost", results.iter().map(|(sent, _)| sent).sum::<u64>());
}

// === another version ===

/// Descriptors that travel together, as the protocol has it.
const TOGETHER: usize = 64;

/// What a switch of a later version would say besides: `change` is done to everything that the switch says to its successor.
fn between(switch: &Path, successor: &UnixListener, change: impl Fn(&mut Value)) {
    let (to, _) = successor.accept().expect("a successor");
    let from = UnixStream::connect(switch).expect("a switch");
    let (mut words, mut on) = (to.try_clone().expect("a socket"), from.try_clone().expect("a socket"));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut words, &mut on);
        let _ = on.shutdown(std::net::Shutdown::Write);
    });
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        (&from).read_exact(&mut byte).expect("an answer");
        head.extend(byte);
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    (&to).write_all(&head).expect("heard");
    while pass(&from, &to, &change).is_some() {}
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// One message; `None` at the end.
fn pass(mut from: &UnixStream, mut to: &UnixStream, change: impl Fn(&mut Value)) -> Option<()> {
    let mut head = [0; 8];
    from.read_exact(&mut head).ok()?;
    let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
    let (mut text, count) = (vec![0; word(0) as usize], word(4));
    from.read_exact(&mut text).ok()?;
    let mut step = serde_json::from_slice(&text).expect("JSON");
    change(&mut step);
    let text = step.to_string();
    to.write_all(&[(text.len() as u32).to_le_bytes(), count.to_le_bytes()].concat()).ok()?;
    to.write_all(text.as_bytes()).ok()?;
    for _ in 0..(count as usize).div_ceil(TOGETHER) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        recvmsg(from, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(some) => Some(some),
            _ => None,
        });
        let fds: Vec<OwnedFd> = rights.flatten().collect();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(to, &[IoSlice::new(&byte)], &mut control, SendFlags::NOSIGNAL).ok()?;
    }
    Some(())
}

/// Adds a field that this version does not know.
fn add(step: &mut Value, at: &str) {
    if let Some(object) = step.pointer_mut(at).and_then(Value::as_object_mut) {
        object.insert("of-a-later-version".into(), json!({"more": [1, null]}));
    }
}

/// A successor that is not the test's [`Switch`].
struct Other(Child);

impl Other {
    fn start(switch: &Switch, api: &Path) -> Self {
        let mut command = Command::new(turnpike_tests::switch::binary());
        let state = switch.dir().join("state");
        command.args(["serve", "--take-over", "--workers", "2", "--poll-us", "20", "--state-dir"]).arg(state);
        Self(command.arg("--api").arg(api).stderr(Stdio::piped()).spawn().expect("the turnpike binary runs"))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn s20_7_what_a_later_version_says_besides_and_an_earlier_one_does_not_disturbs_no_take_over() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    switch.ok(&["port", "set", "a", "--dhcp-guard", "on", "--vm", "one"]);
    let frame = Frame::of_len(&a, &b, 700, 1);
    a.send(&frame);
    b.expect(&frame);
    let place = switch.dir().join("between.sock");
    let listener = UnixListener::bind(&place).expect("a socket");
    let api = switch.dir().join("api.sock");
    let relay = std::thread::spawn(move || {
        between(&api, &listener, |step| {
            let places = ["/offer", "/port", "/device", "/device/device/guest", "/device/memory", "/frozen"];
            for place in places {
                add(step, place);
            }
            // And what an earlier one did not say yet.
            step.pointer_mut("/frozen")
                .and_then(Value::as_object_mut)
                .map(|frozen| frozen.remove("listening"));
        });
    });
    let other = Other::start(&switch, &place);
    assert!(eventually(|| !switch.is_alive()), "it was not taken over: {}", switch.log());
    relay.join().expect("the relay");
    let frame = Frame::of_len(&b, &a, 900, 2);
    b.send(&frame);
    a.expect(&frame);
    let port = switch.port("a");
    assert_eq!((&port["policy"]["vm"], &port["counters"]["out_packets"]), (&json!("one"), &json!(1)));
    drop(other);
}

#[test]
fn s20_7_a_policy_of_a_later_version_is_refused_before_anything_stops() {
    let switch = Switch::start();
    let (mut a, mut b) = Guest::pair(&switch, Options::default(), Options::default());
    let place = switch.dir().join("between.sock");
    let listener = UnixListener::bind(&place).expect("a socket");
    let api = switch.dir().join("api.sock");
    let relay = std::thread::spawn(move || between(&api, &listener, |step| add(step, "/port/config/policy")));
    let mut other = Other::start(&switch, &place);
    let mut said = String::new();
    other.0.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(other.0.wait().expect("an end").code(), Some(1), "{said}");
    assert!(said.contains("unknown field `of-a-later-version`"), "{said}");
    relay.join().expect("the relay");
    // A guest whose policy would have been forgotten is worse than a switch that stays.
    assert!(switch.is_alive() && !switch.has_event("port-stopped"));
    let frame = Frame::of_len(&a, &b, 700, 1);
    a.send(&frame);
    b.expect(&frame);
    // Nobody is in the way of the next one.
    switch.ok(&["port", "list"]);
    switch.take_over();
}
