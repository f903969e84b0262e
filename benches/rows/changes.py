"""Changing policy: one rule of ten thousand under full load, and a thousand ports from one file."""
import os, random, statistics, time
from lab import host, net, switch, testpmd
from lab.host import LabError
from . import frames
from .api import Api

RULES, WEIGHT, PAUSE = 10_000, 20_000, 0.025
BLOCKS, CALLS = 10, 20
FLIPS = 200


def _rule(weight, action, **match):
    return {"direction": "out", "weight": weight, "action": action, **match}


def _rules():
    """A port's list at its limit. Nothing the generator sends is matched before its own rule, the last but one."""
    rng = random.Random(1)
    for i in range(RULES - 4):
        kind, net10 = rng.choice(["tcp", "udp"]), f"10.{rng.randrange(256)}.{rng.randrange(256)}.0/{rng.choice([24, 25, 28])}"
        yield _rule(100 + i, rng.choice(["allow", "deny"]), protocol=kind, remote=net10, remote_port=str(rng.randrange(1, 65536)))
    yield _rule(WEIGHT, "deny", protocol="tcp", remote="192.0.2.0/24")  # the one that is replaced
    yield _rule(20, "deny", protocol="tcp", remote_port="9")
    yield _rule(10, "allow", protocol="udp", remote_port="9")  # the generator's
    yield _rule(1, "deny")


def _replace(api, *rules):
    """Replaces rules of port a in one call; the seconds it took."""
    return api.call("POST", "/v1/ports/a/rules?replace=true", list(rules))[0]


def _deliveries(api):
    return api.call("GET", "/v1/ports/b")[1]["counters"]["in_packets"]


def _hits(api, weight):
    return next(r["packets"] for r in api.call("GET", "/v1/ports/a/rules")[1] if r["weight"] == weight)


def _latency(s, api, g):
    """Seconds of each call; by how many percent calls lower the rate (median over blocks of calls, each against the quiet time around
    it); and the percentage of a CPU that switch or generator, whichever had less, got in quiet time. Far below 100 somebody else used
    it, and the rate says nothing of the switch: a call then even raises it, by waking the switch."""
    times, quiet, busy, shares = [], [], [], []
    # Both CPUs are taken by generator and switch: whoever asks must not wait behind them for its own turn.
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    for block in range(BLOCKS + 1):
        g.lap()
        began, used = time.perf_counter(), [host.cpu_seconds(p) for p in (s.pid, g.process.pid)]
        time.sleep(PAUSE * CALLS)
        now = [host.cpu_seconds(p) for p in (s.pid, g.process.pid)]
        shares.append(min(b - a for a, b in zip(used, now)) / (time.perf_counter() - began))
        quiet.append(g.lap())
        if block == BLOCKS:
            break
        for i in range(CALLS):
            began = time.perf_counter()
            times.append(_replace(api, _rule(WEIGHT, "deny", protocol="tcp", remote="192.0.2.0/24", remote_port=str(1 + block * CALLS + i))))
            time.sleep(max(0.0, PAUSE - (time.perf_counter() - began)))
        busy.append(g.lap())
    os.setpriority(os.PRIO_PROCESS, 0, 0)
    dips = [1 - b / statistics.mean(quiet[i:i + 2]) for i, b in enumerate(busy)]
    return sorted(times), 100 * statistics.median(dips), 100 * statistics.median(shares)


def _visible(api):
    """After the answer to a call that denies the generator's frames, not one more is delivered."""
    _replace(api, _rule(10, "deny", protocol="udp", remote_port="9"))
    answered = _deliveries(api)
    time.sleep(0.3)
    if (later := _deliveries(api)) != answered:
        raise LabError(f"{later - answered} frames were delivered after the call that denied them had been answered")


