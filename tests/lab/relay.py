"""A relay on a UNIX socket: what passes between two processes can be held back, as if the one that is to read it were slow, or cut."""
import collections, socket, threading, time
from . import host


class Relay:
    """Listens on `path` and passes on to the UNIX socket `to`, both ways. `hold()`: what the caller sends is taken from it but kept, without a
    bound; `release()` passes it on."""

    def __init__(self, path, to):
        self.path, self._to = path, to
        self._open, self._changed, self._kept, self._ended = True, threading.Condition(), collections.deque(), False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._sockets = [self._listener]
        host.at_exit(self.cut)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        try:
            near, _ = self._listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(self._to))
        except OSError:
            return
        self._sockets += [near, far]
        for step in (self._take, self._give, self._back):
            threading.Thread(target=step, args=(near, far), daemon=True).start()

    def _take(self, near, _far):
        while data := _read(near):
            with self._changed:
                self._kept.append(data)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _give(self, _near, far):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._open and (self._kept or self._ended))
                if not self._kept:
                    break
                data = self._kept.popleft()
            try:
                far.sendall(data)
            except OSError:
                return
        _end(far)

    def _back(self, near, far):
        while data := _read(far):
            try:
                near.sendall(data)
            except OSError:
                return
        _end(near)

    def hold(self):
        """Keep what comes from now on."""
        with self._changed:
            self._open = False

    def release(self):
        """Pass on what was kept, and all that comes."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def kept(self):
        """Bytes that wait."""
        with self._changed:
            return sum(map(len, self._kept))

    def cut(self):
        """Both connections end."""
        for s in self._sockets:
            _end(s)
            s.close()


def _read(s):
    try:
        return s.recv(1 << 18)
    except OSError:
        return b""


def _end(s):
    try:
        s.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


class Slow:
    """Listens on a TCP port of its own (`port`) and passes on to `to` (host, port), both ways; what comes back arrives `delay` s later."""

    def __init__(self, to, delay):
        self._to, self._delay = to, delay
        self._listener = socket.create_server(("0.0.0.0", 0))
        self.port = self._listener.getsockname()[1]
        host.at_exit(self._listener.close)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far, queue = socket.create_connection(self._to), collections.deque()
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            came = threading.Semaphore(0)
            for step in (self._there, self._take, self._give):
                threading.Thread(target=step, args=(near, far, queue, came), daemon=True).start()

    @staticmethod
    def _there(near, far, _queue, _came):
        while data := _read(near):
            far.sendall(data)
        far.shutdown(socket.SHUT_WR)

    @staticmethod
    def _take(_near, far, queue, came):
        while True:
            queue.append((time.monotonic(), data := _read(far)))
            came.release()
            if not data:
                return

    def _give(self, near, _far, queue, came):
        while came.acquire():
            since, data = queue.popleft()
            if not data:
                return near.close()
            time.sleep(max(0, since + self._delay - time.monotonic()))
            near.sendall(data)
