"""What the machine must have, and processes that never outlive the script.

Every child is started through `spawn`: the kernel kills it when the script dies (PR_SET_PDEATHSIG), and `at_exit` undoes the rest
(links, hugepages, directories) on every way out that Python sees: end, exception, Ctrl-C, SIGTERM, SIGHUP.
Not thread safe: start processes from the main thread only (the death signal follows the thread).
"""
import atexit, ctypes, os, shutil, signal, subprocess, sys, tempfile, time
from pathlib import Path

LAB = Path(os.environ.get("TURNPIKE_LAB", "/var/cache/turnpike-lab"))
ROOT = Path(__file__).resolve().parents[2]
_undo, _work = [], None
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """Something the laboratory needs is missing or did not happen; the text says what."""


def say(text):
    """One line for the person who watches."""
    print(text, flush=True)


def at_exit(action, *args):
    """Run `action(*args)` when the script ends, last registered first."""
    _undo.append((action, args))


def cleanup():
    """Undo everything now. Each step runs even if another failed."""
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.SIG_IGN)
    while _undo:
        action, args = _undo.pop()
        try:
            action(*args)
        except Exception as e:  # the next step must still run
            print(f"lab: cleaning up: {e}", file=sys.stderr)


def _stop(number, _frame):
    sys.exit(128 + number)


def arm():
    """Make every way out of the script a clean one. Call first."""
    if os.geteuid() != 0:
        raise LabError("the lab needs root (TAPs, network namespaces, packages); run it as root")
    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, _stop)
    atexit.register(cleanup)


def work():
    """A private directory of this run, short enough for socket paths, removed at the end (kept with TURNPIKE_KEEP=1)."""
    global _work
    if _work is None:
        _work = Path(tempfile.mkdtemp(prefix="tpk-", dir="/tmp"))
        if not os.environ.get("TURNPIKE_KEEP"):
            at_exit(shutil.rmtree, _work, True)
    return _work


def _die_with_parent():
    _libc.prctl(1, signal.SIGKILL)


def spawn(argv, **kw):
    """Start a process that dies with us and is stopped at the end."""
    kw.setdefault("stdin", subprocess.DEVNULL)
    p = subprocess.Popen([str(a) for a in argv], preexec_fn=_die_with_parent, **kw)
    at_exit(stop, p)
    return p


def stop(process, grace=3):
    """SIGTERM, then SIGKILL; waits until it is gone."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)  # a stopped process cannot hear SIGTERM
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sh(*argv, check=True, timeout=60, **kw):
    """Run to the end, return standard output; failure is a LabError with the command's own words."""
    argv = [str(a) for a in argv]
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, stdin=subprocess.DEVNULL, **kw)
    if check and r.returncode:
        raise LabError(f"`{' '.join(argv)}` failed ({r.returncode}): {r.stdout.strip()[-800:]}")
    return r.stdout


def until(what, condition, timeout=20, step=0.05):
    """Wait until `condition()` is true and return its value; a timeout names `what`."""
    end = time.monotonic() + timeout
    while True:
        if value := condition():
            return value
        if time.monotonic() > end:
            raise LabError(f"waited {timeout} s in vain for {what}")
        time.sleep(step)


def cpu_seconds(pid):
    """User plus system time that process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- packages -------------------------------------------------------------------------------------------------------------------
_APT = ("apt-get", "-q", "-o", "DPkg::Lock::Timeout=300")
_ENV = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # RUNLEVEL=1: services are not started
_updated = False


def _apt(*args, timeout=900):
    return sh(*_APT, *args, env=_ENV, timeout=timeout)


def _update():
    global _updated
    if not _updated:
        say("lab: apt-get update")
        _apt("update")
        _updated = True


def installed(package):
    """Is that Debian package installed?"""
    r = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", package], capture_output=True, text=True)
    return r.stdout == "installed"


def need(*packages):
    """Install those packages that are missing."""
    missing = [p for p in packages if not installed(p)]
    if missing:
        _update()
        say(f"lab: installing {' '.join(missing)}")
        _apt("install", "-y", "--no-install-recommends", *missing)


def release():
    """Debian's code name of this machine, `bookworm` for example."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.split("=", 1)[1].strip('"')
    return ""


def mirror():
    """The Debian mirror that this machine's own sources name."""
    for attempt in range(2):
        if attempt:
            _apt("update")  # apt lists only what it has fetched
        listed = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"],
                                capture_output=True, text=True).stdout.split()
        for uri in listed:
            if uri.rstrip("/").endswith("/debian"):
                return uri.rstrip("/")
    raise LabError("apt's sources name no Debian mirror (a URI that ends in /debian)")


def private_apt(suite):
    """apt options that see only `suite` of Debian, kept in the cache: the machine's own sources stay as they are."""
    base = LAB / "apt" / suite
    sources = base / "sources.list"
    options = ["-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-", "-o", f"Dir::State::lists={base}/lists",
               "-o", f"Dir::Cache={base}/cache", "-o", "APT::Sandbox::User=root"]
    if not (base / "updated").exists():
        for d in ("lists/partial", "cache/archives/partial"):
            (base / d).mkdir(parents=True, exist_ok=True)
        key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]"
        sources.write_text(f"deb {key} {mirror()} {suite} main\n")
        _apt(*options, "update")
        (base / "updated").touch()
    return options


def unpack(name, packages, options=()):
    """Download Debian packages and unpack them side by side into the cache, without installing them. Returns the directory."""
    target = LAB / name
    if not (target / "complete").exists():
        if not options:
            _update()
        shutil.rmtree(target, ignore_errors=True)
        debs = target / "debs"
        debs.mkdir(parents=True)
        say(f"lab: unpacking {' '.join(packages)} into {target}")
        sh(*_APT, *options, "-o", "APT::Sandbox::User=root", "download", *packages, cwd=debs, timeout=600)
        for deb in debs.glob("*.deb"):
            sh("dpkg", "-x", deb, target, timeout=300)
        shutil.rmtree(debs)
        (target / "complete").touch()
    return target
