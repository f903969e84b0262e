"""Real Linux guests under real QEMU on a real switch. Each test is named after the rule it shows; words on the command line select.

Without a number of its own a rule about speed is only "traffic flows": figures belong to benches/compare.sh.
"""
import os, re, socket, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import guest, host, image, net, nested, suite, switch, testpmd, traffic, world  # noqa: E402
from lab.suite import Skip, must, test  # noqa: E402
from lab.world import IP, MAC, NO_OFFLOADS, bad_checksums, both_ways, pair, reachable, received, the_switch, up  # noqa: E402


def gap(text, interval):
    """Longest silence in seconds within a ping's output, from missing sequence numbers."""
    numbers = sorted(int(n) for n in re.findall(r"seq=(\d+)", text))
    must(len(numbers) > 1, f"no replies: {text[-300:]}")
    return max(b - a - 1 for a, b in zip(numbers, numbers[1:])) * interval


@test
def two_guests_ping_and_stream_both_ways():
    a, b = pair()
    reachable(a, IP["b"])
    p = traffic.ping(a, IP["b"], 20)
    must(p.lost == 0 and p.duplicates == 0, f"{p}, {p.duplicates} duplicates")
    flows = both_ways(a, IP["b"])
    counters = {n: the_switch().show(n)["counters"] for n in "ab"}
    must(counters["a"]["out_bytes"] > 1_000_000 and counters["b"]["in_bytes"] > 1_000_000, f"counters {counters}")
    return f"{p}; " + ", ".join(map(str, flows))


@test
def old_and_new_qemu_attach_side_by_side():
    old, new = world.qemu(7), world.qemu(10)
    a, b = up(a={"qemu": old} if image.qemu().version != old.version else {}, b=dict(qemu=new, queues=4, smp=2, host_mtu=9000, mtu=1500))
    must(a.qemu.version[0] == 7 and b.qemu.version[0] == 10, f"{a.qemu}, {b.qemu}")
    reachable(b, IP["a"])
    for name in "ab":
        must(the_switch().show(name)["state"] == "running", f"port {name}: {the_switch().show(name)['state']}")
    return f"{a.qemu} and {b.qemu}"


@test
def offered_features_are_used_by_a_linux_driver():
    _, b = pair()
    bits = b.run("cat /sys/class/net/eth0/device/features").out.strip()
    names = {0: "CSUM", 1: "GUEST_CSUM", 3: "MTU", 7: "GUEST_TSO4", 8: "GUEST_TSO6", 9: "GUEST_ECN", 11: "HOST_TSO4", 12: "HOST_TSO6", 13: "HOST_ECN",
             15: "MRG_RXBUF", 21: "GUEST_ANNOUNCE", 22: "MQ", 28: "INDIRECT_DESC", 29: "EVENT_IDX", 32: "VERSION_1"}
    missing = [name for bit, name in names.items() if bits[bit] != "1"]
    must(not missing, f"the driver did not get {', '.join(missing)} (bits {bits})")


@test
def offloads_pass_untouched_between_guests_that_have_them():
    a, b = pair()
    for source, sink, ip in ((a, b, IP["b"]), (b, a, IP["a"])):
        packets, size = received(sink)
        flow = traffic.iperf(source, ip, 2)
        packets, size = (now - before for now, before in zip(received(sink), (packets, size)))
        must(size / packets > 2000, f"{size / packets:.0f} bytes per received packet at {flow}: segments did not stay whole")
    must(bad_checksums(a) == bad_checksums(b) == 0, "wrong TCP checksums arrived")


@test
def ipv6_streams_both_ways():
    a, b = pair()
    for g, n in ((a, 1), (b, 2)):
        g.run(f"ip -6 addr add fd00::{n}/64 dev eth0 2>/dev/null", check=False)
    reachable(a, "fd00::2", extra="-6")
    return ", ".join(map(str, both_ways(a, "fd00::2", extra="-6")))


@test
def tagged_traffic_keeps_its_offloads():
    a, b = pair()
    for g, n in ((a, 1), (b, 2)):
        g.run(f"vconfig add eth0 5; ip addr add 10.5.0.{n}/24 dev eth0.5; ip link set eth0.5 up")
    reachable(a, "10.5.0.2")
    packets, size = received(b)
    flows = both_ways(a, "10.5.0.2")
    packets, size = (now - before for now, before in zip(received(b), (packets, size)))
    must(bad_checksums(a) == bad_checksums(b) == 0, "wrong TCP checksums arrived")
    must(size / packets > 1000, f"{size / packets:.0f} bytes per received packet: segments were cut")
    return ", ".join(map(str, flows))


