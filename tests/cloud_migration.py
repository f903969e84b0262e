"""Live migration of a cloud-hypervisor guest: to another VMM on its host, and to another host. Skipped unless $CLOUD_HYPERVISOR names its
binary, beside which `ch-remote` is expected. Each test is named after the rule it shows; words on the command line select.

A guest that has moved once refuses to be sent to another host (cloud-hypervisor forgets on restoring that its memory writes can be logged), so
the tests boot one of their own wherever they send it away.
"""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import cloud, host, moves, nested, prober, suite, switch  # noqa: E402
from lab.host import LabError  # noqa: E402
from lab.accounts import counted_exactly, meters, new_port, nothing_lost, policy, set_policy, streams  # noqa: E402
from lab.suite import Skip, must, test  # noqa: E402

RATE = 20  # datagrams a second: the guest runs in two emulations, and its receive ring has to last when it does not run at all
PATIENCE = 30  # seconds for rounds of copying; on a busy machine the first alone takes ten
_yard = None


def yard():
    """Both hosts; made at first use, with policy on the first."""
    global _yard
    binary = nested.binary()
    remote = binary.with_name(binary.name.replace("cloud-hypervisor", "ch-remote"))
    if not remote.is_file():
        raise Skip(f"there is no {remote}")
    if _yard is None:
        _yard = cloud.Yard(binary, remote, switch.binary())
        set_policy(_yard.hosts[0].switch)
    return _yard


def guest(fresh):
    """(both hosts, a guest on one of them): one that can be sent to the other host, if `fresh`."""
    y = yard()
    if not y.mover or (fresh and y.mover.moved):
        y.boot(y.mover.at if y.mover else y.hosts[0])
    return y, y.mover


def forget():
    """After a failure: says what the switches and the VMM say; the next test makes its own."""
    global _yard
    if _yard:
        for h in _yard.hosts:
            print(f"    {h.name} dropped {h.switch.drops()}\n    {h.name}: " + "\n    | ".join(h.switch.log().splitlines()[-12:]))
        if _yard.mover:
            print(f"    guest at {_yard.mover.at.name}: {_yard.mover.vmm.log()}", flush=True)
        _yard.close()
        _yard = None


class Load:
    """Numbered datagrams and TCP with known bytes, both ways from behind either switch, and what policy and meters were before."""

    def __init__(self, y, g):
        self.yard, self.guest = y, g
        self.policy, self.meters = policy(g.at.switch), meters(g.at.switch)
        self.probes = streams(y, g, RATE)
        # Of addresses that no meter counts.
        self.tcp = [prober.Tcp(h.peer, h.address.replace("10.0.0.", "10.0.1."), g, new_port(), 1, 5_000) for h in y.hosts]
        time.sleep(1)

    def must_be_whole(self):
        """Ends it, and holds everything to have been kept."""
        time.sleep(2)
        nothing_lost(self.probes)
        for t in self.tcp:
            t.close()
            must(not t.wrong(), t.wrong())
        s = self.guest.at.switch
        must(policy(s) == self.policy, f"policy was {self.policy}, is {policy(s)}")
        return counted_exactly(self.yard, s, self.meters, self.probes)

    def told(self):
        """How long the guest was not heard."""
        return f"{sum(p.inward['received'] + p.outward['received'] for p in self.probes)} datagrams, " \
               f"longest gap {max(p.outward['longest_gap_us'] for p in self.probes) / 1000:.0f} ms"


def stood_still(source, target):
    """For how long the guest's rings did, by the switches' own words, in ms."""
    stopped = [moves.when(e) for e in source.events("port-stopped")][-1]
    ran = min(t for e in target.events("port-running") if (t := moves.when(e)) > stopped)
    return 1000 * (ran - stopped)


def interrupted(how, options=""):
    """Begins a move to the other host, ends it by `how(move)` while memory is copied, and shows that nothing of it is left."""
    y, g = guest(fresh=True)
    target = g.other().switch
    there, load = policy(target), Load(y, g)
    move = g.begin(options=options)
    try:
        how(move)
        move.fails()
    except LabError as e:
        raise LabError(f"{e}: {move.said()}") from None
    must(g.vmm.state() == "Running", f"the guest is {g.vmm.state()}")
    if not move.waiting.ended():
        move.waiting.signal("KILL")
    load.must_be_whole()
    must(policy(target) == there, f"the destination's policy was {there}, is {policy(target)}")
    must(not target.events("state-loaded"), "the destination got a state")
    return f"memory copied {move.copied()} times; {load.told()}"


@test
def s20_1_destinations_vmm_killed_while_copying_leaves_no_trace():
    def kill(move):
        move.begins_to_copy()
        move.waiting.signal("KILL")
    return interrupted(kill)


@test
def s20_1_cancelled_while_copying_leaves_no_trace():
    """There is no word for it: cloud-hypervisor gives up by itself what takes too long, and the first round always does."""
    return interrupted(lambda move: None, ",downtime_ms=1,timeout_s=1,timeout_strategy=cancel")


@test
def s20_3_no_frame_is_lost_or_doubled_by_a_move_to_another_host():
    y, g = guest(fresh=True)
    load, source = Load(y, g), g.at.switch
    before = source.show("guest")["counters"]
    move = g.move(options=f",downtime_ms=1,timeout_s={PATIENCE},timeout_strategy=ignore")
    # The log of writes is exchanged after each round, when the guest stands still, and when its rings have stopped.
    must(move.rounds, "no memory was copied while the guest ran")
    load.must_be_whole()
    after = g.at.switch.show("guest")["counters"]
    for key in ("out_packets", "out_bytes", "in_packets", "in_bytes"):
        must(after[key] > before[key], f"{key} was {before[key]}, is {after[key]}")
    host.until("the other port to wait", lambda: source.show("guest")["state"] == "waiting", 15, 0.3)
    return f"memory copied {move.rounds} times, stood still {stood_still(source, g.at.switch):.0f} ms; {load.told()}"


@test
def s20_3_no_frame_is_lost_or_doubled_by_moves_to_another_vmm_of_the_host():
    y, g = guest(fresh=False)
    load, still = Load(y, g), []
    for _ in range(2):
        g.move(local=True)
        still.append(stood_still(g.at.switch, g.at.switch))
        time.sleep(1)
    load.must_be_whole()
    return f"stood still {', '.join(f'{t:.0f}' for t in still)} ms; {load.told()}"


suite.run(forget)
