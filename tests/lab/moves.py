"""What is measured of a move: by the example, and by the rows of the comparison."""
import datetime, itertools, json, time
from . import fleet, prober, traffic
from .host import LabError

SESSIONS = 10_000
_ports = itertools.count(9000)


def open_sessions(f, count=SESSIONS):
    """Make the guest's port follow `count` connections for an hour: one datagram each, to an address that nobody answers for."""
    g = f.mover
    s = g.at.switch
    if not any(r["weight"] == 10 for r in s.cli("rule", "list", "guest")):
        s.cli("rule", "add", "guest", "--action", "allow", "--direction", "out", "--weight", 10, "--protocol", "udp", "--stateful",
              "--idle-timeout", "3600s")
    g.run(f"arp -s 10.0.0.99 {f.hosts[0].peer_mac}; prober flows --from {g.ip} --to 10.0.0.99 --count {count}")
    if (there := len(s.cli("session", "list", "guest"))) < count:
        raise LabError(f"{there} sessions instead of {count}")


def events(s, code, port="guest"):
    """The switch's events of that kind about a port, oldest first."""
    _, text = s.cli("events", check=False)
    rows = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [r for r in rows if r.get("kind") == code and r.get("port") == port]


def when(event):
    """Its time, in seconds of Unix time."""
    return datetime.datetime.fromisoformat(event["time"]).timestamp()


class Traffic:
    """The probes that run during moves: 1 kHz of numbered datagrams both ways from behind either switch, and TCP with known bytes."""

    def __init__(self, f, connections=1, rate=20_000):
        g = f.mover
        self.streams = [prober.Stream(h.peer, h.address, g, next(_ports)) for h in f.hosts]  # before TCP: it would be slow to begin beside it
        self.tcp = [prober.Tcp(h.peer, h.address, g, next(_ports), connections, rate) for h in f.hosts]

    def close(self):
        """End them; returns {"lost_in" (the worst of the streams to the guest), "lost" (all, both ways), "doubled", "tcp_broken"}."""
        for x in (*self.streams, *self.tcp):
            x.close()
        for x in self.streams:
            if not x.inward["peer_sent"] or not x.outward["peer_sent"]:
                raise LabError(f"a probe was not answered: {x}")
        return {"lost_in": max(x.inward["lost"] for x in self.streams), "lost": sum(x.lost for x in self.streams), "doubled": sum(x.duplicated for x in self.streams),
                "tcp_broken": sum(1 for x in self.tcp if x.wrong())}


def measured(f, **load):
    """One move under traffic. In ms after QEMU let the guest run: `value` = its rings run, and the first frame that waited for it is in
    one of them; `in` = it has answered to one, `out` = it has sent one; these two have the guest's own waking in them, and under TCG the
    translation of all its code anew."""
    source, probes = f.mover.at, Traffic(f, **load)
    time.sleep(1)
    move = f.mover.move()
    time.sleep(1.5)
    seen = probes.close()
    into, out = move.shares([x.outward for x in probes.streams])
    if into is None or out is None:
        raise LabError("nothing was seen of the guest after its move")
    result = {"value": into, "in": into, "out": out, "stood_still": move.away_ms, **seen}
    if not hasattr(source, "switch"):
        return result  # another make, which does not tell when rings run
    runs = [when(e) for e in events(f.mover.at.switch, "port-running")]
    result["value"] = min(1000 * (t - move.resumed) for t in runs if t > move.stopped)
    if saved := events(source.switch, "state-saved"):
        result["state_kib"] = saved[-1]["bytes"] / 1024
        result["sessions"] = saved[-1]["sessions"]
    return result


def finished(job):
    """The flow of an iperf3 client that ran during a move, when it has ended."""
    return traffic.Flow(job.wait(60).out)


percentile = fleet.percentile
