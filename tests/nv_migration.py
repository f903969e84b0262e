"""A guest of a virtual subnet moves to a host on another physical subnet, and its network does not notice, neither there nor on a third host,
which hears of the move late: real QEMU, real etcd."""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import fleet, host, image, suite  # noqa: E402
from lab.accounts import nothing_lost, patient, streams, tell, told  # noqa: E402
from lab.etcd import Etcd  # noqa: E402
from lab.fabric import Fabric, NvHost, record  # noqa: E402
from lab.host import LabError  # noqa: E402
from lab.relay import Slow  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import reachable  # noqa: E402

VSID = 5001
# How much later than the others the third host hears what the store says, in seconds.
LATE = 0.1


class World:
    """Three hosts on three physical subnets that share their policy in etcd, each with a machine of the customer; a guest that moves between
    the first two."""

    def __init__(self):
        self.etcd, fabric = Etcd(everywhere=True), Fabric("192.168.34.0/24", "192.168.42.0/24", "192.168.50.0/24")
        slow = Slow(("127.0.0.1", self.etcd.port), LATE)
        self.hosts = []
        for number, pa in enumerate(("192.168.34.8/24", "192.168.42.12/24", "192.168.50.16/24"), 1):
            address = f"etcd://192.0.2.{4 * number + 1}:{slow.port if number == 3 else self.etcd.port}"
            h = NvHost(fabric, pa, "--policy-store", address, name=f"host{number}", manage=number)
            host.until("the store to be there", lambda h=h: h.cli("nv", "store")["up"], 20)
            self.hosts.append(h)
        first = self.hosts[0]
        first.cli("nv", "network", "add", "blue", "--rdid", "11111111-1111-1111-1111-111111111111")
        first.cli("nv", "subnet", "add", "--network", "blue", "--vsid", VSID, "--prefix", "10.0.0.0/24", "--gateway", "10.0.0.254")
        first.cli("nv", *record(VSID, fleet.IP, fleet.MAC, first.pa))
        for number, h in enumerate(self.hosts, 1):
            h.address, mac = f"10.0.0.{50 + number}", f"52:54:00:aa:02:{number:02x}"
            first.cli("nv", *record(VSID, h.address, mac, h.pa))
        for number, h in enumerate(self.hosts, 1):
            h.peer = h.machine("peer", VSID, f"{h.address}/24", f"52:54:00:aa:02:{number:02x}")
            # What a switch has no time to fetch, because the machine is busy with others, is no loss of a move.
            h.peer.run(f"ip link set {h.peer.tap} txqueuelen 10000")
            if number < 3:
                h.card = {"socket": h.switch.port("guest", "--mac", fleet.MAC, "--vsid", VSID)}
            host.until("all records", lambda h=h: len(h.cli("nv", "record", "list")) == 4, 10)
        patient(self)
        self.mover = fleet.Mover(self, {"qemu": image.qemu(10)})

    def where(self):
        """The provider addresses that the guest's record names, of now and next, as each host knows it."""
        records = [next(r for r in h.cli("nv", "record", "list") if r["ca"] == fleet.IP) for h in self.hosts]
        return {(r["pa"], r.get("next_pa")) for r in records}


@test
def s20_5_a_guest_moves_across_subnets_and_no_frame_is_lost():
    w = World()
    g = w.mover
    for h in w.hosts:
        reachable(h.peer, fleet.IP)
    notes = []
    for _ in range(4):
        probes = streams(w, g)
        time.sleep(1)
        move = g.move()
        host.until("the record to follow everywhere", lambda: w.where() == {(g.at.pa, None)}, 5)
        time.sleep(2)
        try:
            nothing_lost(probes)
        except LabError:
            tell(w)
            raise
        notes.append(told(move, probes))
    for h in w.hosts:
        # The guest's link-local IPv6 address has no record.
        drops = {reason: n for reason, n in h.drops().items() if reason.startswith(("nv-", "provider-")) and reason != "nv-source-unknown"}
        must(not drops, f"{h.name} dropped {drops}")
    # A move that is given up before the guest has moved.
    waiting, _ = g.prepare()
    host.until("the other host to expect the guest", lambda: w.where() == {(g.at.pa, g.other().pa)}, 5)
    waiting.close()
    host.until("the guest to be expected no more", lambda: w.where() == {(g.at.pa, None)}, 5)
    return notes[-1]


if __name__ == "__main__":
    suite.run()
