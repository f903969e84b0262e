"""Two hosts joined by a veth pair as the physical network, and a guest that moves between them.

Each host is a network namespace with a switch of its own, whose uplink is one end of the pair, and a further namespace behind a host port,
from which the guest is probed. The guest's QEMUs live outside of both: they reach their switch through its UNIX socket alone.
"""
import itertools, os, secrets
from . import guest, host, image, net, prober, switch
from .host import LabError, sh

MAC, IP = "52:54:00:aa:01:01", "10.0.0.1"
# Whatever else the machine does comes after the switches and the guest: what a starved guest's ring loses is nobody's loss of a move.
AHEAD = -5
_serial, _fleets = itertools.count(1), itertools.count()


class Host:
    """One host: `switch`, `peer` (the namespace behind its host port) and that one's `address`."""

    def __init__(self, fleet, number, wire, options, serve):
        self.name, self.address = f"host{number}", f"10.0.0.{50 + number}"
        self.namespace, self.peer = net.Namespace(), net.Namespace()
        sh("ip", "link", "set", wire, "netns", self.namespace.name)
        self.wire = wire
        self.namespace.run(f"sysctl -q net.ipv6.conf.{wire}.disable_ipv6=1; ip link set {wire} up")
        self.switch = switch.Turnpike("--host-id", self.name, *serve, name=f"{self.name}-{fleet}", namespace=self.namespace, nice=AHEAD)
        self.switch.cli("uplink", "add", "wire", "--device", wire)
        self.tap = f"tpk{os.getpid() % 100000}p{2 * fleet + number}"
        self.peer_mac = f"52:54:00:aa:02:{number:02x}"
        self.switch.cli("port", "add", "peer", "--tap", self.tap, "--mac", self.peer_mac)
        self.join_peer()
        self.card = {"socket": self.switch.port("guest", "--mac", MAC, *options)}  # where the guest's card is, in words of `guest.Guest`

    def join_peer(self):
        """Give the host port's TAP to the peer. It ends with a switch that is killed, and the next one makes it anew."""
        self.namespace.run(f"ip link set {self.tap} netns {self.peer.name}")
        # No addresses of IPv6: its multicast would add frames to counts.
        # A long queue: what a switch has no time to fetch, because the machine is busy with others, is no loss of a move.
        self.peer.run(f"sysctl -q net.ipv6.conf.{self.tap}.disable_ipv6=1; ip link set {self.tap} txqueuelen 10000; ip addr add {self.address}/24 dev {self.tap}; ip link set {self.tap} up")

    def restart(self):
        """Start the switch again after it was killed."""
        self.switch.start()
        self.join_peer()


