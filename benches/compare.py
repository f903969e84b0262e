"""Side-by-side runs of Turnpike and its peers: A B C A B C …, medians of the ratios within each round.

One run against one run proves nothing on a shared machine, so every round runs every contender within the same minute, and a ratio
is formed inside a round. Before each round the state of the machine is noted: load, stolen time, and the time a cache line needs
from CPU to CPU (benches/src/bin/line-transfer.rs), which changes with the host's placement of our CPUs.
"""
import argparse, json, os, statistics, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benches"))
from lab import fleet, guest, host, image  # noqa: E402
from rows import BASE, BRIDGE, OVS, OVS_XDP, PLAIN, PLAIN_PACKET, TURNPIKE, TURNPIKE_PACKET, TURNPIKE_XDP, VHOST, Row, changes, extensions, frames, idle, limits, migration, miss, nv, nv_store, options, pairs, policy, tunnels  # noqa: E402

ROWS = {
    "iperf": Row(pairs.row_iperf, "Mbit/s", [TURNPIKE, BRIDGE, OVS], limits={BRIDGE: 1.1, OVS: 1.8}, guests=True),
    "64-split": Row(frames.row_frames(64), "Mpps", [TURNPIKE, OVS, VHOST], limits={OVS: 0.9}),
    "1500-split": Row(frames.row_frames(1500), "Mpps", [TURNPIKE, OVS, VHOST], limits={OVS: 1.2}),
    "64-packed": Row(frames.row_frames(64, frames.PACKED), "Mpps", [TURNPIKE, OVS, VHOST], limits={OVS: 1.1, VHOST: 0.9}),
    "1500-packed": Row(frames.row_frames(1500, frames.PACKED), "Mpps", [TURNPIKE, OVS, VHOST], limits={OVS: 1.2, VHOST: 1.0}),
    "64-ports-256": Row(limits.row_ports(256), "Mpps", [TURNPIKE, PLAIN], limits={PLAIN: 0.95}),
    "ping": Row(pairs.row_ping, "ms p99", [TURNPIKE, BRIDGE], more=False, limits={BRIDGE: 1.0}, guests=True),
    "idle": Row(idle.row_idle, "% of a CPU", [TURNPIKE], more=False, limits={None: 1.0}),
    "policy-64": Row(policy.row_policy(1), "Mpps", [TURNPIKE, PLAIN, OVS], limits={PLAIN: 0.9, OVS: 2.0}),
    "policy-64-flows": Row(policy.row_policy(256), "Mpps", [TURNPIKE, PLAIN, OVS], limits={PLAIN: 0.9, OVS: 2.0}),
    "policy-miss": Row(miss.row_miss, "µs", [TURNPIKE], more=False, limits={None: 3.0}, also={"first_stateful_ns": 3000.0}),
    "policy-replace": Row(changes.row_replace, "ms p99", [TURNPIKE], more=False, limits={None: 1.0}, also={"dip_percent": 5.0}),
    "policy-apply": Row(changes.row_apply, "s", [TURNPIKE], more=False, limits={None: 2.0}),
    "migration": Row(migration.row_move, "ms", [TURNPIKE, BRIDGE, OVS], more=False, limits={None: 5.0}, also={"lost": 0, "doubled": 0, "tcp_broken": 0},
                     tail={"value": 10.0}, guests=True),
    "migration-restart": Row(migration.row_restart, "ms", [TURNPIKE], more=False, limits={None: 50.0}, also={"lost": 0, "doubled": 0, "tcp_broken": 0},
                             tail={"value": 250.0}, guests=True),
    "nv-flow": Row(nv.row_flow, "Mpps", [TURNPIKE, PLAIN]),
    "nv-64-nvgre": Row(tunnels.row_tunnel("nvgre", "xdp"), "Mpps", [TURNPIKE, TURNPIKE_PACKET, OVS, OVS_XDP], limits={OVS: 1.5, OVS_XDP: 1.5}),
    "nv-64-vxlan": Row(tunnels.row_tunnel("vxlan", "packet"), "Mpps", [TURNPIKE, TURNPIKE_XDP, OVS, OVS_XDP], limits={OVS: 1.5, OVS_XDP: 1.5}),
    "nv-iperf": Row(nv.row_stream, "Mbit/s", [TURNPIKE, PLAIN, PLAIN_PACKET], limits={PLAIN: 0.85, PLAIN_PACKET: 0.85}, guests=True),
    "nv-migration": Row(migration.row_nv, "ms", [TURNPIKE], more=False, limits={None: 5.0}, also={"lost": 0, "doubled": 0, "tcp_broken": 0},
                        tail={"value": 10.0}, guests=True),
    "nv-lookup": Row(nv_store.row_lookup, "ns", [TURNPIKE], more=False, limits={None: 50.0}, also={"bytes_a_record": 200}),
    "nv-changes": Row(nv_store.row_changes, "changes/s", [TURNPIKE], limits={None: 50_000}, also={"dip_percent": 5.0}),
    "ext-none": Row(extensions.row_none, "Mpps", [TURNPIKE, BASE], limits={BASE: 0.99}),
    "ext-flow": Row(extensions.row_cost(extensions.per_flow), "Mpps", [TURNPIKE, PLAIN], limits={PLAIN: 0.9}),
    "ext-frame": Row(extensions.row_cost(extensions.per_frame), "Mpps", [TURNPIKE, PLAIN], limits={None: 1.5}),
    "ext-sflow": Row(extensions.row_cost(extensions.sflow), "Mpps", [TURNPIKE, PLAIN], limits={PLAIN: 0.97}),
    "ext-trace": Row(extensions.row_cost(extensions.trace), "Mpps", [TURNPIKE, PLAIN], limits={PLAIN: 0.9}),
    "ext-change": Row(extensions.row_change, "ms p99", [TURNPIKE], more=False, limits={None: 10.0}, also={"dip_percent": 5.0}),
}
GROUPS = {kind: [name for name in ROWS if name.startswith(kind)] for kind in ("64", "policy", "migration", "nv", "ext")}


