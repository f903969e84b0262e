"""The peers and the far ends: Linux bridge with TAPs, network namespaces, OVS with its DPDK data path. All removed at the end."""
import ctypes, itertools, os, socket, struct, subprocess, time
from pathlib import Path
from . import host
from .guest import Result
from .host import LabError, sh

_serial = itertools.count(1)


def _name(kind):
    return f"tpk{os.getpid() % 100000:05d}{kind}{next(_serial)}"  # at most 15 characters


def _delete_link(name):
    sh("ip", "link", "del", name, check=False)


class Bridge:
    """A Linux bridge; `tap()` adds ports for QEMU."""

    def __init__(self):
        self.name = _name("b")
        sh("ip", "link", "add", self.name, "type", "bridge")
        host.at_exit(_delete_link, self.name)
        Path(f"/proc/sys/net/ipv6/conf/{self.name}/disable_ipv6").write_text("1")
        sh("ip", "link", "set", self.name, "up")

    def tap(self):
        """A new TAP with offloads on this bridge; its name."""
        tap = _name("t")
        sh("ip", "tuntap", "add", tap, "mode", "tap", "vnet_hdr")
        host.at_exit(_delete_link, tap)
        Path(f"/proc/sys/net/ipv6/conf/{tap}/disable_ipv6").write_text("1")
        sh("ip", "link", "set", tap, "master", self.name, "up")
        return tap


