"""A routed physical network of network namespaces, hosts with a switch on it, and tenants' machines behind host ports of those switches.

The physical network is one namespace: a bridge for each provider subnet, with the subnet's gateway address on it, and routing between them.
A tenant's machine is a namespace whose only interface is a host port (TAP) in a virtual subnet: what it sends is judged as a guest's is.
"""
import ipaddress, itertools, os
from . import host, net, switch
from .host import sh

_serial = itertools.count(1)
# How the hosts' uplinks are driven; $TURNPIKE_UPLINK=xdp runs whatever uses this over AF_XDP.
DRIVER = os.environ.get("TURNPIKE_UPLINK", "packet")


def _link(kind):
    return f"tpk{os.getpid() % 100000}{kind}{next(_serial)}"


class Fabric:
    """The physical network; `subnets` are prefixes, the gateway of each is its first address."""

    def __init__(self, *subnets, mtu=1500):
        host.need("iproute2", "iputils-ping", "procps")
        self.namespace, self.mtu, self._bridges = net.Namespace(), mtu, {}
        self.run = self.namespace.run
        self.run("sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
        for number, subnet in enumerate(map(ipaddress.ip_network, subnets)):
            gateway = f"{subnet.network_address + 1}/{subnet.prefixlen}"
            nodad = "nodad" if subnet.version == 6 else ""
            self.run(f"ip link add br{number} type bridge; ip link set br{number} mtu {mtu} up; ip addr add {gateway} dev br{number} {nodad}")
            self._bridges[subnet] = f"br{number}"

    def gateway(self, address):
        """The router's address in the subnet of `address`."""
        return str(self._subnet(address).network_address + 1)

    def _subnet(self, address):
        return next(s for s in self._bridges if ipaddress.ip_interface(address).ip in s)

    def wire(self, address, namespace=None, driver="packet"):
        """A link into the subnet of `address`; the name of its end, in `namespace` if that is given. `driver`: of an uplink at that end."""
        near, far = _link("w"), _link("f")
        sh("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", self.namespace.name)
        host.at_exit(lambda: sh("ip", "link", "del", near, check=False))
        # A kernel that leaves the segmentation of a tunnel's frames to the other end of such a link leaves it to nobody.
        self.run(f"ip link set {far} mtu {self.mtu} master {self._bridges[self._subnet(address)]} up")
        if driver == "xdp":
            # AF_XDP sees the bytes of a frame and nothing else: what a neighbour leaves to a wire that is none is lost.
            host.need("ethtool")
            self.run(f"ethtool -K {far} tx off txvlan off")
        if namespace:
            sh("ip", "link", "set", near, "netns", namespace.name)
            namespace.run(f"sysctl -q net.ipv6.conf.{near}.disable_ipv6=1; ip link set {near} mtu {self.mtu} up")
        return near


class Cable:
    """Two hosts' uplinks and nothing between them: the first two calls of `wire` get its ends."""

    def __init__(self, subnet):
        self._ends, self._subnet = None, ipaddress.ip_network(subnet)

    def gateway(self, _address):
        """An address that nobody has: both hosts are in the one subnet."""
        return str(self._subnet.broadcast_address - 1)

    def wire(self, _address, namespace, _driver):
        """An end of the cable, in `namespace`."""
        if self._ends is None:
            self._ends = [_link("w"), _link("w")]
            sh("ip", "link", "add", self._ends[0], "type", "veth", "peer", "name", self._ends[1])
            host.at_exit(lambda name=self._ends[0]: sh("ip", "link", "del", name, check=False))
        end = self._ends.pop()
        sh("ip", "link", "set", end, "netns", namespace.name)
        namespace.run(f"sysctl -q net.ipv6.conf.{end}.disable_ipv6=1; ip link set {end} up")
        return end


class NvHost:
    """A host on the fabric with a switch and a provider address (`pa`, with prefix length). `manage`: number of a link to the machine itself,
    which has 192.0.2.(4 × number + 1) on it. `driver`: of the uplink."""

    def __init__(self, fabric, pa, *serve, name=None, manage=None, driver=DRIVER):
        self.fabric, self.pa = fabric, str(ipaddress.ip_interface(pa).ip)
        self.name = name or f"host{next(_serial)}"
        self.namespace = net.Namespace()
        self.wire = fabric.wire(pa, self.namespace, driver)
        if manage is not None:
            self._manage(manage)
        self.switch = switch.Turnpike("--host-id", self.name, *serve, name=self.name, namespace=self.namespace)
        self.cli = self.switch.cli
        self.cli("switch", "set", "--nv", "on")
        self.cli("uplink", "add", "wire", "--device", self.wire, "--driver", driver)
        self.cli("nv", "provider", "add", "--address", pa, "--uplink", "wire", "--gateway", fabric.gateway(pa))

    def _manage(self, number):
        outside = self.namespace.veth(f"192.0.2.{4 * number + 2}/30")
        sh("ip", "addr", "add", f"192.0.2.{4 * number + 1}/30", "dev", outside)

    def machine(self, name, vsid, address, mac, *policy, gateway=None):
        """A tenant's machine: a namespace with the addresses (comma separated, with prefix length) in virtual subnet `vsid`."""
        inside, tap = net.Namespace(), _link("t")
        self.cli("port", "add", name, "--tap", tap, "--mac", mac, "--vsid", vsid, *policy)
        self.namespace.run(f"ip link set {tap} netns {inside.name}")
        inside.tap, inside.mac, inside.host, inside.port = tap, mac, self, name
        inside.run(f"sysctl -q net.ipv6.conf.{tap}.accept_ra=0 net.ipv6.conf.{tap}.router_solicitations=0 net.ipv6.conf.{tap}.addr_gen_mode=1")
        inside.run(f"ip link set {tap} mtu 1458 up")
        for one in filter(None, address.split(",")):
            inside.run(f"ip addr add {one} dev {tap} {'nodad' if ':' in one else ''}")
        for one in filter(None, (gateway or "").split(",")):
            inside.run(f"ip route add default via {one}")
        return inside

    def drops(self):
        """Why frames were dropped here: reason → count, over all ports."""
        total = {}
        for port in self.cli("port", "list") + self.cli("uplink", "list"):
            shown = self.cli("uplink" if port["kind"] == "uplink" else "port", "show", port["name"])
            for side in ("out_drops", "in_drops"):
                for reason, count in shown["counters"].get(side, {}).items():
                    total[reason] = total.get(reason, 0) + count
        return total


def policy(hosts, *commands):
    """The same `turnpike nv …` commands on every host: without a shared store each has a copy of its own."""
    for h in hosts:
        for command in commands:
            h.cli("nv", *map(str, command))


def record(vsid, ca, mac, pa, *more):
    """The words of a lookup record."""
    return ("record", "add", "--vsid", vsid, "--ca", ca, "--mac", mac, "--pa", pa, *more)
