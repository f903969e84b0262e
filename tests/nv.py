"""Network virtualization over a routed physical network, against the kernel's tunnels, OVS and tshark. Words on the command line select.

Tenants' machines are network namespaces behind host ports; real guests take the same way from their port on."""
import json, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, net, suite, traffic, tunnels  # noqa: E402
from lab.fabric import Fabric, NvHost, policy, record  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import reachable  # noqa: E402

BLUE, YELLOW = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
MAC = {"blue-sql": "00:15:5d:01:00:01", "blue-web": "00:15:5d:01:00:02", "yellow-sql": "00:15:5d:02:00:01", "yellow-web": "00:15:5d:02:00:02"}


def answers(machine, ip, count=5, **options):
    """Pings `ip` from a tenant's machine; all must be answered, once."""
    reachable(machine, ip)
    p = traffic.ping(machine, ip, count, interval=0.05, **options)
    must(p.lost == 0 and p.duplicates == 0, f"to {ip}: {p}, {p.duplicates} duplicates; dropped {machine.host.drops()}")


def silent(machine, ip):
    """Nothing answers a ping to `ip`."""
    p = traffic.ping(machine, ip, 2, interval=0.1)
    must(p.received == 0, f"{ip} answered: {p}")


def contoso(encap):
    """Blue and Yellow Corp: the same customer addresses in two customer networks, SQL on one host, WEB on another."""
    f = Fabric("192.168.1.0/24")
    pas = {"blue-sql": "192.168.1.10", "yellow-sql": "192.168.1.11", "blue-web": "192.168.1.12", "yellow-web": "192.168.1.13"}
    hosts = NvHost(f, "192.168.1.20/24"), NvHost(f, "192.168.1.21/24")
    machines = {}
    for vsid, name, rdid in ((5001, "blue", BLUE), (6001, "yellow", YELLOW)):
        policy(hosts, ("network", "add", name, "--rdid", rdid),
               ("subnet", "add", "--network", name, "--vsid", vsid, "--prefix", "10.1.1.0/24", "--gateway", "10.1.1.254"))
        for role, ca, h in (("sql", "10.1.1.1", hosts[0]), ("web", "10.1.1.2", hosts[1])):
            key = f"{name}-{role}"
            more = ("--rewrite-pa", pas[key]) if encap == "rewrite" else ()
            policy(hosts, record(vsid, ca, MAC[key], h.pa, "--encap", encap, *more))
            machines[key] = h.machine(key, vsid, f"{ca}/24", MAC[key])
    return f, hosts, machines, pas


def captured(fabric_, count, during, expression="not arp and not icmp6"):
    """What tshark says of frames on the physical network while `during` runs: one dict of fields each."""
    host.need("tshark")
    argv = ["ip", "netns", "exec", fabric_.namespace.name, "tshark", "-i", "br0", "-l", "-T", "json", "-c", str(count), "-f", expression]
    p = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    host.until("tshark to listen", lambda: "Capturing" in p.stderr.readline(), 20)
    time.sleep(1)
    during()
    try:
        out, _ = p.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        p.kill()
        out, _ = p.communicate()
    return [frame["_source"]["layers"] for frame in json.loads(out)]


def both_tenants_reach_only_their_own(machines):
    for tenant in ("blue", "yellow"):
        web, sql = machines[f"{tenant}-web"], machines[f"{tenant}-sql"]
        answers(web, "10.1.1.1")
        answers(sql, "10.1.1.2")
        seen = web.run(f"ip neigh show 10.1.1.1").out
        must(MAC[f"{tenant}-sql"] in seen, f"{tenant}'s WEB sees {seen}")
    # Each machine answers with a name of its own: whose did it reach?
    for key, machine in machines.items():
        machine.run(f"(while true; do echo {key} | nc -l -p 7 -q 0 || sleep 0.1; done) >/dev/null 2>&1 &")
    for tenant in ("blue", "yellow"):
        said = machines[f"{tenant}-web"].run("nc -w 3 10.1.1.1 7 </dev/null", timeout=10).out.strip()
        must(said == f"{tenant}-sql", f"{tenant}'s WEB reached '{said}'")