@test
def guest_without_offloads_gets_whole_checksums_and_small_segments():
    a, b = pair()
    (c,) = up(c=dict(device=NO_OFFLOADS))
    reachable(a, IP["c"])
    flows = both_ways(a, IP["c"])
    a.run("ip -6 addr add fd00::1/64 dev eth0 2>/dev/null", check=False)
    c.run("ip -6 addr add fd00::3/64 dev eth0")
    reachable(a, "fd00::3", extra="-6")
    flows += both_ways(a, "fd00::3", extra="-6")
    c.run("vconfig add eth0 5; ip addr add 10.5.0.3/24 dev eth0.5; ip link set eth0.5 up")
    a.run("vconfig add eth0 5; ip addr add 10.5.0.1/24 dev eth0.5; ip link set eth0.5 up", check=False)
    reachable(a, "10.5.0.3")
    flows += both_ways(a, "10.5.0.3")
    must(bad_checksums(c) == 0, f"{bad_checksums(c)} segments with a wrong checksum arrived")
    return "IPv4 " + ", IPv6 ".join(f"{x.mbps:.0f}/{y.mbps:.0f}" for x, y in (flows[0:2], flows[2:4])) + f", tagged {flows[4].mbps:.0f}/{flows[5].mbps:.0f} Mbit/s"


@test
def offloads_switched_off_in_a_running_guest_stay_compatible():
    a, b = pair()
    a.run("ethtool -K eth0 tx off tso off gso off")
    try:
        both_ways(a, IP["b"])
    finally:
        a.run("ethtool -K eth0 tx on tso on gso on")
    both_ways(a, IP["b"], 1)


@test
def file_arrives_unchanged():
    a, b = pair()
    a.run("mkdir /tmp/files; dd if=/dev/urandom of=/tmp/files/f bs=1M count=8 2>/dev/null; httpd -p 8000 -h /tmp/files")
    expected = a.run("sha256sum </tmp/files/f").out
    got = b.run(f"wget -q -O /tmp/f http://{IP['a']}:8000/f; sha256sum </tmp/f; rm /tmp/f", timeout=60).out
    a.run("killall httpd; rm -r /tmp/files")
    must(got == expected, f"{got} instead of {expected}")


@test
def mtu_68_to_9000():
    a, b = up(a=dict(host_mtu=9000), b=dict(qemu=world.newest(), queues=4, smp=2, host_mtu=9000, mtu=1500))
    must(a.run("cat /sys/class/net/eth0/mtu").out.strip() == "9000", "the guest did not get the offered MTU")
    for mtu, sizes in ((9000, (0, 1472, 4000, 8972)), (1500, (56, 1472)), (576, (548,)), (68, (0, 40))):
        for g in (a, b):
            g.run(f"ip link set eth0 mtu {mtu}")
        before = b.run("grep ^Ip: /proc/net/snmp | tail -n 1 | awk '{ print $15 }'").out
        for size in sizes:
            # No fragments may be needed, so `size` is one frame of exactly that MTU.
            p = traffic.ping(a, IP["b"], 5, size=size, interval=0.05)
            must(p.received == 5, f"MTU {mtu}, {size} bytes: {p}")
        must(b.run("grep ^Ip: /proc/net/snmp | tail -n 1 | awk '{ print $15 }'").out == before, f"MTU {mtu}: fragments arrived")
    for g in (a, b):
        g.run("ip link set eth0 mtu 9000")
    flows = both_ways(a, IP["b"])
    for g in (a, b):
        g.run("ip link set eth0 mtu 1500")
    return f"jumbo frames: {', '.join(map(str, flows))}"


@test
def queue_count_changes_while_traffic_runs():
    a, b = pair()
    stream = a.start(f"iperf3 -c {IP['b']} -t 8 -P 4 -f m")
    for count in (4, 1, 3, 2, 4):
        time.sleep(1)
        b.run(f"ethtool -L eth0 combined {count}")
    flow = traffic.Flow(stream.wait(60).out)
    must(flow.mbps > 20, f"only {flow} while the count changed")
    reachable(a, IP["b"])
    return str(flow)


