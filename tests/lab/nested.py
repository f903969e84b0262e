"""cloud-hypervisor where KVM does not work: inside a QEMU guest, whose emulated AMD CPU has a virtualization of its own.

The outer guest carries the switch, cloud-hypervisor, kernel and initramfs in a second initramfs; the inner guests report on their consoles.
"""
import base64, shutil
from . import guest, host, image
from .suite import must

_INNER = """
insmod /modules/irqbypass.ko; insmod /modules/kvm.ko; insmod /modules/kvm-amd.ko || insmod /modules/kvm-intel.ko
mkdir -p /run/t; cd /run/t
/lab/turnpike serve --api /run/t/api --state-dir none >turnpike.log 2>&1 &
n=0; until grep -q 'turnpike ready' turnpike.log; do n=$((n + 1)); [ $n -gt 100 ] && { cat turnpike.log; exit 1; }; sleep 0.1; done
for n in 1 2; do
    /lab/turnpike --api /run/t/api port add p$n --socket /run/t/p$n.sock --mac 52:54:00:cc:00:0$n || exit 1
    eval run=\\$RUN$n
    /lab/cloud-hypervisor --seccomp false --kernel /lab/vmlinuz --initramfs /lab/initramfs --cpus boot=1 --memory size=256M,shared=on \\
        --net vhost_user=true,socket=/run/t/p$n.sock,num_queues=2,mac=52:54:00:cc:00:0$n --console off --serial file=/run/t/console$n \\
        --cmdline "console=ttyS0 quiet panic=-1 net.ifnames=0 turnpike.ip=10.0.1.$n/24 turnpike.run=$run" >ch$n.log 2>&1 &
    pid=$!
done
n=0; until grep -q '<<run:' console1 2>/dev/null; do n=$((n + 1)); [ $n -gt 240 ] && break; kill -0 $pid 2>/dev/null || break; sleep 1; done
cat console1 | tail -n 40; tail -n 5 ch1.log ch2.log turnpike.log
"""


def cloud_hypervisor(binary, turnpike):
    """Two cloud-hypervisor guests on one switch ping and stream; returns a note."""
    root = host.work() / "nested"
    (root / "lab").mkdir(parents=True)
    for source, name in ((binary, "cloud-hypervisor"), (turnpike, "turnpike"), (image.kernel()[0], "vmlinuz"), (image.initramfs(), "initramfs")):
        shutil.copy(source, root / "lab" / name)
    host.sh("strip", "-g", root / "lab/turnpike", check=False)
    for name in ("cloud-hypervisor", "turnpike"):
        (root / "lab" / name).chmod(0o755)
        image._add_libraries(root / "lab" / name, root)
    extra = host.work() / "nested.gz"
    image.pack(root, extra)
    both = host.work() / "nested-initramfs.gz"
    both.write_bytes(image.initramfs().read_bytes() + extra.read_bytes())
    runs = ("sleep 5; ping -c 5 -i 0.5 10.0.1.2 && iperf3 -c 10.0.1.2 -t 3 -f m && iperf3 -c 10.0.1.2 -t 3 -f m -R", "sleep 600")
    variables = "".join(f"RUN{n}={base64.b64encode(r.encode()).decode()}\n" for n, r in enumerate(runs, 1))
    g = guest.Guest("nested", "10.255.0.2/24", memory=2048, smp=2, initrd=both, accel="tcg,thread=multi")
    try:
        g.ready()
        out = g.run(variables + _INNER, timeout=300, check=False).out
    finally:
        g.close()
    must("<<run:0>>" in out, f"the inner guests did not talk: {out[-1500:]}")
    return "ping and iperf3 between two guests"