def line_transfer():
    """Nanoseconds a cache line needs from one CPU to another, or None where there is no compiler."""
    try:
        return float(host.sh(RELEASE / "line-transfer", timeout=20))
    except (OSError, host.LabError):
        return None


def state():
    """What the machine is like right now."""
    steal = int(Path("/proc/stat").read_text().split("\n", 1)[0].split()[8])
    return {"load1": os.getloadavg()[0], "steal_ticks": steal, "line_ns": line_transfer()}


def spread(values, digits):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def verdict(value, limit, more, busy):
    """Whether a median reaches what is aimed at; on a machine that is busy with other work nobody can say."""
    reached = value >= limit if more else value <= limit
    return f"aim {'≥' if more else '≤'} {limit}: {'not judged' if busy else 'reached' if reached else 'MISSED'}"


def table(name, row, contenders, results, states):
    """The lines of one row: medians, ratios within the rounds, and how the machine was meanwhile."""
    lines, values = [], {c: [r["value"] for r in results[c]] for c in contenders}
    busy = statistics.median(s["load1"] for s in states) > os.cpu_count() + 1.5  # generator and switch keep two CPUs busy themselves
    for c in contenders:
        lines.append(f"{name:<15} {c:<10} {spread(values[c], 2):>26} {row.unit}")
        if c == TURNPIKE and None in row.limits:
            lines[-1] += f"   {verdict(statistics.median(values[c]), row.limits[None], row.more, busy)}"
        elif c != TURNPIKE and TURNPIKE in values:
            ratios = [a / b for a, b in zip(values[TURNPIKE], values[c]) if b]
            lines[-1] += f"   turnpike is {spread(ratios, 2)} ×"
            if c in row.limits:
                lines[-1] += f", {verdict(statistics.median(ratios), row.limits[c], row.more, busy)}"
        others = [k for k, v in results[c][0].items() if k != "value" and isinstance(v, (int, float))]
        for k in others:
            column = [r[k] for r in results[c] if k in r]
            lines.append(f"{'':<15} {'':<10} {spread(column, 2 * any(isinstance(v, float) for v in column)):>26} {k.replace('_', ' ')}")
            if c == TURNPIKE and k in row.also:
                lines[-1] += f"   {verdict(statistics.median(column), row.also[k], False, busy)}"
        for k, limit in row.tail.items() if c == TURNPIKE else ():
            tail = fleet.percentile([r[k] for r in results[c] if k in r], 0.99)
            lines.append(f"{'':<15} {'':<10} {tail:>26.2f} {row.unit} p99{'' if k == 'value' else f' {k}'}   {verdict(tail, limit, False, busy)}")
    lines_ns = [s["line_ns"] for s in states if s["line_ns"]]
    lines.append(f"{'':<15} machine: load {spread([s['load1'] for s in states], 1)}, cache line CPU to CPU "
                 + (f"{spread(lines_ns, 0)} ns" if lines_ns else "unknown")
                 + f", stolen ticks {states[-1]['steal_ticks'] - states[0]['steal_ticks']}")
    if busy:
        lines.append(f"{'':<15} THE MACHINE WAS BUSY WITH OTHER WORK: these figures mean little")
    return lines


