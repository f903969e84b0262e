"""What the first frame of a flow costs, in one process without I/O (benches/src/bin/policy-miss.rs)."""
import json, os
from pathlib import Path
from lab import host


def row_miss(contenders, seconds):
    """µs to judge the first frame of a flow; sender and receiver have 1,000 ACL entries and 1,000 rules each in the direction asked"""
    program = Path(os.environ["TURNPIKE_BIN"]).with_name("policy-miss")

    def run(_contender):
        seen = json.loads(host.sh(program, timeout=120))
        return {"value": seen.pop("first_ns") / 1e3, **seen}

    return run, lambda: None
