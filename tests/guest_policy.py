"""Policy of ports with real Linux guests behind them: VLANs, guards against real servers, meters against the guests' own numbers.

Imported by real_guests.py, whose switch and guests it shares. Each test leaves all ports without policy.
"""
import os, socket, time

from lab import host, traffic
from lab.suite import must, test
from lab.world import IP, NO_OFFLOADS, bad_checksums, both_ways, pair, policy, reachable, received, the_switch, up


def unreachable(source, ip):
    p = traffic.ping(source, ip, 2, interval=0.2)
    must(p.received == 0, f"{source.name} reaches {ip}: {p}")


def forget_neighbours(*guests):
    for g in guests:
        g.run("ip neigh flush dev eth0 2>/dev/null; arp -d 10.0.0.1; arp -d 10.0.0.2; arp -d 10.0.0.3", check=False)


@test
def s4_vlans_keep_guests_apart():
    a, b = pair()
    with policy(("a", "--vlan", "access:5"), ("b", "--vlan", "access:6")):
        forget_neighbours(a, b)
        unreachable(a, IP["b"])
        the_switch().cli("port", "set", "b", "--vlan", "access:5")
        reachable(a, IP["b"])
        both_ways(a, IP["b"], 1)
        the_switch().cli("port", "set", "a", "--vlan", "isolated:2/4")
        the_switch().cli("port", "set", "b", "--vlan", "isolated:2/4")
        unreachable(a, IP["b"])
        the_switch().cli("port", "set", "b", "--vlan", "promiscuous:2/4")
        reachable(a, IP["b"])
    reachable(a, IP["b"])


@test
def s4_offloads_survive_a_tag_that_comes_and_goes():
    a, b = pair()
    with policy(("a", "--vlan", "access:7"), ("b", "--vlan", "trunk:7")):
        b.run("vconfig add eth0 7; ip link set eth0.7 up; ip addr del 10.0.0.2/24 dev eth0; ip addr add 10.0.0.2/24 dev eth0.7")
        try:
            forget_neighbours(a)
            reachable(a, IP["b"])
            packets, size = received(b)
            flows = both_ways(a, IP["b"])
            packets, size = (now - before for now, before in zip(received(b), (packets, size)))
            must(bad_checksums(a) == bad_checksums(b) == 0, "wrong TCP checksums arrived")
            must(size / packets > 1000, f"{size / packets:.0f} bytes per received packet: segments were cut")
        finally:
            b.run("vconfig rem eth0.7; ip addr add 10.0.0.2/24 dev eth0", check=False)
    forget_neighbours(a)
    reachable(a, IP["b"])
    return ", ".join(map(str, flows))


@test
def s6_1_dhcp_guard_silences_a_real_server():
    a, b = pair()
    b.run("printf 'interface eth0\nstart 10.0.0.200\nend 10.0.0.210\nlease_file /tmp/leases\noption subnet 255.255.255.0\n' >/tmp/udhcpd.conf; "
          "touch /tmp/leases; udhcpd -S /tmp/udhcpd.conf")
    ask = "printf '#!/bin/sh\necho $1 $ip\n' >/tmp/lease; chmod +x /tmp/lease; udhcpc -i eth0 -n -q -f -t 3 -T 1 -s /tmp/lease 2>&1"
    try:
        with policy(("b", "--dhcp-guard", "on")):
            answer = a.run(ask, check=False)
            must(answer.rc and "10.0.0.2" not in answer.out, f"the guarded port gave a lease: {answer.out}")
            must(the_switch().drops("b")["b"].get("dhcp-guard", 0) >= 3, f"drops {the_switch().drops('b')}")
        answer = a.run(ask, check=False)
        must(answer.rc == 0 and "10.0.0.20" in answer.out, f"no lease without the guard: {answer.out}")
        with policy(("a", "--dhcp-guard", "on")):
            answer = a.run(ask, check=False)
            must(answer.rc == 0, f"a guarded client got no lease: {answer.out}")
    finally:
        b.run("killall udhcpd", check=False)


