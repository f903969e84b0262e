"""DPDK's testpmd with two virtio-user cards: a pair of front ends that sends frames round through the switch at full speed."""
import re, subprocess, time
from . import host
from .host import LabError

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def packages():
    """Install what testpmd needs."""
    if host.release() == "bookworm":
        host.need("dpdk-dev", "librte-mempool-ring23", "librte-net-virtio23", "librte-net-vhost23")
    else:
        host.need("dpdk-dev")


class Testpmd:
    """Generator on `cpu`. `vdevs`: complete --vdev arguments."""

    def __init__(self, vdevs, *, cpu=0, prefix="gen", mode="mac", megabytes=256):
        packages()
        log = host.work() / f"testpmd-{prefix}-{time.monotonic_ns()}.log"
        self._log = open(log, "wb+", 0)
        argv = ["stdbuf", "-oL", "dpdk-testpmd", "--lcores", f"0@{cpu},1@{cpu}", "--in-memory", "--no-pci", "--single-file-segments", "-m", megabytes,
                "--log-level=3"]
        for v in vdevs:
            argv += ["--vdev", v]
        argv += ["--", "-i", "--nb-cores=1", f"--eth-peer=0,{MACS[1]}", f"--eth-peer=1,{MACS[0]}"]
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

    def rate(self, seconds):
        """Frames per second that both cards received, measured over `seconds`."""
        self.tell("show port stats all")
        time.sleep(seconds)
        seen = len(re.findall(r"Rx-pps:", self.said()))
        self.tell("show port stats all")
        host.until("testpmd's counters", lambda: len(re.findall(r"Rx-pps:", self.said())) >= seen + 2 or self.process.poll() is not None)
        time.sleep(0.1)
        return sum(int(n) for n in re.findall(r"Rx-pps:\s+(\d+)", self.said())[-2:])

    def close(self):
        """Stop it."""
        host.stop(self.process)
        self._log.close()


def virtio_user(index, path, *, server, queue_size=1024, extra=""):
    """The --vdev argument of card `index` on socket `path`."""
    return (f"net_virtio_user{index},path={path},server={int(server)},queues=1,queue_size={queue_size},mac={MACS[index]}"
            + (f",{extra}" if extra else ""))
