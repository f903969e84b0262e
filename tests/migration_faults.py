"""Moves of real guests during which something dies, or the hosts lose sight of each other: a switch, a VMM, the network between them.

Each test is named after the rule it shows; words on the command line select. Under QEMU 10 the port's state travels in QEMU's stream, under
QEMU 7.2 from switch to switch.
"""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import fleet, host, image, moves, relay, suite  # noqa: E402
from lab.accounts import counted_as_seen, meters, no_room, nothing_lost, patient, policy, set_policy, settled, streams, tell  # noqa: E402
from lab.host import LabError  # noqa: E402
from lab.suite import Skip, must, test  # noqa: E402

_world = {}


def world():
    """The fleet and the guest on it, under QEMU 10; made at first use."""
    if not _world:
        try:
            qemu = image.qemu(10)
        except LabError as e:
            raise Skip(str(e)) from None
        f = fleet.Fleet()
        _world.update(fleet=f, guest=f.boot(qemu=qemu))
        set_policy(f.hosts[0].switch)
        patient(f)
    return _world["fleet"], _world["guest"]


def forget():
    """After a failure: says what the switches say; the next test makes its own."""
    if _world:
        tell(_world["fleet"])
        _world["fleet"].close()
        _world.clear()


class Attempt:
    """A move under the probes' traffic, up to where something is to die: `active` while memory is copied (slowly), or `pre-switchover` when the
    guest stands still at the source, its rings with it, and only its last state is left to go."""

    def __init__(self, f, g, until, probed=True, **options):
        self.f, self.g, self.source, self.target = f, g, g.at, g.other()
        self.policy, self.there = policy(self.source.switch), policy(self.target.switch)
        self.meters = meters(self.source.switch)
        self.probes = streams(f, g) if probed else []
        time.sleep(0.5)
        self.waiting, path = g.prepare(**options)
        # Between the VMMs: a destination that is slow to read would hold the source's QEMU up in the middle of its last state.
        self.relay = relay.Relay(path.with_suffix(".relay"), path)
        still = until == "pre-switchover"
        g.pause_before_handover(still)
        g.begin(self.relay.path, bandwidth=4 << 30 if still else 8 << 20)
        self.until(until)
        if still:
            self.rings_stand_still(self.source)
        time.sleep(0.3)

    def rings_stand_still(self, h):
        """Wait until they do, on that host."""
        host.until("rings to stand still", lambda: h.switch.show("guest")["state"] != "running", 5, 0.01)

    def until(self, *wanted, timeout=30):
        """Wait until QEMU says one of this of the move; returns which."""
        return host.until(f"the move to be {' or '.join(wanted)}", lambda: next((w for w in wanted if self.g.progress().get("status") == w), None), timeout, 0.01)

    def go_on(self):
        """QEMU may send the last state."""
        self.g.guest.qmp("migrate-continue", state="pre-switchover")

    def everything_has_left(self):
        """Let the last state leave the source's QEMU and not reach the destination's yet."""
        self.relay.hold()
        self.go_on()
        host.until("the state to be saved", lambda: moves.events(self.source.switch, "state-saved"), 10, 0.01)
        last = -1
        while last != (last := self.relay.kept()):
            time.sleep(0.3)

    def stays(self):
        """The move fails, and the guest goes on at the source."""
        self.until("failed", "cancelled")
        host.until("the guest to run on", lambda: self.g.guest.qmp("query-status")["status"] == "running", 10, 0.01)
        self.waiting.close()
        self.g.pause_before_handover(False)

    def arrives(self):
        """The move is completed, and the guest runs at the destination."""
        self.g.finish(self.waiting, self.target, 60)

    def is_whole(self, out_lost=False):
        """The guest runs where it is and nowhere else, with its policy and with every frame that it has seen counted once; `out_lost`: but not
        what it sent while its switch was dead."""
        g, s = self.g, self.g.at.switch
        settled(self.f, g)
        time.sleep(1)
        for p in self.probes:
            p.close()
            must(p.duplicated == 0, f"frames came twice: {p}")
            must(p.inward["received"] and p.outward["received"], f"nothing came: {p}")
        must(policy(s) == self.policy, f"the policy was {self.policy}, is {policy(s)}")
        if g.at is self.source:
            there = policy(self.target.switch)
            must(there == self.there, f"the destination's policy was {self.there}, is {there}")
        counted_as_seen(self.f, g, self.meters, self.probes, out_lost)

    def moves_again(self):
        """And the next move is as any other."""
        full, probes = no_room(self.g.at.switch), streams(self.f, self.g)
        time.sleep(0.5)
        self.g.move()
        time.sleep(1)
        nothing_lost(probes, no_room(self.g.at.switch) - full)
        settled(self.f, self.g)
        must(policy(self.g.at.switch) == self.policy, f"the policy was {self.policy}, is {policy(self.g.at.switch)}")


