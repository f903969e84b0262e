"""Runs of benches/src/bin/prober.rs: traffic between a network namespace and a guest of which every frame and byte is accounted for."""
import itertools, json, subprocess
from . import host, switch
from .host import LabError

_serial = itertools.count(1)


def binary():
    """Path of the prober, built beside the switch."""
    path = switch.binary().with_name("prober")
    if not path.exists():
        raise LabError(f"no {path}; build it with `cargo build -p turnpike-benches`")
    return path


class Prober:
    """One end, running in `where` (a Namespace, or anything that runs commands in a guest). `report()` ends it."""

    def __init__(self, where, mode, **options):
        self._where, self._until = where, f"/tmp/until{next(_serial)}"
        namespace = hasattr(where, "veth")
        if namespace:
            self._until = str(host.work() / self._until.rsplit("/", 1)[1])
        words = [mode, "--until", self._until, *(w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v)))]
        if namespace:
            # Ahead of QEMU: a time stamp taken late would be counted as the network's.
            argv = ["ip", "netns", "exec", where.name, "nice", "-n", "-10", binary(), *words]
            self._process = host.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        else:
            self._process, self._job = None, where.start(f"prober {' '.join(words)}")

    def tell(self):
        """That it is to end."""
        self._where.run(f"touch {self._until}")

    def report(self, timeout=180):
        """Its report, after its end."""
        self.tell()
        if self._process:
            try:
                text, code = self._process.communicate(timeout=timeout)[0], self._process.returncode
            except subprocess.TimeoutExpired:
                raise LabError(f"the prober did not end in {timeout} s") from None
        else:
            result = self._job.wait(timeout)
            text, code = result.out, result.rc
        if code:
            raise LabError(f"the prober failed: {text.strip()[-400:]}")
        return json.loads(text)

    def running(self):
        """Whether it has not ended by itself."""
        return self._process.poll() is None if self._process else not self._job.ended()


class Stream:
    """Numbered datagrams both ways between a namespace and a guest. `outward` (what the namespace received) and `inward` are the reports
    after `close()`."""

    def __init__(self, namespace, address, guest, port, rate=1000):
        there = Prober(guest, "udp", bind=f"{guest.ip}:{port}", peer=f"{address}:{port}", rate=rate, begin=0)
        # Neither end may hear that nobody listens: what says so would be counted by the guest's meters.
        host.until("the guest's end", lambda: guest.run(f"netstat -uln | grep -q :{port}", check=False).rc == 0)
        self._ends = [Prober(namespace, "udp", bind=f"{address}:{port}", peer=f"{guest.ip}:{port}", rate=rate), there]
        self.outward = self.inward = None

    def close(self):
        """End both and read the reports; returns itself."""
        for end in self._ends:
            end.tell()
        self.outward, self.inward = (end.report() for end in self._ends)
        return self

    lost = property(lambda self: self.outward["lost"] + self.inward["lost"])
    duplicated = property(lambda self: self.outward["duplicated"] + self.inward["duplicated"])

    def __str__(self):
        one = lambda r: f"{r['received']} of {r['peer_sent']}, {r['duplicated']} doubled, {r['reordered']} overtaken, longest gap {r['longest_gap_us'] / 1000:.0f} ms"
        return f"in: {one(self.inward)}; out: {one(self.outward)}"


class Tcp:
    """Connections that the guest opens to a namespace, with known bytes both ways at `rate` bytes a second each."""

    def __init__(self, namespace, address, guest, port, connections, rate):
        self._server = Prober(namespace, "tcp-serve", bind=f"{address}:{port}")
        host.until("the server to listen", lambda: f":{port} " in namespace.run("ss -ltn").out)
        self._client = Prober(guest, "tcp-dial", to=f"{address}:{port}", connections=connections, rate=rate)
        self.connections = connections
        host.until("all connections", lambda: self._established(namespace, port) >= connections, 30)
        self.there = self.here = None

    @staticmethod
    def _established(namespace, port):
        return len(namespace.run(f"ss -Htn state established '( sport = :{port} )'").out.splitlines())

    def running(self):
        """Whether neither end has given up."""
        return self._server.running() and self._client.running()

    def close(self):
        """End all connections in an orderly way and read the reports; returns itself."""
        self.there = self._client.report()
        self.here = self._server.report()
        return self

    def wrong(self):
        """What is not as it must be, or an empty string: every connection ended in order, every byte came, none changed."""
        out = []
        for name, r, other in (("namespace", self.here, self.there), ("guest", self.there, self.here)):
            if r["connections"] != self.connections or r["finished"] != self.connections:
                out.append(f"{name}: {r['connections']} connections, {r['finished']} ended in order, of {self.connections}: {r['why']}")
            if r["failed"] or r["wrong"]:
                out.append(f"{name}: {r['failed']} failed ({r['why']}), {r['wrong']} wrong bytes")
            if r["received"] != other["sent"]:
                out.append(f"{name}: {r['received']} bytes of {other['sent']}")
        return "; ".join(out)

    def __str__(self):
        return f"{self.connections} connections, {self.here['received']} bytes in and {self.there['received']} out, " \
               f"longest gap {max(self.here['longest_gap_us'], self.there['longest_gap_us']) / 1000:.0f} ms"
