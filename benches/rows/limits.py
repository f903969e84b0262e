"""How far it goes: many ports."""
import resource, time
from pathlib import Path
from lab import host, net, testpmd
from . import TURNPIKE, frames
from .frontends import IdleFrontEnd


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


def _attach(s, count):
    """Idle front ends at as many new ports, when all run."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each has seven descriptors here
    file = Path(s.directory) / "ports.toml"
    file.write_text("".join(f'[[port]]\nname = "idle{i}"\nsocket = "{s.directory}/idle{i}"\nmac = "02:00:00:01:{i >> 8:02x}:{i & 255:02x}"\n' for i in range(count)))
    s.cli("apply", file)
    ends = [IdleFrontEnd(f"{s.directory}/idle{i}") for i in range(count)]
    host.until("all ports to run", lambda: sum(p["state"] == "running" for p in s.cli("port", "list")) >= count, 60)
    return ends
