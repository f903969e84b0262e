"""The guests' kernel, initramfs and QEMU versions, built once into the cache and used by every run.

Nothing of it is installed: kernel and the second QEMU are unpacked packages, so the machine boots and works as before.
"""
import glob, hashlib, os, re, shutil, subprocess
from pathlib import Path
from . import host
from .host import LAB, LabError, sh

MODULES = ["virtio_pci", "virtio_console", "virtio_net", "8021q", "irqbypass", "kvm-amd"]
_LATE = {"kvm-amd", "kvm", "irqbypass"}  # loaded by hand where nested guests are wanted
_INIT = Path(__file__).with_name("guest-init")


def kernel():
    """(path of vmlinuz, module directory) of Debian's cloud kernel."""
    # One already unpacked serves even when the archive has moved on.
    for vmlinuz in sorted(LAB.glob("kernel-*/boot/vmlinuz-*-cloud-*")):
        if (vmlinuz.parents[1] / "complete").exists():
            return _kernel_paths(vmlinuz)
    host.need("kmod")
    arch = sh("dpkg", "--print-architecture").strip()
    meta = f"linux-image-cloud-{arch}"
    if not sh("apt-cache", "show", meta, check=False).strip():
        host._update()
    match = re.search(r"^ *Depends: (linux-image-\S+-cloud-\S+)", sh("apt-cache", "depends", meta), re.M)
    if not match:
        raise LabError(f"the package {meta} is not in apt's sources; add Debian's main archive")
    base = host.unpack(f"kernel-{match[1]}", [match[1]])
    return _kernel_paths(next(base.glob("boot/vmlinuz-*")))


def _kernel_paths(vmlinuz):
    version = vmlinuz.name.removeprefix("vmlinuz-")
    base = vmlinuz.parents[1]
    for root in (base, base / "usr"):
        modules = root / "lib/modules" / version
        if modules.exists():
            if not (modules / "modules.dep").exists():
                sh("depmod", "-b", root, version)
            return vmlinuz, modules
    raise LabError(f"no modules of kernel {version} under {base}")


def _module_files(modules, names=MODULES):
    """Paths below `modules` of those drivers and what they need, in insmod order."""
    deps = dict(line.split(":", 1) for line in (modules / "modules.dep").read_text().splitlines())
    by_name = {Path(p).name.split(".ko")[0].replace("-", "_"): p for p in deps}
    order = []

    def add(path):
        for d in deps[path].split():
            add(d)
        if path not in order:
            order.append(path)

    for name in names:
        if path := by_name.get(name.replace("-", "_")):  # absent: built into the kernel
            add(path)
    return order


def add_modules(names, target):
    """Copy drivers and what they need into the directory `target`; their file names in insmod order."""
    _, modules = kernel()
    order = []
    for path in _module_files(modules, names):
        name = Path(path).name
        shutil.copy(modules / path, target / name)
        if name.endswith(".xz"):
            sh("xz", "-d", target / name)
            name = name[:-3]
        order.append(name)
    return order


def add_libraries(binary, root):
    """Copy the libraries that a program needs to their places below `root`."""
    for path in re.findall(r"(?:=> )?(/\S+) \(0x", sh("ldd", binary, check=False)):
        target = root / path.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(path), target)


def pack(root, image):
    """Write the tree `root` as a compressed initramfs."""
    part = Path(f"{image}.{os.getpid()}")
    subprocess.run(f"find . -print0 | cpio --quiet -0 -o -H newc -R 0:0 | gzip -1 > '{part}'", shell=True, cwd=root, check=True)
    part.rename(image)


def initramfs():
    """Path of the guests' initramfs: busybox, iperf3, ethtool and the drivers, about 8 MB."""
    host.need("busybox-static", "iperf3", "ethtool", "cpio", "gzip")
    vmlinuz, modules = kernel()
    versions = sh("dpkg-query", "-W", "busybox-static", "iperf3", "ethtool", "libc6")
    tag = hashlib.sha256(f"{vmlinuz}{versions}".encode() + _INIT.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    image = LAB / f"initramfs-{tag}.gz"
    if image.exists():
        return image
    host.say("lab: building the guests' initramfs")
    for old in glob.glob(f"{LAB}/initramfs-*.gz"):
        os.unlink(old)
    root = host.work() / "initramfs"
    for d in ("bin", "modules", "proc", "sys", "dev", "tmp", "root"):
        (root / d).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for applet in sh("/bin/busybox", "--list").split():
        if applet != "busybox":  # a link to itself would be a loop
            (root / "bin" / applet).symlink_to("busybox")
    for tool in ("iperf3", "ethtool"):
        binary = shutil.which(tool)
        (root / "bin" / tool).unlink(missing_ok=True)
        shutil.copy(binary, root / "bin" / tool)
        add_libraries(binary, root)
    order = [name for name in add_modules(MODULES, root / "modules") if name.split(".ko")[0] not in _LATE]
    (root / "modules/order").write_text("\n".join(order) + "\n")
    shutil.copy(_INIT, root / "init")
    (root / "init").chmod(0o755)
    pack(root, image)
    shutil.rmtree(root)
    return image


def with_tools(*binaries):
    """Path of an initramfs of this run that also has these programs in /bin, with their libraries."""
    image = host.work() / f"initramfs-{'-'.join(Path(b).name for b in binaries)}.gz"
    if not image.exists():
        root = host.work() / "tools"
        (root / "bin").mkdir(parents=True)
        for binary in binaries:
            shutil.copy(binary, root / "bin")
            add_libraries(binary, root)
        more = host.work() / "tools.gz"
        pack(root, more)
        # The kernel unpacks archives that follow each other one after the other.
        part = Path(f"{image}.part")
        part.write_bytes(initramfs().read_bytes() + more.read_bytes())
        part.rename(image)
        shutil.rmtree(root)
    return image


class Qemu:
    """One QEMU binary: `path`, `version` as (major, minor)."""

    def __init__(self, path):
        self.path = Path(path)
        match = re.search(r"version (\d+)\.(\d+)", sh(path, "--version"))
        self.version = (int(match[1]), int(match[2]))

    def __str__(self):
        return "QEMU %d.%d" % self.version


_PARTS = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"]
_qemus = {}


def qemu(major=None):
    """The machine's own QEMU, or with `major` that version: Debian 12 has 7, its backports 10. LabError if it cannot be had."""
    if major not in _qemus:
        _qemus[major] = _find_qemu(major)
    return _qemus[major]


def _find_qemu(major):
    own = Path("/usr/bin/qemu-system-x86_64")
    if major is None or not own.exists():
        host.need("qemu-system-x86")
    found = Qemu(own)
    if major in (None, found.version[0]):
        return found
    suite = {7: "bookworm", 10: "bookworm-backports"}.get(major)
    if suite is None or not host.release() == "bookworm":
        raise LabError(f"no QEMU {major} for Debian {host.release()}; it has {found}")
    base = host.unpack(f"qemu-{major}", _PARTS, [*host.private_apt(suite), "-t", suite])
    binary = base / "usr/bin/qemu-system-x86_64"
    missing = re.findall(r"(\S+) => not found", sh("ldd", binary))
    if missing:
        raise LabError(f"QEMU {major} needs the libraries {' '.join(missing)}")
    return Qemu(binary)
