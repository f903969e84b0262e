//! `turnpike capture`: what tshark reads is what guests sent and got, port by port, with the reasons of what was dropped.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use turnpike_tests::features::{GUEST_CSUM, GUEST_TSO4, MRG_RXBUF, SEND_OFFLOADS};
use turnpike_tests::frame::pattern;
use turnpike_tests::watcher::Watcher;
use turnpike_tests::{Frame, Guest, Lan, Options, PATIENCE, Packet, Switch, eventually, skipped};

/// What tshark says of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// The interface's name.
    port: String,
    direction: String,
    len: usize,
    captured: usize,
    comment: String,
    vlan: String,
    time: String,
    bytes: Vec<u8>,
}

/// A capture that runs, and its file.
struct Capture {
    watcher: Watcher,
    file: String,
}

impl Capture {
    fn begin(switch: &Switch, args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("capture-{}.pcapng", NUMBER.fetch_add(1, Ordering::Relaxed));
        let file = switch.dir().join(name).to_str().expect("UTF-8").to_owned();
        let watcher = switch.watch(&[&["capture", "-w", &file], args].concat());
        Self { watcher, file }
    }

    /// Waits for so many frames, ends it, and reads it.
    #[track_caller]
    fn end(mut self, frames: usize) -> Vec<Seen> {
        let there = eventually(|| read(&self.file).len() >= frames);
        self.watcher.interrupt();
        let all = read(&self.file);
        assert!(there && all.len() == frames, "{} frames, expected {frames}: {all:?}", all.len());
        assert_eq!(self.watcher.errors(), [format!("turnpike: {frames} frames captured, 0 could not be")]);
        all
    }
}

fn tshark(file: &str, args: &[&str]) -> String {
    let output = Command::new("tshark").args(["-r", file]).args(args).output().expect("tshark runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("cut short"), "tshark: {stderr}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn read(file: &str) -> Vec<Seen> {
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "frame.len",
        "frame.cap_len",
        "frame.comment",
        "vlan.id",
        "frame.time_epoch",
    ];
    let asked: Vec<&str> = fields.iter().flat_map(|field| ["-e", field]).collect();
    let args = [&["-T", "fields", "-E", "separator=;"], &asked[..]].concat();
    let text = tshark(file, &args);
    let hex = tshark(file, &["-T", "json", "-x", "-j", "frame"]);
    let frames: serde_json::Value = serde_json::from_str(&hex).expect("JSON");
    let raw = frames.as_array().expect("a list").iter().map(|frame| {
        let hex = frame["_source"]["layers"]["frame_raw"][0].as_str().expect("bytes").as_bytes();
        let digit = |digit: u8| char::from(digit).to_digit(16).expect("hexadecimal") as u8;
        hex.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect::<Vec<_>>()
    });
    let line = |(line, bytes): (&str, Vec<u8>)| {
        let mut parts = line.split(';').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (port, direction) = (next(), next());
        let direction = match direction.as_str() {
            "1" | "0x00000001" => "in",
            "2" | "0x00000002" => "out",
            other => panic!("direction {other}"),
        };
        let number = |text: String| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let (len, captured, comment, vlan, time) = (number(next()), number(next()), next(), next(), next());
        Seen { port, direction: direction.to_owned(), len, captured, comment, vlan, time, bytes }
    };
    text.lines().zip(raw).map(line).collect()
}

/// Port, direction and comment of each.
fn brief(all: &[Seen]) -> Vec<String> {
    all.iter()
        .map(|seen| format!("{} {} {}", seen.port, seen.direction, seen.comment).trim().to_owned())
        .collect()
}

#[test]
fn s19_2_what_a_guest_sent_is_outbound_and_what_it_got_inbound_at_an_interface_of_its_name() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
    let capture = Capture::begin(&lan.switch, &[]);
    let before = std::time::SystemTime::now();
    let frame = lan.frame("a", "b").ipv4().udp(1, 2).payload(&pattern(300, 1)).build();
    lan.passes("a", "b", &frame);
    let flood = lan.broadcast("c").build();
    assert_eq!(lan.send("c", &flood).by(), ["a", "b"]);
    let all = capture.end(5);
    assert_eq!(brief(&all), ["a out", "b in", "c out", "a in", "b in"]);
    for (seen, sent) in all.iter().zip([&frame, &frame, &flood, &flood, &flood]) {
        assert_eq!((&seen.bytes, seen.len, seen.captured), (sent, sent.len(), sent.len()));
        let (seconds, nanos) = seen.time.split_once('.').expect("a fraction");
        let at =
            std::time::Duration::new(seconds.parse().expect("seconds"), nanos.parse().expect("nanoseconds"));
        assert_eq!(nanos.len(), 9, "{}", seen.time);
        let since = before.duration_since(std::time::UNIX_EPOCH).expect("a clock");
        assert!(at >= since && at < since + std::time::Duration::from_mins(1), "{}", seen.time);
    }
}