@test
def s14_15_contoso_with_nvgre():
    host.need("netcat-openbsd")
    f, hosts, machines, _ = contoso("nvgre")
    both_tenants_reach_only_their_own(machines)
    frames = captured(f, 4, lambda: answers(machines["blue-web"], "10.1.1.1", 4), "proto gre")
    for layers in frames:
        must(layers["gre"]["gre.proto"] == "0x6558", f"not transparent Ethernet bridging: {layers['gre']}")
        key = int(str(layers["gre"]["gre.key"]), 0)
        must(key >> 8 == 5001, f"VSID {key >> 8} on the wire")
        must("nvgre" in str(layers.keys()).lower() or "10.1.1." in json.dumps(layers["ip"] if isinstance(layers["ip"], list) else layers), f"{list(layers)}")
    close(f, hosts)


@test
def s14_15_contoso_with_vxlan():
    host.need("netcat-openbsd")
    f, hosts, machines, _ = contoso("vxlan")
    both_tenants_reach_only_their_own(machines)
    frames = captured(f, 4, lambda: answers(machines["yellow-web"], "10.1.1.1", 4), "udp port 4789")
    must(len(frames) == 4 and all(str(l["vxlan"]["vxlan.vni"]) == "6001" for l in frames), f"{[l.get('vxlan') for l in frames]}")
    close(f, hosts)


@test
def s14_15_contoso_with_ip_rewrite():
    host.need("netcat-openbsd")
    f, hosts, machines, pas = contoso("rewrite")
    both_tenants_reach_only_their_own(machines)
    frames = captured(f, 4, lambda: answers(machines["blue-web"], "10.1.1.1", 4), "icmp")
    ways = {(l["ip"]["ip.src"], l["ip"]["ip.dst"]) for l in frames}
    must(ways <= {(pas["blue-web"], pas["blue-sql"]), (pas["blue-sql"], pas["blue-web"])} and ways, f"on the wire {ways}")
    close(f, hosts)


def blue(hosts, encap="nvgre", prefix="10.16.1.0/24", vsid=5001):
    """The customer network `blue` with one virtual subnet, on every host."""
    policy(hosts, ("network", "add", "blue", "--rdid", BLUE), ("subnet", "add", "--network", "blue", "--vsid", vsid, "--prefix", prefix))


@test
def s14_15_the_manuals_vms_on_different_subnets():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    blue(hosts)
    for ca, mac, h in (("10.16.1.3", "00:15:5d:03:00:0a", hosts[0]), ("10.16.1.7", "00:15:5d:03:00:0c", hosts[1])):
        policy(hosts, record(5001, ca, mac, h.pa))
    a = hosts[0].machine("vm-a", 5001, "10.16.1.3/24", "00:15:5d:03:00:0a")
    c = hosts[1].machine("vm-c", 5001, "10.16.1.7/24", "00:15:5d:03:00:0c")
    answers(a, "10.16.1.7", 20)
    answers(c, "10.16.1.3", 20)
    c.serve_iperf()
    flow, back = traffic.iperf(a, "10.16.1.7", 2), traffic.iperf(a, "10.16.1.7", 2, reverse=True)
    must(flow.mbps > 100 and back.mbps > 100, f"{flow}; back {back}; dropped {hosts[0].drops()}, {hosts[1].drops()}")
    wrong = [int(m.run("grep ^Tcp: /proc/net/snmp | tail -n 1 | awk '{ print $NF }'").out) for m in (a, c)]
    must(wrong == [0, 0], f"segments with a wrong checksum: {wrong}")
    close(f, hosts)
    return f"iperf3 {flow.mbps:.0f} and {back.mbps:.0f} Mbit/s"


