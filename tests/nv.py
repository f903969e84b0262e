"""Network virtualization over a routed physical network, against the kernel's tunnels, OVS and tshark. Words on the command line select.

Tenants' machines are network namespaces behind host ports; real guests take the same way from their port on."""
import json, subprocess, sys, time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import fabric, host, net, suite, traffic  # noqa: E402
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


def close(f, hosts):
    for h in hosts:
        h.switch.close()


if __name__ == "__main__":
    suite.run()