@test
def s20_7_source_switch_killed_when_the_guest_stands_still_has_it_back():
    f, g = world()
    a = Attempt(f, g, "pre-switchover")
    a.source.switch.kill()
    a.go_on()
    a.stays()
    a.source.restart()
    a.is_whole(out_lost=True)
    a.moves_again()


@test
def s20_7_source_switch_killed_after_the_state_has_left_is_not_needed():
    f, g = world()
    a = Attempt(f, g, "pre-switchover")
    a.everything_has_left()
    a.source.switch.kill()
    a.relay.release()
    a.arrives()
    a.source.restart()
    a.is_whole()
    a.moves_again()


@test
def s20_7_destination_switch_killed_while_copying_is_there_again_when_the_guest_comes():
    f, g = world()
    a = Attempt(f, g, "active")
    a.target.switch.kill()
    time.sleep(0.5)
    a.target.restart()
    a.arrives()  # the state comes last, and the switch is there again
    a.is_whole()
    a.moves_again()


@test
def s20_7_destination_switch_killed_when_the_guest_stands_still_leaves_it_where_it_is():
    f, g = world()
    a = Attempt(f, g, "pre-switchover")
    a.target.switch.kill()
    a.go_on()
    a.stays()
    a.target.restart()
    a.is_whole()
    a.moves_again()


@test
def s20_7_destination_switch_killed_before_the_guest_runs_there_knows_its_policy_when_it_does():
    f, g = world()
    a = Attempt(f, g, "pre-switchover", extra=["-S"])
    a.go_on()
    a.until("completed")
    host.until("the state to be in force", lambda: moves.events(a.target.switch, "state-loaded"), 5, 0.01)
    a.target.switch.kill()
    a.target.restart()
    host.until("the front end to be back", lambda: moves.events(a.target.switch, "front-end-connected"), 10)
    a.waiting.qmp("cont")
    a.arrives()
    a.is_whole()
    a.moves_again()


@test
def s20_7_destination_switch_killed_after_the_guest_runs_there_has_it_back():
    f, g = world()
    a = Attempt(f, g, "pre-switchover")
    a.go_on()
    a.arrives()
    a.target.switch.kill()
    a.target.restart()
    a.is_whole(out_lost=True)
    a.moves_again()


def vmm_killed(until):
    """The source's QEMU dies, and its guest with it: nobody runs, and all is there for the next boot."""
    f, g = world()
    a = Attempt(f, g, until, probed=False)
    pings = [h.peer.run(f"ping -q -i 0.01 -c 50 {g.ip}", check=False).out for h in f.hosts] if until == "active" else []
    must(all(" 0% packet loss" in p for p in pings), f"the guest does not answer while it is copied: {pings}")
    g.guest.kill()
    host.until("the destination's QEMU to give up", lambda: a.waiting.process.poll() is not None, 30)
    for h in f.hosts:
        h.switch.wait_state("guest", "waiting")
    counted = meters(a.source.switch)
    must(all(counted[key] >= a.meters[key] for key in counted), f"meters fell from {a.meters} to {counted}")
    must(policy(a.target.switch) == a.there, f"the destination's policy was {a.there}, is {policy(a.target.switch)}")
    g.boot()
    a.probes, a.meters = [], meters(a.source.switch)
    must(a.meters == counted, f"{counted} when the VMM died, {a.meters} when it was back")
    a.probes = streams(f, g)
    time.sleep(1)
    a.is_whole()
    a.moves_again()


@test
def s20_7_source_vmm_killed_while_copying_leaves_its_port_waiting_with_all_it_was():
    vmm_killed("active")


@test
def s20_7_source_vmm_killed_when_the_guest_stands_still_leaves_its_port_waiting_with_all_it_was():
    vmm_killed("pre-switchover")


@test
def s20_7_source_vmm_killed_after_the_state_has_left_is_not_needed():
    f, g = world()
    a = Attempt(f, g, "pre-switchover")
    a.everything_has_left()
    g.guest.kill()
    a.relay.release()
    host.until("the guest to run", lambda: a.waiting.qmp("query-status")["status"] == "running", 10, 0.01)
    g.is_at(a.target, a.waiting)
    a.is_whole()
    a.moves_again()


suite.run(forget)
