"""Two hosts and a cloud-hypervisor guest that moves between them, all inside one QEMU guest: cloud-hypervisor needs KVM.

Each host is a network namespace of the outer guest with a switch of its own, as in `fleet`, and a further namespace behind a host port from
which the inner guest is probed. The inner guest has two addresses: one is probed, by the other it takes commands, so that what is
counted of the first is the probes alone. All paths that a VMM has in its configuration are relative, because the configuration moves
along as it is: every VMM has a directory of its own in which they lead to the host it is on.
"""
import base64, itertools, json, shlex
from . import guest, host, image, nested, prober, switch
from .host import LabError

MAC, IP, COMMANDS = "52:54:00:aa:01:01", "10.0.0.1", "10.0.1.1"
PEER_MAC = "52:54:00:aa:02:0{}"
MEMORY = "256M"
_serial = itertools.count(1)


class Place:
    """A network namespace of the outer guest; runs commands as a guest does. (`ip` without its path would be busybox's there.)"""

    def __init__(self, outer, name):
        self.outer, self.name = outer, name
        outer.run(f"/bin/ip netns add {name}; /bin/ip -n {name} link set lo up")

    def run(self, command, **options):
        """Run a shell command inside."""
        return self.outer.run(f"/bin/ip netns exec {self.name} sh -c {shlex.quote(command)}", **options)

    def start(self, command):
        """Run it in the background."""
        return guest.Job(self, f"/tmp/job-n{next(_serial)}", command)


class Switch(switch.Turnpike):
    """A switch in a namespace of the outer guest."""

    def __init__(self, place, *options):  # the processes are not ours, so nothing of the other's constructor applies
        self.place, self.directory = place, f"/run/{place.name}"
        place.run(f"mkdir -p {self.directory}")
        self.api = f"{self.directory}/api"
        self.job = place.start(f"exec turnpike serve --api {self.api} --state-dir {self.directory}/state {' '.join(map(str, options))}")
        host.until("turnpike to be ready", lambda: self.job.ended() or "turnpike ready" in self.job.output(), 30, 0.2)
        if self.job.ended():
            raise LabError(f"turnpike ended: {self.log()}")

    def socket(self, port):
        """Where the socket of a guest port lives."""
        return f"{self.directory}/{port}.sock"

    def log(self):
        """The end of its log."""
        return self.job.output()[-1500:]

    def cli(self, *args, check=True):
        """As of any switch."""
        r = self.place.run(shlex.join(["turnpike", "--api", self.api, "--json", *map(str, args)]), check=False)
        if not check:
            return r.rc, r.out
        if r.rc:
            raise LabError(f"`turnpike {' '.join(map(str, args))}` failed ({r.rc}): {r.out.strip()}")
        return json.loads(r.out) if r.out.strip() else None

    def events(self, *codes):
        """Its events of these kinds about the guest's port, oldest first."""
        rows = [json.loads(line) for line in self.cli("events", check=False)[1].splitlines() if line.startswith("{")]
        return [r for r in rows if r.get("port") == "guest" and r.get("kind") in codes]


class Host:
    """One host: `switch`, `peer` (the namespace behind its host port) and that one's `address`."""

    def __init__(self, outer, number, options):
        self.name, self.address = f"host{number}", f"10.0.0.{50 + number}"
        self.place, self.peer = Place(outer, self.name), Place(outer, f"peer{number}")
        wire, tap = f"wire{number}", f"tap{number}"
        outer.run(f"/bin/ip link set {wire} netns {self.name}")
        self.place.run(f"echo 1 >/proc/sys/net/ipv6/conf/{wire}/disable_ipv6; /bin/ip link set {wire} up")
        self.switch = Switch(self.place, "--host-id", self.name, *options)
        self.switch.cli("uplink", "add", "wire", "--device", wire)
        self.switch.cli("port", "add", "peer", "--tap", tap, "--mac", PEER_MAC.format(number))
        self.place.run(f"/bin/ip link set {tap} netns {self.peer.name}")
        self.peer.run(f"echo 1 >/proc/sys/net/ipv6/conf/{tap}/disable_ipv6; /bin/ip addr add {self.address}/24 dev {tap}; "
                      f"/bin/ip addr add 10.0.1.{50 + number}/24 dev {tap}; /bin/ip link set {tap} up; "
                      # A guest that does not run for ten seconds would be forgotten, and datagrams for it dropped right here.
                      f"for a in {IP} {COMMANDS}; do /bin/ip neigh replace $a lladdr {MAC} dev {tap} nud permanent; done")
        self.socket = self.switch.port("guest", "--mac", MAC)