@test
def s14_1_all_four_families_of_addresses():
    f = Fabric("192.168.34.0/24", "fd00:34::/64", "192.168.42.0/24", "fd00:42::/64")
    for pas in (("192.168.34.8/24", "192.168.42.12/24"), ("fd00:34::8/64", "fd00:42::c/64")):
        for encap in ("nvgre", "vxlan"):
            hosts = [NvHost(f, pa) for pa in pas]
            policy(hosts, ("network", "add", "blue", "--rdid", BLUE),
                   ("subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.16.1.0/24,fd16::/64"))
            for n, h in enumerate(hosts, 3):
                for ca in (f"10.16.1.{n}", f"fd16::{n}"):
                    policy(hosts, record(5001, ca, f"00:15:5d:03:00:0{n}", h.pa, "--encap", encap))
            a, b = (h.machine("vm", 5001, f"10.16.1.{n}/24,fd16::{n}/64", f"00:15:5d:03:00:0{n}") for n, h in enumerate(hosts, 3))
            for ca in ("10.16.1.4", "fd16::4"):
                answers(a, ca, extra="-6" if ":" in ca else "")
                b.serve_iperf()
                flow = traffic.iperf(a, ca, 1)
                must(flow.mbps > 50, f"{encap} over {pas[0]}, {ca}: {flow}")
            close(f, hosts)


@test
def s14_12_the_kernels_vxlan_device_is_a_peer():
    host.need("ethtool")
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    h = NvHost(f, "192.168.34.8/24")
    peer = tunnels.KernelVxlan(f, "192.168.42.50/24", "10.16.1.50/24", "00:15:5d:03:00:50", 5001, h.pa)
    blue([h])
    policy([h], record(5001, "10.16.1.3", "00:15:5d:03:00:0a", h.pa, "--encap", "vxlan"),
           record(5001, "10.16.1.50", peer.mac, peer.pa, "--encap", "vxlan"))
    a = h.machine("vm-a", 5001, "10.16.1.3/24", "00:15:5d:03:00:0a")
    both_directions(a, peer)
    close(f, [h])


def both_directions(a, peer):
    """Pings and streams between a tenant's machine and another implementation's."""
    a.run("ip link set dev $(ls /sys/class/net | grep tpk) mtu 1400", check=False)
    answers(a, peer.ca, 20)
    p = traffic.ping(peer.namespace, "10.16.1.3", 20, interval=0.05)
    must(p.lost == 0 and p.duplicates == 0, f"from the peer: {p}")
    peer.namespace.serve_iperf()
    flow, back = traffic.iperf(a, peer.ca, 2), traffic.iperf(a, peer.ca, 2, reverse=True)
    must(flow.mbps > 20 and back.mbps > 20, f"{flow}; back {back}; dropped {a.host.drops()}")


@test
def s14_12_ovs_is_a_peer_with_vxlan_and_with_gre():
    host.need("ethtool")
    for kind, encap in (("vxlan", "vxlan"), ("gre", "nvgre")):
        f = Fabric("192.168.34.0/24", "192.168.42.0/24")
        h = NvHost(f, "192.168.34.8/24")
        # OVS reads frames of a veth pair as they are: their checksums must be complete.
        h.namespace.run(f"ethtool -K {h.wire} tx off >/dev/null")
        key = 5001 if kind == "vxlan" else 5001 << 8
        peer = tunnels.OvsTunnel(f, "192.168.42.50/24", "10.16.1.50/24", "00:15:5d:03:00:50", kind, key, h.pa)
        blue([h])
        policy([h], record(5001, "10.16.1.3", "00:15:5d:03:00:0a", h.pa, "--encap", encap),
               record(5001, "10.16.1.50", peer.mac, peer.pa, "--encap", encap))
        a = h.machine("vm-a", 5001, "10.16.1.3/24", "00:15:5d:03:00:0a")
        both_directions(a, peer)
        peer.close()
        close(f, [h])


