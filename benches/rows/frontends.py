"""A vhost-user front end with empty hands: it attaches a card, posts receive buffers, and then does nothing.

Used where many attached ports are wanted and a guest for each would not fit. Split rings of 256, one pair, no offloads.
"""
import mmap, os, socket, struct

_VERSION_1, _PROTOCOL = 1 << 32, 1 << 30
_SIZE, _BUFFER = 256, 2048


class IdleFrontEnd:
    """Connects to `path` and starts both rings. The port counts as running afterwards."""

    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        length = 1 << 20
        self._memory = os.memfd_create("guest")
        os.ftruncate(self._memory, length)
        self._map = mmap.mmap(self._memory, length)
        self._fds = []
        base = 0x7000_0000_0000  # the driver's addresses: any will do
        features = self._ask(1)
        protocol = self._ask(15) if features & _PROTOCOL else 0
        if protocol:
            self._tell(16, struct.pack("<Q", protocol & 0b1001))  # MQ and REPLY_ACK
        self._tell(3)
        self._tell(2, struct.pack("<Q", (_VERSION_1 | _PROTOCOL) & features))
        self._tell(5, struct.pack("<IIQQQQ", 1, 0, 0, length, base, 0), [self._memory])
        for ring in (0, 1):
            at = ring * 0x8000
            descriptors, available, used = at, at + 0x1000, at + 0x2000
            if ring == 0:
                for i in range(_SIZE):
                    struct.pack_into("<QIHH", self._map, descriptors + 16 * i, 0x20000 + i * _BUFFER, _BUFFER, 2, 0)
                    struct.pack_into("<H", self._map, available + 4 + 2 * i, i)
                struct.pack_into("<HH", self._map, available, 0, _SIZE)
            self._tell(8, struct.pack("<II", ring, _SIZE))
            self._tell(10, struct.pack("<II", ring, 0))
            self._tell(9, struct.pack("<IIQQQQ", ring, 0, base + descriptors, base + used, base + available, 0))
            for request in (12, 13):  # kick starts the ring, call is where we would be told
                fd = os.eventfd(0)
                self._fds.append(fd)
                self._tell(request, struct.pack("<Q", ring), [fd])
        for ring in (0, 1):
            self._tell(18, struct.pack("<II", ring, 1))

    def _tell(self, request, payload=b"", fds=()):
        head = struct.pack("<III", request, 1, len(payload))
        socket.send_fds(self._socket, [head + payload], list(fds))

    def _ask(self, request):
        self._tell(request)
        answer = b""
        while len(answer) < 20:
            got = self._socket.recv(20 - len(answer))
            if not got:
                raise ConnectionError(f"the switch closed the connection at request {request}")
            answer += got
        return struct.unpack("<Q", answer[12:])[0]

    def close(self):
        """Go away as a closed front end does."""
        self._socket.close()
        self._map.close()
        for fd in (self._memory, *self._fds):
            os.close(fd)