class Vmm:
    """A cloud-hypervisor at a host; without `boot` it waits for a guest."""

    def __init__(self, at, boot=()):
        self.directory, self.at = f"/run/vmm{next(_serial)}", at
        at.place.run(f"mkdir {self.directory}; ln -s {at.socket} {self.directory}/card")
        # A guest that boots anew begins a new console.
        self.job = at.place.start(f"cd {self.directory}; tail -F -n +1 console >consoles 2>/dev/null & echo $$ >{self.directory}/pid\n"
                                  f"cd {self.directory}; exec cloud-hypervisor --seccomp false -v --api-socket path=api {shlex.join(boot)}")
        host.until("cloud-hypervisor to answer", lambda: at.place.run(f"test -S {self.directory}/api", check=False).rc == 0, 30, 0.2)

    def remote(self, *words, check=True, timeout=60):
        """One command to it."""
        return self.at.place.run(f"cd {self.directory}; ch-remote --api-socket api {shlex.join(words)}", check=check, timeout=timeout)

    def begin(self, *words):
        """A command that takes a while."""
        return self.at.place.start(f"cd {self.directory}; exec ch-remote --api-socket api {shlex.join(words)}")

    def state(self):
        """What it says of its guest: `Running`, `Paused`, or None if it has none."""
        r = self.remote("info", check=False)
        return json.loads(r.out)["state"] if r.rc == 0 else None

    def signal(self, name):
        """Send it a signal."""
        self.at.place.run(f"kill -{name} $(cat {self.directory}/pid)")

    def ended(self):
        """Whether it has."""
        return self.job.ended()

    def log(self):
        """The end of what it and its guest's console have said."""
        return self.at.place.run(f"tail -c 1500 {self.job.path}; echo '[console]'; tail -c 900 {self.directory}/consoles", check=False).out


class Move:
    """A move under way: `waiting` is the VMM at `to`, `receiving` and `sending` the commands of the two."""

    def __init__(self, mover, to, waiting, receiving, sending):
        self.source, self.at, self.to, self.waiting, self.receiving, self.sending = mover.vmm, mover.at, to, waiting, receiving, sending

    def copied(self):
        """How often memory was copied while the guest ran."""
        return int(self.at.place.run(f"grep -c migration-memory-iteration {self.source.job.path}", check=False).out.strip())

    def begins_to_copy(self):
        """Wait until the destination has the memory's layout."""
        there = f"grep -q 'RAM region mapping' {self.waiting.job.path}"
        host.until("memory to be copied", lambda: self.to.place.run(there, check=False).rc == 0, 60, 0.1)

    def fails(self):
        """Wait until it has."""
        failed = f"grep -qi 'migration failed' {self.source.job.path} {self.sending.path}"
        host.until("the move to fail", lambda: self.at.place.run(failed, check=False).rc == 0, 120, 0.3)

    def said(self):
        """What everybody concerned said."""
        return f"{self.sending.output()} {self.receiving.output()} | source {self.source.log()} | destination {self.waiting.log()}"


