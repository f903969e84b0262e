"""iperf3 and ping between lab guests, and the numbers in what they print."""
import re, statistics
from .host import LabError


class Flow:
    """One iperf3 TCP run: `mbps` received, sender's `retransmits`, `worst` = slowest interval in Mbit/s."""

    def __init__(self, text):
        got = re.findall(r"\s([\d.]+) Mbits/sec.*receiver", text)
        sent = re.findall(r"\s([\d.]+) Mbits/sec\s+(\d+)\s+sender", text)
        if not got or not sent:
            raise LabError(f"iperf3 did not finish: {text.strip()[-500:]}")
        # With several streams the last lines are the sums.
        self.mbps, self.retransmits = float(got[-1]), int(sent[-1][1])
        rates = [float(r) for r, end in re.findall(r"\s([\d.]+) Mbits/sec(.*)", text) if "sender" not in end and "receiver" not in end]
        self.worst = min(rates[:-1] or rates) if rates else 0.0

    def __str__(self):
        return f"{self.mbps:.0f} Mbit/s, {self.retransmits} retransmits"


def iperf(client, server_ip, seconds=5, *, reverse=False, extra="", on_line=None):
    """One TCP stream from `client` (a Guest or Namespace) to `server_ip`; `reverse`: from the server to the client."""
    command = f"iperf3 -c {server_ip} -t {seconds} -f m --forceflush --connect-timeout 5000 {'-R' if reverse else ''} {extra}"
    show = on_line and (lambda line: "bits/sec" in line and on_line(line.strip()))
    return Flow(client.run(command, timeout=seconds + 40, on_line=show).out)


def fresh_server(where):
    """A new iperf3 server in a guest whose old one may still wait for a client that was killed."""
    where.run("killall -9 iperf3; sleep 0.2; iperf3 -s -D", check=False)


class Ping:
    """One ping run: `sent`, `received`, and the round trips in milliseconds."""

    def __init__(self, text):
        match = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", text)
        if not match:
            raise LabError(f"ping did not finish: {text.strip()[-500:]}")
        self.sent, self.received = int(match[1]), int(match[2])
        self.duplicates = len(re.findall(r"DUP!", text))
        # The first reply may have waited for address resolution and is not a round trip of a known path.
        self.times = sorted([float(t) for t in re.findall(r"time=([\d.]+)", text)][1:])

    lost = property(lambda self: self.sent - self.received)
    p50 = property(lambda self: statistics.median(self.times) if self.times else float("nan"))
    p99 = property(lambda self: self.times[min(len(self.times) - 1, int(len(self.times) * 0.99))] if self.times else float("nan"))

    def __str__(self):
        return f"{self.received}/{self.sent} replies, p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms"


def ping(source, ip, count=10, *, interval=0.1, size=56, extra=""):
    """Ping from a Guest or Namespace; loss is a result, not an error. Prefix `extra` with `-I IF` and the like."""
    command = f"ping -c {count} -i {interval} -s {size} -W 1 {extra} {ip}"
    return Ping(source.run(command, timeout=count * (interval + 1) + 30, check=False).out)
