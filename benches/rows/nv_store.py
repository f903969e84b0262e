"""What lookup records cost: a hundred thousand changes at once from a policy store under full load, and look-ups among a million."""
import base64, http.client, json, os, socket, statistics, threading, time
from pathlib import Path
from lab import host, net, switch, testpmd
from lab.etcd import PREFIX, Etcd, free_port
from lab.fabric import record
from lab.host import LabError
from . import frames, nv
from .api import Api

OTHER = nv.VSID + 1  # a virtual subnet of the same customer network: whoever has guests in one holds the records of both
CHANGES, TOGETHER = 100_000, 128  # etcd's limit of one transaction


class Door:
    """A port in front of the store: `shut` ends the connection through it and lets in nobody until `open`. `since`: when the one that is
    through now was let in, or None."""

    def __init__(self, to):
        self.port, self._to, self._is_open, self._sockets, self.since = free_port(), to, True, [], None
        self._listener = socket.create_server(("127.0.0.1", self.port))
        host.at_exit(self.close)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open:
                near.close()
                continue
            self.since = time.perf_counter()
            far = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [near, far]
            for a, b in ((near, far), (far, near)):
                a.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    @staticmethod
    def _pass(a, b):
        try:
            while data := a.recv(1 << 20):
                b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def shut(self):
        self._is_open, self.since = False, None
        for s in self._sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
        self._sockets = []

    def open(self):
        self._is_open = True

    def close(self):
        self.shut()
        self._listener.close()


def _write(etcd, pa):
    """All records of the other virtual subnet name that host now; the seconds it took. Straight into etcd, through its JSON gateway."""
    encode = lambda text: base64.b64encode(text.encode()).decode()
    began, c = time.perf_counter(), http.client.HTTPConnection("127.0.0.1", etcd.port, timeout=30)
    for first in range(0, CHANGES, TOGETHER):
        puts = []
        for n in range(first, min(first + TOGETHER, CHANGES)):
            ca = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
            value = {"vsid": OTHER, "ca": ca, "mac": f"02:01:00:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}", "pa": pa}
            puts.append({"requestPut": {"key": encode(f"{PREFIX}records/{OTHER}/{ca}"), "value": encode(json.dumps(value, separators=(",", ":")))}})
        c.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
        answer = c.getresponse()
        text = answer.read()
        if answer.status != 200 or not json.loads(text).get("succeeded"):
            raise LabError(f"etcd: {answer.status} {text[:300]}")
    c.close()
    return time.perf_counter() - began


def _threads(pid):
    """{thread: its name}"""
    return {int(t.name): (t / "comm").read_text().strip() for t in Path(f"/proc/{pid}/task").iterdir()}


def _spare_worker(pid):
    """That process keeps off the worker's CPU."""
    for tid in _threads(pid):
        os.sched_setaffinity(tid, {0})


def _thread(pid, name):
    return next(tid for tid, its in _threads(pid).items() if its == name)


def _ran(pid, tid):
    """Seconds that a thread was on a CPU, to the nanosecond."""
    return int(Path(f"/proc/{pid}/task/{tid}/schedstat").read_text().split()[0]) / 1e9


class _Load:
    """Frames that go to and fro; how many a second, what one costs the switch, and how much of their CPUs worker and generator have had."""

    def __init__(self, s, g):
        self.s, self.g, self._worker = s, g, _thread(s.pid, "worker-0")
        self._begin()

    def _now(self):
        return time.perf_counter(), _ran(self.s.pid, self._worker), host.cpu_seconds(self.g.process.pid)

    def _begin(self):
        self.g.lap()
        self._cycles, self._was = frames.busy_cycles(self.s), self._now()

    def lap(self):
        """Of all that since the last call."""
        at, worker, generator = (now - was for now, was in zip(self._now(), self._was))
        out = self.g.lap(), self._cycles(), 100 * worker / at, 100 * generator / at
        self._begin()
        return out


def _until(s, what, condition, timeout=30):
    """Asks the switch about its store until that is so."""
    api, end = Api(s.api), time.monotonic() + timeout  # a connection that was idle for long is closed by the switch
    while not condition(seen := api.call("GET", "/v1/nv/store")[1]):
        if time.monotonic() > end:
            raise LabError(f"waited {timeout} s in vain for {what}: {seen}")
        time.sleep(0.005)
    api.close()
    return seen