@test
def s14_10_every_host_routes_between_the_subnets_of_one_customer():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    policy(hosts, ("network", "add", "blue", "--rdid", BLUE), ("network", "add", "yellow", "--rdid", YELLOW),
           ("subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.1.1.0/24"),
           ("subnet", "add", "--network", "blue", "--vsid", 5002, "--prefix", "10.1.2.0/24"),
           ("subnet", "add", "--network", "yellow", "--vsid", 6002, "--prefix", "10.1.2.0/24"))
    where = {"a": (5001, "10.1.1.10", hosts[0]), "b": (5002, "10.1.2.10", hosts[1]), "c": (5002, "10.1.2.11", hosts[0]), "y": (6002, "10.1.2.10", hosts[0])}
    m = {}
    for number, (name, (vsid, ca, h)) in enumerate(where.items(), 1):
        mac = f"00:15:5d:0a:00:{number:02x}"
        policy(hosts, record(vsid, ca, mac, h.pa))
        m[name] = h.machine(name, vsid, f"{ca}/24", mac, gateway=ca.rsplit(".", 1)[0] + ".1")
    answers(m["a"], "10.1.2.10")
    answers(m["a"], "10.1.2.11")
    answers(m["b"], "10.1.1.10")
    answers(m["a"], "10.1.1.1")  # the router itself
    must("ttl=63" in m["a"].run("ping -c 1 10.1.2.10").out, "routed once, the TTL is one less")
    out = m["a"].run("ping -c 1 -t 1 10.1.2.10", check=False).out
    must("From 10.1.1.1" in out and "exceeded" in out.lower(), f"TTL 1: {out}")
    silent(m["y"], "10.1.1.10")
    before = m["y"].run("ip -s link show dev $(ls /sys/class/net | grep tpk) | awk '/RX/ {getline; print $2}'").out
    traffic.ping(m["a"], "10.1.2.10", 10, interval=0.05)
    after = m["y"].run("ip -s link show dev $(ls /sys/class/net | grep tpk) | awk '/RX/ {getline; print $2}'").out
    must(before == after, f"yellow's machine with blue's address heard something: {before} frames, then {after}")
    close(f, hosts)


@test
def s14_13_a_packet_that_does_not_fit_is_answered_with_the_mtu():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    policy(hosts, ("network", "add", "blue", "--rdid", BLUE), ("subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.16.1.0/24,fd16::/64"))
    for n, h in enumerate(hosts, 3):
        for ca in (f"10.16.1.{n}", f"fd16::{n}"):
            policy(hosts, record(5001, ca, f"00:15:5d:03:00:0{n}", h.pa))
    a, b = (h.machine("vm", 5001, f"10.16.1.{n}/24,fd16::{n}/64", f"00:15:5d:03:00:0{n}") for n, h in enumerate(hosts, 3))
    answers(a, "10.16.1.4")
    answers(a, "10.16.1.4", size=1458 - 28, extra="-M do")
    a.run(f"ip link set {a.tap} mtu 1500")
    out = a.run("ping -c 2 -W 1 -M do -s 1472 10.16.1.4", check=False).out
    must("mtu = 1458" in out or "mtu=1458" in out, f"IPv4: {out}")
    out = a.run("ping -6 -c 2 -W 1 -M do -s 1452 fd16::4", check=False).out
    must("mtu = 1438" in out or "mtu=1458" in out or "mtu = 1458" in out, f"IPv6: {out}")
    b.serve_iperf()
    flow = traffic.iperf(a, "10.16.1.4", 2)
    must(flow.mbps > 50, f"with a guest whose MTU is too large: {flow}")
    close(f, hosts)


@test
def s14_4_a_host_that_does_not_answer_costs_nobody_else_anything():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    blue(hosts)
    policy(hosts, record(5001, "10.16.1.3", "00:15:5d:03:00:0a", hosts[0].pa), record(5001, "10.16.1.7", "00:15:5d:03:00:0c", hosts[1].pa),
           record(5001, "10.16.1.9", "00:15:5d:03:00:0e", "192.168.34.99"))
    a = hosts[0].machine("vm-a", 5001, "10.16.1.3/24", "00:15:5d:03:00:0a")
    hosts[1].machine("vm-c", 5001, "10.16.1.7/24", "00:15:5d:03:00:0c")
    answers(a, "10.16.1.7")
    silent(a, "10.16.1.9")
    dropped = hosts[0].drops().get("provider-unreachable", 0)
    must(dropped >= 2, f"dropped {hosts[0].drops()}")
    answers(a, "10.16.1.7", 20)
    close(f, hosts)


