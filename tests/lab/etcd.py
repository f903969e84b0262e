"""A real etcd, unpacked from Debian's packages and run in the run's private directory."""
import json, os, signal, socket, subprocess
from . import host, suite
from .host import LabError

PREFIX = "/turnpike/v1/"
_serial = iter(range(1, 1000))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Etcd:
    """An etcd with data of its own. `tls`: words of `Authority.sign`, which every client must show the like of. `everywhere`: it listens
    on every address of the machine, for switches in other namespaces."""

    def __init__(self, tls=None, everywhere=False):
        try:  # unpacked, not installed: the package starts a service
            where = host.unpack("etcd", ["etcd-server", "etcd-client"])
        except host.LabError as e:
            raise suite.Skip(f"etcd-server and etcd-client of Debian cannot be had: {e}") from e
        self.binary, self._control = where / "usr/bin/etcd", where / "usr/bin/etcdctl"
        self.directory, self.everywhere = host.work() / f"etcd{next(_serial)}", everywhere
        self.tls, self.port = dict(zip(map(str, tls[::2]), map(str, tls[1::2]))) if tls else None, free_port()
        self.start()

    url = property(lambda self: f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}")
    address = property(lambda self: f"etcd://127.0.0.1:{self.port}")

    def start(self):
        peer = f"http://127.0.0.1:{free_port()}"
        argv = [self.binary, "--name", "t", "--data-dir", self.directory, "--listen-client-urls", self.url.replace("127.0.0.1", "0.0.0.0") if self.everywhere else self.url, "--advertise-client-urls", self.url,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"t={peer}", "--log-level", "error"]
        if self.tls:
            argv += ["--client-cert-auth", "--trusted-ca-file", self.tls["--ca"], "--cert-file", self.tls["--cert"], "--key-file", self.tls["--key"]]
        self.process = host.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        host.until("etcd to answer", lambda: self._call("endpoint", "health").returncode == 0, 20)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def hang(self):
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self):
        os.kill(self.process.pid, signal.SIGCONT)

    def elsewhere(self, work):
        """Does `work` where nobody looks for it: what follows it misses that."""
        port, self.port = self.port, free_port()
        self.start()
        work()
        self.kill()
        self.port = port
        self.start()

    def _call(self, *args):
        argv = [self._control, "--endpoints", self.url, "--command-timeout", "5s"]
        if self.tls:
            argv += ["--cacert", self.tls["--ca"], "--cert", self.tls["--cert"], "--key", self.tls["--key"]]
        return subprocess.run([*map(str, argv), *map(str, args)], capture_output=True, text=True, env={**os.environ, "ETCDCTL_API": "3"})

    def ctl(self, *args):
        r = self._call(*args)
        if r.returncode:
            raise LabError(f"etcdctl {args}: {r.stderr}")
        return r.stdout

    def put(self, key, value):
        self.ctl("put", PREFIX + key, "--", value if isinstance(value, str) else json.dumps(value))

    def delete(self, key):
        self.ctl("del", PREFIX + key)

    def get(self, key):
        text = self.ctl("get", "--print-value-only", PREFIX + key).strip()
        return json.loads(text) if text else None

    def revision(self):
        return json.loads(self.ctl("endpoint", "status", "-w", "json"))[0]["Status"]["header"]["revision"]

    def compact(self):
        self.ctl("compact", self.revision())
