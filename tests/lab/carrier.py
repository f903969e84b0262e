"""The switches' own channel: a port's state goes from switch to switch while the VMM moves the guest."""
import json
from . import authority, host
from .host import LabError

PORT = 7777


class Carrier:
    """Both switches of a fleet listen for each other and know each other's certificates."""

    def __init__(self, f):
        f.manage()
        shown = authority.Authority()
        self.words = {h.name: shown.sign(h.name, h.management) for h in f.hosts}
        for h in f.hosts:
            self.listen(h)

    def listen(self, h):
        """Let that host's switch take ports; a switch that was started again does not by itself."""
        h.switch.cli("migrate", "listen", "--address", f"{h.management}:{PORT}", *self.words[h.name])

    def send(self, g):
        """`migrate send` of the guest's port to where the guest is not; the running command."""
        return g.at.switch.begin("migrate", "send", "guest", "--to", f"{g.other().management}:{PORT}", *self.words[g.at.name])

    def reserved(self, g):
        """As `send`, when both switches are ready for the guest to move."""
        sending = self.send(g)
        host.until("the switches to be ready", lambda: step(g.at.switch, sending) == "reserved", 20, 0.02)
        return sending

    def move(self, g):
        """A whole move; returns how it went."""
        sending = self.reserved(g)
        moved = g.move()
        committed(sending)
        return moved


def step(s, sending):
    """How far the guest's migration is; None before it has begun."""
    if sending.poll() is not None:
        raise LabError(f"`migrate send` ended with {sending.returncode}: {sending.stdout.read()}")
    code, said = s.cli("migrate", "status", "guest", check=False)
    return None if code else json.loads(said)["step"]


def committed(sending):
    """Wait until `migrate send` says that the port is the destination's."""
    sending.wait(30)
    if sending.returncode:
        raise LabError(f"`migrate send` ended with {sending.returncode}: {sending.stdout.read()}")
