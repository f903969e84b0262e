"""Fills the lab's cache before the tests: packages, kernel, initramfs, the second QEMU. Missing extras only cost their own tests."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lab import guest, host, image, testpmd  # noqa: E402

host.arm()
image.initramfs()
host.say(f"lab: {image.qemu()}, guests under {'KVM' if guest.kvm_works() else 'TCG'}")
for what, action in (("the other QEMU", lambda: image.qemu(7 if image.qemu().version[0] >= 10 else 10)), ("DPDK", testpmd.packages)):
    try:
        action()
    except host.LabError as e:
        host.say(f"lab: without {what}: {e}")