#[test]
fn s19_2_tags_are_those_that_each_guest_sees() {
    let mut lan = Lan::new(&[("trunk", "--vlan trunk:1-20"), ("access", "--vlan access:9")]);
    let capture = Capture::begin(&lan.switch, &[]);
    let tagged = lan.frame("trunk", "access").vlan(9).ipv4().udp(1, 2).build();
    assert_eq!(lan.send("trunk", &tagged).by(), ["access"]);
    let plain = lan.frame("access", "trunk").ipv4().udp(1, 2).build();
    let heard = lan.send("access", &plain);
    let all = capture.end(4);
    assert_eq!(brief(&all), ["trunk out", "access in", "access out", "trunk in"]);
    assert_eq!(all.iter().map(|seen| seen.vlan.as_str()).collect::<Vec<_>>(), ["9", "", "", "9"]);
    assert_eq!(all[3].bytes, heard.only("trunk").frame, "what the guest got is what the file says");
}

#[test]
fn s19_2_a_dropped_frame_has_its_reason_as_comment() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
    lan.run("acl add a --action deny --direction out --remote 10.0.0.2");
    lan.run("acl add c --action deny --direction in --remote 10.0.0.1");
    let all = Capture::begin(&lan.switch, &[]);
    let drops = Capture::begin(&lan.switch, &["--drops"]);
    let one = Capture::begin(&lan.switch, &["--drops", "--port", "c"]);
    let to_b = lan.frame("a", "b").ipv4().udp(1, 2).build();
    let to_c = lan.frame("a", "c").ipv4().udp(1, 2).build();
    lan.dropped("a", &to_b, ("a", "out"), "acl-denied");
    lan.dropped("a", &to_c, ("c", "in"), "acl-denied");
    lan.passes("b", "a", &lan.frame("b", "a").build());
    assert_eq!(
        brief(&all.end(4)),
        ["a out dropped: acl-denied", "a out dropped at c: acl-denied", "b out", "a in"],
        "what c did not get is not captured there"
    );
    let drops = drops.end(2);
    assert_eq!(brief(&drops), ["a out dropped: acl-denied", "c in dropped: acl-denied"], "as it is counted");
    assert_eq!([&drops[0].bytes, &drops[1].bytes], [&to_b, &to_c]);
    assert_eq!(brief(&one.end(1)), ["c in dropped: acl-denied"]);
}

#[test]
fn s19_2_a_large_frame_is_one_and_whole_up_to_the_snap_length() {
    let switch = Switch::start();
    let receiver = Options::default().with(GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF);
    let (mut a, mut b) = Guest::pair(&switch, Options::default().with(SEND_OFFLOADS), receiver);
    let whole = Capture::begin(&switch, &[]);
    let cut = Capture::begin(&switch, &["--snaplen", "100", "--direction", "in"]);
    let (header, frame) =
        Frame::between(&a, &b).ipv4().tcp(1, 2).payload(&pattern(40_000, 3)).build_large(1448);
    a.send_with(header, &frame);
    b.expect(&frame);
    for seen in whole.end(2) {
        assert_eq!((seen.len, seen.bytes == frame), (frame.len(), true), "{} {}", seen.port, seen.direction);
    }
    let cut = cut.end(1);
    assert_eq!(brief(&cut), ["b in"]);
    assert_eq!((cut[0].len, cut[0].captured, &cut[0].bytes[..]), (frame.len(), 100, &frame[..100]));
}

