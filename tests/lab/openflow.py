"""Real OpenFlow controllers: os-ken as it is published, in an environment of its own in the lab's cache.

`simple_switch_13` is the learning switch of os-ken's own examples, unchanged: newer releases leave the examples out, so that file is that of the last
one that has them here, run by the newer one. `Script` is an application that carries out what a test says and tells it what the switch said.
"""
import json, os, shutil, socket, subprocess, sys, zipfile
from pathlib import Path
from . import host
from .etcd import free_port
from .host import LAB, LabError, sh
from .suite import Skip

VERSION, WITH_EXAMPLES = "4.2.2", "0.4.1"
HERE = Path(__file__).resolve().parent


def environment():
    """The directory with os-ken in it, made at first use; Skip if the packages cannot be had."""
    target = LAB / f"os-ken-{VERSION}"
    if not (target / "complete").exists():
        host.say(f"lab: installing os-ken {VERSION} into {target}")
        shutil.rmtree(target, ignore_errors=True)
        try:
            host.need("python3-venv")
            sh(sys.executable, "-m", "venv", target, timeout=120)
            pip = (target / "bin/python", "-m", "pip", "--disable-pip-version-check", "-q")
            sh(*pip, "install", f"os-ken=={VERSION}", timeout=600)
            sh(*pip, "download", "--no-deps", "--only-binary", ":all:", "-d", target / "wheels", f"os-ken=={WITH_EXAMPLES}", timeout=300)
        except (LabError, subprocess.TimeoutExpired) as e:
            raise Skip(f"os-ken cannot be had: {str(e)[-300:]}") from None
        wheel = next((target / "wheels").glob("*.whl"))
        (target / "apps").mkdir()
        (target / "apps/simple_switch_13.py").write_bytes(zipfile.ZipFile(wheel).read("os_ken/app/simple_switch_13.py"))
        (target / "complete").touch()
    return target


class Controller:
    """An os-ken process with one application, listening on a port of the machine. `tls`: words of `Authority.sign`."""

    def __init__(self, app, port=None, tls=None, env=()):
        self.app, self.port, self.tls, self.env = app, port or free_port(), tls, dict(env)
        self.where = environment()
        self.log = host.work() / f"controller-{self.port}.log"
        self.start()

    def start(self):
        """Start it (again) and wait until it listens."""
        options = ["--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", self.port]
        if self.tls:
            words = dict(zip(map(str, self.tls[::2]), map(str, self.tls[1::2])))
            options = ["--ofp-listen-host", "127.0.0.1", "--ofp-ssl-listen-port", self.port, "--ctl-privkey", words["--key"],
                       "--ctl-cert", words["--cert"], "--ca-certs", words["--ca"]]
        env = {**os.environ, **self.env, "PYTHONPATH": f"{self.where}/apps:{HERE}", "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = host.spawn([self.where / "bin/python", HERE / "openflow_manager.py", self.app, *options], env=env,
                                  stdout=open(self.log, "a"), stderr=subprocess.STDOUT)
        host.until(f"the controller to listen: {self.log.read_text()[-500:]}", lambda: _listens(self.port), 30)

    def kill(self):
        """It dies at once, as in a crash."""
        self.process.kill()
        self.process.wait()


def _listens(port):
    """Whether somebody listens there (without connecting, which the controller would take for a switch)."""
    want = f":{port:04X} "
    rows = [line.split() for path in ("/proc/net/tcp", "/proc/net/tcp6") for line in Path(path).read_text().splitlines()[1:]]
    return any(f"{row[1]} ".endswith(want) and row[3] == "0A" for row in rows)


class Script(Controller):
    """A controller that does what the test says."""

    def __init__(self, **more):
        self.control = free_port()
        super().__init__("openflow_script", env={"SCRIPT_PORT": str(self.control)}, **more)

    def connected(self):
        """Wait until a switch is there; the switch's datapath id."""
        return host.until("the switch to call its controller", lambda: self._ask(""), 30)

    def do(self, *messages):
        """Send messages, each an expression with `dp`, `ofp` (constants) and `p` (parser), and a barrier behind them; what came back before the
        barrier's answer, each as {type: fields}."""
        return self._ask("[" + ", ".join(messages) + "]")

    def heard(self):
        """What the switch said of itself since the last call."""
        return self._ask("heard")

    def _ask(self, code):
        with socket.create_connection(("127.0.0.1", self.control), 15) as s:
            s.sendall(json.dumps(code).encode() + b"\n")
            answer = json.loads(s.makefile().readline())
        if isinstance(answer, dict) and "failed" in answer:
            raise LabError(f"controller: {answer['failed']}")
        return answer