def row_changes(contenders, seconds):
    """Changes of lookup records applied a second: 100,000 that the store has when it is found again, from when the switch connects to it, under
    full 64-byte load in a virtual subnet"""
    # The worker has a CPU to itself; store and generator share the other one with those threads of the switch that follow the store. So the rate
    # dips because the generator has less of its CPU, which says nothing of the switch; what does is by how much longer a frame keeps the worker busy.
    wire = net.Namespace().veth("192.0.2.1/24")

    def run(_contender):
        etcd, g = Etcd(), None
        _spare_worker(etcd.process.pid)
        door = Door(etcd.port)
        s = switch.Turnpike("--workers", "1", "--cpus", "1", "--poll-us", "busy", "--policy-store", f"etcd://127.0.0.1:{door.port}", "--host-id", "a",
                            name="nv-changes", state="none")
        paths = [s.socket(n) for n in "ab"]
        try:
            _until(s, "the store", lambda it: it["up"])
            s.cli("switch", "set", "--nv", "on")
            s.cli("uplink", "add", "wire", "--device", wire)
            s.cli("nv", "provider", "add", "--address", "192.0.2.2/24", "--uplink", "wire")
            nv.subnet([s], "198.18.0.0/24", "--gateway", "198.18.0.254")
            s.cli("nv", "subnet", "add", "--network", "blue", "--vsid", OTHER, "--prefix", "10.0.0.0/8")
            for number, (name, mac) in enumerate(zip("ab", testpmd.MACS), 1):
                s.port(name, "--mac", mac, "--vsid", nv.VSID)
                s.cli("nv", *record(nv.VSID, f"198.18.0.{number}", mac, "192.0.2.2"))
            _write(etcd, "192.0.2.8")
            newest = etcd.revision()
            _until(s, "the first records", lambda it: it["revision"] >= newest)
            g = frames.generator(paths, False, "--port-topology=loop")
            door.shut()
            _until(s, "the store to be lost", lambda it: not it["up"])
            written = _write(etcd, "192.0.2.9")
            newest, before = etcd.revision(), s.cli("nv", "store")
            follows = _thread(s.pid, "policy-store")
            g.converse(64)
            time.sleep(1)
            load = _Load(s, g)
            time.sleep(seconds / 2)
            quiet, used = [load.lap()], _ran(s.pid, follows)
            door.open()
            host.until("the switch to find the store", lambda: door.since, 20, 0.002)
            load.lap()
            _until(s, "all changes", lambda it: it["revision"] >= newest and it["changes"] >= before["changes"] + CHANGES)
            took = time.perf_counter() - door.since
            used = _ran(s.pid, follows) - used
            busy = load.lap()
            time.sleep(seconds / 2)
            quiet.append(load.lap())
            after = s.cli("nv", "store")
            changes, dropped = after["changes"] - before["changes"], {k: v for k, v in s.drops("a", "b").items() if v}
            if changes < CHANGES or after["skipped"] or after["reloads"] != before["reloads"] or dropped:
                raise LabError(f"{changes} of {CHANGES} changes, {after}, dropped {dropped}")
            rate, cost, _, had = (statistics.mean(column) for column in zip(*quiet))
            return {"value": changes / took, "changes_a_cpu_second": changes / used, "mpps": rate / 1e6, "busy_cycles_a_frame": cost,
                    "dip_percent": 100 * (1 - cost / busy[1]), "rate_dip_percent": 100 * (1 - busy[0] / rate), "worker_had_percent": busy[2],
                    "generator_had_percent": busy[3], "generator_had_before": had, "written_s": written}
        finally:
            if g:
                g.close()
            s.close()
            door.close()
            etcd.kill()

    net.hugepages(frames.PAGES)
    return run, lambda: None


def row_lookup(contenders, seconds):
    """ns to look up a lookup record of a million, one of 4,096 that are looked up all the time; in one process without I/O"""
    program = Path(os.environ["TURNPIKE_BIN"]).with_name("nv-lookup")

    def run(_contender):
        seen = json.loads(host.sh(program, timeout=120))
        return {"value": seen.pop("warm_ns"), **seen}

    return run, lambda: None
