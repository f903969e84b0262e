"""cloud-hypervisor where KVM does not work: inside a QEMU guest, whose emulated AMD CPU has a virtualization of its own.

The outer guest carries programs, kernel and initramfs of the inner ones in a second initramfs.
"""
import base64, os, shutil
from pathlib import Path
from . import fleet, guest, host, image
from .suite import Skip, must

_KVM = "insmod /modules/irqbypass.ko; insmod /modules/kvm.ko; insmod /modules/kvm-amd.ko || insmod /modules/kvm-intel.ko"
_INNER = """
mkdir -p /run/t; cd /run/t
turnpike serve --api /run/t/api --state-dir none >turnpike.log 2>&1 &
n=0; until grep -q 'turnpike ready' turnpike.log; do n=$((n + 1)); [ $n -gt 100 ] && { cat turnpike.log; exit 1; }; sleep 0.1; done
for n in 1 2; do
    turnpike --api /run/t/api port add p$n --socket /run/t/p$n.sock --mac 52:54:00:cc:00:0$n || exit 1
    eval run=\\$RUN$n
    cloud-hypervisor --seccomp false --kernel /lab/vmlinuz --initramfs /lab/initramfs --cpus boot=1 --memory size=256M,shared=on \\
        --net vhost_user=true,socket=/run/t/p$n.sock,num_queues=2,mac=52:54:00:cc:00:0$n --console off --serial file=/run/t/console$n \\
        --cmdline "console=ttyS0 quiet panic=-1 net.ifnames=0 turnpike.ip=10.0.1.$n/24 turnpike.run=$run" >ch$n.log 2>&1 &
    pid=$!
done
n=0; until grep -q '<<run:' console1 2>/dev/null; do n=$((n + 1)); [ $n -gt 240 ] && break; kill -0 $pid 2>/dev/null || break; sleep 1; done
cat console1 | tail -n 40; tail -n 5 ch1.log ch2.log turnpike.log
"""


def binary():
    """Path of the cloud-hypervisor that $CLOUD_HYPERVISOR names, or Skip."""
    path = os.environ.get("CLOUD_HYPERVISOR")
    if not path:
        raise Skip("$CLOUD_HYPERVISOR names no cloud-hypervisor binary")
    if not Path(path).is_file():
        raise Skip(f"$CLOUD_HYPERVISOR={path} is not a file")
    return Path(path)


def outer(name, programs, files, modules=()):
    """The outer guest, ready, with KVM. `programs` ({name: path, or None for the machine's own}) are in its /bin, `files` in /lab; `modules` are loaded too."""
    root = host.work() / f"{name}-root"
    for d in ("bin", "lab", "modules", "run", "var/run"):
        (root / d).mkdir(parents=True)
    for program, source in programs.items():
        target = root / "bin" / program
        shutil.copy(source or shutil.which(program), target)
        target.chmod(0o755)
        host.sh("strip", "-g", target, check=False)
        image.add_libraries(target, root)
    for file, source in files.items():
        shutil.copy(source, root / "lab" / file)
    load = [_KVM, *(f"insmod /modules/{file}" for file in image.add_modules(modules, root / "modules"))]
    extra = host.work() / f"{name}.gz"
    image.pack(root, extra)
    shutil.rmtree(root)
    both = host.work() / f"{name}-initramfs.gz"
    both.write_bytes(image.initramfs().read_bytes() + extra.read_bytes())
    extra.unlink()
    g = guest.Guest(name, "10.255.0.2/24", memory=2048, smp=2, initrd=both, accel="tcg,thread=multi", nice=fleet.AHEAD)
    try:
        g.ready()
        g.run("\n".join(load))
    except Exception:
        g.close()
        raise
    return g


def two_guests(hypervisor, turnpike):
    """Two cloud-hypervisor guests on one switch ping and stream; returns a note."""
    runs = ("sleep 5; ping -c 5 -i 0.5 10.0.1.2 && iperf3 -c 10.0.1.2 -t 3 -f m && iperf3 -c 10.0.1.2 -t 3 -f m -R", "sleep 600")
    variables = "".join(f"RUN{n}={base64.b64encode(r.encode()).decode()}\n" for n, r in enumerate(runs, 1))
    g = outer("nested", {"cloud-hypervisor": hypervisor, "turnpike": turnpike}, {"vmlinuz": image.kernel()[0], "initramfs": image.initramfs()})
    try:
        out = g.run(variables + _INNER, timeout=300, check=False).out
    finally:
        g.close()
    must("<<run:0>>" in out, f"the inner guests did not talk: {out[-1500:]}")
    return "ping and iperf3 between two guests"
