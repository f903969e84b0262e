"""The rows of the comparison: what is set up for each contender, and what one run of it measures."""
from dataclasses import dataclass, field

TURNPIKE, BRIDGE, OVS, VHOST = "turnpike", "bridge", "ovs-dpdk", "dpdk-vhost"
OVS_XDP = "ovs-dpdk-xdp"  # OVS with AF_XDP in the place of AF_PACKET on its uplinks
# Turnpike with this driver on its uplinks, beside the one that is the better of the two in a row
TURNPIKE_PACKET, TURNPIKE_XDP = "turnpike-packet", "turnpike-xdp"
BASE = "base"  # Turnpike, another build of it: --base
PLAIN = "no-policy"  # Turnpike again, its ports without any policy, or in a VLAN where the other ones are in a virtual subnet
PLAIN_PACKET = "no-policy-packet"  # the same with AF_PACKET on its uplinks

# What the command line says about all rows; compare.py fills it in.
options = {"qemu": None, "vdev": "", "base": None}


@dataclass
class Row:
    """One line of the table. `setup(contenders, seconds)` returns (run, close); `run(contender)` returns {"value": …, and what else is
    worth a column}. The first contender is ours. `limits`: {peer: the least (or, where less is better, the most) that ours / peer may be,
    None: what our value must stay below, or where more is better, above}. `also`: {another column of ours: what it must stay below}. `tail`: {column of ours: what its 99th
    percentile must stay below}."""
    setup: object
    unit: str
    contenders: list
    more: bool = True
    limits: dict = field(default_factory=dict)
    also: dict = field(default_factory=dict)
    tail: dict = field(default_factory=dict)
    guests: bool = False  # whether it boots guests
