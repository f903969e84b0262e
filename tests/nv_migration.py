"""A guest of a virtual subnet moves to a host on another physical subnet, and its network does not notice, neither there nor on a third host,
which hears of the move late: real QEMU, real etcd."""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, suite  # noqa: E402
from lab.accounts import nothing_lost, streams, tell, told  # noqa: E402
from lab.nvfleet import NvFleet  # noqa: E402
from lab.suite import Broken, must, test  # noqa: E402
from lab.world import reachable  # noqa: E402

# How much later than the others the third host hears what the store says, in seconds: longer than the guest needs to wake.
LATE = 0.2


@test
def s20_5_a_guest_moves_across_subnets_and_no_frame_is_lost():
    w = NvFleet(late=LATE)
    g = w.boot()
    for h in w.hosts:
        reachable(h.peer, g.ip)
    notes = []
    for _ in range(4):
        probes = streams(w, g)
        time.sleep(1)
        move = g.move()
        w.settle()
        time.sleep(2)
        try:
            nothing_lost(probes)
        except Broken:
            tell(w)
            raise
        notes.append(told(move, probes))
    for h in w.hosts:
        # The guest's link-local IPv6 address has no record.
        drops = {reason: n for reason, n in h.drops().items() if reason.startswith(("nv-", "provider-")) and reason != "nv-source-unknown"}
        must(not drops, f"{h.name} dropped {drops}")
    # A move that is given up before the guest has moved.
    waiting, _ = g.prepare()
    host.until("the other host to expect the guest", lambda: w.where() == {(g.at.pa, g.other().pa)}, 10)
    waiting.close()
    host.until("the guest to be expected no more", lambda: w.where() == {(g.at.pa, None)}, 10)
    return notes[-1]


if __name__ == "__main__":
    suite.run()
