"""DPDK's testpmd with two virtio-user cards: a pair of front ends that sends frames round through the switch at full speed."""
import re, subprocess, time
from . import host
from .host import LabError

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
CONVERSING = 512  # frames that `converse` keeps on their way: 16 bursts


def packages():
    """Install what testpmd needs."""
    if host.release() == "bookworm":
        host.need("dpdk-dev", "librte-mempool-ring23", "librte-net-virtio23", "librte-net-vhost23")
    else:
        host.need("dpdk-dev")


class Testpmd:
    """Generator on `cpu`. `vdevs`: complete --vdev arguments; `extra`: more arguments of the application."""

    def __init__(self, vdevs, *, cpu=0, prefix="gen", mode="mac", megabytes=256, extra=()):
        packages()
        log = host.work() / f"testpmd-{prefix}-{time.monotonic_ns()}.log"
        self._log = open(log, "wb+", 0)
        argv = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{cpu},1@{cpu}", "--in-memory", "--no-pci", "--single-file-segments", "-m", megabytes,
                "--log-level=3"]
        for v in vdevs:
            argv += ["--vdev", v]
        argv += ["--", "-i", "--nb-cores=1", f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}", *extra]
        self.process = host.spawn(argv, stdin=subprocess.PIPE, stdout=self._log, stderr=subprocess.STDOUT)
        self._mode = mode

    def said(self):
        """Everything it has printed."""
        self._log.flush()
        with open(self._log.name, errors="replace") as f:
            return f.read()

    def tell(self, line):
        """Type one line."""
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def prompt(self, timeout=30):
        """Wait until it takes commands (both cards are up: virtio-user waits for the switch)."""
        host.until("testpmd's prompt", lambda: self.process.poll() is not None or "testpmd>" in self.said(), timeout)
        if self.process.poll() is not None:
            raise LabError(f"testpmd ended: {self.said()[-800:]}")

    def go(self, size):
        """Start frames of `size` bytes circulating: 8 bursts from each card, sent on for ever."""
        self.tell(f"set fwd {self._mode}")
        self.tell(f"set txpkts {size}")
        self.tell("start tx_first 8" if self._mode == "mac" else "start")

    def converse(self, size):
        """Start CONVERSING frames of `size` bytes going to and fro between the two cards as questions and answers of UDP conversations that
        card 0 began (needs --port-topology=loop)."""
        for line in ("set flush_rx off", f"set txpkts {size}", "set portlist 0", "set fwd mac", "start tx_first 16"):
            self.tell(line)
        self.stop()
        for line in ("set portlist 0,1", "set fwd 5tswap", "start"):
            self.tell(line)

    def stop(self):
        """Stop sending. What is on its way stays in the rings."""
        seen = self.said().count("Done.")
        self.tell("stop")
        host.until("testpmd to stop", lambda: self.said().count("Done.") > seen or self.process.poll() is not None)

    def _stats(self):
        """Asks for the counters of both cards; returns what is printed."""
        before = len(self.said())
        self.tell("show port stats all")
        host.until("testpmd's counters", lambda: len(re.findall(r"Tx-pps:.*\n", self.said()[before:])) >= 2 or self.process.poll() is not None)
        return self.said()[before:]

    def counted(self):
        """[(frames received, frames sent)] of each card, since the beginning."""
        text = self._stats()
        return [tuple(map(int, pair)) for pair in zip(re.findall(r"RX-packets:\s+(\d+)", text), re.findall(r"TX-packets:\s+(\d+)", text))]

    def lap(self):
        """Frames per second that both cards received since the last call of this, or of `rate` or `counted`."""
        return sum(int(n) for n in re.findall(r"Rx-pps:\s+(\d+)", self._stats()))

    def rate(self, seconds):
        """Frames per second that both cards received, measured over `seconds`."""
        self.lap()
        time.sleep(seconds)
        return self.lap()

    def close(self):
        """Stop it."""
        host.stop(self.process)
        self._log.close()


def virtio_user(index, path, *, server, queue_size=1024, extra=""):
    """The --vdev argument of card `index` on socket `path`."""
    return (f"net_virtio_user{index},path={path},server={int(server)},queues=1,queue_size={queue_size},mac={MACS[index]}"
            + (f",{extra}" if extra else ""))
