"""What must be true of a guest's port when its guest has moved, or was to move: its policy, what it counted, and every frame of the probes."""
import itertools
from . import host, prober
from .host import LabError
from .suite import must

# Ethernet, IPv4 and UDP headers and the prober's datagram.
FRAME = 14 + 20 + 8 + 48
_ports = itertools.count(7000)


def new_port():
    """A UDP or TCP port that no probe of this run has had."""
    return next(_ports)


def tell(f):
    """What both switches say, and the kernels around them."""
    for h in f.hosts:
        print(f"    {h.name} dropped {h.switch.drops()}")
        print(f"    {h.name}: " + "\n    | ".join(h.switch.log().splitlines()[-10:]), flush=True)
    kernels = [(h.peer, f"{h.name}'s peer") for h in f.hosts] + [(h.namespace, f"{h.name}'s wire") for h in f.hosts]
    for where, name in kernels + ([(f.mover, "guest")] if f.mover else []):
        try:
            said = where.run("grep ^Udp: /proc/net/snmp; grep : /proc/net/dev", check=False, timeout=5).out
        except LabError as e:  # a guest that hangs is what is to be told
            said = str(e)
        print(f"    {name}: " + " | ".join(said.split("\n")), flush=True)


def set_policy(s):
    """Policy of every kind that travels, on the source only."""
    s.cli("port", "set", "guest", "--dhcp-guard", "on", "--router-guard", "on", "--storm-limit", 20000, "--address-limit", 16, "--vm", "moving")
    for peer in ("10.0.0.51", "10.0.0.52"):
        s.cli("acl", "add", "guest", "--action", "meter", "--direction", "both", "--remote", peer)
    s.cli("acl", "add", "guest", "--action", "deny", "--direction", "out", "--remote", "10.99.0.0/16")
    s.cli("rule", "add", "guest", "--action", "allow", "--direction", "out", "--weight", 10, "--protocol", "udp", "--stateful", "--idle-timeout", "600s")
    s.cli("rule", "add", "guest", "--action", "deny", "--direction", "in", "--weight", 20, "--protocol", "tcp", "--local-port", "23")
    s.cli("meter", "enable", "guest")


def policy(s):
    """A guest port's policy and lists, without what they counted."""
    bare = lambda rows: sorted(str({k: v for k, v in r.items() if k not in ("packets", "bytes", "id")}) for r in rows)
    return {"policy": s.show("guest")["policy"], "acl": bare(s.cli("acl", "list", "guest")), "rules": bare(s.cli("rule", "list", "guest"))}


def meters(s):
    """{(direction, address): (packets, bytes)} of what the guest exchanged with each host's peer."""
    return {(way, address.split("/")[0]): count for (way, side, address), count in s.meters("guest").items() if side == "remote" and "10.0.0.5" in address}


def streams(f, g, rate=1000):
    """The 1 kHz probe from behind either switch."""
    return [prober.Stream(h.peer, h.address, g, new_port(), rate) for h in f.hosts]


def no_room(s):
    """Frames that the guest had no room for since its port was made: a counter that moves with it."""
    return s.drops("guest")["guest"].get("receiver-full", 0)


def patient(f):
    """Both switches wait for a guest that has no room, because the machine is busy with others: what it loses is no loss of a move."""
    for h in f.hosts:
        h.switch.cli("switch", "set", "--rx-wait-us", 1000000)


def nothing_lost(probes, excused=0):
    """Ends the probes and holds them to: none lost, none twice. `excused`: frames to the guest that a switch has dropped by its own account
    because the guest had no room; only a machine that is busy with others starves one for so long."""
    missing = 0
    for number, probe in enumerate(probes, 1):
        h = f"host{number}"
        probe.close()
        must(probe.outward["peer_sent"] and probe.inward["peer_sent"], f"{h}: nobody answered the probe: {probe}")
        missing += probe.inward["lost"]
        must(missing <= excused and probe.outward["lost"] == 0 and probe.duplicated == 0,
             f"from {h}: {probe}; missing in {probe.inward['missing'][:5]}, out {probe.outward['missing'][:5]}")


def counted_exactly(f, s, before, probes, peers=("host1", "host2")):
    """Holds the meters to: what they said before, and every frame since, once. Returns the packets that they counted in all."""
    after = meters(s)
    for h, probe in zip(f.hosts, probes):
        if h.name not in peers:
            continue
        for way, frames in (("out", probe.inward["all_out"]), ("in", probe.outward["all_out"])):
            was, now = before[way, h.address], after[way, h.address]
            must(now == (was[0] + frames, was[1] + frames * FRAME), f"{way} {h.address}: {was} before, {frames} frames since, {now} after")
    return sum(packets for packets, _ in after.values())


def told(move, probes):
    """What is said of a move."""
    into, out = move.shares([p.outward for p in probes])
    ms = lambda t: "none" if t is None else f"{t:.1f} ms"
    return f"stood still {move.away_ms:.0f} ms, after that first frame in {ms(into)}, out {ms(out)}"


def settled(f, g):
    """Both switches as they should be when the guest is where it is."""
    host.until("the guest's port to run", lambda: g.at.switch.show("guest")["state"] == "running", 5)
    away = next(h for h in f.hosts if h is not g.at)
    host.until("the other port to wait", lambda: away.switch.show("guest")["state"] == "waiting", 15)


def counted_as_seen(f, g, before, probes, out_lost):
    """Holds the meters to: what they said before, and once every frame that the guest has received since, and that it has sent; but with
    `out_lost` what it sent and nobody received need not be counted: a guest whose switch is dead loses it before there is a switch."""
    after = meters(g.at.switch)
    for h, probe in zip(f.hosts, probes):
        grown = {way: tuple(now - was for was, now in zip(before[way, h.address], after[way, h.address])) for way in ("in", "out")}
        seen, sent, came = probe.inward["all_in"], probe.inward["all_out"], probe.outward["all_in"]
        must(grown["in"] == (seen, seen * FRAME), f"in {h.address}: {grown['in']} counted, {seen} received")
        must((came if out_lost else sent) <= grown["out"][0] <= sent, f"out {h.address}: {grown['out']} counted, {sent} sent, {came} received")
        must(grown["out"][1] == grown["out"][0] * FRAME, f"out {h.address}: {grown['out']} counted")
