"""Live migration with real guests: two hosts, a guest that moves between them under traffic of which every frame is accounted for.

Each test is named after the rule it shows; words on the command line select.
"""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import carrier, fleet, host, image, prober, suite  # noqa: E402
from lab.accounts import counted_exactly, meters, new_port, nothing_lost, policy, set_policy, settled, streams, tell, told  # noqa: E402
from lab.host import LabError  # noqa: E402
from lab.suite import Skip, must, test  # noqa: E402

_world = {}


def world(**card):
    """The fleet and the guest on it, under QEMU 10 whose stream carries the port's state; made at first use. `card`: what that one is like."""
    if not _world:
        try:
            qemu = image.qemu(10)
        except LabError as e:
            raise Skip(str(e)) from None
        f = fleet.Fleet()
        _world.update(fleet=f, guest=f.boot(qemu=qemu, **card))
        set_policy(f.hosts[0].switch)
    return _world["fleet"], _world["guest"]


def forget_quietly():
    """All away; the next test makes its own."""
    if _world:
        _world["fleet"].close()
        _world.clear()


def forget():
    """After a failure: as above, and says what the switches say."""
    if _world:
        tell(_world["fleet"])
    forget_quietly()


@test
def s20_3_no_frame_is_lost_or_doubled_by_a_move():
    f, g = world()
    probes = streams(f, g)
    time.sleep(1)
    move = g.move()
    time.sleep(2)
    nothing_lost(probes)
    settled(f, g)
    return told(move, probes)


@test
def s20_3_no_frame_is_lost_or_doubled_by_a_move_of_packed_rings():
    forget_quietly()
    try:
        f, g = world(device="rx_queue_size=1024,packed=on")
        must(g.run("cat /sys/class/net/eth0/device/features").out.strip()[34] == "1", "the driver uses split rings")
        said = []
        for _ in range(2):  # and back
            probes = streams(f, g)
            time.sleep(1)
            move = g.move()
            time.sleep(2)
            nothing_lost(probes)
            settled(f, g)
            said.append(told(move, probes))
        return "; ".join(said)
    finally:
        forget_quietly()


@test
def s20_1_hundred_connections_live_on_and_every_byte_is_right():
    f, g = world()
    conversations = [prober.Tcp(f.hosts[0].peer, f.hosts[0].address, g, new_port(), 99, 2000),
                     prober.Tcp(f.hosts[1].peer, f.hosts[1].address, g, new_port(), 1, 200_000)]
    time.sleep(1)
    g.move()
    time.sleep(2)
    for c in conversations:
        c.close()
        must(not c.wrong(), c.wrong())
    return "; ".join(map(str, conversations))


@test
def s20_2_policy_goes_along():
    f, g = world()
    before = policy(g.at.switch)
    must(before["policy"]["dhcp_guard"] and before["rules"], f"there is no policy to move: {before}")
    g.move()
    after = policy(g.at.switch)
    must(before == after, f"before {before}, after {after}")


@test
def s20_2_meters_count_every_frame_of_a_move_exactly_once():
    f, g = world()
    before = meters(g.at.switch)
    probes = streams(f, g)
    time.sleep(1)
    g.move()
    time.sleep(1)
    nothing_lost(probes)
    return f"{counted_exactly(f, g.at.switch, before, probes)} packets metered"


@test
def s20_2_sessions_and_counters_go_along():
    f, g = world()
    source = g.at.switch
    nothing_lost(streams(f, g))  # opens sessions
    flows = lambda s: sorted(str({k: v for k, v in x.items() if k in ("protocol", "local", "remote", "local_port", "remote_port", "direction")})
                             for x in s.cli("session", "list", "guest"))
    was, counted = flows(source), source.show("guest")["counters"]
    must(was, "there is no session to move")
    g.move()
    now, counts = flows(g.at.switch), g.at.switch.show("guest")["counters"]
    must(set(was) <= set(now), f"before {was}, after {now}")
    for key in ("out_packets", "out_bytes", "in_packets", "in_bytes"):
        # Announcements and address resolution have been added, a thousand datagrams have not.
        must(counted[key] <= counts[key] < counted[key] + (100 if "packets" in key else 20_000), f"{key}: {counted[key]} before, {counts[key]} after")
    return f"{len(was)} sessions"


@test
def s20_moved_guest_reboots_and_moves_again():
    f, g = world()
    g.move()
    g.guest.reset()
    probes = streams(f, g)
    time.sleep(0.5)
    g.move()
    time.sleep(1)
    nothing_lost(probes)