class Namespace:
    """A network namespace that runs commands as a guest does (`run`), so that iperf3 and ping work on both."""

    def __init__(self):
        self.name = _name("n")
        sh("ip", "netns", "add", self.name)
        host.at_exit(lambda: sh("ip", "netns", "del", self.name, check=False))
        self.run("ip link set lo up")

    def veth(self, address, outside=None):
        """A veth pair, `eth0` with `address` inside; returns the name of its end outside."""
        outside = outside or _name("v")
        sh("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        host.at_exit(_delete_link, outside)
        Path(f"/proc/sys/net/ipv6/conf/{outside}/disable_ipv6").write_text("1")
        sh("ip", "link", "set", outside, "up")
        self.run(f"ip addr add {address} dev eth0; ip link set eth0 up")
        return outside

    def run(self, command, *, timeout=30, check=True, on_line=None):
        """Run a shell command inside."""
        argv = ["ip", "netns", "exec", self.name, "sh", "-c", command]
        r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
        if on_line:
            for line in r.stdout.splitlines():
                on_line(line)
        if check and r.returncode:
            raise LabError(f"namespace {self.name}: `{command}` failed ({r.returncode}): {r.stdout.strip()[-600:]}")
        return Result(r.returncode, r.stdout)

    def serve_iperf(self):
        """An iperf3 server inside, until the end."""
        p = host.spawn(["ip", "netns", "exec", self.name, "iperf3", "-s"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        return p


def hugepages(count):
    """At least `count` 2 MB huge pages; what was there before is restored at the end."""
    knob = Path("/proc/sys/vm/nr_hugepages")
    before = int(knob.read_text())
    if before >= count:
        return
    host.at_exit(knob.write_text, str(before))
    knob.write_text(str(count))
    got = int(knob.read_text())
    if got < count:
        Path("/proc/sys/vm/compact_memory").write_text("1")
        knob.write_text(str(count))
        got = int(knob.read_text())
    if got < count:
        raise LabError(f"the kernel gave {got} of {count} huge pages; free some memory")


class Ovs:
    """OVS with the DPDK data path in a private directory, beside whatever the system runs: NORMAL (learning), one PMD on CPU 1."""

    def __init__(self, tso=False):
        host.need("openvswitch-switch-dpdk", "librte-mempool-ring23", "librte-net-vhost23" if host.release() == "bookworm" else "dpdk-dev")
        hugepages(2300)
        # vswitchd leaves its TAPs behind when it is killed; those of another that runs are not ours to delete.
        if subprocess.run(["pidof", "ovs-vswitchd-dpdk", "ovs-vswitchd"], stdout=subprocess.DEVNULL).returncode == 0:
            raise LabError("another ovs-vswitchd runs on this machine; two would fight over its interfaces")
        self._delete_links()
        host.at_exit(self._delete_links)
        self.directory = d = host.work() / f"ovs{next(_serial)}"
        d.mkdir()
        env = {**os.environ, "OVS_RUNDIR": str(d), "OVS_LOGDIR": str(d), "OVS_DBDIR": str(d)}
        self._env = env
        sh("ovsdb-tool", "create", d / "db", "/usr/share/openvswitch/vswitch.ovsschema", env=env)
        log = open(d / "log", "w")
        host.spawn(["ovsdb-server", d / "db", f"--remote=punix:{d}/db.sock", f"--unixctl={d}/db.ctl"], env=env, stdout=log, stderr=log)
        host.until("ovsdb-server", (d / "db.sock").exists)
        self.vsctl("--no-wait", "init")
        self.vsctl("--no-wait", "set", "Open_vSwitch", ".", "other_config:dpdk-init=true", "other_config:dpdk-socket-mem=2560",
                   "other_config:pmd-cpu-mask=0x2", "other_config:dpdk-lcore-mask=0x1", "other_config:dpdk-extra=--in-memory --no-pci",
                   f"other_config:userspace-tso-enable={'true' if tso else 'false'}")
        # --mlockall would fail in small containers, and nothing is gained without swap.
        self.process = host.spawn(["/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", f"unix:{d}/db.sock", f"--unixctl={d}/ctl",
                                   f"--log-file={d}/vswitchd.log"], env=env, stdout=log, stderr=log)
        self.vsctl("--timeout=60", "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
        self.pid = self.process.pid

    def vsctl(self, *args):
        """ovs-vsctl against this instance."""
        return sh("ovs-vsctl", f"--db=unix:{self.directory}/db.sock", *args, env=self._env, timeout=90)

    def port(self, name, path):
        """A vhost-user port that connects to the front end listening on `path`."""
        self.vsctl("--timeout=30", "add-port", "br0", name, "--", "set", "Interface", name, "type=dpdkvhostuserclient",
                   f"options:vhost-server-path={path}")
        error = self.vsctl("get", "Interface", name, "error").strip()
        if error != "[]":
            raise LabError(f"OVS port {name}: {error}; see {self.directory}/vswitchd.log")

    def remove(self, name):
        """Remove a port."""
        self.vsctl("del-port", "br0", name)

    def appctl(self, *args):
        """ovs-appctl against this instance."""
        return sh("ovs-appctl", f"--target={self.directory}/ctl", *args, timeout=90)

    def ofctl(self, command, *args, **kw):
        """ovs-ofctl against this instance's bridge."""
        return sh("ovs-ofctl", command, f"unix:{self.directory}/br0.mgmt", *args, timeout=90, **kw)

    def close(self):
        """Stop the switch and remove its interfaces."""
        host.stop(self.process)
        self._delete_links()

    @staticmethod
    def _delete_links():
        for name in ("br0", "ovs-netdev"):
            if Path(f"/sys/class/net/{name}/tun_flags").exists():  # a bridge of that name is somebody else's
                _delete_link(name)


class ear:
    """A raw socket on an interface inside a namespace: `with ear(namespace, "eth0") as heard: … heard.wait_for(test)`."""

    def __init__(self, namespace, interface):
        with open("/proc/self/ns/net") as home, open(f"/run/netns/{namespace.name}") as there:
            _setns(there)
            try:
                self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                self._socket.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA: the tag that the kernel took off
                self._socket.bind((interface, 0))
            finally:
                _setns(home)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def say(self, frame):
        """Send a frame by the interface, tags and all."""
        self._socket.send(frame)

    def all(self, wanted, seconds=0.4):
        """All frames within this time for which `wanted(frame)` holds; what the interface itself has sent is not among them."""
        end, got = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            try:
                got.append(self.wait_for(wanted, left))
            except LabError:
                break
        return got

    def wait_for(self, wanted, timeout=3):
        """The first frame for which `wanted(frame)` holds, with its VLAN tag back in place."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                frame, extra, _, origin = self._socket.recvmsg(65536, 256)
            except TimeoutError:
                break
            for level, kind, data in extra:
                status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data[:20])
                if (level, kind) == (263, 8) and status & 16:
                    frame = frame[:12] + struct.pack("!HH", tpid if status & 64 else 0x8100, tci) + frame[12:]
            if origin[2] != socket.PACKET_OUTGOING and wanted(frame):
                return frame
        raise LabError("the frame did not come")


def _setns(file):
    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")
