"""The switch is replaced under real guests: by a successor that takes over, and after a crash. Words on the command line select."""
import statistics, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, net, suite, traffic, world  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import IP, both_ways, reachable, the_switch, up  # noqa: E402


def counted(where, protocol, *keys):
    """What the kernel has counted since boot."""
    names, values = (line.split()[1:] for line in where.run(f"grep ^{protocol}: /proc/net/snmp").out.strip().splitlines())
    return [int(dict(zip(names, values))[key]) for key in keys]


def resets(where):
    """TCP connections that a reset ended, and resets sent."""
    return counted(where, "Tcp", "EstabResets", "OutRsts")


def unanswered(where):
    """Pings sent and not answered, by the kernel's count: busybox's ping misses answers of its own accord when the machine is busy."""
    sent, answers = counted(where, "Icmp", "OutEchos", "InEchoReps")
    return sent - answers


@test
def s20_7_streams_and_pings_go_on_through_take_overs():
    new = world.newest()
    a, b = up(a=dict(qemu=new), b=dict(qemu=new, queues=4, smp=2, host_mtu=9000, mtu=1500))
    s, wire, inside, rounds = the_switch(), net.Namespace(), net.Namespace(), 10
    outside, tap = wire.veth("10.0.0.60/24"), f"tpk{host.os.getpid() % 100000}to"
    s.cli("port", "add", "host0", "--tap", tap, "--mac", "52:54:00:aa:00:0b")
    s.cli("uplink", "add", "wire0", "--device", outside)
    try:
        host.sh("ip", "link", "set", tap, "netns", inside.name)
        inside.run(f"ip addr add 10.0.0.50/24 dev {tap}; ip link set {tap} up")
        for address in (IP["b"], "10.0.0.50", "10.0.0.60"):
            reachable(a, address)
        # A frame that a busy receiver has no room for is no loss of ours.
        s.cli("switch", "set", "--rx-wait-us", 1000000)
        before, lost, dropped = (resets(a), resets(b)), unanswered(a), s.drops()
        stream = a.start(f"iperf3 -c {IP['b']} -t {rounds * 2 + 4} -f m")
        pings = {to: a.start(f"ping -c {rounds * 2 * 50} -i 0.02 -W 3 {to}") for to in (IP["b"], "10.0.0.50", "10.0.0.60")}
        waited = []
        for number in range(rounds):
            time.sleep(1)
            waited.append(s.take_over("--workers", (2, 1, 4, 3)[number % 4]))
        # Asked while the stream runs: iperf3 itself ends one with a reset, with and without a take-over.
        time.sleep(1)
        after = resets(a), resets(b)
        flow = traffic.Flow(stream.wait(120).out)
        for to, running in pings.items():
            p = traffic.Ping(running.wait(120).out)
            must(p.duplicates == 0, f"to {to}: {p}, {p.duplicates} duplicates")
        lost = unanswered(a) - lost
        must(lost == 0, f"{lost} pings lost; dropped {dropped} before, {s.drops()} after")
        must(after == before, f"TCP resets {before} before, {after} after")
        must(flow.mbps > 5, f"only {flow}")
        both_ways(a, IP["b"], 1)
        return f"{rounds} take-overs: {flow}; frames waited p50 {statistics.median(waited):.1f} ms, at most {max(waited):.1f} ms"
    finally:
        s.cli("switch", "set", "--rx-wait-us", "default")
        s.cli("uplink", "remove", "wire0")
        s.cli("port", "remove", "host0")


@test
def s20_7_a_crash_keeps_policy_and_meters():
    new = world.newest()
    a, b = up(a=dict(qemu=new), b=dict(qemu=new, queues=4, smp=2, host_mtu=9000, mtu=1500))
    s = the_switch()
    reachable(a, IP["b"])
    s.cli("meter", "enable", "b")
    s.cli("acl", "add", "b", "--action", "deny", "--direction", "in", "--remote", "10.0.0.77")
    try:
        must(traffic.ping(a, IP["b"], 10, interval=0.05).lost == 0, "no way to b before the crash")
        entries, meters = s.cli("acl", "list", "b"), s.meters("b")
        policy, since = s.show("b")["policy"], s.cli("meter", "show", "b")[0]["since"]
        s.kill()
        s.start()
        reachable(a, IP["b"])
        key = lambda rows: [{k: v for k, v in row.items() if k not in ("packets", "bytes")} for row in rows]
        must(key(s.cli("acl", "list", "b")) == key(entries), f"the ACL was {entries}, is {s.cli('acl', 'list', 'b')}")
        must(s.show("b")["policy"] == policy, f"the policy was {policy}, is {s.show('b')['policy']}")
        must(s.cli("meter", "show", "b")[0]["since"] == since, "the metering began anew")
        less = {k: (v, s.meters("b")[k]) for k, v in meters.items() if s.meters("b")[k] < v}
        must(not less, f"meters fell: {less}")
    finally:
        s.clear_policy("b")


@test
def the_last_of_the_switches_ends_cleanly():
    the_switch().must_end_cleanly()


suite.run(world.reset_all)
