"""The switch between networks of the host: TAPs and an uplink in network namespaces, the kernel's own stack on every end. No guests."""
import os, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, net, suite, switch, traffic  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import bad_checksums, reachable  # noqa: E402

_made = {}


def world():
    """A switch with two host ports in namespaces x and y and an uplink to namespace w (the wire)."""
    if not _made:
        host.need("iputils-ping", "iperf3", "iproute2", "ethtool")
        s = switch.Turnpike()
        ends = {}
        for i, n in enumerate("xy", 1):
            ends[n] = net.Namespace()
            ends[n].tap = f"tpk{os.getpid() % 100000}{n}"
            s.cli("port", "add", f"host-{n}", "--tap", ends[n].tap, "--mac", f"52:54:00:bb:00:0{i}")
            host.sh("ip", "link", "set", ends[n].tap, "netns", ends[n].name)
            ends[n].run(f"ip addr add 10.1.0.{i}/24 dev {ends[n].tap}; ip link set {ends[n].tap} up")
            ends[n].serve_iperf()
        ends["w"] = net.Namespace()
        near = ends["w"].veth("10.1.0.3/24")
        ends["w"].serve_iperf()
        s.cli("uplink", "add", "wire", "--device", near)
        _made.update(switch=s, near=near, **ends)
    return _made


def stream(source, ip, **options):
    flow = traffic.iperf(source, ip, 2, **options)
    must(flow.mbps > 50, f"only {flow}")
    return flow


@test
def host_ports_and_wire_ping_each_other():
    w = world()
    for source, ip in ((w["x"], "10.1.0.2"), (w["x"], "10.1.0.3"), (w["w"], "10.1.0.1"), (w["y"], "10.1.0.3")):
        reachable(source, ip)
        p = traffic.ping(source, ip, 20, interval=0.02)
        must(p.lost == 0 and p.duplicates == 0, f"to {ip}: {p}, {p.duplicates} duplicates")


@test
def host_ports_have_the_mac_of_their_port():
    w = world()
    for i, n in enumerate("xy", 1):
        mac = w[n].run(f"cat /sys/class/net/{w[n].tap}/address").out.strip()
        must(mac == f"52:54:00:bb:00:0{i}", f"{w[n].tap} has {mac}")


@test
def segments_stay_whole_between_host_ports_and_are_right_on_the_wire():
    w = world()
    flows = [stream(w["x"], "10.1.0.2"), stream(w["x"], "10.1.0.2", reverse=True), stream(w["x"], "10.1.0.3"), stream(w["x"], "10.1.0.3", reverse=True)]
    for n in "xyw":
        must(bad_checksums(w[n]) == 0, f"{n} saw {bad_checksums(w[n])} wrong TCP checksums")
    return ", ".join(f"{f.mbps:.0f}" for f in flows) + " Mbit/s"


@test
def host_without_offloads_gets_plain_segments():
    w = world()
    y = w["y"]
    y.run(f"ethtool -K {y.tap} rx off tx off tso off gso off gro off 2>/dev/null", check=False)
    try:
        flows = [stream(w["x"], "10.1.0.2"), stream(w["x"], "10.1.0.2", reverse=True)]
        must(bad_checksums(y) == bad_checksums(w["x"]) == 0, "wrong TCP checksums arrived")
    finally:
        y.run(f"ethtool -K {y.tap} rx on tx on tso on gso on gro on 2>/dev/null", check=False)
    return ", ".join(map(str, flows))


@test
def tagged_frames_keep_their_tag_on_the_wire():
    w = world()
    frame = bytes.fromhex("ffffffffffff" "525400bb0001" "8100" "0007" "88b5") + b"turnpike" * 8
    sender = ("import socket; s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); "
              f"s.bind(('{w['x'].tap}', 0)); [s.send(bytes.fromhex('{frame.hex()}')) for _ in range(3)]")
    with net.ear(w["w"], "eth0") as heard:
        w["x"].run(f'{sys.executable} -c "{sender}"')
        got = heard.wait_for(lambda f: b"turnpike" in f)
    must(got[:len(frame)] == frame, f"sent {frame.hex()}, the wire had {got.hex()}")


@test
def uplink_leaves_the_switch_and_comes_back():
    w = world()
    w["switch"].cli("uplink", "remove", "wire")
    p = traffic.ping(w["x"], "10.1.0.3", 2, interval=0.1)
    must(p.received == 0, f"answered without an uplink: {p}")
    reachable(w["x"], "10.1.0.2")
    w["switch"].cli("uplink", "add", "wire", "--device", w["near"])
    reachable(w["x"], "10.1.0.3")


@test
def promiscuity_of_the_device_ends_with_the_uplink():
    w = world()

    def promiscuous():
        return "promiscuity 0" not in host.sh("ip", "-d", "link", "show", w["near"])
    must(promiscuous(), "an uplink of foreign MACs needs promiscuous mode")
    w["switch"].cli("uplink", "remove", "wire")
    host.until("the device to leave promiscuous mode", lambda: not promiscuous(), 5)
    w["switch"].cli("uplink", "add", "wire", "--device", w["near"])


@test
def switch_ends_cleanly():
    s = world()["switch"]
    must((code := s.close()) == 0, f"SIGTERM ended it with {code}")
    log = s.log_path.read_text(errors="replace")
    must("panicked" not in log, f"a thread panicked: {log[-800:]}")


suite.run()