@test
def s14_11_customers_with_the_same_addresses_reach_the_outside_behind_a_shared_one():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24", "203.0.113.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    outside = net.Namespace()
    end = f.wire("203.0.113.80/24", outside)
    outside.run(f"ip addr add 203.0.113.80/24 dev {end}; ip route add default via 203.0.113.1")
    machines = []
    for number, (name, vsid, rdid) in enumerate((("blue", 5001, BLUE), ("yellow", 6001, YELLOW)), 1):
        policy(hosts, ("network", "add", name, "--rdid", rdid), ("subnet", "add", "--network", name, "--vsid", vsid, "--prefix", "10.1.1.0/24"),
               ("route", "add", "--network", name, "--prefix", "0.0.0.0/0", "--next-hop", "gateway"),
               record(vsid, "10.1.1.10", f"00:15:5d:0b:00:0{number}", hosts[0].pa))
        hosts[0].cli("nv", "gateway", "add", "--network", name, "--uplink", "wire", "--mode", "nat", "--address", "192.168.34.100/24")
        machines.append(hosts[0].machine(name, vsid, "10.1.1.10/24", f"00:15:5d:0b:00:0{number}", gateway="10.1.1.1"))
    outside.serve_iperf()
    for m in machines:
        answers(m, "192.168.34.1")
        answers(m, "203.0.113.80")
        flow = traffic.iperf(m, "203.0.113.80", 1)
        must(flow.mbps > 20, f"{flow}; dropped {hosts[0].drops()}")
    with net.ear(outside, end) as heard:
        machines[0].run("ping -c 1 203.0.113.80")
        source = heard.wait_for(lambda frame: frame[12:14] == b"\x08\x00" and frame[23] == 1)[26:30]
    must(source == bytes([192, 168, 34, 100]), f"outside it comes from {source.hex()}")
    close(f, hosts)


@test
def s14_11_a_forwarding_gateway_routes_between_a_customer_network_and_a_physical_one():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    # A network of the customer's own, beside the provider network on the same wire (this kernel may have no VLAN devices).
    f.run("ip addr add 172.16.7.2/24 dev br0; ip route add 10.1.1.0/24 via 172.16.7.9")
    policy(hosts, ("network", "add", "blue", "--rdid", BLUE), ("subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.1.1.0/24"),
           ("route", "add", "--network", "blue", "--prefix", "0.0.0.0/0", "--next-hop", "gateway"),
           record(5001, "10.1.1.10", "00:15:5d:0c:00:01", hosts[0].pa), record(5001, "10.1.1.11", "00:15:5d:0c:00:02", hosts[1].pa))
    hosts[0].cli("nv", "gateway", "add", "--network", "blue", "--uplink", "wire", "--mode", "forward", "--address", "172.16.7.9/24")
    here = hosts[0].machine("here", 5001, "10.1.1.10/24", "00:15:5d:0c:00:01", gateway="10.1.1.1")
    hosts[1].machine("there", 5001, "10.1.1.11/24", "00:15:5d:0c:00:02", gateway="10.1.1.1")
    answers(here, "172.16.7.2")
    answers(here, "10.1.1.11")
    p = traffic.ping(f.namespace, "10.1.1.10", 5, interval=0.05, extra="-I 172.16.7.2")
    must(p.lost == 0, f"to the guest from the physical network: {p}; dropped {hosts[0].drops()}")
    close(f, hosts)


def happened(h, kind):
    """The events of a kind at a host."""
    out = h.switch.text("--json", "events")
    return [e for e in (json.loads(line) for line in out.splitlines() if line.startswith("{")) if e.get("kind") == kind]


