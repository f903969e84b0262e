"""The switch between networks of the host: TAPs and an uplink in network namespaces, the kernel's own stack on every end. No guests."""
import contextlib, os, sys
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
            s.cli("port", "add", f"host-{n}", "--tap", ends[n].tap, "--mac", f"52:54:00:bb:00:0{i}",
                  "--vlan", "trunk:1-4094")
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


HEAD = {n: f"52:54:00:bb:00:0{i}".replace(":", "") for i, n in enumerate("xy", 1)}


def frame(source, text, tags=(), destination="ff" * 6):
    """A frame of local ethertype; `tags` are VLAN ids, outermost first."""
    head = destination + source + "".join(f"8100{t:04x}" for t in tags) + "88b5"
    return bytes.fromhex(head) + text * 4


def tags(frame):
    """VLAN ids of a frame, outermost first."""
    ids, at = [], 12
    while frame[at:at + 2] == b"\x81\x00":
        ids.append(int.from_bytes(frame[at + 2:at + 4], "big") & 0xfff)
        at += 4
    return ids


def set_vlans(**modes):
    for n, mode in modes.items():
        world()["switch"].cli("port", "set", f"host-{n}", "--vlan", mode)


def hear(say, listeners, text):
    """Calls `say` and returns for each listener (namespace, interface) the tags of the frames with `text` that it heard."""
    with contextlib.ExitStack() as stack:
        ears = [stack.enter_context(net.ear(*where)) for where in listeners]
        say()
        return [[tags(f) for f in ear.all(lambda f: text in f)] for ear in ears]


@test
def s4_access_ports_are_tagged_on_the_wire_and_only_there():
    w = world()
    x, y, wire = (w["x"], w["x"].tap), (w["y"], w["y"].tap), (w["w"], "eth0")
    try:
        set_vlans(x="access:10", y="access:10")
        with net.ear(*x) as mouth:
            heard = hear(lambda: mouth.say(frame(HEAD["x"], b"from-x")), (y, wire), b"from-x")
        must(heard == [[[]], [[10]]], f"x in VLAN 10: y and the wire heard tags {heard}")
        reachable(w["x"], "10.1.0.2")
        flows = [stream(w["x"], "10.1.0.2"), stream(w["x"], "10.1.0.2", reverse=True)]
        must(not traffic.ping(w["x"], "10.1.0.3", 2, interval=0.1).received, "the untagged wire answered VLAN 10")
        with net.ear(*wire) as mouth:
            for vlan, reached in ((10, [[[]], [[]]]), (20, [[], []]), (None, [[], []])):
                text = f"from-wire-{vlan}".encode()
                say = lambda: mouth.say(frame("02aaaaaaaa01", text, [vlan] if vlan else []))
                heard = hear(say, (x, y), text)
                must(heard == reached, f"VLAN {vlan} from the wire: x and y heard {heard}")
        set_vlans(y="access:20")
        must(not traffic.ping(w["x"], "10.1.0.2", 2, interval=0.1).received, "VLAN 20 answered VLAN 10")
        must(bad_checksums(w["x"]) == bad_checksums(w["y"]) == 0, "wrong TCP checksums arrived")
    finally:
        set_vlans(x="trunk:1-4094", y="trunk:1-4094")
    return ", ".join(map(str, flows))


@test
def s4_trunk_ports_carry_listed_tags_and_their_native_vlan():
    w = world()
    x, y, wire = (w["x"], w["x"].tap), (w["y"], w["y"].tap), (w["w"], "eth0")
    try:
        set_vlans(x="trunk:10,20/30", y="access:30")
        with net.ear(*x) as mouth:
            for sent, at_y, at_wire in (([], [[]], [[30]]), ([10], [], [[10]]), ([20], [], [[20]]), ([40], [], []), ([30], [[]], [[30]])):
                text = f"trunk-{sent}".encode()
                heard = hear(lambda: mouth.say(frame(HEAD["x"], text, sent)), (y, wire), text)
                must(heard == [at_y, at_wire], f"tags {sent}: y and the wire heard {heard}")
    finally:
        set_vlans(x="trunk:1-4094", y="trunk:1-4094")


@test
def s4_private_vlans_of_the_white_papers_figure_on_a_trunk_uplink():
    w = world()
    x, y, wire = (w["x"], w["x"].tap), (w["y"], w["y"].tap), (w["w"], "eth0")
    table = (("isolated:2/4", "isolated:2/4", [], 4), ("isolated:2/4", "promiscuous:2/4,5", [[]], 4), ("promiscuous:2/4,5", "isolated:2/4", [[]], 2),
             ("community:2/5", "community:2/5", [[]], 5), ("community:2/5", "isolated:2/4", [], 5), ("community:2/5", "promiscuous:2/4,5", [[]], 5))
    try:
        for mine, other, heard_by_other, vlan in table:
            set_vlans(x="none", y="none")
            set_vlans(x=mine, y=other)
            text = f"{mine}-{other}".encode()
            with net.ear(*x) as mouth:
                heard = hear(lambda: mouth.say(frame(HEAD["x"], text)), (y, wire), text)
            must(heard == [heard_by_other, [[vlan]]], f"{mine} to {other}: the port and the wire heard {heard}")
        # Back from the wire: a promiscuous router there speaks in the primary VLAN, an isolated host in the secondary.
        set_vlans(x="none", y="none")
        set_vlans(x="isolated:2/4", y="promiscuous:2/4,5")
        with net.ear(*wire) as mouth:
            for vlan, reached in ((2, [[[]], [[]]]), (4, [[], [[]]]), (5, [[], [[]]]), (3, [[], []])):
                text = f"wire-{vlan}".encode()
                heard = hear(lambda: mouth.say(frame("02aaaaaaaa02", text, [vlan])), (x, y), text)
                must(heard == reached, f"VLAN {vlan} from the wire: isolated and promiscuous heard {heard}")
    finally:
        set_vlans(x="none", y="none")
        set_vlans(x="trunk:1-4094", y="trunk:1-4094")


@test
def s10_the_uplink_can_be_mirrored_to_a_host_port():
    w = world()
    s = w["switch"]
    x, y = (w["x"], w["x"].tap), (w["y"], w["y"].tap)
    s.cli("port", "set", "host-y", "--mirror", "destination")
    s.cli("port", "set", "host-x", "--mirror", "source")
    try:
        to_wire = host_mac(w["w"], "eth0")
        with net.ear(*x) as mouth:
            heard = hear(lambda: mouth.say(frame(HEAD["x"], b"mirrored", destination=to_wire)), (y, (w["w"], "eth0")), b"mirrored")
        must(heard == [[[]], [[]]], f"monitor and wire heard {heard}")
    finally:
        for n in "xy":
            s.cli("port", "set", f"host-{n}", "--mirror", "default")


def host_mac(where, interface):
    return where.run(f"cat /sys/class/net/{interface}/address").out.strip().replace(":", "")


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
    world()["switch"].must_end_cleanly()


suite.run()
