"""What network virtualization costs: a cached flow within one host, and a stream between two guests on two hosts."""
import itertools, statistics, time
from lab import fabric, guest, host, net, testpmd, traffic
from lab.fabric import Cable, record
from . import PLAIN_PACKET, TURNPIKE, frames, options

RDID = "11111111-1111-1111-1111-111111111111"
VSID, VLAN = 5001, 501


def subnet(switches, prefix, *more):
    """One customer network with one virtual subnet."""
    for s in switches:
        s.cli("nv", "network", "add", "blue", "--rdid", RDID)
        s.cli("nv", "subnet", "add", "--network", "blue", "--vsid", VSID, "--prefix", prefix, *more)


def row_flow(contenders, seconds):
    """Millions of 64-byte frames per second, to and fro between two ports of one virtual subnet, each frame by both lookup records"""
    directory = host.work()
    wire = net.Namespace().veth("192.0.2.1/24")

    def run(contender):
        paths = [directory / f"nv-{contender}-{i}" for i in range(2)]
        s = frames.turnpike(f"nv-{contender}")
        if contender == TURNPIKE:
            s.cli("switch", "set", "--nv", "on")
            s.cli("uplink", "add", "wire", "--device", wire)
            s.cli("nv", "provider", "add", "--address", "192.0.2.2/24", "--uplink", "wire")
            # The lowest address is the generator's and not the router's.
            subnet([s], "198.18.0.0/24", "--gateway", "198.18.0.254")
        for number, (name, mac, path) in enumerate(zip("ab", testpmd.MACS, paths), 1):
            more = ["--vsid", VSID] if contender == TURNPIKE else []
            s.cli("port", "add", name, "--socket", path, "--mac", mac, *more)
            if more:
                s.cli("nv", *record(VSID, f"198.18.0.{number}", mac, "192.0.2.2"))
        g = None
        try:
            g = frames.generator(paths, False, "--port-topology=loop")
            g.converse(64)
            out = frames.measure(s, g, seconds)
            dropped = {k: v for k, v in s.drops("a", "b").items() if v}
            if dropped:
                raise host.LabError(f"dropped {dropped}")
            return out
        finally:
            if g:
                g.close()
            s.close()

    net.hugepages(frames.PAGES)
    return run, lambda: None


def row_stream(contenders, seconds):
    """Mbit/s of one TCP stream between guests on two hosts over NVGRE, mean of both directions, uplinks by AF_XDP; the others are a VLAN on the same
    uplinks, and a VLAN on uplinks by AF_PACKET, which carry it uncut"""
    made, hosts = {}, {}
    for number, contender in enumerate(contenders):
        driver = "packet" if contender == PLAIN_PACKET else "xdp"
        if driver not in hosts:
            cable = Cable("192.168.34.0/24")
            hosts[driver] = [fabric.NvHost(cable, f"192.168.34.{8 + i}/24", name=f"nv{driver}{i}", driver=driver) for i in range(2)]
            subnet([h.switch for h in hosts[driver]], "10.16.1.0/24")
        guests = []
        for i, h in enumerate(hosts[driver]):
            mac, name = f"52:54:00:16:0{number}:0{i + 3}", f"{'nv' if contender == TURNPIKE else 'vlan'}"
            if contender == TURNPIKE:
                for other in hosts[driver]:
                    other.cli("nv", *record(VSID, f"10.16.1.{i + 3}", mac, h.pa))
            socket = h.switch.port(name, "--mac", mac, *(("--vsid", VSID) if contender == TURNPIKE else ("--vlan", f"access:{VLAN}")))
            guests.append(guest.Guest(f"{name}{number}{i}", f"10.16.{number + 1}.{i + 3}/24", socket=socket, mac=mac, qemu=options["qemu"]))
        guest.boot(*guests)
        traffic.ping(guests[0], guests[1].ip, 5)
        for g in guests:
            g.freeze()
        made[contender] = guests

    def run(contender):
        a, b = made[contender]
        for g in (a, b):
            g.thaw()
        time.sleep(1)
        traffic.ping(a, b.ip, 3)
        try:
            flows = [traffic.iperf(a, b.ip, seconds, reverse=r) for r in (False, True)]
            return {"value": statistics.mean(flow.mbps for flow in flows), "retransmits": sum(flow.retransmits for flow in flows)}
        finally:
            for g in (a, b):
                g.freeze()

    def close():
        for guests in made.values():
            for g in guests:
                g.thaw()
                g.close()
        for h in itertools.chain(*hosts.values()):
            h.switch.close()

    return run, close
