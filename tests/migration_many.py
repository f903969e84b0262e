"""Many moves of one guest there and back, by either way for its state: nothing is lost, doubled or left behind.

`TURNPIKE_MOVES=100 python3 tests/migration_many.py streams_of_the_vmm` is the long form, about 13 s a move; a few moves are made by default. Words
on the command line select.
"""
import os, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import carrier, fleet, image, prober, suite  # noqa: E402
from lab.accounts import counted_as_seen, counted_exactly, meters, new_port, no_room, nothing_lost, patient, policy, set_policy, settled, streams, tell  # noqa: E402
from lab.host import LabError  # noqa: E402
from lab.suite import Skip, must, test  # noqa: E402

MOVES = int(os.environ.get("TURNPIKE_MOVES", 4))
# What a switch may have grown by after any number of moves, in KiB: the allocator gives little back.
GROWTH = 4096


def holdings(h):
    """What a switch holds on to: {name: how much}."""
    pid, s = h.switch.pid, h.switch
    threads = [Path(f"/proc/{pid}/task/{t}/comm").read_text().strip() for t in os.listdir(f"/proc/{pid}/task")]
    # Those of the pool that may wait come with requests, and go when they have been idle for ten seconds.
    own = sorted(name for name in threads if not name.startswith("tokio"))
    return {"descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": own, "addresses": len(s.cli("fdb", "show")),
            "sessions": len(s.cli("session", "list", "guest"))}


def resident(h):
    """KiB of memory that the switch has."""
    return next(int(line.split()[1]) for line in Path(f"/proc/{h.switch.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))


def percentiles(values):
    """Median and most of them."""
    return f"p50 {fleet.percentile(values, 0.5):.0f} ms, most {max(values):.0f} ms"


def there_and_back(f, g, move, count):
    """So many moves, an even number, under two 1 kHz streams and 20 connections; returns what is said of them."""
    # TCP goes by addresses that are not metered.
    before, counted, full = policy(g.at.switch), meters(g.at.switch), no_room(g.at.switch)
    probes = streams(f, g)
    conversation = prober.Tcp(f.hosts[0].peer, "10.0.0.151", g, new_port(), 20, 2000)
    for _ in range(2):
        move(), time.sleep(0.5)
    first, memory = [holdings(h) for h in f.hosts], [resident(h) for h in f.hosts]
    stood = []
    for number in range(count):
        stood.append(move().away_ms)
        time.sleep(0.5)
        must(conversation.running(), f"a connection ended in move {number + 1}")
    settled(f, g)
    last, grown = [holdings(h) for h in f.hosts], [resident(h) - was for h, was in zip(f.hosts, memory)]
    starved = no_room(g.at.switch) - full
    nothing_lost(probes, starved)
    conversation.close()
    must(not conversation.wrong(), conversation.wrong())
    must(policy(g.at.switch) == before, f"the policy was {before}, is {policy(g.at.switch)}")
    must(last == first, f"both switches held {first}, hold {last} after {count} moves")
    must(max(grown) <= GROWTH, f"the switches have grown by {grown} KiB")
    counted_as_seen(f, g, counted, probes, out_lost=False)
    if not starved:
        counted_exactly(f, g.at.switch, counted, probes)
    overtaken = sum(r["reordered"] for p in probes for r in (p.inward, p.outward))
    return f"{count} moves: stood still {percentiles(stood)}; {sum(p.inward['received'] + p.outward['received'] for p in probes)} datagrams, " \
           f"{starved} lost for want of room in the guest, {overtaken} overtaken; {conversation}; memory +{grown} KiB"


def begin(key, major):
    """A fleet with a guest under that QEMU, its port with policy of every kind, and an address of the peer that no meter counts."""
    try:
        qemu = image.qemu(major)
    except LabError as e:
        raise Skip(str(e)) from None
    f = fleet.Fleet(key=key)
    g = f.boot(qemu=qemu)
    set_policy(g.at.switch)
    patient(f)
    f.hosts[0].peer.run(f"ip addr add 10.0.0.151/24 dev {f.hosts[0].tap}")
    return f, g


@test
def s20_2_hundred_moves_in_streams_of_the_vmm_leave_nothing_behind():
    f, g = begin(True, 10)
    try:
        return there_and_back(f, g, g.move, MOVES)
    except Exception:
        tell(f)
        raise
    finally:
        f.close()


@test
def s20_2_thirty_moves_from_switch_to_switch_leave_nothing_behind():
    f, g = begin(False, 7)
    try:
        ways = carrier.Carrier(f)
        return there_and_back(f, g, lambda: ways.move(g), MOVES)
    except Exception:
        tell(f)
        raise
    finally:
        f.close()


suite.run()
