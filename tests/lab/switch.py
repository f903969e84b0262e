"""A running `turnpike serve` and its command line."""
import json, os, re, signal, subprocess, time
from pathlib import Path
from . import host
from .host import LabError, ROOT


def binary():
    """Path of the turnpike binary: $TURNPIKE_BIN, or the newest build of this tree."""
    if path := os.environ.get("TURNPIKE_BIN"):
        return Path(path)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [p for p in (target / "release/turnpike", target / "debug/turnpike") if p.exists()]
    if not built:
        raise LabError(f"no turnpike under {target}; build it with `cargo build --release`, or name one in $TURNPIKE_BIN")
    return max(built, key=lambda p: p.stat().st_mtime)


class Turnpike:
    """One switch with its own API socket and state, in the run's private directory. `options`: further words for `serve`.
    `namespace`: the network namespace it lives in, if not the machine's own. `nice`: what it is started with."""

    def __init__(self, *options, name="switch", state=None, namespace=None, nice=0):
        self.binary, self.options = binary(), options
        self._where = ["ip", "netns", "exec", namespace.name] if namespace else []
        self._where += ["nice", "-n", str(nice)] if nice else []
        self.directory = host.work() / name
        self.directory.mkdir(exist_ok=True)
        self.api = self.directory / "api.sock"
        self.state = state or self.directory / "state"
        self.log_path = self.directory / "log"
        self.log_path.write_text("")
        self.start()

    def start(self, *more):
        """Start the process and wait until it says that it is ready. Returns the seconds that took."""
        began, seen = time.monotonic(), self.log_path.stat().st_size
        with open(self.log_path, "a") as log:
            self.process = host.spawn([*self._where, self.binary, "serve", "--api", self.api, "--state-dir", self.state, *self.options, *more],
                                      stdout=log, stderr=subprocess.STDOUT)
        def ready():
            if self.process.poll() is not None:
                raise LabError(f"turnpike ended with {self.process.returncode}: {self.log()}")
            return "turnpike ready" in self.log_path.read_text(errors="replace")[seen:]
        host.until("turnpike to be ready", ready, 20, 0.005)
        return time.monotonic() - began

    def take_over(self, *more):
        """A successor takes over, with `more` options, and the process before ends. Returns the milliseconds that frames waited, as the switch says."""
        before, seen = self.process, self.log_path.stat().st_size
        self.start("--take-over", *more)
        code = before.wait(10)
        if code:
            raise LabError(f"the process before ended with {code}: {self.log()}")
        waited = re.search(r"frames waited ([0-9.]+) ms", self.log_path.read_text(errors="replace")[seen:])
        return float(waited[1]) if waited else 0.0

    pid = property(lambda self: self.process.pid)

    def socket(self, port):
        """Where the socket of a guest port lives."""
        return self.directory / f"{port}.sock"

    def log(self):
        """The end of its log."""
        return self.log_path.read_text(errors="replace")[-1500:]

    def cli(self, *args, check=True):
        """Run a command; its JSON document (None if it printed none). With check=False: (exit code, output) as it was."""
        argv = [str(self.binary), "--api", str(self.api), "--json", *map(str, args)]
        r = subprocess.run(argv, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
        if not check:
            return r.returncode, r.stdout + r.stderr
        if r.returncode:
            raise LabError(f"`turnpike {' '.join(map(str, args))}` failed ({r.returncode}): {r.stderr.strip()}")
        return json.loads(r.stdout) if r.stdout.strip() else None

    def text(self, *args):
        """What a command prints for people."""
        argv = [str(self.binary), "--api", str(self.api), *map(str, args)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, check=True).stdout

    def begin(self, *args):
        """Start a command that takes a while; its process, output on `stdout`."""
        argv = [self.binary, "--api", self.api, "--json", *args]
        return host.spawn(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def port(self, name, *args):
        """Add a guest port on its usual socket; returns the socket's path."""
        self.cli("port", "add", name, "--socket", self.socket(name), *args)
        return self.socket(name)

    def show(self, name):
        """One port as JSON."""
        return self.cli("port", "show", name)

    def wait_state(self, name, state, timeout=30):
        """Wait until a port is in that state."""
        return host.until(f"port {name} to be {state}", lambda: self.show(name)["state"] == state, timeout)

    def drops(self, *names):
        """{port: {reason: frames}} of all that was dropped, both directions."""
        out = {}
        for p in self.cli("port", "list"):
            if names and p["name"] not in names:
                continue
            sums = {}
            for side in ("out_drops", "in_drops"):
                for reason, n in p["counters"][side].items():
                    if n:
                        sums[reason] = sums.get(reason, 0) + n
            out[p["name"]] = sums
        return out

    def clear_policy(self, port):
        """Every policy of a port back to its default, no ACL entry, no rule."""
        defaults = ("--dhcp-guard", "--router-guard", "--addresses", "--address-limit", "--storm-limit", "--mirror", "--vlan", "--vsid")
        self.cli("port", "set", port, *(word for option in defaults for word in (option, "default")))
        self.cli("meter", "disable", port, check=False)
        for e in self.cli("acl", "list", port):
            side = "local" if e["local"] else "remote"
            self.cli("acl", "remove", port, "--action", e["action"], "--direction", e["direction"], f"--{side}", e[side])
        for r in self.cli("rule", "list", port):
            self.cli("rule", "remove", port, "--direction", r["direction"], "--weight", r["weight"])

    def meters(self, port):
        """{(direction, side, address): (packets, bytes)} of a port's report."""
        rows = self.cli("meter", "show", port)[0]["entries"]
        side = lambda r: "local" if r.get("local") else "remote"
        return {(r["direction"], side(r), r[side(r)]): (r["packets"], r["bytes"]) for r in rows}

    def kill(self):
        """SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def must_end_cleanly(self):
        """End it, and fail if it does not end as it should or a thread had panicked."""
        code, log = self.close(), self.log_path.read_text(errors="replace")
        if code:
            raise LabError(f"SIGTERM ended it with {code}")
        if "panicked" in log:
            raise LabError(f"a thread panicked: {log[log.find('panicked') - 200:][:600]}")
        if self.api.exists():
            raise LabError("the API socket is still there")

    def close(self, timeout=10):
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise LabError(f"turnpike ignored SIGTERM for {timeout} s: {self.log()}") from None
