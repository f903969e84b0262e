"""Live migration of a guest under traffic, and the switch replaced by its successor while guests run: how long the network is away, and
what is lost. One run is one move, or one replacement; `--runs 30` for figures that have a 99th percentile."""
import time
from dataclasses import dataclass
from lab import fleet, host, moves, net
from lab.host import LabError
from lab.nvfleet import NvFleet
from . import BRIDGE, OVS, options


@dataclass
class _Side:
    """One end of a move, in terms of `lab.fleet.Host`."""

    name: str
    peer: net.Namespace
    card: dict
    address: str = "10.0.0.51"


class BridgeFleet:
    """A Linux bridge with a TAP for either QEMU of a move, whose own code is the card: how long a guest takes to wake by itself."""

    def __init__(self):
        bridge, peer = net.Bridge(), net.Namespace()
        host.sh("ip", "link", "set", peer.veth("10.0.0.51/24"), "master", bridge.name)
        peer.run("sysctl -q net.ipv6.conf.eth0.disable_ipv6=1")
        self.hosts = [_Side(name, peer, {"tap": bridge.tap()}) for name in ("here", "there")]
        self.mover = None

    def boot(self, **wanted):
        """Boot the guest, with the longest ring that this kind of card may have."""
        fleet.Fleet.boot(self, **wanted, device="")

    def freeze(self):
        """The guest stands still."""
        self.mover.guest.freeze()

    def thaw(self):
        """It goes on."""
        self.mover.guest.thaw()

    def close(self):
        """Stop it."""
        self.mover.close()


class OvsFleet:
    """One OVS-DPDK with a port for either QEMU of a move, and a namespace on the wire: no second host is needed to see what it loses."""

    def __init__(self):
        self.ovs, peer = net.Ovs(), net.Namespace()
        wire = peer.veth("10.0.0.51/24")
        # OVS without TSO passes checksums on as they are.
        peer.run("ethtool -K eth0 tx off; sysctl -q net.ipv6.conf.eth0.disable_ipv6=1")
        self.ovs.vsctl("--timeout=30", "add-port", "br0", wire)
        self.hosts = [_Side(name, peer, {"socket": self._port(name), "server": True}) for name in ("here", "there")]
        self.mover = None

    def _port(self, name):
        path = self.ovs.directory / f"{name}.sock"
        self.ovs.port(name, path)
        return path

    boot = fleet.Fleet.boot

    def freeze(self):
        """Nothing of it takes a CPU from another contender."""
        self.ovs.process.send_signal(19)
        self.mover.guest.freeze()

    def thaw(self):
        """It goes on."""
        self.ovs.process.send_signal(18)
        self.mover.guest.thaw()

    def close(self):
        """Stop it."""
        self.mover.close()
        self.ovs.close()


class TurnpikeFleet(fleet.Fleet):
    """Two hosts; the guest's port follows 10,000 connections."""

    def boot(self, **wanted):
        """Boot the guest and open its sessions."""
        super().boot(**wanted)
        moves.open_sessions(self)

    def freeze(self):
        """The guest stands still; the switches sleep by themselves."""
        self.mover.guest.freeze()

    def thaw(self):
        """It goes on."""
        self.mover.guest.thaw()


def row_move(contenders, seconds):
    """ms from the moment QEMU lets a moved guest run until its rings run (of others: until it answers), 1 kHz both ways meanwhile"""
    if options["qemu"].version < (10, 0):
        raise LabError(f"{options['qemu']} carries no device state; version 10 is needed")
    made = {}

    def run(contender):
        if contender not in made:
            made[contender] = {OVS: OvsFleet, BRIDGE: BridgeFleet}.get(contender, TurnpikeFleet)()
            made[contender].boot(qemu=options["qemu"])
        else:
            made[contender].thaw()
            time.sleep(1)
        result = moves.measured(made[contender])
        made[contender].freeze()
        return result

    def close():
        for f in made.values():
            f.thaw()
            f.close()

    return run, close


def row_nv(contenders, seconds):
    """ms from the moment QEMU lets a guest of a virtual subnet run on another physical subnet until its rings run; a third host talks to it, too"""
    f = NvFleet()
    f.boot(qemu=options["qemu"])

    def run(_contender):
        result = moves.measured(f)
        f.settle()
        return result

    return run, f.close


def row_restart(contenders, seconds):
    """ms without a frame of 1 kHz while a successor takes over from the running switch under traffic"""
    f = TurnpikeFleet()
    f.boot(qemu=options["qemu"])

    def run(_contender):
        probes = moves.Traffic(f, connections=10)
        time.sleep(1)
        waited = f.mover.at.switch.take_over()
        time.sleep(1)
        seen = probes.close()
        gap = max(r["longest_gap_us"] for x in probes.streams for r in (x.inward, x.outward))
        return {"value": gap / 1000, "waited": waited, **seen}

    return run, f.close
