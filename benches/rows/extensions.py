"""What extensions cost: the same frames with none, with some that answer once for a flow, with one that is asked about every frame, and with sFlow;
and what it takes to enable, disable and move them under full load."""
import json, os, socket, statistics, threading, time
from contextlib import contextmanager
from pathlib import Path
from lab import host, net, switch, testpmd, wasm
from lab.host import LabError
from . import BASE, PLAIN, TURNPIKE, frames, options
from .api import Api

SIZE = 64


def _start(contender, paths):
    base = contender == BASE
    if base and not options["base"]:
        raise LabError("this row compares with a switch that has no extension code: give one with --base PATH")
    was = os.environ.get("TURNPIKE_BIN")
    if base:
        os.environ["TURNPIKE_BIN"] = options["base"]
    try:
        s = frames.turnpike(f"extensions-{contender}")
    finally:
        if base:
            os.environ["TURNPIKE_BIN"] = was
    for name, mac, path in zip("ab", testpmd.MACS, paths):
        s.cli("port", "add", name, "--socket", path, "--mac", mac)
    return s


def _config(s, name, content):
    file = Path(s.directory) / f"{name}.json"
    file.write_text(json.dumps(content))
    return file


def _counters(s, name):
    return s.cli("extension", "show", name)["counters"]


def _sent(s):
    return sum(s.show(name)["counters"]["out_packets"] for name in "ab")


@contextmanager
def _enabled(s, *names):
    """These modules, loaded and enabled."""
    for name, module in names:
        s.cli("extension", "load", wasm.build(module), "--name", name)
        s.cli("extension", "enable", name)
    try:
        yield
    finally:
        for name, _ in names:
            s.cli("extension", "disable", name)
            s.cli("extension", "unload", name)


@contextmanager
def per_flow(s):
    """A capture and a filter, both in WebAssembly, that answer once for a flow."""
    with _enabled(s, ("flows", "flow-count"), ("ports", "port-filter")):
        s.cli("extension", "set", "ports", "ports=[22,23]")
        yield lambda sent: _expect("frames that the filter was asked about", _counters(s, "ports")["judged"], lambda n: 0 < n < sent / 1000)


@contextmanager
def per_frame(s):
    """A filter in WebAssembly that is asked about every frame that a port sends."""
    with _enabled(s, ("limit", "frame-limit")):
        s.cli("extension", "set", "limit", "frames-per-second=100000000")
        yield lambda sent: _expect("frames that the filter was asked about", _counters(s, "limit")["judged"], lambda n: n >= 0.9 * sent)


@contextmanager
def sflow(s):
    """sFlow, one frame in 1,000, to a collector that counts."""
    collector = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    collector.bind(("127.0.0.1", 0))
    collector.settimeout(0.2)
    got = []

    def collect():
        while True:
            try:
                got.append(len(collector.recv(65536)))
            except TimeoutError:
                continue
            except OSError:
                return

    def prove(sent):
        _expect("samples", _counters(s, "sflow")["sampled"], lambda n: 0.8 < n * 1000 / sent < 1.2)
        _expect("datagrams with samples", len(got), lambda n: n > 0)

    s.cli("extension", "enable", "sflow", "--config", _config(s, "sflow", {
        "collector": "127.0.0.1:%d" % collector.getsockname()[1], "agent": "127.0.0.1", "sampling": 1000}))
    threading.Thread(target=collect, daemon=True).start()
    try:
        yield prove
    finally:
        s.cli("extension", "disable", "sflow")
        collector.close()


@contextmanager
def trace(s):
    """One frame in 1,000 is traced, by a reader that only counts."""
    log = Path(s.directory) / "trace"
    with open(log, "w") as out:
        reader = host.spawn([s.binary, "--api", s.api, "trace", "--sample", "1000"], stdout=out)
        try:
            yield lambda sent: _expect("traced frames", sum(1 for _ in open(log)), lambda n: 0.5 < n * 1000 / sent < 1.5)
        finally:
            host.stop(reader)


def _expect(what, seen, right):
    if not right(seen):
        raise LabError(f"extensions were not at work as they should: {what}: {seen}")


def row_none(contenders, seconds):
    """Millions of 64-byte frames per second between two ports (generator CPU 0, switch CPU 1); no extension, against a build without the code"""
    directory = host.work()

    def run(contender):
        paths = [directory / f"extensions-none-{contender}-{i}" for i in range(2)]
        s, g = _start(contender, paths), None
        try:
            g = frames.generator(paths, False)
            g.go(SIZE)
            return frames.measure(s, g, seconds)
        finally:
            if g:
                g.close()
            s.close()

    net.hugepages(frames.PAGES)
    return run, lambda: None


def row_cost(work):
    """Millions of 64-byte frames per second between two ports (generator CPU 0, switch CPU 1)"""
    def setup(contenders, seconds):
        # One switch and one generator for all: what is measured comes and goes under them, so that nothing else differs.
        directory = host.work()
        paths = [directory / f"extensions-{work.__name__}-{i}" for i in range(2)]
        net.hugepages(frames.PAGES)
        s = _start(TURNPIKE, paths)
        g = frames.generator(paths, False)
        g.go(SIZE)

        def run(contender):
            if contender != TURNPIKE:
                return frames.measure(s, g, seconds)
            with work(s) as prove:
                before = _sent(s)
                out = frames.measure(s, g, seconds)
                prove(_sent(s) - before)
                return out

        def close():
            g.close()
            s.close()

        return run, close

    setup.__doc__ = f"{row_cost.__doc__}; {work.__doc__.rstrip('.')}"
    return setup


def row_change(contenders, seconds):
    """Milliseconds to enable, move or disable an extension under full load (99th percentile), and what that costs the rate"""
    directory = host.work()

    def run(contender):
        paths = [directory / f"extensions-change-{i}" for i in range(2)]
        s, g, api = _start(contender, paths), None, None
        try:
            for name in ("one", "two"):
                s.cli("extension", "load", wasm.build("port-filter"), "--name", name)
            s.cli("extension", "enable", "one")
            api = Api(s.api)
            g = frames.generator(paths, False)
            g.go(SIZE)
            time.sleep(1)
            times, quiet, busy = [], [], []
            os.setpriority(os.PRIO_PROCESS, 0, -20)
            for _ in range(8):
                g.lap()
                time.sleep(0.5)
                quiet.append(g.lap())
                for _ in range(5):
                    for method, path, body in (("POST", "/v1/extensions", {"name": "two"}), ("PATCH", "/v1/extensions/two", {"at": 2}),
                                               ("DELETE", "/v1/extensions/two", None)):
                        times.append(api.call(method, path, body)[0])
                        time.sleep(0.02)
                busy.append(g.lap())
            os.setpriority(os.PRIO_PROCESS, 0, 0)
            dropped = {k: v for k, v in s.drops("a", "b").items() if v}
            _expect("drops", dropped, lambda d: not d)
            times.sort()
            return {"value": 1000 * times[int(len(times) * 0.99)], "p50_ms": 1000 * statistics.median(times),
                    "dip_percent": 100 * (1 - statistics.median(busy) / statistics.median(quiet))}
        finally:
            if api:
                api.close()
            if g:
                g.close()
            s.close()

    net.hugepages(frames.PAGES)
    return run, lambda: None
