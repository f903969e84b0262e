"""What policy costs: the same conversation with it, without it, and through OVS with the same policy.

Every run proves at its end that policy was at work: what the meters and rules counted is what the generator sent, frame by frame.
"""
import re, time
from lab import host, net, testpmd
from lab.host import LabError
from . import OVS, TURNPIKE, frames, policyset
from .api import Api

SIZE = 64


def _expect(what, seen, wanted):
    if seen != wanted:
        raise LabError(f"policy was not at work as it should: {what} is {seen}, expected {wanted}")


def turnpike(contender, paths, owned):
    """Turnpike with two ports; with policy or, as `no-policy`, without."""
    s = frames.turnpike(contender)
    api = Api(s.api)
    for name, path, mac, address in zip("ab", paths, testpmd.MACS, owned):
        s.cli("port", "add", name, "--socket", path, "--mac", mac)
        if contender == TURNPIKE:
            options, acl, rules = policyset.settings(address)
            api.call("PATCH", f"/v1/ports/{name}", {"policy": options})
            api.call("POST", f"/v1/ports/{name}/acls", acl)
            api.call("POST", f"/v1/ports/{name}/rules", rules)
            _expect(f"the number of entries of {name}", len(s.cli("acl", "list", name)), policyset.ENTRIES)
            s.cli("meter", "enable", name)
    api.close()
    return s


def ovs(paths, owned):
    """OVS with the same policy as OpenFlow tables and connection tracking."""
    s = frames.ovs(paths)
    file = s.directory / "flows"
    file.write_text("\n".join(policyset.openflow(testpmd.MACS, owned)) + "\n")
    s.ofctl("del-flows")
    s.ofctl("add-flows", file)
    return s


def prove_turnpike(s, counted, flows):
    """Meters, rules and sessions of both ports against what the generator counted."""
    for name, (_, sent) in zip("ab", counted):
        counters = s.show(name)["counters"]
        _expect(f"what {name} sent", counters["out_packets"], sent)
        for direction in ("out", "in"):
            meter = [e["packets"] for e in s.cli("acl", "list", name) if e["action"] == "meter" and e["direction"] == direction
                     and e["remote"] == policyset.METERED]
            _expect(f"the {direction} meter of {name}", meter, [counters[f"{direction}_packets"]])
        rules = sum(r["packets"] for r in s.cli("rule", "list", name) if r["weight"] == policyset.MATCHED)
        _expect(f"what rule {policyset.MATCHED} of {name} counted", rules, counters["out_packets"] + counters["in_packets"])
        _expect(f"the number of sessions of {name}", len(s.cli("session", "list", name)), flows)


def prove_ovs(s, counted, flows):
    """The same of OVS: flows of the meter tables, of established connections, and connections."""
    s.appctl("revalidator/wait")
    hits = {}
    for line in s.ofctl("dump-flows").splitlines():
        if m := re.search(r"table=(\d+), n_packets=(\d+),.*?(priority=\S+)", line):
            hits[int(m[1]), m[3]] = int(m[2])
    sends = [sent for _, sent in counted]
    for zone, sent, sent_by_peer in zip(policyset.ZONES, sends, reversed(sends)):
        def of(table, where, what):
            return sum(n for (t, match), n in hits.items() if t == table and re.search(rf"\b{where}\b", match) and what in match)
        _expect(f"what OVS metered from port {zone}", of(policyset.OUT_METER, f"in_port={zone}", policyset.METERED), sent)
        for table, where, frames_there in ((policyset.OUT_RULES, f"in_port={zone}", sent), (policyset.IN_RULES, f"reg0=0x{zone}", sent_by_peer)):
            tracked, new = of(table, where, "+est"), of(table, where, f"priority={policyset.MATCHED},")
            if tracked + new != frames_there or new > testpmd.CONVERSING:
                raise LabError(f"OVS: of {frames_there} frames {tracked} were of established connections, {new} of new ones")
    known = len(s.appctl("dpctl/dump-conntrack").split())
    _expect("the number of connections in OVS", known, flows * len(policyset.ZONES))


def row_policy(flows):
    """Millions of 64-byte frames per second, to and fro between two ports with 100 ACL entries and 20 rules (10 stateful) each"""
    owned = ["198.18.0.1" if flows == 1 else policyset.TENANT, "198.18.0.2"]

    def setup(contenders, seconds):
        directory = host.work()

        def run(contender):
            paths = [directory / f"policy-{contender}-{i}" for i in range(2)]
            s = ovs(paths, owned) if contender == OVS else turnpike(contender, paths, owned)
            g = None
            try:
                g = frames.generator(paths, contender == OVS, "--port-topology=loop", *(["--txonly-multi-flow"] if flows > 1 else []))
                g.converse(SIZE)
                out = frames.measure(s, g, seconds)
                g.stop()
                time.sleep(0.5)  # what is in the senders' rings still goes through
                if contender == OVS:
                    prove_ovs(s, g.counted(), flows)
                else:
                    _expect("drops", {k: v for k, v in s.drops("a", "b").items() if v}, {})
                if contender == TURNPIKE:
                    prove_turnpike(s, g.counted(), flows)
                return out
            finally:
                if g:
                    g.close()
                s.close()

        net.hugepages(frames.PAGES)
        return run, lambda: None

    setup.__doc__ = row_policy.__doc__ + f"; {flows} flow{'s' * (flows > 1)}"
    return setup
