"""How far it goes: many flows, many ports, what a port takes."""
import resource, time
from pathlib import Path
from lab import host, net, testpmd
from . import OVS, TURNPIKE, frames
from .frontends import IdleFrontEnd


def row_flows(count):
    """Millions of 64-byte frames per second from a DPDK virtio-user pair that sends as many flows as it can, one after the other (generator CPU 0, switch CPU 1)"""
    def setup(contenders, seconds):
        directory = host.work()

        def run(contender):
            paths = [directory / f"flows{count}-{contender}-{i}" for i in range(2)]
            if contender == OVS:
                s = frames.ovs(paths)
            else:
                s = frames.turnpike(f"flows{count}")
                for name, mac, path in zip("ab", testpmd.MACS, paths):
                    s.cli("port", "add", name, "--socket", path, "--mac", mac)
            g = None
            try:
                g = frames.generator(paths, contender == OVS, f"--flowgen-flows={count}")
                # Both are learned before the first flow comes, and nothing is flooded.
                for line in ("set txpkts 64", "set fwd mac", "start tx_first 1"):
                    g.tell(line)
                time.sleep(0.5)
                g.stop()
                for line in ("set fwd flowgen", "start"):
                    g.tell(line)
                return frames.measure(s, g, seconds)
            finally:
                if g:
                    g.close()
                s.close()

        net.hugepages(frames.PAGES)
        return run, lambda: None

    setup.__doc__ = f"{row_flows.__doc__}: {count:,} flows"
    return setup


def row_ports(count):
    """Millions of 64-byte frames per second between two ports while others are attached and idle (generator CPU 0, switch CPU 1); the other has none"""
    def setup(contenders, seconds):
        directory = host.work()

        def run(contender):
            paths = [directory / f"ports{count}-{contender}-{i}" for i in range(2)]
            s, g, ends = frames.turnpike(f"ports{count}", "50"), None, []
            try:
                if contender == TURNPIKE:
                    ends = _attach(s, count - 2)
                for name, mac, path in zip("ab", testpmd.MACS, paths):
                    s.cli("port", "add", name, "--socket", path, "--mac", mac)
                g = frames.generator(paths, False)
                g.go(64)
                return frames.measure(s, g, seconds)
            finally:
                if g:
                    g.close()
                for end in ends:
                    end.close()
                s.close()

        net.hugepages(frames.PAGES)
        return run, lambda: None

    setup.__doc__ = f"{row_ports.__doc__}; {count:,} ports"
    return setup


def row_start(contenders, seconds):
    """Seconds until 1,000 ports run that front ends attach one after the other, and KiB of the switch's memory that each takes"""
    def run(contender):
        s, ends = frames.turnpike("start", "50"), []
        try:
            before, began = _resident(s), time.monotonic()
            ends = _attach(s, 1000)
            took = time.monotonic() - began
            time.sleep(1)
            return {"value": took, "kib_a_port": (_resident(s) - before) / 1000}
        finally:
            for end in ends:
                end.close()
            s.close()

    return run, lambda: None


def _attach(s, count):
    """Idle front ends at as many new ports, when all run."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each has seven descriptors
    file = Path(s.directory) / "ports.toml"
    file.write_text("".join(f'[[port]]\nname = "idle{i}"\nsocket = "{s.directory}/idle{i}"\n' for i in range(count)))
    s.cli("apply", file)
    ends = [IdleFrontEnd(f"{s.directory}/idle{i}") for i in range(count)]
    host.until("all ports to run", lambda: sum(p["state"] == "running" for p in s.cli("port", "list")) >= count, 60)
    return ends


def _resident(s):
    """KiB of memory that the switch alone has: what front ends share with it is theirs."""
    rows = Path(f"/proc/{s.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(row.split()[1]) for row in rows if row.startswith(("Private_Clean", "Private_Dirty")))
