"""The part of live-migration.sh that runs the switches and moves the guest. `--moves N`: how many times (default 4: there and back twice).
`--sessions N`: connections that the guest's port follows meanwhile (default 10000). `--connections N`: TCP connections to either host."""
import argparse, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from lab import fleet, guest, host, image, moves  # noqa: E402


def column(values, unit, digits=1):
    """Median, 99th percentile and most of a column; with few moves the last two are the same."""
    values = [v for v in values if v is not None]
    if not values:
        return ("-", "-", "-")
    return tuple(f"{v:.{digits}f} {unit}".strip() for v in (moves.percentile(values, 0.5), moves.percentile(values, 0.99), max(values)))


def main(args):
    host.arm()
    say = host.say
    say(f"\n== two hosts, joined by a veth pair\n  guest under {'KVM' if guest.kvm_works() else 'TCG, because KVM does not work here'}, {image.qemu(10)}")
    f = fleet.Fleet()
    for h in f.hosts:
        say(f"  {h.name}: ip netns exec {h.namespace.name} turnpike serve {' '.join(map(str, h.switch.options))}")
    began = time.monotonic()
    g = f.boot(qemu=image.qemu(10))
    say(f"  the guest is at a shell on {g.at.name} after {time.monotonic() - began:.0f} s")
    g.at.switch.cli("port", "set", "guest", "--dhcp-guard", "on", "--router-guard", "on")
    g.at.switch.cli("meter", "enable", "guest")
    moves.open_sessions(f, args.sessions)
    for h in f.hosts:
        h.peer.serve_iperf()

    results, flows = [], []
    for number in range(args.moves):
        source, target = g.at, g.other()
        stream = g.start(f"iperf3 -c {f.hosts[0].address} -t 8 -f m --forceflush")
        result = moves.measured(f, connections=args.connections)
        flow = moves.finished(stream)
        results.append(result)
        flows.append(flow)
        say(f"  move {number + 1}, {source.name} → {target.name}: stood still {result['stood_still']:.0f} ms, then its rings ran after "
            f"{result['value']:.1f} ms, it answered after {result['in']:.1f} ms; {result['lost']} lost, {result['doubled']} doubled; iperf3 {flow}")

    get = lambda key: [r.get(key) for r in results]
    rows = [("guest stood still", *column(get("stood_still"), "ms")),
            ("then its rings ran after", *column(get("value"), "ms")),
            ("then it answered after", *column(get("in"), "ms")),
            ("then it sent after", *column(get("out"), "ms")),
            ("state with its sessions", *column(get("state_kib"), "KiB", 0)),
            ("sessions moved", *column(get("sessions"), "", 0)),
            ("frames lost of 1 kHz", *column(get("lost"), "", 0)),
            ("frames doubled", *column(get("doubled"), "", 0)),
            ("TCP connections harmed", *column(get("tcp_broken"), "", 0)),
            ("iperf3", *column([x.mbps for x in flows], "Mbit/s", 0))]
    say(f"\n{f'{args.moves} moves':<26} {'median':>12} {'p99':>12} {'most':>12}")
    for row in rows:
        say(f"{row[0]:<26} {row[1]:>12} {row[2]:>12} {row[3]:>12}")
    f.close()
    say("\neverything stopped")
    return int(any(r["lost"] or r["doubled"] or r["tcp_broken"] for r in results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moves", type=int, default=4)
    parser.add_argument("--sessions", type=int, default=moves.SESSIONS)
    parser.add_argument("--connections", type=int, default=1)
    try:
        sys.exit(main(parser.parse_args()))
    except host.LabError as e:
        sys.exit(f"live-migration: {e}")
