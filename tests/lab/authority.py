"""A certification authority of one run, which signs for the switches of the lab."""
import itertools
from . import host
from .host import sh

_serial = itertools.count(1)


class Authority:
    """`ca`: its certificate. `sign(name, address)`: what a switch at that address shows, as words for `turnpike migrate`."""

    def __init__(self, name="fleet"):
        host.need("openssl")
        self._directory = host.work() / f"ca{next(_serial)}-{name}"
        self._directory.mkdir()
        self.ca, self._key = self._directory / "ca.pem", self._directory / "ca.key"
        sh("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", 2, "-subj", f"/CN={name}",
           "-keyout", self._key, "-out", self.ca)

    def sign(self, name, address):
        """`--cert … --key … --ca …` of a new certificate for that address."""
        cert, key, request, extensions = (self._directory / f"{name}.{end}" for end in ("pem", "key", "csr", "ext"))
        extensions.write_text(f"subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n")
        sh("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
        sh("openssl", "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._key, "-CAcreateserial", "-days", 2, "-extfile", extensions, "-out", cert)
        return "--cert", cert, "--key", key, "--ca", self.ca
