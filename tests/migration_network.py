"""The network between two hosts fails while a guest moves with the switches' own channel: cut, and so slow that nothing gets through.

The guest's memory goes from VMM to VMM by another way, as it does in data centres. QEMU 7.2, which carries no state of a port. Words on the
command line select.
"""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import carrier, fleet, host, image, suite  # noqa: E402
from lab.accounts import counted_exactly, meters, nothing_lost, patient, policy, set_policy, settled, streams, tell  # noqa: E402
from lab.host import LabError, sh  # noqa: E402
from lab.suite import Skip, must, test  # noqa: E402

# What `migrate send` may take to give up: the limits of one step and of its end, and the handshakes of connections that are tried again.
LIMIT = 90
_world = {}


def world():
    """The fleet, the guest on it and the switches' channel; made at first use."""
    if not _world:
        try:
            qemu = image.qemu(7)
        except LabError as e:
            raise Skip(str(e)) from None
        f = fleet.Fleet(key=False)
        _world["fleet"] = f
        g = f.boot(qemu=qemu)
        set_policy(g.at.switch)
        patient(f)
        for h in f.hosts:
            # A peer that hears nothing for so long asks where the guest is, and gives up: that would be its loss, not the network's.
            h.peer.run(f"ip neigh replace {fleet.IP} lladdr {fleet.MAC} nud permanent dev {h.tap}")
        _world.update(guest=g, ways=carrier.Carrier(f))
    return _world["fleet"], _world["guest"], _world["ways"]


def forget():
    """After a failure: says what the switches say; the next test makes its own."""
    if _world:
        tell(_world["fleet"])
        _world["fleet"].close()
        _world.clear()


def far(f, h):
    """Words for the interface of the management network in that host."""
    return ["ip", "netns", "exec", h.namespace.name], f.management_ends[f.hosts.index(h)]


def cut(f):
    """No packet passes between the switches any more."""
    where, end = far(f, f.hosts[0])
    sh(*where, "ip", "link", "set", end, "down")


def slow(f):
    """One byte a second: no packet passes within any limit, but the way is there."""
    for h in f.hosts:
        where, end = far(f, h)
        sh(*where, "tc", "qdisc", "add", "dev", end, "root", "tbf", "rate", "8bit", "burst", "1540", "limit", "10000")
        # What may go at once is used up.
        other = next(o for o in f.hosts if o is not h)
        sh(*where, "ping", "-q", "-c", "3", "-i", "0.01", "-W", "1", "-s", "1400", other.management, check=False)


def mend(f):
    """The network is as it was."""
    for h in f.hosts:
        where, end = far(f, h)
        sh(*where, "ip", "link", "set", end, "up")
        sh(*where, "tc", "qdisc", "del", "dev", end, "root", check=False)
        for other in f.hosts:
            if other is not h:
                # Else the first packet would wait until ARP has given up and asks again.
                sh(*where, "ip", "neigh", "flush", "dev", end)


def ended(sending):
    """Seconds until `migrate send` has given up."""
    began = time.monotonic()
    sending.wait(LIMIT)
    must(sending.returncode not in (0, None), "`migrate send` says that the port has moved")
    return time.monotonic() - began


def view(s):
    """A switch's last migration of the guest's port."""
    return s.cli("migrate", "status", "guest")


def goes_on_at_the_source(f, g, before, there, counted, probes):
    """The guest runs where it was, and nothing of the move is left on either side."""
    settled(f, g)
    away = g.other().switch
    host.until("the destination to let go", lambda: away.cli("migrate", "status", "guest", check=False)[0] or view(away)["step"] == "done", LIMIT)
    nothing_lost(probes)
    must(policy(g.at.switch) == before, f"the policy was {before}, is {policy(g.at.switch)}")
    must(policy(away) == there, f"the destination's policy was {there}, is {policy(away)}")
    counted_exactly(f, g.at.switch, counted, probes)


def before_the_guest_stops(spoil):
    """The network fails when both are ready and the guest still runs; the operator sees it and does not move the guest."""
    f, g, ways = world()
    before, there, counted = policy(g.at.switch), policy(g.other().switch), meters(g.at.switch)
    probes = streams(f, g)
    sending = ways.reserved(g)
    spoil(f)
    try:
        time.sleep(1)
        g.at.switch.cli("migrate", "cancel", "guest")
        took = ended(sending)
        goes_on_at_the_source(f, g, before, there, counted, probes)
    finally:
        mend(f)
    return f"{took:.1f} s after the cancel: {view(g.at.switch)['outcome']}, confirmed {view(g.at.switch)['confirmed']}"


def when_the_guest_stands_still(spoil):
    """The network fails, then the guest stops: its state does not get through. `migrate send` ends by itself and says so, and whoever moves the
    guest gives that up, too."""
    f, g, ways = world()
    before, there, counted = policy(g.at.switch), policy(g.other().switch), meters(g.at.switch)
    # As many as are held for a guest that stands still for so long.
    probes = streams(f, g, 50)
    sending = ways.reserved(g)
    waiting, path = g.prepare()
    g.pause_before_handover(True)
    spoil(f)
    try:
        g.begin(path)
        host.until("the guest to stand still", lambda: g.progress().get("status") == "pre-switchover", 30, 0.01)
        took = ended(sending)
        must(10 < took < 30, f"`migrate send` took {took:.1f} s")
        g.guest.qmp("migrate_cancel")
        host.until("the guest to run on", lambda: g.guest.qmp("query-status")["status"] == "running", 10, 0.01)
        waiting.close()
        g.pause_before_handover(False)
        goes_on_at_the_source(f, g, before, there, counted, probes)
    finally:
        mend(f)
    return f"{took:.1f} s: {view(g.at.switch)['reason']}"


@test
def s20_1_a_network_cut_before_the_guest_stops_leaves_it_where_it_is():
    return before_the_guest_stops(cut)


@test
def s20_1_a_network_slow_before_the_guest_stops_leaves_it_where_it_is():
    return before_the_guest_stops(slow)


@test
def s20_1_a_network_cut_when_the_guest_stands_still_leaves_it_where_it_is():
    return when_the_guest_stands_still(cut)


@test
def s20_1_a_network_slow_when_the_guest_stands_still_leaves_it_where_it_is():
    return when_the_guest_stands_still(slow)


@test
def s20_1_a_move_that_finds_no_way_ends_by_itself():
    f, g, ways = world()
    before, there, counted = policy(g.at.switch), policy(g.other().switch), meters(g.at.switch)
    probes = streams(f, g)
    slow(f)
    try:
        took = ended(ways.send(g))
        goes_on_at_the_source(f, g, before, there, counted, probes)
    finally:
        mend(f)
    return f"{took:.1f} s: {view(g.at.switch)['reason']}"


@test
def s20_1_a_guest_moves_when_the_network_is_mended():
    f, g, ways = world()
    before, counted = policy(g.at.switch), meters(g.at.switch)
    probes = streams(f, g)
    ways.move(g)
    time.sleep(1)
    nothing_lost(probes)
    settled(f, g)
    must(policy(g.at.switch) == before, f"the policy was {before}, is {policy(g.at.switch)}")
    counted_exactly(f, g.at.switch, counted, probes)


suite.run(forget)