def compare(name, only, runs, seconds, out):
    """All rounds of one row; returns the lines of its table."""
    row = ROWS[name]
    contenders = [c for c in row.contenders if not only or c in only]
    if not contenders:
        return []
    host.say(f"\n{name}: {row.setup.__doc__.splitlines()[0]}; {runs} rounds of {', '.join(contenders)}")
    run, close = row.setup(contenders, seconds)
    results, states = {c: [] for c in contenders}, []
    try:
        for number in range(runs):
            states.append(state())
            for c in contenders:
                r = run(c)
                results[c].append(r)
                host.say(f"  round {number + 1}  {c:<10} {r['value']:8.2f} {row.unit}  " + "  ".join(f"{k} {v:.4g}" for k, v in r.items() if k != "value"))
                out.write(json.dumps({"row": name, "round": number, "contender": c, "unit": row.unit, "time": int(time.time()), **r, **states[-1]}) + "\n")
                out.flush()
        states.append(state())
    finally:
        close()
    return table(name, row, contenders, results, states)


def qemu(wanted):
    """The QEMU that the guests run under."""
    try:
        return image.qemu(wanted or 10)
    except host.LabError:
        if wanted:
            raise
        return image.qemu()


def main():
    parser = argparse.ArgumentParser(prog="benches/compare.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", nargs="*", help=f"rows to run, default all: {' '.join(ROWS)}; or a group of them: {' '.join(GROUPS)}")
    parser.add_argument("--runs", type=int, default=int(os.environ.get("RUNS", 5)), help="rounds per row ($RUNS, default 5)")
    parser.add_argument("--seconds", type=int, default=int(os.environ.get("SECONDS_EACH", 5)), help="length of one measurement ($SECONDS_EACH, default 5)")
    parser.add_argument("--only", action="append", metavar="CONTENDER", help=f"only these: {TURNPIKE}, {TURNPIKE_PACKET}, {TURNPIKE_XDP}, {PLAIN}, {PLAIN_PACKET}, {BRIDGE}, {OVS}, {OVS_XDP}, {VHOST} (may be repeated)")
    parser.add_argument("--qemu", type=int, help="major version of QEMU for the guests (default: 10 where it can be had)")
    parser.add_argument("--base", metavar="PATH", help="another build of turnpike, for rows that compare with one")
    parser.add_argument("--vdev", default="", metavar="EXTRA", help="more properties of DPDK's virtio-user cards, such as in_order=0 "
                        "(by default DPDK takes whatever the switch offers)")
    parser.add_argument("--out", default=str(ROOT / "target/compare.jsonl"), help="every single result, one JSON object per line, is added to this file")
    args = parser.parse_args()
    unknown = [r for r in args.row if r not in ROWS and r not in GROUPS]
    if unknown:
        parser.error(f"no row named {unknown[0]}; there are {', '.join([*ROWS, *GROUPS])}")
    wanted = [name for r in args.row or ROWS for name in GROUPS.get(r, [r])]
    host.arm()
    options["vdev"], options["base"] = args.vdev, args.base
    if any(ROWS[name].guests for name in wanted):
        options["qemu"] = qemu(args.qemu)
    if not args.only or {TURNPIKE, TURNPIKE_PACKET, TURNPIKE_XDP, PLAIN, PLAIN_PACKET} & set(args.only):
        subprocess.run(["cargo", "build", "-q", "--release", "-p", "turnpike", "-p", "turnpike-benches"], cwd=ROOT, check=True)
        os.environ.setdefault("TURNPIKE_BIN", str(RELEASE / "turnpike"))  # never a debug build that happens to be newer
    if host.sh("nproc").strip() == "1":
        raise host.LabError("this machine has one CPU; the generator and the switch need one each")
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    lines, failed = [], False
    with open(args.out, "a") as out:
        for name in wanted:
            try:
                lines += compare(name, args.only, args.runs, args.seconds, out)
            except host.LabError as e:  # the other rows can still be had
                failed = True
                lines.append(f"{name:<15} FAILED: {e}")
                host.say(lines[-1])
    cpu = next((l.split(":", 1)[1].strip() for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")), "?")
    print(f"\n{args.runs} rounds, medians (least–most); {cpu}, {os.cpu_count()} CPUs, kernel {os.uname().release}"
          + (f", {options['qemu']}, guests under {'KVM' if guest.kvm_works() else 'TCG'}" if options["qemu"] else ""))
    print("\n".join(lines))
    return int(failed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except host.LabError as e:
        sys.exit(f"compare: {e}")
