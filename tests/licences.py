#!/usr/bin/env python3
"""Every dependency has a licence that deny.toml allows: some alternative of its expression, with all parts of it in the list."""
import json, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def allowed_list():
    text = (ROOT / "deny.toml").read_text()
    return set(re.findall(r'"([^"]+)"', text[text.index("allow"):]))


def fits(expression, allowed):
    """Whether an SPDX expression (or the older `A/B`) can be satisfied from `allowed`."""
    expression = expression.replace("/", " OR ").strip()
    while match := re.search(r"\(([^()]*)\)", expression):
        expression = expression.replace(match[0], "@yes" if fits(match[1], allowed) else "@no")
    known = allowed | {"@yes"}
    return any(all(part.strip() in known for part in choice.split(" AND ")) for choice in expression.split(" OR "))


def main():
    assert fits("(MIT OR X) AND Y", {"MIT", "Y"}) and not fits("(MIT OR X) AND Y", {"MIT"}) and not fits("GPL-3.0", {"MIT"})
    metadata = json.loads(subprocess.check_output(["cargo", "metadata", "--format-version", "1", "--locked"], cwd=ROOT))
    allowed = allowed_list()
    bad = [f"{p['name']} {p['version']}: {p['license']}" for p in metadata["packages"] if not fits(p["license"] or "none", allowed)]
    for line in bad:
        print(f"licence not in deny.toml: {line}")
    print(f"{len(metadata['packages'])} packages, {len(bad)} with other licences")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