def _never_mixed(s, api, g):
    """Two rules flip together while card a sends frames that both states deny, each by another rule; half a flip would let them pass."""
    frame = {"protocol": "udp", "remote_port": "9"}
    states = [[_rule(20, "deny", protocol="tcp", remote_port="9"), _rule(10, "deny", **frame)], [_rule(20, "deny", **frame), _rule(10, "allow", **frame)]]
    g.stop()
    time.sleep(0.3)
    before, ((_, sent), _), was = _deliveries(api), g.counted(), sum(s.drops("a")["a"].values())
    for line in ("set portlist 0", "set fwd txonly", "start"):
        g.tell(line)
    for i in range(FLIPS):
        which = (i + 1) % 2
        _replace(api, *states[which])
        if i % 20 in (0, 1):  # now and then: is it really this state's rule that drops?
            weight = (10, 20)[which]
            first = _hits(api, weight)
            time.sleep(0.05)
            if _hits(api, weight) <= first:
                raise LabError(f"rule {weight} dropped nothing while it was in force")
    g.stop()
    time.sleep(0.3)
    sent, dropped = g.counted()[0][1] - sent, sum(s.drops("a")["a"].values()) - was
    if passed := _deliveries(api) - before:
        raise LabError(f"{passed} of {sent} frames passed that neither state of policy allows")
    if dropped != sent:
        raise LabError(f"of {sent} frames that both states of policy deny, {dropped} were dropped")
    return sent


def row_replace(contenders, seconds):
    """ms from request to answer of replacing one of a port's 10,000 rules under full 64-byte load (kept connection, --state-dir none)"""
    def run(_contender):
        s = frames.turnpike("replace")
        paths = [s.socket(n) for n in "ab"]
        g = None
        try:
            for name, mac in zip("ab", testpmd.MACS):
                s.port(name, "--mac", mac)
            api = Api(s.api)
            api.call("POST", "/v1/ports/a/rules", list(_rules()))
            g = frames.generator(paths, False, "--port-topology=loop", "--txonly-multi-flow")
            g.converse(64)
            time.sleep(1)
            times, dip, share = _latency(s, api, g)
            _visible(api)
            denied = _never_mixed(s, api, g)
            return {"value": 1e3 * times[int(len(times) * 0.99)], "p50": 1e3 * times[len(times) // 2], "worst": 1e3 * times[-1],
                    "dip_percent": dip, "cpu_had_percent": round(share), "denied_while_flipping": denied}
        finally:
            if g:
                g.close()
            s.close()

    net.hugepages(frames.PAGES)
    return run, lambda: None


# --- a thousand ports ---------------------------------------------------------------------------------------------------------------
PORTS, ENTRIES = 1000, 50


def _thousand(directory):
    """A configuration of 1,000 ports with 50 ACL entries each."""
    for n in range(PORTS):
        yield f'[[port]]\nname = "p{n}"\nsocket = "{directory}/p{n}.sock"\nmac = "52:54:00:77:{n >> 8:02x}:{n & 255:02x}"\n'
        for i in range(ENTRIES):
            action, direction = ("deny", "allow", "meter")[i % 3], ("in", "out")[i % 2]
            yield f'[[port.acl]]\naction = "{action}"\ndirection = "{direction}"\nremote = "10.{n & 255}.{i}.0/{20 + i % 5 * 2 if i % 16 == 0 else 24}"\n'


def row_apply(contenders, seconds):
    """Seconds of `turnpike apply` of a file with 1,000 ports of 50 ACL entries each, stored on disk"""
    def run(_contender):
        s = switch.Turnpike(name="apply")
        try:
            file, nothing = s.directory / "thousand.toml", s.directory / "nothing.toml"
            file.write_text("".join(_thousand(s.directory)))
            nothing.write_text("")
            out = {}
            for key, what, ports in (("value", file, PORTS), ("again", file, PORTS), ("removal", nothing, 0)):
                began, cpu = time.perf_counter(), host.cpu_seconds(s.pid)
                s.cli("apply", what)
                out[key] = time.perf_counter() - began
                if key == "value":
                    out["switch_cpu_s"] = host.cpu_seconds(s.pid) - cpu
                if (there := len(s.cli("port", "list"))) != ports:
                    raise LabError(f"after `apply {what.name}` there are {there} ports, expected {ports}")
                if ports and (entries := len(s.cli("acl", "list", f"p{ports - 1}"))) != ENTRIES:
                    raise LabError(f"the last port has {entries} ACL entries, expected {ENTRIES}")
            return out
        finally:
            s.close()

    return run, lambda: None