@test
def driver_unbound_and_bound_again():
    a, b = pair()
    device = b.run("basename $(readlink /sys/class/net/eth0/device)").out.strip()
    for _ in range(3):
        b.run(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/unbind")
        must(b.run("test -e /sys/class/net/eth0", check=False).rc, "the card is still there")
        b.run(f"echo {device} >/sys/bus/virtio/drivers/virtio_net/bind; ip link set eth0 up; ip addr add {IP['b']}/24 dev eth0")
        reachable(a, IP["b"])
    both_ways(a, IP["b"], 1)


@test
def guest_rebooted_under_traffic():
    a, b = pair()
    stream = a.start(f"iperf3 -c {IP['b']} -t 60")
    time.sleep(1)
    b.reset()
    stream.stop()
    traffic.fresh_server(a)
    reachable(a, IP["b"])
    both_ways(a, IP["b"], 1)


@test
def qemu_killed_under_traffic_harms_no_other_port():
    a, b = pair()
    (c,) = up(c={})
    reachable(c, IP["a"])
    c.start(f"iperf3 -c {IP['b']} -t 60")
    quiet = a.start(f"ping -c 80 -i 0.05 -W 2 {IP['b']}")
    time.sleep(1.5)
    c.kill()
    world.forget("c")
    the_switch().wait_state("c", "waiting", 5)
    p = traffic.Ping(quiet.wait(30).out)
    must(p.lost == 0, f"between the other two: {p}")
    must(the_switch().show("c")["counters"]["out_packets"] > 0, "the port's counters were lost")
    (c,) = up(c={})
    reachable(c, IP["a"])
    both_ways(c, IP["a"], 1)
    traffic.fresh_server(b)
    return str(p)


def restarted(how, device=""):
    new = world.newest()
    more = dict(device=device) if device else {}
    a, b = up(a=dict(qemu=new, **more), b=dict(qemu=new, queues=4, smp=2, host_mtu=9000, mtu=1500, **more))
    s = the_switch()
    reachable(a, IP["b"])
    interval = 0.05
    pinging = a.start(f"ping -c 160 -i {interval} -W 1 {IP['b']}")
    time.sleep(2)
    began = time.monotonic()
    if how == "KILL":
        s.kill()
    else:
        must((code := s.close()) == 0, f"SIGTERM ended it with {code}")
    s.start()
    away = time.monotonic() - began
    silent = gap(pinging.wait(60).out, interval)
    must(silent - away < 1.0, f"{silent:.2f} s without traffic, of which the switch was away {away:.2f} s")
    if new.version < (9, 2):
        raise Skip(f"{new} reconnects once a second at most; the rule is for reconnect-ms")
    both_ways(a, IP["b"], 1)
    return f"silent {silent:.2f} s, switch away {away:.2f} s"


@test
def switch_stopped_and_started_while_qemu_stays():
    return restarted("TERM")


@test
def switch_killed_and_started_while_qemu_stays():
    return restarted("KILL")


@test
def guests_with_packed_rings_stream_and_outlive_the_switch():
    new = world.newest()
    a, b = up(a=dict(qemu=new, device="packed=on"), b=dict(qemu=new, queues=4, smp=2, host_mtu=9000, mtu=1500, device="packed=on"))
    for g in (a, b):
        must(g.run("cat /sys/class/net/eth0/device/features").out.strip()[34] == "1", f"{g.name}: its driver uses split rings")
    reachable(a, IP["b"])
    flows = ", ".join(map(str, both_ways(a, IP["b"])))
    p = traffic.ping(a, IP["b"], 20)
    must(p.lost == 0, str(p))
    waited = the_switch().take_over()
    reachable(a, IP["b"])
    # QEMU cannot say where the device was when it was killed.
    killed = restarted("KILL", "packed=on")
    return f"{flows}; {p}; frames waited {waited:.1f} ms; {killed}"


@test
def switch_connects_where_qemu_listens():
    s = the_switch()
    path = s.directory / "listening.sock"
    mac = "52:54:00:aa:00:09"
    a, _ = pair()
    g = guest.Guest("listening", "10.0.0.9/24", socket=path, mac=mac, server=True)
    s.cli("port", "add", "listening", "--socket", path, "--client", "--mac", mac)
    try:
        g.ready()
        reachable(a, "10.0.0.9")
    finally:
        g.close()
        s.cli("port", "remove", "listening")


@test
def guest_announces_itself_when_asked():
    _, b = pair()
    s = the_switch()
    tap = f"tpk{os.getpid() % 100000}an"
    s.cli("port", "add", "ear", "--tap", tap, "--mac", "52:54:00:aa:00:0a")
    try:
        host.sh("ip", "link", "set", tap, "up")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as ear:
            ear.bind((tap, 0))
            ear.settimeout(5)
            b.qmp("announce-self", initial=50, max=550, rounds=3, step=50)
            end = time.monotonic() + 5
            while time.monotonic() < end:
                try:
                    frame = ear.recv(2048)
                except TimeoutError:
                    break
                # Broadcast ARP from the guest, naming itself as sender and as target.
                if frame[:6] == b"\xff" * 6 and frame[6:12] == bytes.fromhex(MAC["b"].replace(":", "")) and frame[12:14] == b"\x08\x06":
                    must(frame[28:32] == frame[38:42], f"not gratuitous: {frame[:42].hex()}")
                    return
        must(False, "no announcement from the guest within 5 s")
    finally:
        s.cli("port", "remove", "ear")


@test
def host_port_talks_to_a_guest():
    a, _ = pair()
    s, far, tap = the_switch(), net.Namespace(), f"tpk{os.getpid() % 100000}ho"
    s.cli("port", "add", "host0", "--tap", tap, "--mac", "52:54:00:aa:00:0b")
    try:
        host.sh("ip", "link", "set", tap, "netns", far.name)
        far.run(f"ip addr add 10.0.0.50/24 dev {tap}; ip link set {tap} up")
        far.serve_iperf()
        reachable(a, "10.0.0.50")
        p = traffic.ping(a, "10.0.0.50", 20)
        must(p.lost == 0, str(p))
        flows = both_ways(a, "10.0.0.50")
        must(bad_checksums(far) == 0 and bad_checksums(a) == 0, "wrong TCP checksums arrived")
        return ", ".join(map(str, flows))
    finally:
        s.cli("port", "remove", "host0")


@test
def uplink_carries_guests_to_the_wire_and_back():
    a, _ = pair()
    s, far = the_switch(), net.Namespace()
    near = far.veth("10.0.0.60/24")
    far.serve_iperf()
    s.cli("uplink", "add", "up0", "--device", near)
    try:
        reachable(a, "10.0.0.60")
        p = traffic.ping(a, "10.0.0.60", 20)
        must(p.lost == 0 and p.duplicates == 0, f"{p}, {p.duplicates} duplicates")
        flows = both_ways(a, "10.0.0.60")
        (c,) = up(c=dict(device=NO_OFFLOADS))
        reachable(c, "10.0.0.60")
        flows += both_ways(c, "10.0.0.60")
        must(bad_checksums(far) == bad_checksums(a) == bad_checksums(c) == 0, "wrong TCP checksums arrived")
        return ", ".join(map(str, flows))
    finally:
        s.cli("uplink", "remove", "up0")


@test
def old_driver_habits_work():
    """Guests whose card lacks one thing each: no mergeable buffers, no indirect descriptors, no event index, a ring of 1024."""
    a, _ = pair()
    for habit in ("mrg_rxbuf=off", "indirect_desc=off,event_idx=off", "rx_queue_size=1024,tx_queue_size=1024"):
        (c,) = up(c=dict(device=habit))
        reachable(a, IP["c"])
        both_ways(a, IP["c"], 1)
        must(bad_checksums(c) == 0, f"{habit}: wrong TCP checksums arrived")


@test
def dpdk_virtio_user_drives_rings_of_64_to_1024_split_packed_and_in_order():
    try:
        testpmd.packages()
        net.hugepages(256)
    except host.LabError as e:
        raise Skip(str(e)) from None
    s, rates = the_switch(), []
    for name, mac in zip("xy", testpmd.MACS):
        s.port(name, "--mac", mac)
    try:
        for size, extra in ((64, ""), (256, ""), (1024, ""), (256, "packed_vq=1"), (1024, "packed_vq=1,in_order=1"), (256, "in_order=1"),
                            (256, "packed_vq=1,mrg_rxbuf=0")):
            pmd = testpmd.Testpmd([testpmd.virtio_user(i, s.socket(n), server=False, queue_size=size, extra=extra) for i, n in enumerate("xy")])
            try:
                pmd.prompt()
                pmd.go(64)
                time.sleep(0.5)
                rates.append(pmd.rate(1))
            finally:
                pmd.close()
            must(rates[-1] > 10_000, f"ring of {size} {extra}: {rates[-1]} frames a second")
            for n in "xy":
                s.wait_state(n, "waiting")
    finally:
        for n in "xy":
            s.cli("port", "remove", n)
    return ", ".join(f"{r / 1e6:.2f} Mpps" for r in rates)


@test
def sleeping_switch_costs_nothing_and_answers():
    a, _ = pair()
    time.sleep(1)
    before = host.cpu_seconds(the_switch().pid)
    time.sleep(5)
    used = (host.cpu_seconds(the_switch().pid) - before) / 5 * 100
    must(used < 2, f"{used:.1f} % of a CPU with idle guests")
    p = traffic.ping(a, IP["b"], 10, interval=0.3)
    must(p.lost == 0, str(p))
    return f"{used:.1f} % of a CPU idle, then {p}"


@test
def cloud_hypervisor_guests_talk():
    return nested.two_guests(nested.binary(), switch.binary())


import guest_policy  # noqa: E402, F401  # its tests come before the last one


@test
def switch_ends_cleanly():
    the_switch().must_end_cleanly()


suite.run(world.reset_all)
