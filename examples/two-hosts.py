"""The part of two-hosts.sh that runs the switches. A word selects an example: `rewrite`, `nvgre` or `subnets`; without one all run."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from lab import host, traffic  # noqa: E402
from lab.fabric import Fabric, NvHost, record  # noqa: E402
from lab.world import reachable  # noqa: E402

say = host.say
CORPS = {"blue": (5001, "11111111-1111-1111-1111-111111111111"), "yellow": (6001, "22222222-2222-2222-2222-222222222222")}
# Machine: customer address, MAC address, provider address of its own (IP rewrite), number of its host.
MACHINES = {
    "blue-sql": ("10.1.1.1", "00:15:5d:01:00:01", "192.168.1.10", 0),
    "yellow-sql": ("10.1.1.1", "00:15:5d:02:00:01", "192.168.1.11", 0),
    "blue-web": ("10.1.1.2", "00:15:5d:01:00:02", "192.168.1.12", 1),
    "yellow-web": ("10.1.1.2", "00:15:5d:02:00:02", "192.168.1.13", 1),
}


def on(hosts, *words):
    """Give a command to each switch, and show it."""
    say(f"  turnpike nv {' '.join(map(str, words))}")
    for h in hosts:
        h.cli("nv", *words)


def shown(machine, ip, text):
    """Ping, and what came of it."""
    reachable(machine, ip)
    p = traffic.ping(machine, ip, 10, interval=0.05)
    say(f"  {text}: {p.received} of {p.sent} answered, {p.p50:.2f} ms")
    return p.lost


def corps(encap):
    say(f"\n== Blue and Yellow Corp: the same addresses twice, by {'IP rewrite' if encap == 'rewrite' else encap.upper()}")
    fabric = Fabric("192.168.1.0/24")
    hosts = [NvHost(fabric, "192.168.1.20/24", name=f"{encap}-1"), NvHost(fabric, "192.168.1.21/24", name=f"{encap}-2")]
    machines, lost = {}, 0
    for corp, (vsid, rdid) in CORPS.items():
        on(hosts, "network", "add", corp, "--rdid", rdid)
        # The lowest address, which the router would have, is a server's here.
        on(hosts, "subnet", "add", "--network", corp, "--vsid", vsid, "--prefix", "10.1.1.0/24", "--gateway", "10.1.1.254")
        for name, (ca, mac, own, number) in MACHINES.items():
            if name.startswith(corp):
                more = ("--rewrite-pa", own) if encap == "rewrite" else ()
                on(hosts, *record(vsid, ca, mac, hosts[number].pa, "--encap", encap, *more))
                machines[name] = hosts[number].machine(name, vsid, f"{ca}/24", mac)
    for corp in CORPS:
        web, sql = machines[f"{corp}-web"], MACHINES[f"{corp}-sql"]
        lost += shown(web, sql[0], f"{corp}'s WEB to its SQL, {sql[0]}")
        neighbour = web.run(f"ip neigh show {sql[0]}").out.split()
        say(f"    and there is {neighbour[neighbour.index('lladdr') + 1]}, {corp}'s SQL")
        lost += sql[1] not in neighbour
    for h in hosts:
        h.switch.close()
    return lost


def subnets():
    say("\n== one virtual subnet, 10.16.1.0/24, over two physical ones: VM-A on 192.168.34.8, VM-C on 192.168.42.12")
    fabric = Fabric("192.168.34.0/24", "192.168.42.0/24")
    hosts = [NvHost(fabric, "192.168.34.8/24", name="subnets-1"), NvHost(fabric, "192.168.42.12/24", name="subnets-2")]
    on(hosts, "network", "add", "corp", "--rdid", CORPS["blue"][1])
    on(hosts, "subnet", "add", "--network", "corp", "--vsid", 5001, "--prefix", "10.16.1.0/24")
    machines = []
    for number, (name, ca) in enumerate((("vm-a", "10.16.1.3"), ("vm-c", "10.16.1.7"))):
        mac = f"00:15:5d:03:00:{number:02x}"
        on(hosts, *record(5001, ca, mac, hosts[number].pa))
        machines.append(hosts[number].machine(name, 5001, f"{ca}/24", mac))
    a, c = machines
    lost = shown(a, "10.16.1.7", "VM-A to VM-C")
    say("\n".join(f"  {line}" for line in hosts[0].switch.text("nv", "resolve", "--vsid", 5001, "--ca", "10.16.1.7").splitlines()))
    c.serve_iperf()
    say(f"  iperf3 from VM-A to VM-C: {traffic.iperf(a, '10.16.1.7', 3)}")
    for h in hosts:
        h.switch.close()
    return lost


def main(words):
    host.arm()
    host.need("iproute2", "iputils-ping", "iperf3", "procps")
    examples = {"rewrite": lambda: corps("rewrite"), "nvgre": lambda: corps("nvgre"), "subnets": subnets}
    if unknown := set(words) - set(examples):
        raise host.LabError(f"no example '{unknown.pop()}'; there are {', '.join(examples)}")
    lost = sum(example() for name, example in examples.items() if not words or name in words)
    say("\neverything stopped")
    return int(lost > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except host.LabError as e:
        sys.exit(f"two-hosts: {e}")
