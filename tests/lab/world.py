"""The set-up the real-guest tests share: one switch with three guest ports, guests booted when a test first wants them and kept.

A boot costs 4 to 15 s without KVM, so a guest is reused by every later test that wants the same card.
"""
import contextlib

from . import guest, host, image, switch, traffic
from .host import LabError
from .suite import Skip, must

MAC = {"a": "52:54:00:aa:00:01", "b": "52:54:00:aa:00:02", "c": "52:54:00:aa:00:03"}
IP = {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"}
ALL_TAGS = ("--vlan", "trunk:1-4094")
NO_OFFLOADS = ",".join(f"{f}=off" for f in ("csum", "guest_csum", "gso", "host_tso4", "host_tso6", "host_ecn", "host_ufo", "guest_tso4",
                                            "guest_tso6", "guest_ecn", "guest_ufo"))

_switch = None
_guests = {}


def the_switch():
    """The switch, started at first use: ports a, b and c with four queue pairs, an MTU of up to 9000 and every VLAN tagged."""
    global _switch
    if _switch is None:
        _switch = switch.Turnpike()
        for name, mac in MAC.items():
            _switch.port(name, "--mac", mac, "--queues", 4, "--mtu", 9000, *ALL_TAGS)
    return _switch


def qemu(major):
    """That QEMU, or Skip."""
    try:
        return image.qemu(major)
    except LabError as e:
        raise Skip(str(e)) from None


def up(**wanted):
    """Guests by port name, each with the options of `lab.guest.Guest`; boots only what is not already there. Returns them in order."""
    s = the_switch()
    fresh = []
    for name, options in wanted.items():
        have = _guests.get(name)
        if have and have.options == options and have.process.poll() is None:
            continue
        if have:
            have.close()
            s.wait_state(name, "waiting")
        _guests[name] = guest.Guest(name, f"{IP[name]}/24", socket=s.socket(name), mac=MAC[name], **options)
        _guests[name].options = options
        fresh.append(_guests[name])
    for g in fresh:
        g.ready()
    return [_guests[n] for n in wanted]


def pair():
    """Two guests: `a` under the machine's own QEMU, `b` under QEMU 10 where it can be had, two virtual CPUs and four queue pairs."""
    return up(a={}, b=dict(qemu=newest(), queues=4, smp=2, host_mtu=9000, mtu=1500))


def newest():
    """The newest QEMU that can be had."""
    try:
        return image.qemu(10)
    except LabError:
        return image.qemu()


def forget(name):
    """A guest that a test has ended for good."""
    _guests.pop(name, None)


def reset_all():
    """After a failure: all guests away, and a switch that died started again."""
    for g in _guests.values():
        g.kill()
    _guests.clear()
    if _switch:
        print("\n".join(f"    | {line}" for line in _switch.log().splitlines()[-12:]), flush=True)
        if _switch.process.poll() is not None:
            print(f"    | turnpike had ended with {_switch.process.returncode}", flush=True)
            _switch.start()


def reachable(source, ip, **options):
    """Wait until a ping is answered, at most about 10 s."""
    host.until(f"{ip} to answer a ping", lambda: traffic.ping(source, ip, 1, **options).received, 10)


def bad_checksums(where):
    """TCP segments with a wrong checksum that this guest or namespace has seen since it booted."""
    return int(where.run("grep ^Tcp: /proc/net/snmp | tail -n 1 | awk '{ print $NF }'").out)


def received(where, interface="eth0"):
    """(packets, bytes) that the card has received."""
    base = f"/sys/class/net/{interface}/statistics"
    packets, size = where.run(f"cat {base}/rx_packets {base}/rx_bytes").out.split()
    return int(packets), int(size)


@contextlib.contextmanager
def policy(*settings):
    """`with policy(("a", "--vlan", "access:5"), …)`: options of ports of the switch; all ports are without policy again afterwards."""
    s = the_switch()
    try:
        for port, *options in settings:
            s.cli("port", "set", port, *options)
        yield s
    finally:
        for port in MAC:
            s.clear_policy(port)
            s.cli("port", "set", port, *ALL_TAGS)


def both_ways(a, ip, seconds=2, extra="", least=20):
    """TCP in both directions; returns the two flows."""
    flows = [traffic.iperf(a, ip, seconds, reverse=r, extra=extra) for r in (False, True)]
    for way, flow in zip(("to", "from"), flows):
        must(flow.mbps > least, f"only {flow} {way} {ip}")
    return flows
