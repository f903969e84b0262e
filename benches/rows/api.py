"""One keep-alive connection to a switch's API socket, as thin as can be, because the time of a call is measured here."""
import json, socket, time
from lab.host import LabError


class Api:
    def __init__(self, path):
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(30)
        self._socket.connect(str(path))

    def call(self, method, path, body=None):
        """Send one request; returns (seconds from the first byte sent to the last byte of the answer, the answer). A refusal is a LabError."""
        text = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: switch\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
        request = head.encode() + text
        began = time.perf_counter()
        self._socket.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += self._more()
        head, _, answer = answer.partition(b"\r\n\r\n")
        status, fields = head.split(b"\r\n")[0], head.lower().split(b"\r\n")[1:]
        length = next((int(f.split(b":")[1]) for f in fields if f.startswith(b"content-length:")), 0)
        parts, got = [answer], len(answer)
        while got < length:
            parts.append(self._more())
            got += len(parts[-1])
        took, answer = time.perf_counter() - began, b"".join(parts)
        if not status.split()[1].startswith(b"2"):
            raise LabError(f"{method} {path}: {status.decode()}: {answer[:500].decode(errors='replace')}")
        return took, json.loads(answer) if answer else None

    def _more(self):
        got = self._socket.recv(1 << 20)
        if not got:
            raise LabError("the switch closed the API connection")
        return got

    def close(self):
        """Hang up."""
        self._socket.close()
