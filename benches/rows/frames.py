"""A DPDK virtio-user pair that sends frames round through the switch: generator on CPU 0, switch on CPU 1."""
import re, time
from lab import host, net, switch, testpmd
from . import OVS, TURNPIKE, options

PACKED = "packed_vq=1,in_order=1"  # of the generator's cards
PAGES = 2300 + 256  # huge pages of OVS and of the generator


def turnpike(name, poll="busy"):
    """A switch with one worker on CPU 1, which polls for so many microseconds, or always."""
    return switch.Turnpike("--workers", "1", "--cpus", "1", "--poll-us", poll, name=name, state="none")


def ovs(paths):
    """OVS with a port per path; the generator listens on them."""
    s = net.Ovs()
    for i, path in enumerate(paths):
        path.unlink(missing_ok=True)
        s.port(f"p{i}", path)
    return s


def generator(paths, server, *extra, rings=""):
    """The pair, ready to send. `rings`: what its cards are like, beside what the command line says."""
    net.hugepages(PAGES)
    cards = ",".join(filter(None, (rings, options["vdev"])))
    g = testpmd.Testpmd([testpmd.virtio_user(i, p, server=server, extra=cards) for i, p in enumerate(paths)], extra=extra)
    g.prompt()
    return g


def busy_cycles(s):
    """A function that returns the cycles per frame for which the switch was busy since this call; None for what does not tell."""
    if isinstance(s, net.Ovs):
        s.appctl("dpif-netdev/pmd-stats-clear")
        said = r"avg processing cycles per packet: ([\d.]+)"
        return lambda: float(re.search(said, s.appctl("dpif-netdev/pmd-stats-show")).group(1))
    if not isinstance(s, switch.Turnpike):
        return lambda: None
    was = s.cli("worker", "list")[0]

    def since():
        now = s.cli("worker", "list")[0]
        return (now["busy_cycles"] - was["busy_cycles"]) / max(1, now["frames"] - was["frames"])
    return since


def measure(s, g, seconds):
    """What a run reports of frames that are on their way already."""
    time.sleep(1)
    cycles = busy_cycles(s)
    out = {"value": g.rate(seconds) / 1e6}
    if (busy := cycles()) is not None:
        out["busy_cycles_a_frame"] = round(busy)
    return out


def row_frames(size, rings=""):
    """Millions of frames per second received by a DPDK virtio-user pair (generator CPU 0, switch CPU 1)"""
    def setup(contenders, seconds):
        directory = host.work()

        def run(contender):
            paths = [directory / f"{size}-{contender}-{i}" for i in range(2)]
            if contender == TURNPIKE:
                s = turnpike(f"frames{size}")
                for name, mac, path in zip("ab", testpmd.MACS, paths):
                    s.cli("port", "add", name, "--socket", path, "--mac", mac)
            elif contender == OVS:
                s = ovs(paths)
            else:
                for path in paths:
                    path.unlink(missing_ok=True)
                s = testpmd.Testpmd([f"net_vhost{i},iface={p},queues=1" for i, p in enumerate(paths)], cpu=1, prefix="ceiling", mode="io")
                s.prompt()
                s.go(size)
            g = None
            try:
                g = generator(paths, contender == OVS, rings=rings)
                g.go(size)
                return measure(s, g, seconds)
            finally:
                if g:
                    g.close()
                s.close()

        net.hugepages(PAGES)
        return run, lambda: None

    setup.__doc__ = row_frames.__doc__
    return setup
