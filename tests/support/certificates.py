"""Certificates for TLS tests, made by the openssl command: a CA, a server and a client certificate."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path


class OpensslMissing(Exception):
    """There is no openssl command on this machine."""


@dataclass(frozen=True)
class Certificates:
    """PEM files. The server's is valid for 127.0.0.1 and localhost; `other_ca` signed none of them."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    other_ca: Path
    ca_key: Path

    def with_names(self, *names: str) -> Certificates:
        """The same with a server certificate for these alone, each as ``DNS:NAME`` or ``IP:ADDRESS``."""
        directory = self.ca.parent / "-".join(name.partition(":")[2] for name in names)
        directory.mkdir(exist_ok=True)
        cert, key = _signed(directory, "server", self.ca, self.ca_key, ",".join(names))
        return replace(self, server_cert=cert, server_key=key)


def make_certificates(directory: Path) -> Certificates:
    if shutil.which("openssl") is None:
        raise OpensslMissing("no openssl here; get it with: apt-get install openssl")
    directory.mkdir(parents=True, exist_ok=True)
    ca, ca_key = _authority(directory, "ca")
    other_ca, _ = _authority(directory, "other-ca")
    server = _signed(directory, "server", ca, ca_key)
    client = _signed(directory, "client", ca, ca_key)
    return Certificates(ca, *server, *client, other_ca, ca_key)


def _authority(directory: Path, name: str) -> tuple[Path, Path]:
    certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
    _openssl(
        *("req", "-x509", *_NEW_KEY, "-keyout", key, "-out", certificate, "-days", "30", "-subj", f"/CN=test {name}"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),  # Python 3.13 on demands it of a CA
    )
    return certificate, key


def _signed(
    directory: Path, name: str, ca: Path, ca_key: Path, names: str = "DNS:localhost,IP:127.0.0.1"
) -> tuple[Path, Path]:
    certificate, key, request = (directory / f"{name}.{suffix}" for suffix in ("crt", "key", "csr"))
    extension = directory / f"{name}.ext"
    extension.write_text(f"subjectAltName={names}\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    _openssl("req", *_NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    _openssl(
        *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
        *("-days", "30", "-extfile", extension, "-out", certificate),
    )
    return certificate, key


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