@test
def s14_13_a_link_on_the_way_that_carries_less_is_learned_from_its_router():
    v4, v6 = ("192.168.34.8/24", "192.168.42.12/24"), ("fd00:34::8/64", "fd00:42::c/64")
    notes = []
    for (here, there), encap, overhead in ((v4, "nvgre", 42), (v6, "vxlan", 70), (v4, "rewrite", 0)):
        f = Fabric("192.168.34.0/24", "fd00:34::/64", "192.168.42.0/24", "fd00:42::/64")
        # The router's link towards the other host carries 1400 bytes, though both hosts' own carry 1500.
        f.run("ip link set br2 mtu 1400; ip link set br3 mtu 1400")
        hosts = NvHost(f, here), NvHost(f, there)
        blue(hosts)
        for n, h in enumerate(hosts, 3):
            own = ("--rewrite-pa", h.pa + "0") if encap == "rewrite" else ()
            policy(hosts, record(5001, f"10.16.1.{n}", f"00:15:5d:03:00:0{n}", h.pa, "--encap", encap, *own))
        a, b = (h.machine("vm", 5001, f"10.16.1.{n}/24", f"00:15:5d:03:00:0{n}") for n, h in enumerate(hosts, 3))
        a.run(f"ip link set {a.tap} mtu {1500 - overhead}")
        answers(a, "10.16.1.4")
        fits = 1400 - overhead
        out = a.run(f"ping -c 4 -i 0.3 -W 1 -M do -s {fits + 10 - 28} 10.16.1.4", check=False).out
        must(f"mtu = {fits}" in out or f"mtu={fits}" in out, f"{encap}: {out}; dropped {hosts[0].drops()}")
        must("From 10.16.1.1" in out, f"the customer network's router says so: {out}")
        answers(a, "10.16.1.4", size=fits - 28, extra="-M do")
        b.serve_iperf()
        a.run("ip route flush cache")
        flow = traffic.iperf(a, "10.16.1.4", 2)
        must(flow.mbps > 20, f"TCP over the narrow link: {flow}; dropped {hosts[0].drops()}")
        notes.append(f"{encap}: {fits} bytes fit, {flow.mbps:.0f} Mbit/s")
        close(f, hosts)
    return "; ".join(notes)


@test
def s20_5_a_host_without_the_guest_says_so_and_the_network_that_cannot_reach_a_host_is_reported():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    blue(hosts)
    for n, h in enumerate(hosts, 3):
        policy(hosts, record(5001, f"10.16.1.{n}", f"00:15:5d:03:00:0{n}", h.pa))
    a, _ = (h.machine("vm", 5001, f"10.16.1.{n}/24", f"00:15:5d:03:00:0{n}") for n, h in enumerate(hosts, 3))
    answers(a, "10.16.1.4")
    # The guest leaves the second host; the first one is not told.
    hosts[1].cli("port", "remove", "vm")
    policy([hosts[1]], ("record", "remove", "--vsid", 5001, "--ca", "10.16.1.4"))
    said = captured(f, 1, lambda: silent(a, "10.16.1.4"), "icmp[icmptype] == 3")
    must(len(said) == 1, "nothing was said")
    text = json.dumps(said[0])
    must('"icmp.code": "1"' in text and '"icmp.checksum.status": "1"' in text, f"not a sound 'host unreachable': {text[:2000]}")
    must('"ip.src": "192.168.42.12"' in text and '"gre.key"' in text and "10.16.1.4" in text, f"it quotes the packet: {text[:2000]}")
    must(not happened(hosts[0], "provider-unreachable"), "the host itself is there")
    # Now the host itself goes; its router says so.
    hosts[1].namespace.run(f"ip link set {hosts[1].wire} down")
    f.run("ip neigh flush all")
    def told():
        traffic.ping(a, "10.16.1.4", 3, interval=0.2)
        return happened(hosts[0], "provider-unreachable")
    events = host.until("the event", told, 20)
    must(len(events) == 1 and events[0]["address"] == "192.168.42.12" and "192.168.34.1 says" in events[0]["reason"], f"{events}")
    answers(a, "10.16.1.1")
    close(f, hosts)