#[test]
fn s19_2_port_direction_filter_and_count_say_which_frames() {
    let mut lan = Lan::new(&[("a", ""), ("b", ""), ("c", "")]);
    let out = Capture::begin(&lan.switch, &["--port", "a", "--direction", "out"]);
    let inward = Capture::begin(&lan.switch, &["--port", "a", "--direction", "in"]);
    let filtered = Capture::begin(&lan.switch, &["--filter", "ether src host 52:54:00:00:00:03"]);
    let mut counted = Capture::begin(&lan.switch, &["--count", "3"]);
    for (from, to) in [("a", "b"), ("b", "a"), ("c", "b"), ("c", "a")] {
        lan.passes(from, to, &lan.frame(from, to).ipv4().udp(1, 2).build());
    }
    assert_eq!(brief(&out.end(1)), ["a out"]);
    assert_eq!(brief(&inward.end(2)), ["a in", "a in"]);
    assert_eq!(brief(&filtered.end(4)), ["c out", "b in", "c out", "a in"]);
    assert!(counted.watcher.wait().success());
    assert_eq!(brief(&read(&counted.file)), ["a out", "b in", "b out"]);
    let names = Command::new("capinfos").arg(&counted.file).output().expect("capinfos runs");
    let names = String::from_utf8_lossy(&names.stdout).into_owned();
    for name in ["a", "b", "c"] {
        assert!(names.contains(&format!("Name = {name}\n")), "an interface for {name}: {names}");
    }
    let refused = |args: &[&str], said: &str| {
        let older = lan.switch.dir().join("older.pcapng");
        std::fs::write(&older, "older").expect("a file");
        let older_name = older.to_str().expect("UTF-8");
        let output = lan.switch.run(&[&["capture", "-w", older_name], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && stderr.contains(said), "{stderr}");
        assert_eq!(std::fs::read(&older).expect("a file"), b"older", "a refused capture leaves the file");
    };
    refused(&["--direction", "up"], "'up' is not a value of direction; valid: in, out or both");
    refused(&["--snaplen", "0"], "snaplen 0 is out of range; valid: 1 to 262144 bytes");
    refused(&["--port", "x"], "port 'x': there is no such port");
    refused(&["--filter", "port x"], "'x' is not a value of filter; valid: a port or a range");
}

#[test]
fn s19_2_a_capture_to_standard_output_is_the_same_file() {
    let mut lan = Lan::new(&[("a", ""), ("b", "")]);
    let file = lan.switch.dir().join("piped.pcapng");
    let script = format!(
        "exec '{}' capture --count 2 -w - > '{}'",
        turnpike_tests::switch::binary().display(),
        file.display()
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .env("TURNPIKE_API", lan.switch.dir().join("api.sock"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("a shell");
    let head = || std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
    assert!(eventually(head), "interfaces are written when the capture begins");
    lan.passes("a", "b", &lan.frame("a", "b").build());
    assert!(child.wait().expect("wait").success());
    assert_eq!(brief(&read(file.to_str().expect("UTF-8"))), ["a out", "b in"]);
}

#[test]
fn s19_2_what_goes_through_a_tunnel_is_seen_as_the_wire_has_it_and_as_the_guest_has_it() {
    let Some(mut wire) = Wire::new() else { return };
    let mut lan = Lan::new(&[]);
    lan.run(&format!("uplink add up --device {}", wire.link));
    for line in [
        "switch set --nv on",
        "nv provider add --address 192.0.2.1/24 --uplink up",
        "nv network add blue --rdid 6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "nv subnet add --network blue --vsid 5001 --prefix 10.0.0.0/24 --gateway 10.0.0.254",
        "nv record add --vsid 5001 --ca 10.0.0.1 --mac 52:54:00:00:00:01 --pa 192.0.2.1 --encap vxlan",
        "nv record add --vsid 5001 --ca 10.0.0.9 --mac 52:54:00:00:00:09 --pa 192.0.2.2 --encap vxlan",
    ] {
        lan.run(line);
    }
    lan.add("a", "--vsid 5001", Options::default());
    let frame = lan
        .frame("a", "a")
        .destination([0x52, 0x54, 0, 0, 0, 9])
        .ipv4()
        .to_ip(std::net::Ipv4Addr::new(10, 0, 0, 9))
        .udp(7, 8)
        .payload(&pattern(64, 1))
        .build();
    // The other host is asked for once somebody needs it.
    assert!(eventually(|| {
        lan.send("a", &frame);
        wire.answers()
    }));
    let capture = Capture::begin(&lan.switch, &["--filter", "udp"]);
    lan.send("a", &frame);
    let all = capture.end(2);
    assert_eq!(brief(&all), ["a out", "up in"]);
    assert_eq!((&all[0].bytes, &all[1].bytes[50..]), (&frame, &frame[..]), "VXLAN has 50 bytes in front");
    assert_eq!(Packet::of(&all[1].bytes).tags.len(), 0);
    // And back: the outer frame is what the uplink received, the inner one what the guest got.
    let capture = Capture::begin(&lan.switch, &["--filter", "udp"]);
    let trace = lan.switch.watch(&["trace", "--json", "--port", "a", "--filter", "dst port 7"]);
    let mut back = all[1].bytes.clone();
    back[..12].rotate_left(6);
    assert_eq!(back[6..12], PEER);
    back[26..30].copy_from_slice(&[192, 0, 2, 2]);
    back[30..34].copy_from_slice(&[192, 0, 2, 1]);
    let answer = Frame::new([0x52, 0x54, 0, 0, 0, 1], [0x52, 0x54, 0, 0, 0, 9])
        .ipv4()
        .from_ip(std::net::Ipv4Addr::new(10, 0, 0, 9))
        .to_ip(std::net::Ipv4Addr::new(10, 0, 0, 1))
        .udp(8, 7)
        .payload(&pattern(64, 1))
        .build();
    back.truncate(50);
    back.extend(&answer);
    wire.send(&back);
    let all = capture.end(2);
    assert_eq!(brief(&all), ["up out", "a in"]);
    assert_eq!((&all[0].bytes, &all[1].bytes), (&back, &answer));
    let line = trace.json();
    let key = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    assert_eq!([key("port"), key("direction"), key("from")], ["a", "in", "up"]);
    assert_eq!(line["steps"][0]["step"], "tunnel", "{line}");
}

/// A veth pair with a switch at its other end, whose one guest is the other host.
struct Wire {
    link: String,
    far: Lan,
}

/// The other host's MAC address.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];

impl Wire {
    fn new() -> Option<Self> {
        let link = format!("tpc{}", std::process::id() % 100_000);
        let peer = format!("{link}p");
        if !ip(&["link", "add", &link, "type", "veth", "peer", "name", &peer]) {
            skipped("no veth pair can be made here (root is needed)");
            return None;
        }
        let mut wire = Self { link, far: Lan::new(&[]) };
        for device in [&wire.link, &peer] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1");
            assert!(ip(&["link", "set", device, "up"]));
        }
        wire.far.run(&format!("uplink add wire --device {peer}"));
        wire.far.add_with_mac("peer", "", Options::default(), PEER);
        Some(wire)
    }

    /// Answers who asks for the other host's address; whether a tunnel's packet arrived there.
    fn answers(&mut self) -> bool {
        let heard = self.far.heard().0;
        let frames = || heard.iter().map(|(_, received)| &received.frame);
        for asked in frames().filter(|frame| frame[12..14] == [8, 6] && frame[38..42] == [192, 0, 2, 2]) {
            let asker = &asked[22..32];
            let answer =
                [&asked[6..12], &PEER, &asked[12..20], &[0, 2], &PEER, &asked[38..42], asker].concat();
            self.send(&answer);
        }
        frames().any(|frame| frame[12..14] == [8, 0] && frame[23] == 17)
    }

    /// Sends a frame to the near switch.
    fn send(&mut self, frame: &[u8]) {
        let peer = self.far.guest("peer");
        peer.send(frame);
        assert!(peer.flush(PATIENCE), "the far switch does not finish with a frame");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        ip(&["link", "del", &self.link]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|output| output.status.success())
}