class Mover:
    """The inner guest. Runs commands wherever it is."""

    def __init__(self, yard, at):
        self.yard, self.ip, self.name, self.at = yard, IP, "guest", at
        self.moved = False
        known = "; ".join(f"arp -s 10.0.{net}.{50 + n} {PEER_MAC.format(n)}" for n in (1, 2) for net in (0, 1))
        words = base64.b64encode(f"ip addr add {COMMANDS}/24 dev eth0; {known}; nc -ll -p 2323 -e sh".encode()).decode()
        self.vmm = Vmm(self.at, ["--kernel", "/lab/vmlinuz", "--initramfs", "/lab/initramfs", "--cpus", "boot=1", "--memory", f"size={MEMORY},shared=on",
                                 "--net", f"vhost_user=true,socket=card,num_queues=2,queue_size=1024,mac={MAC}", "--console", "off", "--serial", "file=console",
                                 "--cmdline", f"console=ttyS0 quiet panic=-1 no_timer_check net.ifnames=0 turnpike.ip={IP}/24 turnpike.run={words}"])
        host.until("the inner guest to answer", lambda: self.vmm.ended() or self.run("true", check=False).rc == 0, 180, 1)
        if self.vmm.ended():
            raise LabError(f"cloud-hypervisor ended: {self.vmm.log()}")

    def run(self, command, *, check=True, timeout=30):
        """Run a shell command in it, by the network."""
        script = f"echo {base64.b64encode(command.encode()).decode()} | base64 -d >/tmp/command.$$; sh /tmp/command.$$ 2>&1; echo \"<<$?>>\"; rm /tmp/command.$$"
        r = self.yard.hosts[0].peer.run(f"echo {shlex.quote(script)} | timeout {timeout} nc -w 3 {COMMANDS} 2323", check=False, timeout=timeout + 10)
        out, found, code = r.out.rstrip().rpartition("<<")
        if not found or not code.endswith(">>"):
            if check:
                raise LabError(f"the inner guest did not answer to `{command}`: {r.out.strip()[-300:]}; {self.vmm.log()}")
            return guest.Result(255, r.out)
        result = guest.Result(int(code[:-2]), out)
        if check and result.rc:
            raise LabError(f"inner guest: `{command}` failed ({result.rc}): {result.out.strip()[-600:]}")
        return result

    def start(self, command):
        """Run it in the background."""
        return guest.Job(self, f"/tmp/job-i{next(_serial)}", command)

    def other(self):
        """The host it is not on."""
        return next(h for h in self.yard.hosts if h is not self.at)

    def begin(self, local=False, options=""):
        """Begin to move to the other host, or with `local` to another VMM on the same; how that goes is for `Move` to say."""
        to = self.at if local else self.other()
        waiting = Vmm(to)
        url = f"unix:/run/move{next(_serial)}" if local else f"tcp:192.0.2.{to.name[-1]}:{4000 + next(_serial)}"
        receiving = waiting.begin("receive-migration", f"receiver_url={url}")
        there = f"test -S {url[5:]}" if local else f"ss -Hltn | grep -q :{url.rsplit(':', 1)[1]}"
        host.until("the VMM to listen", lambda: to.place.run(there, check=False).rc == 0, 30, 0.2)
        return Move(self, to, waiting, receiving, self.vmm.begin("send-migration", f"destination_url={url}{',local=on' if local else ''}{options}"))

    def move(self, local=False, options=""):
        """Move, as `begin` says. The VMM it was on has ended then. Returns how it went."""
        move = self.begin(local, options)
        try:
            if move.receiving.wait(180).rc:
                raise LabError("the move failed")
            host.until("the VMM before to end", self.vmm.ended, 30, 0.2)
        except LabError as e:
            raise LabError(f"{e}: {move.said()}") from None
        move.rounds = move.copied()
        self.vmm, self.at, self.moved = move.waiting, move.to, True
        return move

    def close(self):
        """End its VMM, and it."""
        if not self.vmm.ended():
            self.vmm.signal("KILL")
        host.until("the guest's port to wait", lambda: self.at.switch.show("guest")["state"] == "waiting", 20, 0.2)


class Yard:
    """The outer guest, its two hosts, and with `boot` the guest `mover` on one of them. `serve`: further words for both switches."""

    def __init__(self, binary, remote, turnpike, serve=()):
        self.mover = None
        tools = {"cloud-hypervisor": binary, "ch-remote": remote, "turnpike": turnpike, "prober": prober.binary(), "ip": None, "ss": None}
        initrd = image.with_tools(prober.binary())
        self.outer = nested.outer("yard", tools, {"vmlinuz": image.kernel()[0], "initramfs": initrd}, ["veth", "tun"])
        try:
            self.outer.run("umask 077; head -c 32 /dev/urandom >/run/fleet.key; "
                           "/bin/ip link add wire1 type veth peer name wire2; /bin/ip link add talk1 type veth peer name talk2")
            self.hosts = [Host(self.outer, n, ("--fleet-key", "/run/fleet.key", *serve)) for n in (1, 2)]
            for n, h in enumerate(self.hosts, 1):
                self.outer.run(f"/bin/ip link set talk{n} netns {h.name}")
                h.place.run(f"/bin/ip addr add 192.0.2.{n}/24 dev talk{n}; /bin/ip link set talk{n} up")
        except Exception:
            self.close()
            raise

    def boot(self, at):
        """Boot the guest at that host; one that is there already ends first."""
        if self.mover:
            self.mover.close()
        self.mover = Mover(self, at)
        return self.mover

    def close(self):
        """All of it goes with the outer guest."""
        self.outer.close()

