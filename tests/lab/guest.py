"""One real guest: Debian's cloud kernel under QEMU, with a virtio-net card of vhost-user or TAP, and a shell channel into it.

KVM is used only where a guest has really booted under it; elsewhere QEMU translates (TCG), about 8 s from start to shell.
"""
import base64, itertools, json, os, re, signal, socket, subprocess, threading, time
from pathlib import Path
from . import host, image
from .host import LAB, LabError

_serial, _jobs = itertools.count(1), itertools.count(1)


class Result:
    """What a command in a guest said (`out`) and its exit code (`rc`)."""

    def __init__(self, rc, out):
        self.rc, self.out = rc, out


class Guest:
    """A running QEMU guest.

    `socket` (vhost-user) or `tap` (name of an existing TAP) says where its card is. `server`: QEMU listens on the socket and the
    switch connects; else QEMU connects, and with `reconnect` tries again for ever. `queues`: pairs. `host_mtu`: offered MTU.
    `device`: further properties of the card, such as `csum=off,guest_csum=off`. `incoming`: path of a UNIX socket on which QEMU waits for
    a migrating guest instead of booting one. `nice`: QEMU's, where figures must not depend on what else runs. Returns from the constructor at once; `ready()` waits, or for an incoming one `attach()`.
    """

    def __init__(self, name, ip, *, socket=None, tap=None, mac=None, server=False, reconnect=True, queues=1, host_mtu=None, mtu=None,
                 device="", qemu=None, smp=1, memory=192, extra=(), append="", accel=None, initrd=None, incoming=None, nice=0):
        self.name, self.ip, self.number = name, ip.split("/")[0], next(_serial)
        self.mac = mac or f"52:54:00:00:{self.number >> 8:02x}:{self.number & 255:02x}"
        self.qemu = qemu or image.qemu()
        vmlinuz, _ = image.kernel()
        base = host.work() / f"g{self.number}"
        base.mkdir(exist_ok=True)
        self.console, self._chan_path, self._qmp_path = base / "console", base / "cmd", base / "qmp"
        if accel is None:
            accel = "kvm" if kvm_works() else "tcg,thread=multi"
        argv = [self.qemu.path, "-nodefaults", "-no-user-config", "-display", "none", "-accel", accel, "-cpu", "max" if "tcg" in accel else "host",
                "-machine", "q35,memory-backend=mem,hpet=off", "-object", f"memory-backend-memfd,id=mem,size={memory}M,share=on", "-m", f"{memory}M",
                "-smp", str(smp), "-kernel", vmlinuz, "-initrd", initrd or image.initramfs(),
                "-append", f"console=ttyS0 quiet panic=-1 net.ifnames=0 turnpike.ip={ip} {f'turnpike.mtu={mtu}' if mtu else ''} {append}",
                "-serial", f"file:{self.console}", "-device", "virtio-serial-pci,max_ports=2",
                "-chardev", f"socket,id=cmd,path={self._chan_path},server=on,wait=off", "-device", "virtserialport,chardev=cmd,nr=1",
                "-qmp", f"unix:{self._qmp_path},server=on,wait=off"]
        card = f"virtio-net-pci,netdev=n0,mac={self.mac},romfile="
        if socket:
            again = "" if server or not reconnect else (",reconnect-ms=100" if self.qemu.version >= (9, 2) else ",reconnect=1")
            role = ",server=on,wait=off" if server else again
            argv += ["-chardev", f"socket,id=net,path={socket}{role}", "-netdev", f"vhost-user,id=n0,chardev=net,queues={queues}"]
        elif tap:
            many = f",queues={queues}" if queues > 1 else ""
            argv += ["-netdev", f"tap,id=n0,ifname={tap},script=no,downscript=no,vnet_hdr=on{many}"]
        if socket and accel.startswith("tcg") and self.qemu.version < (10, 0):
            # QEMU 7.2 without KVM dies in its own MSI-X set-up of a vhost-user card (no irqfd table); 10.0 does not.
            card += ",vectors=0" + (",mq=on" if queues > 1 else "")
        elif queues > 1:
            card += f",mq=on,vectors={2 * queues + 2}"
        if incoming:
            argv += ["-incoming", f"unix:{incoming}"]
        if host_mtu:
            card += f",host_mtu={host_mtu}"
        if socket or tap:
            argv += ["-device", card + (f",{device}" if device else "")]
        self._log = open(base / "qemu.log", "w+")
        first = ["nice", "-n", str(nice)] if nice else []
        self.process = host.spawn([*first, *argv, *extra], stdout=self._log, stderr=subprocess.STDOUT)
        self._chan = self._qmp = None
        self.events = []  # of QMP, as they come in beside answers
        self._buffer, self._ids, self._lock = b"", itertools.count(1), threading.Lock()

    # --- life --------------------------------------------------------------------------------------------------------------------
    def ready(self, timeout=120):
        """Wait until the guest's shell answers. Returns the guest."""
        self._connect(timeout)
        self._until("ready", timeout)
        return self

    def attach(self, timeout=30):
        """Open the channel of a guest that is still to come: were nobody there when it comes, its shell would see the end of the line."""
        self._connect(timeout)
        host.until(f"QEMU of {self.name} to await a guest", lambda: self.qmp("query-status")["status"] == "inmigrate", timeout)
        return self

    def _connect(self, timeout):
        end = time.monotonic() + timeout
        while True:
            if self.process.poll() is not None:
                raise LabError(f"guest {self.name}: QEMU ended with {self.process.returncode}: {self.log()}")
            try:
                self._chan = socket.socket(socket.AF_UNIX)
                self._chan.connect(str(self._chan_path))
                return
            except OSError:
                if time.monotonic() > end:
                    raise LabError(f"guest {self.name}: QEMU did not open its command channel in {timeout} s: {self.log()}")
                time.sleep(0.05)

    def log(self):
        """The end of what QEMU and the guest's console have said."""
        self._log.flush()
        said = Path(self._log.name).read_text(errors="replace")[-600:]
        console = self.console.read_text(errors="replace")[-600:] if self.console.exists() else ""
        return f"{said}\n[console] {console}".strip()

    def kill(self):
        """SIGKILL QEMU, as a crash of the hypervisor would."""
        self.process.kill()
        self.process.wait()

    def close(self):
        """Stop QEMU."""
        host.stop(self.process)

    def freeze(self):
        """Stop the whole QEMU process (SIGSTOP): nothing of it runs, and no message is sent."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        """Let a frozen QEMU run again."""
        self.process.send_signal(signal.SIGCONT)

    def reset(self, timeout=120):
        """Reset button: the guest reboots, QEMU and its sockets stay. Waits until the shell answers again."""
        with self._lock:
            self._buffer = b""
        self.qmp("system_reset")
        self._until("ready", timeout)

    def qmp(self, command, **arguments):
        """One QMP command, its answer."""
        if self._qmp is None:
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(20)
            s.connect(str(self._qmp_path))
            self._qmp = s.makefile("rw")
            self._qmp.readline()
            self.qmp("qmp_capabilities")
        self._qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._qmp.flush()
        while True:
            answer = json.loads(self._qmp.readline() or '{"error": "QMP closed"}')
            if "error" in answer:
                raise LabError(f"guest {self.name}: {command}: {answer['error']}")
            if "return" in answer:
                return answer["return"]
            if "event" in answer:
                self.events.append(answer)

    # --- commands ----------------------------------------------------------------------------------------------------------------
    def _until(self, ident, timeout, on_line=None):
        end = re.compile(rb"\n?<<" + ident.encode() + rb":(\d+)>>\r?\n")
        deadline, told = time.monotonic() + timeout, 0
        while True:
            match = end.search(self._buffer)
            upto = match.start() if match else self._buffer.rfind(b"\n") + 1
            if on_line and upto > told:
                for line in self._buffer[told:upto].decode(errors="replace").splitlines():
                    on_line(line)
                told = upto
            if match:
                out, self._buffer = self._buffer[: match.start()], self._buffer[match.end():]
                return Result(int(match[1]), out.decode(errors="replace").replace("\r\n", "\n"))
            left = deadline - time.monotonic()
            if left <= 0:
                raise LabError(f"guest {self.name}: no answer in {timeout} s; so far: {self._buffer[-400:]!r}; {self.log()}")
            self._chan.settimeout(left)
            try:
                data = self._chan.recv(65536)
            except TimeoutError:
                continue
            except ConnectionError:  # QEMU died in the middle of a word
                data = b""
            if not data:
                raise LabError(f"guest {self.name}: QEMU went away: {self.log()}")
            self._buffer += data

    def run(self, command, *, timeout=30, check=True, on_line=None):
        """Run a shell command in the guest; with `check` a failure is a LabError. `on_line` sees the output as it comes."""
        with self._lock:
            ident = f"c{next(self._ids)}"
            try:
                self._chan.sendall(f"{ident} {base64.b64encode(command.encode()).decode()}\n".encode())
            except ConnectionError:
                raise LabError(f"guest {self.name}: QEMU is gone, so `{command}` could not run: {self.log()}") from None
            result = self._until(ident, timeout, on_line)
        if check and result.rc:
            raise LabError(f"guest {self.name}: `{command}` failed ({result.rc}): {result.out.strip()[-600:]}")
        return result

    def start(self, command):
        """Run a shell command in the background of the guest."""
        return Job(self, f"/tmp/job{next(_jobs)}", command)


class Job:
    """A command running in the background of a guest; `guest` may be anything that runs commands there."""

    def __init__(self, guest, path, command):
        self.guest, self.path, self.command = guest, path, command
        # A session of its own, so that the whole job can be ended.
        guest.run(f"cat >{path}.sh <<'END_OF_JOB'\n{command}\nEND_OF_JOB\n"
                  f"setsid sh -c 'sh {path}.sh >{path} 2>&1 </dev/null; echo $? >{path}.rc' >/dev/null 2>&1 & echo $! >{path}.pid")

    def output(self):
        """What it has said so far."""
        return self.guest.run(f"cat {self.path}").out

    def ended(self):
        """Whether it has."""
        return self.guest.run(f"test -s {self.path}.rc", check=False).rc == 0

    def wait(self, timeout=60):
        """Wait for its end."""
        host.until(f"`{self.command}` in guest {self.guest.name}", self.ended, timeout, 0.2)
        return Result(int(self.guest.run(f"cat {self.path}.rc").out), self.output())

    def stop(self):
        """End it and return its output."""
        self.guest.run(f"kill -TERM -- -$(cat {self.path}.pid) 2>/dev/null", check=False)
        time.sleep(0.3)
        return self.output()


def kvm_works():
    """Does a guest boot under KVM here? Tried once per boot of this machine: the device may exist and still not run a guest."""
    mode = os.environ.get("TURNPIKE_ACCEL")
    if mode:
        return mode == "kvm"
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = LAB / "kvm"
    if known.exists() and known.read_text().startswith(boot):
        return known.read_text().endswith("yes")
    host.say("lab: does KVM work here? (at most 10 s)")
    guest = Guest("kvm-probe", "10.255.0.1/24", accel="kvm")
    try:
        guest.ready(10)
        works = True
    except LabError:
        works = False
    guest.kill()
    known.write_text(f"{boot} {'yes' if works else 'no'}")
    return works


def boot(*guests):
    """Wait for several guests that boot side by side."""
    for g in guests:
        g.ready()
    return guests