def interrupted(how, when):
    """Begins a move, stops it by `how(guest, waiting)` while memory is copied or when the guest already stands still, and shows that
    nothing of it is left."""
    f, g = world()
    target = g.other().switch
    before, there = policy(g.at.switch), policy(target)
    counted = meters(g.at.switch)
    probes = streams(f, g)
    time.sleep(0.5)
    waiting, path = g.prepare()
    g.pause_before_handover(when == "handover")
    g.begin(path, bandwidth=8 << 20 if when == "copying" else 4 << 30)
    wanted = {"copying": "active", "handover": "pre-switchover"}[when]
    host.until(f"the move to be {wanted}", lambda: g.progress().get("status") == wanted, 30, 0.01)
    time.sleep(0.5)
    how(g, waiting)
    host.until("the move to end", lambda: g.progress().get("status") in ("failed", "cancelled"), 30, 0.01)
    host.until("the guest to run on", lambda: g.guest.qmp("query-status")["status"] == "running", 10, 0.01)
    waiting.close()
    g.pause_before_handover(False)
    time.sleep(1)
    nothing_lost(probes)
    settled(f, g)
    must(policy(g.at.switch) == before, f"the source's policy was {before}, is {policy(g.at.switch)}")
    must(policy(target) == there, f"the destination's policy was {there}, is {policy(target)}")
    counted_exactly(f, g.at.switch, counted, probes)


def cancel(g, _waiting):
    g.guest.qmp("migrate_cancel")


def kill_destination(g, waiting):
    waiting.kill()
    if g.progress().get("status") == "pre-switchover":
        g.guest.qmp("migrate-continue", state="pre-switchover")


@test
def s20_1_cancelled_while_copying_leaves_no_trace():
    interrupted(cancel, "copying")


@test
def s20_1_cancelled_when_the_guest_stands_still_leaves_no_trace():
    interrupted(cancel, "handover")


@test
def s20_1_destinations_vmm_killed_while_copying_leaves_no_trace():
    interrupted(kill_destination, "copying")


@test
def s20_1_destinations_vmm_killed_when_the_guest_stands_still_leaves_no_trace():
    interrupted(kill_destination, "handover")


@test
def s20_1_guest_moves_after_all_that():
    f, g = world()
    probes = streams(f, g)
    time.sleep(0.5)
    move = g.move()
    time.sleep(1)
    nothing_lost(probes)
    return told(move, probes)


@test
def qemu_that_carries_no_state_moves_with_the_switches_own_channel():
    try:
        old = image.qemu(7)
    except LabError as e:
        raise Skip(str(e)) from None
    forget_quietly()
    f = fleet.Fleet(key=False)
    try:
        g = f.boot(qemu=old)
        set_policy(g.at.switch)
        ways = carrier.Carrier(f)
        before, counted = policy(g.at.switch), meters(g.at.switch)
        probes = streams(f, g)
        moves = []
        for _ in range(2):
            moves.append(ways.move(g))
            time.sleep(1)
        nothing_lost(probes)
        must(policy(g.at.switch) == before, f"policy was {before}, is {policy(g.at.switch)}")
        counted_exactly(f, g.at.switch, counted, probes)
        return "; ".join(told(m, probes) for m in moves)
    except Exception:
        tell(f)
        raise
    finally:
        f.close()


@test
def successor_takes_over_and_no_guest_notices():
    f, g = world()
    s = g.at.switch
    before, counted = policy(s), meters(s)
    conversation = prober.Tcp(f.hosts[0].peer, f.hosts[0].address, g, new_port(), 10, 20_000)
    probes = streams(f, g)
    time.sleep(1)
    took = []
    for _ in range(3):
        took.append(s.take_over())
        time.sleep(1)
    nothing_lost(probes)
    conversation.close()
    must(not conversation.wrong(), conversation.wrong())
    must(policy(s) == before, f"policy was {before}, is {policy(s)}")
    counted_exactly(f, s, counted, probes, ["host2"])  # TCP went to the other one
    gap = max(r["longest_gap_us"] for p in probes for r in (p.inward, p.outward)) / 1000
    return f"frames waited {', '.join(f'{t:.1f}' for t in took)} ms, longest gap {gap:.0f} ms"


@test
def moved_guest_is_served_by_a_successor_and_moves_again():
    f, g = world()
    g.move()
    g.at.switch.take_over()
    probes = streams(f, g)
    g.other().switch.take_over()
    g.move()
    time.sleep(1)
    nothing_lost(probes)


suite.run(forget)
