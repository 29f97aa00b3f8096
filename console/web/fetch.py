"""Asks a node's HTTP for a JSON document. Blocking; called in threads.

Only http and https, no redirects, answers of bounded size: the address is what a node registered, and whoever can write
to the coordinator must not be able to make the console read files or other services' pages at length.
"""

from __future__ import annotations

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final
from urllib.parse import urlsplit

from canal.errors import Unreachable

TIMEOUT_S: Final = 2.0
MAX_BYTES: Final = 16 << 20


def fetch_json(base: str, path: str, timeout_s: float = TIMEOUT_S, tls: ssl.SSLContext | None = None) -> Any:
    """The JSON document at ``base`` + ``path``. Raises `Unreachable` that says what came instead.

    ``tls``: for https, None: the authorities that this machine trusts. Certificates are verified either way.
    """
    where = f"{base.rstrip('/')}{path}"
    try:
        parts = urlsplit(where)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("not an http address")
        connection = _connect(parts.scheme, parts.hostname, parts.port, timeout_s, tls)
        try:
            connection.request("GET", parts.path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES + 1)
        finally:
            connection.close()
        if answer.status != 200:
            raise Unreachable(f"{where} answered {answer.status} {answer.reason}")
        if len(body) > MAX_BYTES:
            raise Unreachable(f"{where} answered with more than {MAX_BYTES >> 20} MiB")
        return json.loads(body)
    except (OSError, HTTPException, ValueError) as error:
        raise Unreachable(f"{where}: {getattr(error, 'strerror', None) or error}") from None


def _connect(scheme: str, host: str, port: int | None, timeout_s: float, tls: ssl.SSLContext | None) -> HTTPConnection:
    if scheme == "https":
        return HTTPSConnection(host, port, timeout=timeout_s, context=tls or ssl.create_default_context())
    return HTTPConnection(host, port, timeout=timeout_s)