def unknown(vsid, mac, pa):
    """The words of a record of a guest whose address is not known."""
    return ("record", "add", "--vsid", vsid, "--mac", mac, "--pa", pa, "--kind", "l2-only")


def serve_dhcp(machine, first, last):
    """A DHCP server in a tenant's machine; its process."""
    host.need("dnsmasq-base")
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", f"--interface={machine.tap}",
            "--bind-interfaces", f"--dhcp-range={first},{last},255.255.255.0,5m", "--dhcp-authoritative", "--leasefile-ro", "--no-ping"]
    p = host.spawn(["ip", "netns", "exec", machine.name, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    return p


def lease(machine, tries=4):
    """The address that a tenant's machine gets by DHCP and uses from now on; None = nobody gives it one."""
    host.need("busybox-static")
    script = host.work() / "lease"
    script.write_text('#!/bin/sh\n[ "$1" = bound ] || exit 0\nip addr flush dev $interface\nip addr add $ip/$mask dev $interface\necho lease $ip\n')
    script.chmod(0o755)
    out = machine.run(f"busybox udhcpc -i {machine.tap} -n -q -f -t {tries} -T 1 -s {script} 2>&1", check=False, timeout=60).out
    found = [line.split()[1] for line in out.splitlines() if line.startswith("lease ")]
    return found[0] if found else None


@test
def s14_8_a_guest_gets_its_address_from_a_dhcp_server_of_its_tenant_at_another_host():
    host.need("ethtool")
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    blue(hosts)
    macs = {name: f"00:15:5d:07:00:0{n}" for n, name in enumerate(("server", "known", "rogue", "client"), 1)}
    where = {"server": hosts[0], "known": hosts[0], "rogue": hosts[0], "client": hosts[1]}
    for name in ("server", "rogue", "client"):
        policy(hosts, unknown(5001, macs[name], where[name].pa))
    policy(hosts, record(5001, "10.16.1.3", macs["known"], hosts[0].pa))
    addresses = {"server": "10.16.1.2/24", "known": "10.16.1.3/24", "rogue": "10.16.1.4/24", "client": ""}
    m = {name: h.machine(name, 5001, addresses[name], macs[name]) for name, h in where.items()}
    server = serve_dhcp(m["server"], "10.16.1.100", "10.16.1.109")
    ip = lease(m["client"])
    must(ip and 100 <= int(ip.rsplit(".", 1)[1]) <= 109, f"lease {ip}; dropped {hosts[0].drops()}, {hosts[1].drops()}")
    for other in ("10.16.1.2", "10.16.1.3"):
        answers(m["client"], other)
    answers(m["known"], ip)
    learned = [r for r in hosts[1].cli("nv", "record", "list") if r.get("ca") == ip]
    must(len(learned) == 1 and learned[0]["kind"] == "dynamic" and learned[0]["mac"] == macs["client"], f"at its host: {learned}")
    host.stop(server)
    # A tenant's machine that is no server: its host keeps its offers in, across the tunnel as at home.
    rogue = serve_dhcp(m["rogue"], "10.16.1.200", "10.16.1.209")
    hosts[0].cli("port", "set", "rogue", "--dhcp-guard", "on")
    policy(hosts, unknown(5001, "00:15:5d:07:00:05", hosts[0].pa))
    at_home = hosts[0].machine("client", 5001, "", "00:15:5d:07:00:05")
    must(lease(m["client"], 3) is None and lease(at_home, 3) is None, "a guarded port gave somebody an address")
    must(hosts[0].drops().get("dhcp-guard", 0) > 0, f"dropped {hosts[0].drops()}")
    hosts[0].cli("port", "set", "rogue", "--dhcp-guard", "off")
    got = lease(m["client"]), lease(at_home)
    must(all(ip and 200 <= int(ip.rsplit(".", 1)[1]) <= 209 for ip in got), f"without the guard: {got}")
    host.stop(rogue)
    close(f, hosts)


@test
def s14_4_a_host_with_two_provider_addresses_uses_the_one_that_a_record_names():
    f = Fabric("192.168.34.0/24")
    hosts = [NvHost(f, f"192.168.34.{8 + n}/24") for n in range(2)]
    # A provider network of its own, in a VLAN on the same wire: the first host is in both, the third one in this alone.
    third = NvHost(f, "192.168.34.10/24")
    for h, pa in ((hosts[0], "192.168.50.8/24"), (third, "192.168.50.10/24")):
        h.cli("nv", "provider", "add", "--address", pa, "--uplink", "wire", "--vlan", 50, "--gateway", "192.168.50.1")
    third.cli("nv", "provider", "remove", "192.168.34.10")
    hosts.append(third)
    blue(hosts)
    where = {"a": (hosts[0], "192.168.34.8"), "b": (hosts[0], "192.168.50.8"), "c": (hosts[1], "192.168.34.9"), "d": (third, "192.168.50.10")}
    m = {}
    for n, (name, (h, pa)) in enumerate(where.items(), 3):
        policy(hosts, record(5001, f"10.16.1.{n}", f"00:15:5d:08:00:0{n}", pa))
    for n, (name, (h, pa)) in enumerate(where.items(), 3):
        m[name] = h.machine(name, 5001, f"10.16.1.{n}/24", f"00:15:5d:08:00:0{n}")
    answers(m["a"], "10.16.1.4")
    for source, to, ends, vlan in (("a", "10.16.1.5", ("192.168.34.8", "192.168.34.9"), None), ("b", "10.16.1.6", ("192.168.50.8", "192.168.50.10"), "50")):
        answers(m[source], to)
        expression = f"proto gre and host {ends[0]} and host {ends[1]}"
        frames = captured(f, 4, lambda: answers(m[source], to, 4), f"vlan {vlan} and {expression}" if vlan else expression)
        seen = {layers.get("vlan", {}).get("vlan.id") for layers in frames}
        must(len(frames) == 4 and seen == {vlan}, f"from {source} between {ends}: {len(frames)} frames, in VLAN {seen}")
    # One of the two networks goes: the other is none the worse.
    third.namespace.run(f"ip link set {third.wire} down")
    silent(m["b"], "10.16.1.6")
    answers(m["a"], "10.16.1.5", 20)
    answers(m["c"], "10.16.1.3", 20)
    close(f, hosts)


@test
def s20_7_a_tunnel_goes_on_while_both_its_switches_are_taken_over():
    f = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = NvHost(f, "192.168.34.8/24"), NvHost(f, "192.168.42.12/24")
    blue(hosts)
    ends = (("a", "10.16.1.3", "00:15:5d:03:00:0a", hosts[0]), ("c", "10.16.1.7", "00:15:5d:03:00:0c", hosts[1]))
    for _, ca, mac, h in ends:
        policy(hosts, record(5001, ca, mac, h.pa))
    a, _ = (h.machine(name, 5001, f"{ca}/24", mac) for name, ca, mac, h in ends)
    reachable(a, "10.16.1.7")
    pings = host.spawn(["ip", "netns", "exec", a.name, *"ping -c 200 -i 0.02 -W 3 10.16.1.7".split()], stdout=subprocess.PIPE, text=True)
    waited = [hosts[number % 2].switch.take_over() for number in range(4)]
    p = traffic.Ping(pings.communicate(timeout=60)[0])
    must(p.lost == 0 and p.duplicates == 0, f"{p}, {p.duplicates} duplicates; dropped {[h.drops() for h in hosts]}")
    close(f, hosts)
    return f"frames waited at most {max(waited):.1f} ms"


def close(f, hosts):
    for h in hosts:
        h.switch.close()


if __name__ == "__main__":
    suite.run()
