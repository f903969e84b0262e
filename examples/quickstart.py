"""The part of quickstart.sh that runs the switch and two guests. `--seconds N`: length of each TCP run (default 5)."""
import argparse, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from lab import guest, host, switch, traffic  # noqa: E402

MACS = {"alice": "52:54:00:00:01:01", "bob": "52:54:00:00:01:02"}


def main(seconds):
    host.arm()
    say = host.say
    s = switch.Turnpike(state="none")
    say(f"\n== the switch\n  turnpike serve --api {s.api} --state-dir none")
    for name, mac in MACS.items():
        s.port(name, "--mac", mac)
        say(f"  turnpike port add {name} --socket {s.socket(name)} --mac {mac}")

    say(f"\n== two guests under {'KVM' if guest.kvm_works() else 'TCG, because KVM does not work here'}")
    began = time.monotonic()
    alice, bob = [guest.Guest(n, f"10.0.0.{i}/24", socket=s.socket(n), mac=m) for i, (n, m) in enumerate(MACS.items(), 1)]
    guest.boot(alice, bob)
    say(f"  both at a shell after {time.monotonic() - began:.0f} s")

    say("\n== ping alice → bob")
    traffic.ping(alice, bob.ip, 2)  # address resolution
    ping = traffic.ping(alice, bob.ip, 20)
    say(f"  {ping}")

    rows = []
    for title, reverse in (("alice → bob", False), ("bob → alice", True)):
        say(f"\n== iperf3 {title}, {seconds} s")
        cpu, began = host.cpu_seconds(s.pid), time.monotonic()
        flow = traffic.iperf(alice, bob.ip, seconds, reverse=reverse, on_line=lambda line: say(f"  {line}"))
        busy = 100 * (host.cpu_seconds(s.pid) - cpu) / (time.monotonic() - began)
        rows.append((title, f"{flow.mbps:.0f}", str(flow.retransmits), f"{busy:.0f} %"))

    say(f"\n{'TCP, one stream':<16} {'Mbit/s':>8} {'retransmits':>12} {'CPU of the switch':>18}")
    for row in rows:
        say(f"{row[0]:<16} {row[1]:>8} {row[2]:>12} {row[3]:>18}")
    drops = [f"{port}: {n} {reason}" for port, reasons in s.drops().items() for reason, n in reasons.items()]
    say(f"drops: {', '.join(drops) or 'none'}")

    for g in (alice, bob):
        g.close()
    code = s.close()
    say("\neverything stopped")
    return code or (1 if ping.received == 0 else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    try:
        sys.exit(main(parser.parse_args().seconds))
    except host.LabError as e:
        sys.exit(f"quickstart: {e}")
