"""Side-by-side runs of Turnpike and its peers: A B C A B C …, medians of the ratios within each round.

One run against one run proves nothing on a shared machine, so every round runs every contender within the same minute, and a ratio
is formed inside a round. Before each round the state of the machine is noted: load, stolen time, and the time a cache line needs
from CPU to CPU (benches/src/bin/line-transfer.rs), which changes with the host's placement of our CPUs.
"""
import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benches"))
from lab import guest, host, image, net, switch, testpmd, traffic  # noqa: E402
from frontends import IdleFrontEnd  # noqa: E402

TURNPIKE, BRIDGE, OVS, VHOST = "turnpike", "bridge", "ovs-dpdk", "dpdk-vhost"


# --- rounds ----------------------------------------------------------------------------------------------------------------------
# name: (setup, unit, contenders; the first is ours, more is better, {peer: the least or most the ratio may be})
ROWS = {
    "iperf": (row_iperf, "Mbit/s", [TURNPIKE, BRIDGE, OVS], True, {BRIDGE: 1.1, OVS: 1.8}),
    "64-split": (row_frames(64), "Mpps", [TURNPIKE, OVS, VHOST], True, {OVS: 0.9}),
    "1500-split": (row_frames(1500), "Mpps", [TURNPIKE, OVS, VHOST], True, {OVS: 1.2}),
    "ping": (row_ping, "ms p99", [TURNPIKE, BRIDGE], False, {BRIDGE: 1.0}),
    "idle": (row_idle, "% of a CPU", [TURNPIKE], False, {None: 1.0}),
}


def line_transfer():
    """Nanoseconds a cache line needs from one CPU to another, or None where there is no compiler."""
    probe = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/line-transfer"
    try:
        return float(host.sh(probe, timeout=20))
    except (OSError, host.LabError):
        return None


def state():
    """What the machine is like right now."""
    steal = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return {"load1": os.getloadavg()[0], "steal_ticks": steal, "line_ns": line_transfer()}


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def compare(name, only, runs, seconds, out):
    """All rounds of one row; returns the lines of its table."""
    setup, unit, contenders, more, limits = ROWS[name]
    contenders = [c for c in contenders if not only or c in only]
    host.say(f"\n{name}: {setup.__doc__.splitlines()[0]}; {runs} rounds of {', '.join(contenders)}")
    run, close = setup(contenders, seconds)
    results, states = {c: [] for c in contenders}, []
    try:
        for number in range(runs):
            states.append(state())
            for c in contenders:
                r = run(c)
                results[c].append(r["value"])
                host.say(f"  round {number + 1}  {c:<10} {r['value']:8.2f} {unit}  " + "  ".join(f"{k} {v:.4g}" for k, v in r.items() if k != "value"))
                out.write(json.dumps({"row": name, "round": number, "contender": c, "unit": unit, "time": int(time.time()), **r, **states[-1]}) + "\n")
                out.flush()
    finally:
        close()
    ours, lines = results.get(TURNPIKE), []
    for c in contenders:
        lines.append(f"{name:<11} {c:<11} {spread(results[c], 2):>26} {unit}")
        limit = limits.get(c)
        if ours and c != TURNPIKE:
            ratios = [a / b for a, b in zip(ours, results[c]) if b]
            lines[-1] += f"   turnpike is {spread(ratios, 2)} ×"
            if limit:
                middle = statistics.median(ratios)
                good = middle >= limit if more else middle <= limit
                lines[-1] += f", aim {'≥' if more else '≤'} {limit}: {'reached' if good else 'MISSED'}"
        elif c == TURNPIKE and None in limits:
            lines[-1] += f"   aim < {limits[None]}: {'reached' if statistics.median(ours) < limits[None] else 'MISSED'}"
    lines_ns = [s["line_ns"] for s in states if s["line_ns"]]
    lines.append(f"{'':<11} machine: load {spread([s['load1'] for s in states], 1)}, cache line CPU to CPU "
                 + (f"{spread(lines_ns, 0)} ns" if lines_ns else "unknown")
                 + f", stolen ticks {states[-1]['steal_ticks'] - states[0]['steal_ticks']}")
    return lines


def main():
    parser = argparse.ArgumentParser(prog="benches/compare.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", help=f"rows to run, default all: {' '.join(ROWS)}")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", 5)), help="rounds per row ($RUNS, default 5)")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("SECONDS_EACH", 5)), help="length of one measurement ($SECONDS_EACH, default 5)")
    parser.add_argument("--only", action="append", metavar="CONTENDER", help=f"only these: {TURNPIKE}, {BRIDGE}, {OVS}, {VHOST} (may be repeated)")
    parser.add_argument("--qemu", type=int, help="major version of QEMU for the guests (default: 10 where it can be had)")
    parser.add_argument("--vdev", default="", metavar="EXTRA", help="more properties of DPDK's virtio-user cards, such as in_order=0 "
                        "(by default DPDK takes whatever the switch offers)")
    parser.add_argument("--out", default=str(ROOT / "target/compare.jsonl"), help="every single result, one JSON object per line, is added to this file")
    args = parser.parse_args()
    unknown = [r for r in args.row if r not in ROWS]
    if unknown:
        parser.error(f"no row named {unknown[0]}; there are {', '.join(ROWS)}")
    host.arm()
    global QEMU, VDEV
    VDEV = args.vdev
    try:
        QEMU = image.qemu(args.qemu or 10)
    except host.LabError:
        if args.qemu:
            raise
        QEMU = image.qemu()
    if not args.only or TURNPIKE in args.only:
        subprocess.run(["cargo", "build", "-q", "--release", "-p", "turnpike", "-p", "turnpike-benches"], cwd=ROOT, check=True)
    if host.sh("nproc").strip() == "1":
        raise host.LabError("this machine has one CPU; the generator and the switch need one each")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    table = []
    with open(args.out, "a") as out:
        for name in args.row or ROWS:
            table += compare(name, args.only, args.runs, args.seconds, out)
    cpu = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "?")
    print(f"\n{args.runs} rounds, medians (least–most); {cpu}, {os.cpu_count()} CPUs, kernel {os.uname().release}, {QEMU}, "
          f"guests under {'KVM' if guest.kvm_works() else 'TCG'}")
    print("\n".join(table))


if __name__ == "__main__":
    try:
        main()
    except host.LabError as e:
        sys.exit(f"compare: {e}")
