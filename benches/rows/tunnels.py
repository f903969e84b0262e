"""64-byte frames from a guest of one host to a guest of another through a tunnel: two switches, one worker each, and a veth pair between them."""
import subprocess, time
from lab import host, net, switch
from lab.fabric import record
from lab.tunnels import OvsDpdk
from . import OVS_XDP, TURNPIKE, TURNPIKE_PACKET, TURNPIKE_XDP

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
CAS = ("10.16.1.3", "10.16.1.7")
PAS = ("192.0.2.1", "192.0.2.2")
RDID = "11111111-1111-1111-1111-111111111111"
VSID = 5001


class Flood:
    """The load: sends on one card without a pause and counts what comes at the other, on CPU 0. See benches/src/bin/flood.rs."""

    def __init__(self, paths, listen, size):
        self._log, program = host.work() / f"flood-{time.monotonic_ns()}.log", switch.binary().with_name("flood")
        words = ["--send", paths[0], "--receive", paths[1], "--listen", int(listen), "--size", size]
        words += ["--from", f"{MACS[0]},{CAS[0]}", "--to", f"{MACS[1]},{CAS[1]}"]
        self.process = host.spawn(["taskset", "-c", "0", program, *words], stdout=open(self._log, "w"), stderr=subprocess.STDOUT)

    def _lines(self):
        if self.process.poll() is not None:
            raise host.LabError(f"the load ended: {self._log.read_text()[-400:]}")
        return self._log.read_text().splitlines()

    def listening(self, name):
        """Wait until the switch can connect to the card."""
        host.until(f"the load to listen for {name}", lambda: f"listening {name}" in self._lines())

    def rate(self, seconds):
        """(frames sent, frames received) a second, measured over `seconds`."""
        host.until("the load to run", lambda: any(line[0].isdigit() for line in self._lines() if line))
        def last():
            return [int(word) for word in next(line for line in reversed(self._lines()) if line.count(" ") == 2).split()]
        time.sleep(1)
        before = last()
        time.sleep(seconds)
        after = last()
        return tuple((after[i] - before[i]) * 1e9 / (after[2] - before[2]) for i in (0, 1))

    def close(self):
        """Stop it."""
        host.stop(self.process)


def pair():
    """Two hosts: namespaces with a veth pair between them. [(namespace, interface)]"""
    hosts = [net.Namespace(), net.Namespace()]
    hosts[0].run(f"ip link add wire type veth peer name wire netns {hosts[1].name}")
    for h in hosts:
        h.run("sysctl -q net.ipv6.conf.wire.disable_ipv6=1; ip link set wire up")
    return hosts


def turnpike(hosts, encap, paths, driver):
    """A Turnpike on each host, with the guest's port. `driver`: that of the uplinks."""
    switches = []
    for i, h in enumerate(hosts):
        s = switch.Turnpike("--workers", "1", "--cpus", "1", "--poll-us", "busy", name=f"tunnel{i}", state="none", namespace=h)
        s.cli("switch", "set", "--nv", "on")
        s.cli("uplink", "add", "wire", "--device", "wire", "--driver", driver)
        s.cli("nv", "provider", "add", "--address", f"{PAS[i]}/24", "--uplink", "wire")
        s.cli("nv", "network", "add", "blue", "--rdid", RDID)
        s.cli("nv", "subnet", "add", "--network", "blue", "--vsid", VSID, "--prefix", "10.16.1.0/24")
        for ca, mac, pa in zip(CAS, MACS, PAS):
            s.cli("nv", *record(VSID, ca, mac, pa, "--encap", encap))
        s.cli("port", "add", "guest", "--socket", paths[i], "--mac", MACS[i], "--vsid", VSID)
        switches.append(s)
    return switches


def row_tunnel(encap, best):
    """Millions of 64-byte frames a second from guest to guest through a tunnel between two switches (both on CPU 1, the load on CPU 0).
    `best`: the driver of our uplinks that carries more of them."""
    drivers = {TURNPIKE: best, TURNPIKE_PACKET: "packet", TURNPIKE_XDP: "xdp"}

    def setup(contenders, seconds):
        directory = host.work()

        def run(contender):
            hosts = pair()
            paths = [directory / f"{encap}-{contender}-{i}" for i in range(2)]
            for path in paths:
                path.unlink(missing_ok=True)
            switches, load = [], None
            try:
                if contender in drivers:
                    switches = turnpike(hosts, encap, paths, drivers[contender])
                    load = Flood(paths, False, 64)
                else:
                    load = Flood(paths, True, 64)
                    kind, driver = "gre" if encap == "nvgre" else "vxlan", "xdp" if contender == OVS_XDP else "packet"
                    switches = [OvsDpdk(h, "wire", f"{PAS[i]}/24", PAS[1 - i], kind, VSID, driver) for i, h in enumerate(hosts)]
                    for i, name in ((1, "receive"), (0, "send")):
                        load.listening(name)
                        switches[i].port(paths[i])
                sent, received = load.rate(seconds)
                return {"value": received / 1e6, "sent": sent / 1e6}
            finally:
                if load:
                    load.close()
                for s in switches:
                    s.close()

        return run, lambda: None

    setup.__doc__ = row_tunnel.__doc__
    return setup
