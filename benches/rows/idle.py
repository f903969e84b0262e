"""Many attached ports that do nothing."""
import time
from lab import host, switch
from .frontends import IdleFrontEnd


def row_idle(contenders, seconds):
    """CPU of the switch in percent of one CPU with 100 attached ports that do nothing"""
    s = switch.Turnpike(name="idle", state="none")
    paths = [s.port(f"p{i}") for i in range(100)]
    ends = [IdleFrontEnd(p) for p in paths]
    for i in range(100):
        s.wait_state(f"p{i}", "running")

    def run(_contender):
        time.sleep(1)
        before, began = host.cpu_seconds(s.pid), time.monotonic()
        time.sleep(max(seconds, 10))
        return {"value": 100 * (host.cpu_seconds(s.pid) - before) / (time.monotonic() - began)}

    def close():
        for e in ends:
            e.close()
        s.close()

    return run, close
