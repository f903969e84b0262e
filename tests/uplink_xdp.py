"""Two hosts whose uplinks are AF_XDP sockets: taken over, killed, restarted. Words on the command line select.

`TURNPIKE_UPLINK=xdp` runs everything in nv.py over such uplinks."""
import os, subprocess, sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from lab import host, net, suite, traffic  # noqa: E402
from lab.fabric import Fabric, NvHost, policy, record  # noqa: E402
from lab.suite import must, test  # noqa: E402
from lab.world import reachable  # noqa: E402


def program(h):
    """Whether an XDP program is on a host's uplink."""
    return "xdp" in h.namespace.run(f"ip -d link show dev {h.wire}").out


def plain(h, name, mac, address):
    """A machine in the provider network itself, behind a host port of `h`."""
    inside, tap = net.Namespace(), f"tpx{os.getpid() % 100000}{name}"
    h.cli("port", "add", name, "--tap", tap, "--mac", mac)
    h.namespace.run(f"ip link set {tap} netns {inside.name}")
    inside.run(f"sysctl -q net.ipv6.conf.{tap}.disable_ipv6=1; ip addr add {address} dev {tap}; ip link set {tap} up")
    return inside


@test
def s20_7_an_uplink_over_af_xdp_goes_on_through_take_overs_and_a_killed_switch_leaves_nothing():
    f = Fabric("192.168.34.0/24")
    try:
        hosts = [NvHost(f, pa, driver="xdp") for pa in ("192.168.34.8/24", "192.168.34.9/24")]
    except host.LabError as e:
        if "driver 'xdp' needs" in str(e):
            raise suite.Skip(str(e)) from e
        raise
    shown = [h.cli("uplink", "show", "wire") for h in hosts]
    must(all((u["driver"], u["driver_mode"]) == ("xdp", "native, copy") for u in shown), f"{shown}")
    must("xdp (native, copy)" in hosts[0].switch.text("uplink", "list"), hosts[0].switch.text("uplink", "list"))
    a, b = (plain(h, f"m{number}", f"00:15:5d:03:01:0{number}", f"192.168.34.5{number}/24") for number, h in enumerate(hosts))
    reachable(a, "192.168.34.51")
    words = "ping -c 300 -i 0.02 -W 3 192.168.34.51".split()
    pings = host.spawn(["ip", "netns", "exec", a.name, *words], stdout=subprocess.PIPE, text=True)
    waited = [hosts[number % 2].switch.take_over() for number in range(6)]
    p = traffic.Ping(pings.communicate(timeout=60)[0])
    must(p.lost == 0 and p.duplicates == 0, f"{p}, {p.duplicates} duplicates; dropped {[h.drops() for h in hosts]}")

    policy(hosts, ("network", "add", "blue", "--rdid", "11111111-1111-1111-1111-111111111111"),
           ("subnet", "add", "--network", "blue", "--vsid", 5001, "--prefix", "10.16.1.0/24"))
    ends = (("a", "10.16.1.3", "00:15:5d:03:00:0a", hosts[0]), ("b", "10.16.1.7", "00:15:5d:03:00:0c", hosts[1]))
    for _, ca, mac, h in ends:
        policy(hosts, record(5001, ca, mac, h.pa))
    a, b = (h.machine(name, 5001, f"{ca}/24", mac) for name, ca, mac, h in ends)
    reachable(a, "10.16.1.7")
    b.serve_iperf()
    flow = traffic.iperf(a, "10.16.1.7", 2)
    must(flow.mbps > 20, f"{flow}; dropped {[h.drops() for h in hosts]}")

    hosts[0].switch.kill()
    host.until("the program to go with its process", lambda: not program(hosts[0]))
    hosts[0].switch.start()
    again = hosts[0].cli("uplink", "show", "wire")
    must((again["state"], again.get("driver_mode")) == ("running", "native, copy"), f"{again}")
    must("driver = \"xdp\"" in hosts[0].switch.text("save"), "the driver is saved")
    hosts[0].cli("uplink", "remove", "wire", check=False)
    for h in hosts:
        h.switch.close()
    must(not any(map(program, hosts)), "a program is left")
    return f"frames waited at most {max(waited):.1f} ms; {flow}"


if __name__ == "__main__":
    suite.run()