def router_advertisement(mac, prefix):
    """A router advertisement with one prefix, from the link-local address fe80::1."""
    source, target = (socket.inet_pton(socket.AF_INET6, ip) for ip in ("fe80::1", "ff02::1"))
    body = bytes.fromhex("86000000" "40000708" "00000000" "00000000" "030440c0" "00015180" "00003840" "00000000") + socket.inet_pton(socket.AF_INET6, prefix)
    total = sum(int.from_bytes(data[i:i + 2], "big") for data in (source, target, body) for i in range(0, len(data), 2)) + len(body) + 58
    while total > 0xffff:
        total = (total & 0xffff) + (total >> 16)
    body = body[:2] + (total ^ 0xffff).to_bytes(2, "big") + body[4:]
    ip = bytes.fromhex("60000000") + len(body).to_bytes(2, "big") + bytes([58, 255]) + source + target
    return bytes.fromhex("333300000001" + mac.replace(":", "") + "86dd") + ip + body


@test
def s6_2_router_guard_keeps_a_false_router_from_real_guests():
    a, _ = pair()
    s, tap, mac = the_switch(), f"tpk{os.getpid() % 100000}ra", "52:54:00:aa:00:0c"
    s.cli("port", "add", "router", "--tap", tap, "--mac", mac, "--router-guard", "on")
    try:
        host.sh("ip", "link", "set", tap, "up")
        has = lambda prefix: prefix in a.run("ip -6 addr show dev eth0").out
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as mouth:
            mouth.bind((tap, 0))
            for _ in range(3):
                mouth.send(router_advertisement(mac, "2001:db8:bad::"))
                time.sleep(0.3)
            must(not has("2001:db8:bad:"), "the guest believed a guarded port")
            must(s.drops("router")["router"].get("router-guard") == 3, f"drops {s.drops('router')}")
            s.cli("port", "set", "router", "--router-guard", "off")

            def believed():
                mouth.send(router_advertisement(mac, "2001:db8:600d::"))
                return has("2001:db8:600d:")
            host.until("the guest to take an address of the router", believed, 5, 0.5)
    finally:
        s.cli("port", "remove", "router")
        a.run("ip -6 addr flush dev eth0 scope global; ip -6 route del default", check=False)


@test
def s6_3_a_guest_cannot_take_another_ones_address():
    a, b = pair()
    with policy(("a", "--addresses", f"{IP['a']}"), ("b", "--addresses", f"{IP['b']}")):
        forget_neighbours(a, b)
        reachable(a, IP["b"])
        a.run("ip addr del 10.0.0.1/24 dev eth0; ip addr add 10.0.0.77/24 dev eth0")
        try:
            unreachable(a, IP["b"])
            drops = the_switch().drops("a")["a"]
            must(drops.get("neighbour-spoofed", 0) + drops.get("address-not-owned", 0) > 0, f"drops {drops}")
        finally:
            a.run("ip addr del 10.0.0.77/24 dev eth0; ip addr add 10.0.0.1/24 dev eth0")
        forget_neighbours(a, b)
        reachable(a, IP["b"])


@test
def s8_a_stateful_rule_lets_a_guest_out_and_nobody_in():
    a, b = pair()
    with policy() as s:
        s.cli("rule", "add", "a", "--action", "deny", "--direction", "in", "--weight", 1)
        s.cli("rule", "add", "a", "--action", "deny", "--direction", "out", "--weight", 1)
        s.cli("rule", "add", "a", "--action", "allow", "--direction", "out", "--weight", 10, "--protocol", "tcp", "--stateful")
        flows = both_ways(a, IP["b"])
        must(b.run(f"nc -w 2 {IP['a']} 5201 </dev/null", check=False).rc, "a connection came in")
        unreachable(a, IP["b"])
        must(len(s.cli("session", "list", "a")) > 0, "no session is listed")
        # A rule that comes while the stream runs ends it at once.
        stream = a.start(f"iperf3 -c {IP['b']} -t 6 -f m --forceflush")
        time.sleep(2)
        s.cli("rule", "add", "a", "--action", "deny", "--direction", "out", "--weight", 50, "--remote", IP["b"])
        before = s.show("a")["counters"]["out_packets"]
        time.sleep(1)
        must(s.show("a")["counters"]["out_packets"] - before < 5, "the session outlived a heavier deny")
        stream.stop()
        traffic.fresh_server(b)
    reachable(a, IP["b"])
    must(bad_checksums(a) == bad_checksums(b) == 0, "wrong TCP checksums arrived")
    return ", ".join(map(str, flows))


