//! The scripted guest against a backend that is not ours: DPDK's vhost library, forwarding between two ports.
//!
//! What works here and fails against the switch is the switch's fault. Skipped where `dpdk-testpmd` is not installed.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use turnpike_tests::features::{EVENT_IDX, GUEST_CSUM, INDIRECT_DESC, MRG_RXBUF, RECEIVE_OFFLOADS};
use turnpike_tests::options::Resume;
use turnpike_tests::{Frame, Guest, Options, Shape, eventually};

struct Testpmd {
    dir: tempfile::TempDir,
    child: Child,
}

impl Testpmd {
    /// Two vhost ports, everything received on one is sent on the other. `None` (said loudly) without DPDK.
    fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let vdev =
            |name: &str, port: &str| format!("{name},iface={},queues=1", dir.path().join(port).display());
        let child = Command::new("dpdk-testpmd")
            .args(["--no-pci", "--no-huge", "--no-shconf", "-m", "256", "--lcores", "0,1"])
            .args(["--vdev", &vdev("net_vhost0", "a.sock"), "--vdev", &vdev("net_vhost1", "b.sock")])
            .args(["--", "--forward-mode=io", "--auto-start", "--nb-cores=1", "--total-num-mbufs=4096"])
            .stdin(Stdio::piped())
            .stdout(std::fs::File::create(dir.path().join("log")).unwrap())
            .stderr(std::fs::File::create(dir.path().join("errors")).unwrap())
            .spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                turnpike_tests::skipped(&format!("dpdk-testpmd: {error}"));
                return None;
            }
        };
        let testpmd = Self { dir, child };
        assert!(
            eventually(|| testpmd.socket("b").exists()),
            "dpdk-testpmd does not listen: {}",
            std::fs::read_to_string(testpmd.dir.path().join("errors")).unwrap_or_default()
        );
        Some(testpmd)
    }

    fn socket(&self, port: &str) -> PathBuf {
        self.dir.path().join(format!("{port}.sock"))
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        let _ = self.child.stdin.take().map(|mut stdin| stdin.write_all(b"\n"));
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends frames until one arrives: testpmd says nothing when it is ready to forward.
fn until_forwarding(from: &mut Guest, to: &mut Guest) {
    let probe = Frame::of_len(from, to, 60, 0);
    assert!(
        eventually(|| {
            from.send(&probe);
            to.receive(std::time::Duration::from_millis(50)).is_some()
        }),
        "testpmd forwards nothing"
    );
    to.receive_all();
}

fn exchange(options_a: Options, options_b: Options) {
    let Some(testpmd) = Testpmd::start() else { return };
    let mut a = Guest::connect(&testpmd.socket("a"), options_a);
    let mut b = Guest::connect(&testpmd.socket("b"), options_b);
    b.mac[5] = 2;
    until_forwarding(&mut a, &mut b);
    until_forwarding(&mut b, &mut a);
    for round in 0..40 {
        for len in [60, 200, 1000, 1514] {
            let frame = Frame::of_len(&a, &b, len, round);
            a.send(&frame);
            b.expect(&frame);
            let frame = Frame::of_len(&b, &a, len, round);
            b.send(&frame);
            a.expect(&frame);
        }
    }
}

#[test]
fn plain_rings_work() {
    exchange(Options::plain(), Options::plain().ring_size(64));
}

#[test]
fn event_idx_indirect_and_mergeable_buffers_work() {
    let features = EVENT_IDX | INDIRECT_DESC | MRG_RXBUF;
    let a = Options::plain().with(features).shape(Shape::Indirect).first_index(65_500);
    let b = Options::plain().with(features).rx_buffer(512).shape(Shape::Pieces(300));
    exchange(a, b);
}

#[test]
fn a_linux_like_guest_works() {
    exchange(Options::default().without(RECEIVE_OFFLOADS), Options::default().without(GUEST_CSUM));
}

#[test]
fn a_guest_can_stop_and_connect_again() {
    let Some(testpmd) = Testpmd::start() else { return };
    let mut a = Guest::connect(&testpmd.socket("a"), Options::plain());
    let mut b = Guest::connect(&testpmd.socket("b"), Options::plain());
    b.mac[5] = 2;
    until_forwarding(&mut a, &mut b);
    a.stop().unwrap();
    a.reconnect(&testpmd.socket("a"), Resume::Used).unwrap();
    until_forwarding(&mut a, &mut b);
}
