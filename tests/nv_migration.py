"""A guest of a virtual subnet moves to a host on another physical subnet, and its network does not notice: real QEMU, real etcd."""
import sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import fleet, host, image, suite  # noqa: E402
from lab.accounts import nothing_lost, streams, told  # noqa: E402
from lab.etcd import Etcd  # noqa: E402
from lab.fabric import Fabric, NvHost, record  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import reachable  # noqa: E402

VSID = 5001


class World:
    """Two hosts on two physical subnets that share their policy in etcd, each with a machine of the customer; a guest on the first."""

    def __init__(self):
        self.etcd, fabric = Etcd(everywhere=True), Fabric("192.168.34.0/24", "192.168.42.0/24")
        self.hosts = []
        for number, pa in enumerate(("192.168.34.8/24", "192.168.42.12/24"), 1):
            address = f"etcd://192.0.2.{4 * number + 1}:{self.etcd.port}"
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
            h.card = {"socket": h.switch.port("guest", "--mac", fleet.MAC, "--vsid", VSID)}
            host.until("all records", lambda h=h: len(h.cli("nv", "record", "list")) == 3, 10)
        self.mover = fleet.Mover(self, {"qemu": image.qemu(10)})

    def where(self):
        """The provider address that the guest's record names, as each host knows it."""
        return [next(r["pa"] for r in h.cli("nv", "record", "list") if r["ca"] == fleet.IP) for h in self.hosts]


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
        host.until("the record to follow everywhere", lambda: set(w.where()) == {g.at.pa}, 5)
        time.sleep(2)
        nothing_lost(probes)
        notes.append(told(move, probes))
    for h in w.hosts:
        # The guest's link-local IPv6 address has no record.
        drops = {reason: n for reason, n in h.drops().items() if reason.startswith(("nv-", "provider-")) and reason != "nv-source-unknown"}
        must(not drops, f"{h.name} dropped {drops}")
    return notes[-1]


if __name__ == "__main__":
    suite.run()