class Fleet:
    """Two hosts with a port `guest` on each. `options`: of that port. `serve`: further words for both switches. `key`: share a fleet key."""

    def __init__(self, options=(), serve=(), key=True):
        number = next(_fleets)
        host.need("iputils-ping", "iperf3", "iproute2", "procps")
        if key:
            path = host.work() / f"fleet{number}.key"
            path.touch(0o600)
            path.write_bytes(secrets.token_bytes(32))
            serve = (*serve, "--fleet-key", path)
        wires = [f"tpk{os.getpid() % 100000}w{2 * number + i}" for i in (0, 1)]
        sh("ip", "link", "add", wires[0], "type", "veth", "peer", "name", wires[1])
        host.at_exit(lambda: sh("ip", "link", "del", wires[0], check=False))
        self.hosts = [Host(number, i, wire, options, serve) for i, wire in enumerate(wires, 1)]
        self.mover = None

    def manage(self):
        """A second pair between the hosts, which the switches speak by; each host's `management` is its address there then."""
        ends = self.management_ends = [f"tpk{os.getpid() % 100000}m{next(_serial)}" for _ in self.hosts]
        sh("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for number, (h, end) in enumerate(zip(self.hosts, ends), 1):
            h.management = f"192.0.2.{number}"
            sh("ip", "link", "set", end, "netns", h.namespace.name)
            h.namespace.run(f"ip addr add {h.management}/24 dev {end}; ip link set {end} up")

    def boot(self, **options):
        """Boot the guest on the first host; returns it."""
        self.mover = Mover(self, options)
        return self.mover

    def close(self):
        """Stop everything of it."""
        if self.mover:
            self.mover.close()
        for h in self.hosts:
            h.switch.close()


class Move:
    """How a move went. Times in seconds of Unix time."""

    def __init__(self, source, target, info):
        at = lambda g, name: [e["timestamp"]["seconds"] + e["timestamp"]["microseconds"] / 1e6 for e in g.events if e["event"] == name]
        self.downtime_ms, self.total_ms = info.get("downtime", 0), info["total-time"]
        self.resumed = at(target, "RESUME")[-1]
        # About once in a hundred moves QEMU 10 does not say that it stopped.
        self.stopped = (at(source, "STOP") or [self.resumed - self.downtime_ms / 1000])[-1]
        self.rounds = info.get("ram", {}).get("dirty-sync-count", 0)

    away_ms = property(lambda self: 1000 * (self.resumed - self.stopped))

    def shares(self, reports):
        """(first frame in, first frame out) in ms after the guest ran again, of what each namespace received; None where there was none.

        A frame has got in when the guest sends back the time stamp of one that was sent while it stood still, or later."""
        began = self.resumed * 1e6
        out, into = [], []
        for report in reports:
            later = [entry for gap in report["gaps"] for entry in gap["after"] if entry[0] >= began]
            out.append(min((at for at, _, _ in later), default=None))
            into.append(min((at for at, _, echo in later if echo > self.stopped * 1e6), default=None))
        first = lambda times: min((t for t in times if t is not None), default=None)
        ms = lambda t: None if t is None else (t - began) / 1000
        return ms(first(into)), ms(first(out))


class Mover:
    """A guest that can be on either host. Runs commands wherever it is."""

    def __init__(self, fleet, options):
        self.fleet, self.ip, self.name = fleet, IP, "guest"
        self.options = {"mac": MAC, "initrd": image.with_tools(prober.binary()), "device": "rx_queue_size=1024", "nice": AHEAD, **options}
        self.at = fleet.hosts[0]
        self.boot()

    def boot(self):
        """Boot it where it is: at first, and after its QEMU was killed."""
        self.guest = guest.Guest("guest", f"{IP}/24", **self.at.card, **self.options)
        self.guest.ready()

    def run(self, command, **options):
        """As `Guest.run`, wherever it is."""
        return self.guest.run(command, **options)

    def start(self, command):
        """As `Guest.start`; the job moves along."""
        return guest.Job(self, f"/tmp/job-m{next(_serial)}", command)

    def other(self):
        """The host it is not on."""
        return next(h for h in self.fleet.hosts if h is not self.at)

    def prepare(self, to=None, **options):
        """A QEMU on the other host that waits for the guest, and the path it listens on."""
        path = host.work() / f"move{next(_serial)}.sock"
        to = to or self.other()
        waiting = guest.Guest("guest", f"{IP}/24", **to.card, incoming=path, **{**self.options, **options})
        waiting.attach()
        for g in (self.guest, waiting):
            # The source must hear from the destination that it runs before it forgets the guest.
            g.qmp("migrate-set-capabilities", capabilities=[{"capability": "return-path", "state": True}])
        return waiting, path

    def pause_before_handover(self, on):
        """Whether QEMU waits for a word when the guest stands still and only its last state is left to send."""
        self.guest.qmp("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": on}])

    def begin(self, path, bandwidth=4 << 30):
        """Start moving to the QEMU that listens there, at so many bytes a second at most."""
        self.guest.qmp("migrate-set-parameters", **{"max-bandwidth": bandwidth})
        self.guest.qmp("migrate", uri=f"unix:{path}")

    def progress(self):
        """QEMU's own words on the move."""
        return self.guest.qmp("query-migrate")

    def finish(self, waiting, to, timeout=120):
        """Wait for the end of a move that began; the guest is at `to` then. LabError if it failed: the guest is where it was."""
        def ended():
            info = self.progress()
            return info if info.get("status") in ("completed", "failed", "cancelled") else None
        info = host.until("the migration to end", ended, timeout, 0.01)
        if info["status"] != "completed":
            raise LabError(f"the migration {info['status']}: {info.get('error-desc', '')} | {waiting.log()[-300:]}")
        host.until("the guest to run", lambda: waiting.qmp("query-status")["status"] == "running", 10, 0.005)
        # Its word of it may come after the answer that says so.
        host.until("QEMU to say that the guest runs", lambda: waiting.qmp("query-status") and any(e["event"] == "RESUME" for e in waiting.events), 10, 0.01)
        move = Move(self.guest, waiting, info)
        self.is_at(to, waiting)
        return move

    def is_at(self, to, by):
        """It runs there now, in that QEMU; the one before ends."""
        self.guest.close()
        self.guest, self.at = by, to

    def move(self, **options):
        """Move to the other host; returns how it went."""
        to = self.other()
        waiting, path = self.prepare(to, **options)
        self.begin(path)
        try:
            return self.finish(waiting, to)
        except LabError:
            waiting.close()
            raise

    def close(self):
        """Stop it."""
        self.guest.close()


def percentile(values, share):
    """The value below which `share` of them lie (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