def card_bytes(g):
    """((packets, bytes) sent, (packets, bytes) received) as `ip -s link` has it."""
    base = "/sys/class/net/eth0/statistics"
    n = [int(x) for x in g.run(f"cd {base}; cat tx_packets tx_bytes rx_packets rx_bytes").out.split()]
    return (n[0], n[1]), (n[2], n[3])


@test
def s9_meters_say_what_the_guests_card_says():
    """`a` sends large frames; `c` has no offloads, so that its card counts the very packets that go over a wire."""
    a, _ = pair()
    (c,) = up(c=dict(device=NO_OFFLOADS))
    reachable(a, IP["c"])
    with policy() as s:
        for port in "ac":
            s.cli("acl", "add", port, "--action", "meter", "--direction", "both", "--remote", "any-mac")
            s.cli("acl", "add", port, "--action", "meter", "--direction", "both", "--remote", f"{IP['c' if port == 'a' else 'a']}")
            s.cli("meter", "enable", port)
        drops = {port: sum(s.show(port)["counters"]["in_drops"].values()) for port in "ac"}
        # Nothing may pass between the two readings.
        def both_read():
            for _ in range(10):
                first = s.meters("c")
                card = card_bytes(c)
                if s.meters("c") == first:
                    return first, card
                time.sleep(0.3)
            must(False, "the guests are never silent")
        meter0, card0 = both_read()
        flows = both_ways(a, IP["c"])
        meter1, card1 = both_read()
        for way, direction in enumerate(("out", "in")):
            key = (direction, "remote", "any-mac")
            metered = tuple(now - before for now, before in zip(meter1[key], meter0[key]))
            card = tuple(now - before for now, before in zip(card1[way], card0[way]))
            must(metered == card, f"{direction}: the meter says {metered}, the card {card} (packets, bytes)")
        # The peer's account of the same traffic: what found no room at its receiver was sent all the same.
        for sender, receiver in ("ac", "ca"):
            lost = sum(s.show(receiver)["counters"]["in_drops"].values()) - drops[receiver]
            sent = next(v for k, v in s.meters(sender).items() if k[0] == "out" and k[2].startswith(IP[receiver]))
            came = next(v for k, v in s.meters(receiver).items() if k[0] == "in" and k[2].startswith(IP[sender]))
            must(sent[0] == came[0] + lost and (lost or sent == came), f"{sender} sent {sent}, {receiver} received {came} and lost {lost} packets")
    return ", ".join(map(str, flows))


@test
def s10_a_third_guest_sees_what_two_others_say():
    a, b = pair()
    (c,) = up(c={})
    with policy(("a", "--mirror", "source"), ("c", "--mirror", "destination")) as s:
        reachable(a, IP["b"])
        before, (seen, _) = s.show("a")["counters"], received(c)
        p = traffic.ping(a, IP["b"], 50, interval=0.02)
        must(p.lost == 0, f"mirrored: {p}")
        both_ways(a, IP["b"], 1)
        after = s.show("a")["counters"]
        said = sum(after[k] - before[k] for k in ("out_packets", "in_packets"))
        got = s.show("c")["counters"]
        copies = received(c)[0] - seen
        must(copies >= 100, f"{copies} copies of {said} packets")
        must(got["in_drops"].get("receiver-full", 0) + got["in_packets"] > 0, f"counters {got}")
        # The monitor is slow or not: the pair does not lose.
        must(bad_checksums(a) == bad_checksums(b) == 0, "wrong TCP checksums arrived")
    return f"{copies} copies seen of {said} packets"
