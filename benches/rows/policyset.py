"""One policy, written down once and given to every switch in its own words: Turnpike's API, OVS's OpenFlow tables.

It is a tenant's port as operators run it: DHCP and router guard, an owned address, 100 ACL entries with meters, 20 rules of which 10
are stateful, the last a deny. The generator's conversation (UDP, 198.18.x.y port 9 and 198.18.0.2 port 9) begins by the ninth rule of
both ports, so nothing matches early, goes on by the sessions which that opened, and nothing is dropped.
"""
from ipaddress import ip_network

TENANT = "198.18.0.0/16"
METERED = "198.18.0.0/15"
ZONES = (1, 2)  # OVS's connection tracking zone of each port, which is its port number too


def _denied():
    """45 prefixes of all lengths that no frame of the generator has."""
    yield from (f"10.{i}.0.0/16" for i in range(10))
    yield from (f"172.16.{i}.0/24" for i in range(10))
    yield from (f"203.0.113.{i}/32" for i in range(10))
    yield from (f"198.19.{i * 32}.0/{20 + i}" for i in range(5))
    yield from (f"198.18.255.{i + 240}/32" for i in range(5))
    yield from (f"2001:db8:{i}::/48" for i in range(5))


# (action, side, prefix or "any"), each in both directions: 50 of these are 100 entries.
ACL = [("allow", "local", TENANT), ("deny", "local", "any"), ("meter", "remote", "0.0.0.0/0"), ("meter", "remote", "::/0"),
       ("meter", "remote", METERED)] + [("deny", "remote", p) for p in _denied()]
ENTRIES = 2 * len(ACL)

# (weight, action, protocol, port of the server, stateful): out, the server is remote; in, it is local. The generator's is 92.
MATCHED = 92
RULES = [(100, "deny", "tcp", "25", False), (99, "deny", "tcp", "135-139", False), (98, "deny", "tcp", "445", False),
         (97, "deny", "udp", "1900", False), (96, "allow", "tcp", "22", True), (95, "allow", "tcp", "80", True),
         (94, "allow", "tcp", "443", True), (93, "allow", "udp", "53", True), (MATCHED, "allow", "udp", "9", True),
         (91, "deny", None, None, False)]


# --- Turnpike -----------------------------------------------------------------------------------------------------------------------
def settings(owned):
    """A port's policy options, its ACL and its rules, as the bodies of the API's requests."""
    options = {"dhcp_guard": True, "router_guard": True, "addresses": [owned]}
    acl = [{"action": action, "direction": "both", side: prefix} for action, side, prefix in ACL]
    rules = [{"direction": direction, "weight": weight, "action": action, "stateful": stateful}
             | ({"protocol": protocol} if protocol else {}) | ({side: port} if port else {})
             for direction, side in (("out", "remote_port"), ("in", "local_port")) for weight, action, protocol, port, stateful in RULES]
    return options, acl, rules


# --- OVS --------------------------------------------------------------------------------------------------------------------------
# A table per step, in Turnpike's order; the tables of the receiver follow the choice of the output port, which register 0 holds.
SENDER, OUT_ACL, OUT_METER, OUT_TRACK, OUT_RULES, FORWARD, IN_ACL, IN_METER, IN_TRACK, IN_RULES, OUTPUT = range(11)


def _range(low, high):
    """A range of ports as value/mask pairs, which is all that OpenFlow knows."""
    while low <= high:
        size = low & -low or 65536
        while low + size - 1 > high:
            size //= 2
        yield f"{low}/{65536 - size:#06x}"
        low += size


def _guards(port, mac, owned):
    """What the port may send: no server's or router's messages (the parts that OpenFlow can match), only its own addresses."""
    here = f"table={SENDER},in_port={port}"
    for match in ("udp,tp_src=67", "udp6,tp_src=547", "icmp,icmp_type=5", "icmp,icmp_type=9", "icmp6,icmp_type=134", "icmp6,icmp_type=137"):
        yield f"{here},priority=120,{match},actions=drop"
    for match in (f"ip,nw_src={owned}", "ip,nw_src=0.0.0.0", "ipv6,ipv6_src=::"):
        yield f"{here},priority=110,dl_src={mac},{match},actions=goto_table:{OUT_ACL}"
    for sender in (owned, "0.0.0.0"):
        yield f"{here},priority=110,dl_src={mac},arp,arp_sha={mac},arp_spa={sender},actions=goto_table:{FORWARD}"


def _acl(port, where, table, next_table, local, meters):
    """Longest prefix wins by priority; on equal length deny comes first. Meters are in a table of their own: each flow counts its hits."""
    here = f"table={table},{where}"
    for action, side, prefix in ACL:
        if (action == "meter") != meters:
            continue
        for p in ("0.0.0.0/0", "::/0") if prefix == "any" else (prefix,):
            network = ip_network(p)
            end = local if side == "local" else {"src": "dst", "dst": "src"}[local]
            match = ("ip" if network.version == 4 else "ipv6") + (
                f",{'nw' if network.version == 4 else 'ipv6'}_{end}={p}" if network.prefixlen else "")
            then = "drop" if action == "deny" else f"goto_table:{next_table}"
            yield f"{here},priority={1000 + 2 * network.prefixlen + (action == 'deny')},{match},actions={then}"
    yield f"{here},priority=0,actions=goto_table:{next_table}"


def _rules(zone, where, track, table, next_table, side):
    """Sessions first, then the rules by weight; a stateful one commits the connection."""
    for protocol in ("tcp", "udp", "tcp6", "udp6"):
        yield f"table={track},{where},priority=10,{protocol},actions=ct(table={table},zone={zone})"
    yield f"table={track},{where},priority=0,actions=goto_table:{table}"
    here = f"table={table},{where}"
    yield f"{here},priority=1000,ct_state=+trk+est,actions=goto_table:{next_table}"
    for weight, action, protocol, port, stateful in RULES:
        low, _, high = (port or "").partition("-")
        ports = [f",tp_{side}={p}" for p in (_range(int(low), int(high)) if high else [low])] if port else [""]
        then = "drop" if action == "deny" else f"goto_table:{next_table}"
        state = ",ct_state=+trk+new" if stateful else ""
        if stateful:
            then = f"ct(commit,zone={zone}),{then}"
        for family in (protocol, f"{protocol}6") if protocol else ("ip", "ipv6"):
            for p in ports:
                yield f"{here},priority={weight},{family}{state}{p},actions={then}"
    yield f"{here},priority=0,actions=goto_table:{next_table}"


def openflow(macs, addresses):
    """All flows for two ports, numbered as ZONES. Forwarding is by fixed address, which costs OVS less than NORMAL."""
    for zone, mac, owned in zip(ZONES, macs, addresses):
        out, into = f"in_port={zone}", f"reg0={zone}"
        yield from _guards(zone, mac, owned)
        yield from _acl(zone, out, OUT_ACL, OUT_METER, "src", False)
        yield from _acl(zone, out, OUT_METER, OUT_TRACK, "src", True)
        yield from _rules(zone, out, OUT_TRACK, OUT_RULES, FORWARD, "dst")
        yield f"table={FORWARD},dl_dst={mac},actions=load:{zone}->NXM_NX_REG0[],goto_table:{IN_ACL}"
        yield from _acl(zone, into, IN_ACL, IN_METER, "dst", False)
        yield from _acl(zone, into, IN_METER, IN_TRACK, "dst", True)
        yield from _rules(zone, into, IN_TRACK, IN_RULES, OUTPUT, "dst")
        yield f"table={OUTPUT},{into},actions=output:{zone}"
