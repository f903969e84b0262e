"""Other people's tunnel endpoints on a fabric: the kernel's VXLAN device, and OVS with its userspace data path (VXLAN and GRE with a key)."""
import ipaddress, itertools, os, subprocess, time
from pathlib import Path
from . import host, net
from .host import LabError, sh

_serial = itertools.count(1)


class _Peer:
    """A host on the fabric with the address `pa`, and a customer's machine on it: `namespace`, with `ca` (and prefix length) and `mac`."""

    def __init__(self, fabric, pa, ca, mac):
        self.fabric, self.pa, self.mac = fabric, str(ipaddress.ip_interface(pa).ip), mac
        self.ca = str(ipaddress.ip_interface(ca).ip)
        self.namespace = net.Namespace()
        self.run = self.namespace.run
        self.wire = fabric.wire(pa, self.namespace)

    def _address(self, device, pa):
        gateway = self.fabric.gateway(pa)
        self.run(f"ip addr add {pa} dev {device}; ip link set {device} up; ip route add default via {gateway}")

    def _customer(self, device, ca):
        self.run(f"ip link set {device} address {self.mac} mtu 1400 up; ip addr add {ca} dev {device}")


class KernelVxlan(_Peer):
    """Linux itself. All it sends goes to the one provider address `remote`."""

    def __init__(self, fabric, pa, ca, mac, vni, remote):
        super().__init__(fabric, pa, ca, mac)
        self._address(self.wire, pa)
        # What the kernel would leave to a tunnel's hardware, a packet socket at the other end of a veth pair could not describe.
        self.run(f"ip link add vx type vxlan id {vni} local {self.pa} remote {remote} dstport 4789")
        self.run("ethtool -K vx tso off gso off 2>/dev/null; true")
        self._customer("vx", ca)


class _Ovs:
    """OVS in a private directory, inside `namespace`; `settings`: other_config of the whole."""

    def _start(self, namespace, *settings, programs=("/usr/lib/openvswitch-switch/ovs-vswitchd", "ovs-vswitchd")):
        self.directory = d = host.work() / f"ovs-tunnel{next(_serial)}"
        d.mkdir()
        self._env = env = {**os.environ, "OVS_RUNDIR": str(d), "OVS_LOGDIR": str(d), "OVS_DBDIR": str(d)}
        sh("ovsdb-tool", "create", d / "db", "/usr/share/openvswitch/vswitch.ovsschema", env=env)
        log = open(d / "log", "w")
        self._database = host.spawn(["ovsdb-server", d / "db", f"--remote=punix:{d}/db.sock", f"--unixctl={d}/db.ctl"], env=env, stdout=log, stderr=log)
        host.until("ovsdb-server", (d / "db.sock").exists)
        self.vsctl("--no-wait", "init")
        for setting in settings:
            self.vsctl("--no-wait", "set", "Open_vSwitch", ".", f"other_config:{setting}")
        program = next((one for one in programs if Path(one).exists()), programs[-1])
        self.process = host.spawn(["ip", "netns", "exec", namespace.name, program, f"unix:{d}/db.sock", f"--unixctl={d}/ctl", f"--log-file={d}/vswitchd.log"],
                                  env=env, stdout=log, stderr=log)

    def vsctl(self, *args):
        """ovs-vsctl against this instance."""
        return sh("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *args, env=self._env, timeout=60)

    def ofctl(self, command, *args):
        """ovs-ofctl against the bridge with the tunnel."""
        return sh("ovs-ofctl", command, f"unix:{self.directory}/br-int.mgmt", *args, env=self._env, timeout=60)

    def appctl(self, *args):
        """ovs-appctl against this instance."""
        return sh("ovs-appctl", f"--target={self.directory}/ctl", *args, timeout=60)

    def close(self):
        """Stop both processes."""
        host.stop(self.process)
        host.stop(self._database)


class OvsTunnel(_Peer, _Ovs):
    """OVS without the kernel's data path. `kind`: vxlan or gre; `key`: what stands in the tunnel's header."""

    def __init__(self, fabric, pa, ca, mac, kind, key, remote):
        super().__init__(fabric, pa, ca, mac)
        host.need("openvswitch-switch")
        self._start(self.namespace)
        self.vsctl("--timeout=30", "add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev", "--", "add-port", "br-phy", self.wire)
        self._address("br-phy", pa)
        self.vsctl("--timeout=30", "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev",
                   "--", "add-port", "br-int", "tun", "--", "set", "interface", "tun", f"type={kind}", f"options:remote_ip={remote}", "options:key=flow",
                   "ofport_request=1", "--", "add-port", "br-int", "machine", "--", "set", "interface", "machine", "type=internal", "ofport_request=2")
        self.ofctl("del-flows")
        self.ofctl("add-flow", f"in_port=2,actions=set_field:{key:#x}->tun_id,output:1")
        self.ofctl("add-flow", "in_port=1,actions=output:2")
        self._customer("machine", ca)


class OvsDpdk(_Ovs):
    """OVS with the DPDK data path, one PMD on CPU 1: a guest port at one end and a tunnel at the other. `wire` is an Ethernet interface in
    `namespace`, by DPDK's AF_PACKET or AF_XDP driver (`driver`: packet or xdp)."""

    DRIVERS = {"packet": "net_af_packet{serial},iface={wire},blocksz=65536,framesz=2048,framecnt=8192,qdisc_bypass=1",
               "xdp": "net_af_xdp{serial},iface={wire}"}

    def __init__(self, namespace, wire, pa, remote, kind, key, driver="packet"):
        parts = ("librte-mempool-ring23", "librte-net-vhost23", "librte-net-af-packet23", "librte-net-af-xdp23")
        host.need("openvswitch-switch-dpdk", *(parts if host.release() == "bookworm" else ("dpdk-dev",)))
        net.hugepages(2 * 512 + 256)
        self._start(namespace, "dpdk-init=true", "dpdk-socket-mem=1024", "pmd-cpu-mask=0x2", "dpdk-lcore-mask=0x1",
                    "dpdk-extra=--in-memory --no-pci", programs=("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk",))
        arguments = self.DRIVERS[driver].format(serial=next(_serial), wire=wire)
        self.vsctl("--timeout=60", "add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev",
                   "--", "add-port", "br-phy", "wire0", "--", "set", "interface", "wire0", "type=dpdk", f"options:dpdk-devargs={arguments}")
        namespace.run(f"ip addr add {pa} dev br-phy; ip link set br-phy up")
        self.vsctl("--timeout=30", "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev",
                   "--", "add-port", "br-int", "tun", "--", "set", "interface", "tun", f"type={kind}", f"options:remote_ip={remote}", f"options:key={key}")

    def port(self, path):
        """A guest port that connects to the front end listening on `path`."""
        self.vsctl("--timeout=30", "add-port", "br-int", "guest", "--", "set", "interface", "guest", "type=dpdkvhostuserclient",
                   f"options:vhost-server-path={path}")
