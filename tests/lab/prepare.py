"""Fills the lab's cache before the tests: packages, kernel, initramfs, the second QEMU. Missing extras only cost their own tests.

`prepare.py guests` stops after what two guests need, `prepare.py migration` after what a move needs.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import guest, host, image, testpmd  # noqa: E402

host.arm()
image.initramfs()
host.say(f"lab: {image.qemu()}, guests under {'KVM' if guest.kvm_works() else 'TCG'}")
other = ("the other QEMU", lambda: image.qemu(7 if image.qemu().version[0] >= 10 else 10))
extras = {"guests": (), "migration": (other,)}.get(" ".join(sys.argv[1:]), (other, ("DPDK", testpmd.packages)))
for what, action in extras:
    try:
        action()
    except host.LabError as e:
        host.say(f"lab: without {what}: {e}")
