"""Two guests on one switch: iperf and ping."""
import statistics, time
from lab import guest, host, net, switch, traffic
from . import OVS, TURNPIKE, options


class Pair:
    """Two guests on one switch, frozen (SIGSTOP) while another contender is measured."""

    def __init__(self, contender, number):
        directory, net10 = host.work(), f"10.77.{number}"
        self.switch, server, sockets, taps = None, False, [None, None], [None, None]
        if contender == TURNPIKE:
            self.switch = switch.Turnpike(name=f"pair{number}", state="none")
            sockets = [self.switch.port(n, "--mac", f"52:54:00:77:{number:02x}:0{i + 1}") for i, n in enumerate("ab")]
        elif contender == OVS:
            self.switch, server = net.Ovs(tso=True), True
            sockets = [directory / f"ovs-{n}.sock" for n in "ab"]
        else:
            bridge = net.Bridge()
            taps = [bridge.tap(), bridge.tap()]
        self.pid = self.switch.pid if self.switch else None
        self.guests = [guest.Guest(f"{contender}-{n}", f"{net10}.{i + 1}/24", socket=sockets[i], tap=taps[i], server=server, qemu=options["qemu"],
                                   mac=f"52:54:00:77:{number:02x}:0{i + 1}") for i, n in enumerate("ab")]
        if contender == OVS:
            for n, path in zip("ab", sockets):
                self.switch.port(n, path)
        guest.boot(*self.guests)
        self.a, self.b = self.guests
        traffic.ping(self.a, self.b.ip, 3)
        self.freeze()

    def freeze(self):
        for g in self.guests:
            g.freeze()
        if isinstance(self.switch, net.Ovs):
            self.switch.process.send_signal(19)  # its polling thread must not take a CPU from the others

    def thaw(self):
        if isinstance(self.switch, net.Ovs):
            self.switch.process.send_signal(18)
        for g in self.guests:
            g.thaw()
        time.sleep(1)  # clocks and timers of the guests catch up
        traffic.ping(self.a, self.b.ip, 3)

    def close(self):
        for g in self.guests:
            g.thaw()
            g.close()
        if self.switch:
            self.switch.close()


def pairs(contenders, measure):
    """Boot a pair per contender; a run thaws one pair, measures, freezes it."""
    made = {c: Pair(c, i) for i, c in enumerate(contenders)}

    def run(contender):
        pair = made[contender]
        pair.thaw()
        try:
            return measure(pair)
        finally:
            pair.freeze()

    return run, lambda: [p.close() for p in made.values()]


def row_iperf(contenders, seconds):
    """Mbit/s of one TCP stream, mean of both directions"""
    def measure(pair):
        cpu, began = pair.pid and host.cpu_seconds(pair.pid), time.monotonic()
        flows = [traffic.iperf(pair.a, pair.b.ip, seconds, reverse=r) for r in (False, True)]
        out = {"value": statistics.mean(f.mbps for f in flows), "retransmits": sum(f.retransmits for f in flows)}
        if pair.pid:
            out["switch_cpu_percent"] = round(100 * (host.cpu_seconds(pair.pid) - cpu) / (time.monotonic() - began))
        return out
    return pairs(contenders, measure)


def row_ping(contenders, seconds):
    """p99 of the round trip in ms, 5 a second, so that the switch sleeps between any two"""
    def measure(pair):
        result = traffic.ping(pair.a, pair.b.ip, max(20, seconds * 5), interval=0.2)
        return {"value": result.p99, "p50": result.p50, "lost": result.lost}
    return pairs(contenders, measure)
