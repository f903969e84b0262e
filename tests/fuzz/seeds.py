#!/usr/bin/env python3
"""Writes the hand-made inputs of the fuzz targets to tests/fuzz/corpus: real frames, real rings, real conversations."""

import pathlib
import struct

CORPUS = pathlib.Path(__file__).parent / "corpus"
OURS, THEIRS = bytes.fromhex("525400000001"), bytes.fromhex("525400000002")
BROADCAST = b"\xff" * 6


def save(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# --- frames ---


def ether(kind, payload, tags=(), dst=THEIRS, src=OURS):
    tagged = b"".join(struct.pack(">HH", tpid, tci) for tpid, tci in tags)
    return dst + src + tagged + struct.pack(">H", kind) + payload


def ipv4(proto, payload, options=b"", fragment=0x4000):
    length = 20 + len(options) + len(payload)
    head = struct.pack(">BBHHHBBH4s4s", 0x40 | (20 + len(options)) // 4, 0, length, 7, fragment, 64, proto, 0,
                       bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
    return head + options + payload


def ipv6(proto, payload, extensions=b"", first=None):
    addresses = bytes.fromhex("fd00" + "00" * 13 + "01" + "fd00" + "00" * 13 + "02")
    length = len(extensions) + len(payload)
    return struct.pack(">IHBB", 6 << 28, length, proto if first is None else first, 64) + addresses + extensions + payload


def tcp(payload=b"", flags=0x18, options=b""):
    words = (20 + len(options)) // 4
    return struct.pack(">HHIIBBHHH", 40000, 5201, 1000, 2000, words << 4, flags, 512, 0, 0) + options + payload


def udp(payload=b"", port=53):
    return struct.pack(">HHHH", 5353, port, 8 + len(payload), 0) + payload


ARP = ether(0x0806, struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, OURS, bytes([10, 0, 0, 1]), bytes(6),
                                bytes([10, 0, 0, 2])), dst=BROADCAST)
RARP = ether(0x8035, struct.pack(">HHBBH6s4s6s4s", 1, 0x800, 6, 4, 3, OURS, bytes(4), OURS, bytes(4)), dst=BROADCAST)
TCP4 = ether(0x0800, ipv4(6, tcp(b"GET / HTTP/1.1\r\n")))
TCP6 = ether(0x86DD, ipv6(6, tcp(b"GET / HTTP/1.1\r\n")))
VLAN = ether(0x0800, ipv4(17, udp(b"query")), tags=[(0x8100, 42)])


def wire(name, frame, gso=0, size=0, start=0, offset=0, extra=0, accepted=15, flags=None):
    flags = (1 if start else 0) if flags is None else flags
    header = struct.pack("<BBHHHHH", flags, gso, start + 20 if start else 0, size, start, offset, 0)
    save("wire", name, header + struct.pack("<BH", accepted, extra) + frame)


def wires():
    timestamps = bytes.fromhex("0101080a0000000100000002")
    hop = bytes([6, 0, 1, 4, 0, 0, 0, 0])
    routing = bytes([6, 2, 0, 0]) + bytes(20)
    inner = ether(0x0800, ipv4(6, tcp(b"inside")))
    wire("arp", ARP)
    wire("rarp", RARP)
    wire("tcp4-checksum", TCP4, start=34, offset=16)
    wire("tcp6-checksum", TCP6, start=54, offset=16)
    wire("udp-vlan-checksum", VLAN, start=38, offset=6)
    wire("icmpv6-checksum", ether(0x86DD, ipv6(58, bytes([128, 0, 0, 0]) + bytes(20))), start=54, offset=2)
    wire("fragment4", ether(0x0800, ipv4(17, bytes(64), fragment=0x2003)), start=34, offset=6)
    wire("fragment6", ether(0x86DD, ipv6(6, bytes(64), bytes([6, 0, 0, 0x51, 0, 0, 0, 9]), first=44)))
    wire("tso4", TCP4, gso=1, size=1448, start=34, offset=16, extra=20000)
    wire("tso4-options", ether(0x0800, ipv4(6, tcp(b"x" * 90, options=timestamps), options=b"\x94\x04\0\0")), gso=1, size=9,
         start=38, offset=16)
    wire("tso4-ecn", ether(0x0800, ipv4(6, tcp(b"x" * 60, flags=0x99))), gso=0x81, size=20, start=34, offset=16)
    wire("tso6", TCP6, gso=4, size=1428, start=54, offset=16, extra=50000)
    wire("tso6-extension", ether(0x86DD, ipv6(6, tcp(b"y" * 50), hop, first=0)), gso=4, size=8, start=62, offset=16)
    wire("tso6-routed", ether(0x86DD, ipv6(6, tcp(b"y" * 50), routing, first=43)), gso=4, size=8, start=78, offset=16)
    wire("tso4-qinq", ether(0x0800, ipv4(6, tcp(b"z" * 99)), tags=[(0x88A8, 7), (0x8100, 9)]), gso=1, size=50, start=42,
         offset=16)
    wire("vxlan-inner-checksum", ether(0x0800, ipv4(17, udp(bytes([8, 0, 0, 0, 0, 0, 1, 0]) + inner, 4789))), start=84,
         offset=16)
    wire("longest", TCP4, extra=65535 - 100)


# --- tunnels ---


def tunnels():
    def tunnel(name, frame, how=0, more=0):
        save("tunnel", name, bytes([how, more]) + frame)

    vsid, vni = b"\x20\x00\x65\x58\x00\x13\x89\x2a", b"\x08\0\0\0\x00\x13\x89\0"
    quoted = lambda packet: b"\0\0\0\0" + packet
    icmp = lambda kind, rest: bytes([kind, 0, 0, 0]) + rest

    def with_sum(frame):
        head = frame[14:34]
        total = sum(struct.unpack(">10H", head))
        total = (total & 0xFFFF) + (total >> 16)
        return frame[:24] + struct.pack(">H", 0xFFFF ^ ((total & 0xFFFF) + (total >> 16))) + frame[26:]

    nvgre = with_sum(ether(0x0800, ipv4(47, vsid + TCP4)))
    tunnel("nvgre", nvgre)
    tunnel("nvgre6", ether(0x86DD, ipv6(47, vsid + TCP6)), how=0x0D)
    tunnel("vxlan", with_sum(ether(0x0800, ipv4(17, udp(vni + ARP, 4789)))), how=4)
    tunnel("vxlan6-vlan", ether(0x86DD, ipv6(17, udp(vni + TCP4, 4789)), tags=[(0x8100, 77)]), how=0x37)
    tunnel("nested", with_sum(ether(0x0800, ipv4(47, vsid + nvgre))), how=3)
    tunnel("inner-tag", with_sum(ether(0x0800, ipv4(47, vsid + VLAN))))
    tunnel("fragment", ether(0x0800, ipv4(47, vsid + TCP4, fragment=0x2000)))
    tunnel("source-routed", ether(0x86DD, ipv6(47, vsid + TCP6, bytes([47, 0, 0, 1]) + bytes(4), first=43)))
    tunnel("echo", ether(0x0800, ipv4(1, icmp(8, b"\0\1\0\1ping"))))
    tunnel("echo6", ether(0x86DD, ipv6(58, icmp(128, b"\0\1\0\1ping"))), more=200)
    tunnel("error", ether(0x0800, ipv4(1, icmp(3, quoted(ipv4(17, udp(b"query")))))))
    tunnel("error6", ether(0x86DD, ipv6(58, icmp(2, quoted(ipv6(6, tcp(b"data")))))), how=1)
    tunnel("arp", ARP)
    solicited = bytes.fromhex("fd00" + "00" * 13 + "08")
    tunnel("solicitation", ether(0x86DD, ipv6(58, icmp(135, bytes(4) + solicited))).replace(b"\x3a\x40", b"\x3a\xff", 1))
    tunnel("udp", ether(0x0800, ipv4(17, udp(b"query"))))
    tunnel("large", TCP6, more=255)


# --- the pipeline ---


def pipelines():
    mac = lambda last: bytes.fromhex("5254000000") + bytes([last])
    guest, uplink, host, spoofing, down = 2, 0, 1, 8 + 2, 16 + 2
    frame = lambda port, dst, src, tail=b"\x08\x00" + bytes(8): bytes([port, 12 + len(tail)]) + dst + src + tail
    ports = lambda kind, *list_: bytes([kind, len(list_)]) + b"".join(bytes([f, 1 + i]) for i, f in enumerate(list_))
    three, external = ports(2, guest, guest, guest), ports(0, guest, spoofing, host, uplink, spoofing)
    stranger = bytes.fromhex("02aa00000001")
    vlan = b"\x81\x00\x00\x07\x08\x00"
    pair = frame(1, mac(2), mac(1)) + frame(2, mac(1), mac(2))
    save("pipeline", "unicast", three + pair * 3)
    save("pipeline", "broadcast", three + frame(1, BROADCAST, mac(1)))
    save("pipeline", "spoofed", three + frame(1, mac(2), mac(3)) + frame(1, mac(2), stranger))
    save("pipeline", "reserved", three + frame(1, bytes.fromhex("0180c200000e"), mac(1)) + frame(1, bytes(6), mac(1)))
    save("pipeline", "short-and-long", three + frame(1, mac(2), mac(1), b"\x81\x00") + bytes([1, 255]) + TCP4 * 4)
    save("pipeline", "learned", external + frame(2, BROADCAST, stranger) + frame(1, stranger, mac(1)) * 2)
    moved = frame(2, BROADCAST, stranger) + frame(5, BROADCAST, stranger) + frame(1, stranger, mac(1))
    save("pipeline", "moved", external + moved + frame(4, BROADCAST, stranger) + frame(1, stranger, mac(1)))
    save("pipeline", "vlan", external + frame(2, mac(1), stranger, vlan) + frame(1, stranger, mac(1), vlan) + pair)
    save("pipeline", "uplink", external + frame(1, stranger, mac(1)) + frame(4, stranger, mac(1)) + frame(4, mac(1), stranger))
    save("pipeline", "aged", external + moved + b"\xfd" + frame(1, stranger, mac(1)))
    save("pipeline", "removed", external + moved + b"\xfe\x02\xfe\x05" + frame(1, stranger, mac(1)))
    policy = b"\xff" + ports(0, down, guest, host, uplink, down) + b"\x00"
    save("pipeline", "policy", external + pair + moved + policy + pair + frame(1, stranger, mac(1)))


# --- rings ---


def chain(name, descs, avail=(0,), size=3, features=2, steps=((1, 255, 0),), tail=b"", tail_at=0x400):
    """`descs`: address, length, flags, next of each. Ring of 2**size."""
    count = 1 << size
    image = b"".join(struct.pack("<QIHH", *d) for d in descs).ljust(16 * count, b"\0")
    image += struct.pack("<HH", 0, 0) + b"".join(struct.pack("<H", head) for head in avail).ljust(2 * count, b"\0")
    if tail:
        image = image.ljust(tail_at, b"\0") + tail
    save("chain", name, bytes([size, features, len(steps)]) + b"".join(map(bytes, steps)) + image)


def packed(name, descs, features=0x42, size=8, steps=((1, 255, 0),), tail=b"", tail_at=0x400):
    """`descs`: address, length, id, flags of each. A packed ring of `size`."""
    image = b"".join(struct.pack("<QIHH", *d) for d in descs).ljust(16 * size + 8, b"\0")
    if tail:
        image = image.ljust(tail_at, b"\0") + tail
    save("chain", f"packed-{name}", bytes([size - 1, features, len(steps)]) + b"".join(map(bytes, steps)) + image)


def packed_chains():
    nxt, write, indirect = 1, 2, 4
    frame = bytes(12) + TCP4
    rx = 0x40 | 16 | 8 | 2
    table = struct.pack("<QIHH", 0x800, 12, 0, 0) + struct.pack("<QIHH", 0x900, 60, 0, 0)
    packed("one", [(0x400, len(frame), 7, 0)], tail=frame)
    packed("header-apart", [(0x400, 12, 0, nxt), (0x40C, 300, 9, 0)], steps=((2, 255, 0),))
    packed("indirect", [(0x400, 32, 1, indirect)], tail=table)
    packed("endless", [(0x400, 9, 0, nxt)] * 8, steps=((8, 255, 0), (8, 255, 0)))
    packed("laps", [(0x400, 90, i, 0) for i in range(5)], size=5, steps=((3, 0xFE, 0), (2, 255, 0), (5, 0xAA, 0), (4, 255, 0)))
    packed("in-order", [(0x400, 90, i, 0) for i in range(8)], features=0x63, steps=((8, 255, 0), (8, 0xFE, 0), (0, 1, 0)))
    packed("receive", [(0x100000 + 2048 * i, 2048, i, write) for i in range(8)], features=rx, steps=((8, 1, 4), (0, 5, 0), (4, 1, 64)))
    packed("receive-merged", [(0x100000 + 300 * i, 300, i, write) for i in range(8)], features=rx | 4, steps=((8, 7, 8), (0, 1, 0)))
    packed("receive-chain", [(0x100000, 12, 0, write | nxt), (0x3F00, 4000, 0, write)], features=rx, steps=((2, 9, 0),))


def chains():
    nxt, write, indirect = 1, 2, 4
    frame = bytes(12) + TCP4
    rx = 16
    all_heads = tuple(range(8))
    table = b"".join(struct.pack("<QIHH", *d) for d in [(0x800, 12, nxt, 1), (0x900, 60, 0, 0)])
    chain("one", [(0x400, len(frame), 0, 0)], tail=frame)
    chain("header-apart", [(0x400, 12, nxt, 1), (0x40C, 300, 0, 0)], tail=frame)
    chain("indirect", [(0x400, 32, indirect, 0)], tail=table)
    chain("nested", [(0x400, 16, indirect, 0)], tail=struct.pack("<QIHH", 0x400, 16, indirect, 0))
    chain("loop", [(0x400, 9, nxt, 1), (0x400, 9, nxt, 0)])
    chain("over-two-regions", [(0x3FF0, 100, 0, 0), (0x4FF0, 100, 0, 0)], avail=(0, 1), steps=((2, 255, 0),))
    chain("wraps", [(2**64 - 8, 100, 0, 0)])
    chain("long", [(0x100000, 65535 + 30, 0, 0)])
    chain("burst", [(0x400 + 100 * i, 90, 0, 0) for i in range(8)], avail=all_heads, steps=((8, 0xAA, 0), (0, 255, 0), (8, 255, 0)))
    chain("waits", [(0x400, 90, 0, 0)] * 8, avail=all_heads, features=3, steps=((8, 0xFE, 0), (7, 0xFE, 0), (0, 255, 0)))
    chain("jump", [(0x400, 90, 0, 0)], steps=((255, 255, 0), (39, 255, 0)))
    chain("receive", [(0x100000 + 2048 * i, 2048, write, 0) for i in range(8)], avail=all_heads, features=rx,
          steps=((4, 1, 0), (4, 5, 0), (0, 9, 0)))
    chain("receive-merged", [(0x100000 + 300 * i, 300, write, 0) for i in range(8)], avail=all_heads, features=rx | 7,
          steps=((8, 1, 0), (0, 5, 0), (0, 9, 0)))
    chain("receive-chain", [(0x100000, 12, write | nxt, 1), (0x3F00, 4000, write, 0)], features=rx, steps=((1, 9, 0),))
    chain("receive-read-only", [(0x100000, 2000, 0, 0)], features=rx, steps=((1, 1, 0),))
    chain("receive-own-ring", [(0, 4000, write, 0)], features=rx | 4, steps=((1, 9, 0), (1, 1, 0)))


# --- conversations ---

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE, SET_LOG_BASE = 1, 2, 3, 4, 5, 6
NUM, ADDR, BASE, GET_BASE, KICK, CALL, ERR = 8, 9, 10, 11, 12, 13, 14
GET_PROTOCOL, SET_PROTOCOL, GET_QUEUES, ENABLE, SEND_RARP, SET_MTU = 15, 16, 17, 18, 19, 20
GET_CONFIG, SET_CONFIG, RESET_DEVICE, MEM_SLOTS, ADD_MEM, REM_MEM, SET_STATUS, GET_STATUS = 24, 25, 34, 36, 37, 38, 39, 40
RIGHT = 255
USER, SIZE = 0x7F0000000000, 256 * 1024


def message(request, payload=b"", fds=0, kind=0, flags=1, size=None):
    size = len(payload) if size is None else size
    return bytes([fds, kind]) + struct.pack("<III", request, flags, size) + payload


def u64(request, value, **more):
    return message(request, struct.pack("<Q", value), **more)


def state(request, index, value, **more):
    return message(request, struct.pack("<II", index, value), **more)


def region(guest=0, size=SIZE, user=USER, offset=0):
    return struct.pack("<QQQQ", guest, size, user, offset)


def table(*regions, **more):
    return message(SET_MEM_TABLE, struct.pack("<II", len(regions), 0) + b"".join(regions), **{"fds": RIGHT, **more})


def ring(index, size=256):
    at = USER + 0x10000 * (index + 1)
    address = struct.pack("<IIQQQQ", index, 0, at, at + 0x5000, at + 0x4000, 0)
    return (state(NUM, index, size) + state(BASE, index, 0) + message(ADDR, address) + u64(KICK, index, fds=RIGHT)
            + u64(CALL, index, fds=RIGHT))


def messages():
    modern = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 15 | 1 << 5
    begin = (message(GET_FEATURES) + message(GET_PROTOCOL) + u64(SET_PROTOCOL, 0x10 | 0x8 | 0x4 | 0x1 | 1 << 9 | 1 << 15)
             + message(GET_QUEUES) + message(SET_OWNER))
    features = u64(SET_FEATURES, modern, flags=9)
    enable = state(ENABLE, 0, 1, flags=9) + state(ENABLE, 1, 1)
    run = begin + features + table(region(), flags=9) + ring(0) + ring(1) + enable
    stop = state(GET_BASE, 0, 0) + state(GET_BASE, 1, 0)
    config = struct.pack("<III", 0, 24, 0) + bytes(24)
    single = struct.pack("<Q", 0) + region()
    save("message", "modern", run + stop)
    save("message", "enable-first", begin + state(ENABLE, 0, 1) + state(ENABLE, 1, 1) + features + table(region()) + ring(0))
    save("message", "restart", run + stop + ring(0) + ring(1) + enable)
    save("message", "two-tables", run + table(region(), region(guest=SIZE, user=USER + SIZE)) + stop)
    save("message", "slots", begin + message(MEM_SLOTS) + message(ADD_MEM, single, fds=1, flags=9)
         + message(REM_MEM, single, fds=1, flags=9) + features)
    save("message", "config", begin + message(GET_CONFIG, config) + message(SET_CONFIG, config))
    save("message", "own-requests", begin + u64(SEND_RARP, 0x010000005452, flags=9) + u64(SET_MTU, 1400, flags=9)
         + u64(SET_MTU, 9999, flags=9) + u64(SET_STATUS, 15, flags=9) + message(GET_STATUS))
    again = features + table(region()) + ring(0) + enable
    save("message", "reset", run + message(RESET_DEVICE) + again + message(RESET_OWNER) + again)
    save("message", "wrong-ring", begin + features + state(NUM, 99, 256) + state(NUM, 0, 3))
    save("message", "pipe-as-kick", begin + features + u64(KICK, 0, fds=1, kind=3))
    save("message", "no-kick", begin + features + table(region()) + ring(0) + u64(KICK, 0x100, fds=0) + state(ENABLE, 0, 1))
    save("message", "wrapping-region", begin + table(region(guest=2**64 - 4096)))
    save("message", "short-file", begin + table(region(), kind=2))
    save("message", "overlap", begin + table(region(), region(guest=4096, user=USER)))
    save("message", "surplus-descriptors", begin + message(GET_QUEUES, fds=33))
    save("message", "too-long", begin + message(SET_CONFIG, size=5000))
    save("message", "cut-off", begin + message(SET_FEATURES, b"\0\0", size=8))
    save("message", "unknown", begin + u64(77, 1, flags=9))


# --- states of ports, without their headers ---

GOLDEN = pathlib.Path(__file__).parents[2] / "migration/tests/golden"


def field(number, content):
    return struct.pack("<HI", number, len(content)) + content


def port(vlan=bytes(5), policy=b"", host=b"host-a", metering=b"", learned=b"", sessions=b"", used=b"", extensions=b"", more=b""):
    """`policy`: fields 14 and 15 of that group."""
    flags = b"".join(field(number, bytes([number == 13])) for number in (5, 6, 7))
    settings = field(1, vlan) + field(3, b"\0") + flags + field(9, bytes(4)) + field(10, bytes(4))
    settings += b"".join(field(number, bytes([number == 13])) for number in (11, 12, 13)) + (policy or field(14, b"") + field(15, b""))
    return (field(1, field(1, b"web") + field(2, OURS)) + field(2, struct.pack("<Q", 1790000000000)) + field(3, host)
            + field(4, field(1, bytes(8)) + field(2, b"\1") + field(3, struct.pack("<H", 1500))) + field(5, settings)
            + metering + field(7, field(1, bytes(32)) + field(2, b"") + field(3, b"")) + field(8, learned) + field(9, sessions)
            + field(10, used) + field(11, bytes(4)) + field(12, extensions) + more)


def states():
    for path in GOLDEN.glob("*.bin"):
        content = path.read_bytes()
        save("state", path.stem, content if "sealed" in path.stem else content[20:])
    counts = bytes(16)
    session = bytes([4, 6, 0x0A, 0]) + struct.pack("<IIHHQQQ", 0, 1, 80, 40000, 30000, 5, 5) + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    rule = struct.pack("<BBIB", 1, 0, 7, 0x30) + b"\x06" + struct.pack("<Q", 30 * 10**9) + counts
    save("state", "least", port())
    save("state", "isolated", port(vlan=struct.pack("<BHH", 3, 5, 6)))
    save("state", "promiscuous", port(vlan=struct.pack("<BHHHHHH", 5, 5, 0, 7, 9, 11, 11)))
    save("state", "sessions", port(sessions=session * 3, learned=THEIRS + bytes(12), used=bytes([4, 10, 0, 0, 9]) + bytes(8)))
    save("state", "acl", port(policy=field(14, bytes([0, 1, 1, 3, 4, 8, 10, 0, 0, 0]) + counts + bytes(4) + counts) + field(15, b"")))
    save("state", "acl-twice", port(policy=field(14, (bytes(4) + counts) * 2) + field(15, b"")))
    save("state", "rule", port(policy=field(14, b"") + field(15, rule)))
    save("state", "lying", port(extensions=b"\x01x" + bytes(4) + b"\xff" * 4))
    save("state", "newer", port(metering=field(6, field(1, bytes(8)) + field(2, b"\1") + field(9, b"new")), more=field(99, b"new")))
    save("state", "newer-critical", port(more=field(0x8001, b"new")))
    save("state", "cut", port()[:-3])


# --- extensions ---


def extensions():
    """Scripts for the module of the target: what to do before an answer (low half of a byte), its numbers, the answer."""

    def calm(answer=0):
        return bytes([10, answer])

    def plain(low, high=0):
        return bytes([0]) + struct.pack("<II", low, high)

    save("extension", "passes", calm() * 200)
    save("extension", "drops-and-changes", b"".join(calm(n % 4) + calm(0x20 | n % 3) for n in range(100)))
    save("extension", "texts", plain(16, 8) * 60)
    save("extension", "far", plain(0xFFFFFFFE, 4) + plain(0x10000, 0x40000001) * 20)
    save("extension", "logs", (bytes([1]) + struct.pack("<II", 16, 8) + bytes(8)) * 30)
    save("extension", "adds", (bytes([2, 1]) + struct.pack("<II", 0x10000, 60) + bytes(8)) * 30)
    save("extension", "sends", (bytes([3]) + struct.pack("<IBIII", 0x10001, 4, 6343, 16, 8) + bytes(8)) * 30)
    save("extension", "refreshes-counts", (bytes([4]) + bytes(8) + bytes([5, 1]) + struct.pack("<I", 64) + bytes(8)) * 20)
    save("extension", "grows-scribbles", (bytes([6, 2]) + bytes(8) + bytes([7]) + struct.pack("<IB", 40, 255) + bytes(8)) * 20)
    save("extension", "spins", calm() * 9 + bytes([8]) + calm() * 40)
    save("extension", "traps", calm() * 5 + bytes([9]) + calm() * 40)
    # A module: version 1 of the format, a type, and nothing that ABI 1 asks for.
    save("extension", "module", b"\0asm\x01\0\0\0" + bytes([1, 5, 1, 0x60, 0, 1, 0x7F]))


# --- controllers ---


def controllers():
    """What a controller says, in the short framing of the target: a type, a length and the body of each message."""

    def say(kind, body=b""):
        return bytes([kind, len(body)]) + body

    def oxm(number, value, mask=b""):
        return struct.pack(">HBB", 0x8000, number << 1 | bool(mask), len(value + mask)) + value + mask

    def match(*fields):
        body = b"".join(fields)
        return struct.pack(">HH", 1, 4 + len(body)) + body + bytes(-(4 + len(body)) % 8)

    def output(port):
        return struct.pack(">HHIHxxxxxx", 0, 16, port, 0xFFFF)

    def apply(*actions):
        body = b"".join(actions)
        return struct.pack(">HHxxxx", 4, 8 + len(body)) + body

    def mod(fields, instructions=b"", command=0, priority=1, idle=0, hard=0, flags=0):
        return say(14, struct.pack(">QQBBHHHIIIHxx", 7, 0, 0, command, idle, hard, priority, 2**32 - 1, 2**32 - 1, 2**32 - 1, flags) + fields + instructions)

    def stats(kind, body=b""):
        return say(18, struct.pack(">HHxxxx", kind, 0) + body)

    every = struct.pack(">BxxxIIxxxxQQ", 255, 2**32 - 1, 2**32 - 1, 0, 0) + match()
    udp = match(oxm(5, b"\x08\0"), oxm(10, b"\x11"), oxm(16, b"\0\x35"))
    set_field = struct.pack(">HH", 25, 16) + oxm(3, b"\2\0\0\0\0\1") + bytes(2)
    bucket = struct.pack(">HHIIxxxx", 32, 0, 0, 0) + output(2)
    begin = say(5) + say(18, struct.pack(">HHxxxx", 13, 0)) + say(20)
    learn = mod(match(), apply(output(0xFFFFFFFD)), priority=0) + mod(match(oxm(0, b"\0\0\0\1"), oxm(3, THEIRS)), apply(output(2)))
    acl = mod(udp, priority=9, flags=3, hard=2) + mod(match(oxm(4, OURS, b"\xff" * 6)), apply(set_field, output(0xFFFFFFFB)), idle=3)
    group = say(15, struct.pack(">HBxI", 0, 0, 1) + bucket * 2) + mod(match(), apply(struct.pack(">HHI", 22, 8, 1)))
    out = say(13, struct.pack(">IIHxxxxxx", 2**32 - 1, 1, 32) + output(2) + output(0xFFFFFFF9) + TCP4[:100])
    asks = b"".join(stats(kind, every if kind in (1, 2) else struct.pack(">Ixxxx", 2**32 - 1)) for kind in range(14))
    roles = b"".join(say(24, struct.pack(">IxxxxQ", role, 5)) for role in range(4)) + say(26) + say(28, bytes(24))
    save("openflow", "learning-switch", b"\1" + begin + learn + out + asks)
    save("openflow", "access-control", b"\1" + begin + acl + asks + mod(match(), command=3))
    save("openflow", "groups", b"\1" + group + out + asks + say(15, struct.pack(">HBxI", 2, 0, 0xFFFFFFFC)))
    save("openflow", "roles", b"\1" + roles + learn + roles)
    save("openflow", "framed-as-it-is", b"\4\2\0\x0c\0\0\0\1echo\4\x14\0\x08\0\0\0\2\4\5\0\7\0\0\0\3")


if __name__ == "__main__":
    wires()
    tunnels()
    pipelines()
    chains()
    packed_chains()
    messages()
    states()
    extensions()
    controllers()
