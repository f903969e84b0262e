"""Three hosts on three physical subnets that share their policy in etcd, each with a machine of the customer, and a guest that moves between
the first two; the third only talks to it."""
from . import fleet, host, image
from .accounts import patient
from .etcd import Etcd
from .fabric import Fabric, NvHost, record
from .relay import Slow

VSID = 5001


class NvFleet:
    """As `fleet.Fleet`. `late`: how much later than the others the third host hears what the store says, in seconds."""

    def __init__(self, late=0):
        self.etcd, fabric = Etcd(everywhere=True), Fabric("192.168.34.0/24", "192.168.42.0/24", "192.168.50.0/24")
        slow = Slow(("127.0.0.1", self.etcd.port), late)
        self.hosts, self.mover = [], None
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
            h.address, h.peer_mac = f"10.0.0.{50 + number}", f"52:54:00:aa:02:{number:02x}"
            first.cli("nv", *record(VSID, h.address, h.peer_mac, h.pa))
        for number, h in enumerate(self.hosts, 1):
            # What a machine says before its host knows its network would be counted as dropped.
            host.until("the subnet", lambda h=h: h.cli("nv", "subnet", "list"), 10)
            h.peer = h.machine("peer", VSID, f"{h.address}/24", h.peer_mac)
            # What a switch has no time to fetch, because the machine is busy with others, is no loss of a move.
            h.peer.run(f"ip link set {h.peer.tap} txqueuelen 10000")
            if number < 3:
                h.card = {"socket": h.switch.port("guest", "--mac", fleet.MAC, "--vsid", VSID)}
            host.until("all records", lambda h=h: len(h.cli("nv", "record", "list")) == 4, 10)
        patient(self)

    def boot(self, **options):
        """Boot the guest on the first host; returns it."""
        self.mover = fleet.Mover(self, {"qemu": image.qemu(10), **options})
        return self.mover

    def where(self):
        """The provider addresses that the guest's record names, of now and next, as each host knows it."""
        records = [next(r for r in h.cli("nv", "record", "list") if r["ca"] == fleet.IP) for h in self.hosts]
        return {(r["pa"], r.get("next_pa")) for r in records}

    def settle(self):
        """Wait until every host knows where the guest is."""
        host.until("the record to follow everywhere", lambda: self.where() == {(self.mover.at.pa, None)}, 5)

    def close(self):
        """Stop everything of it."""
        if self.mover:
            self.mover.close()
        for h in self.hosts:
            h.switch.close()
