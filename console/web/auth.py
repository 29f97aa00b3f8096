"""Who asks: tokens, signed session cookies, CSRF tokens, and how often a wrong token may be tried.

A token is compared by its SHA-256 with those of console.yaml. A browser exchanges it for a cookie that holds name, role
and time, signed with a key of this process (so a restart logs everybody out); programs send ``Authorization: Bearer``.
Without tokens in console.yaml (loopback only) everybody on this machine is ``local`` with the role admin, but changes
still need a session with its CSRF token, so that a page of another site cannot make them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from node.config.models import TokenConfig

Role = Literal["admin", "read-only"]
COOKIE: Final = "redis_canal_session"
CSRF_HEADER: Final = "x-csrf-token"
SESSION_S: Final = 12 * 3600.0
TRIES: Final = 5  # wrong tokens of one address …
TRIES_IN_ALL: Final = 50  # … and of all of them …
TRIES_S: Final = 60.0  # … within so long


@dataclass(frozen=True, slots=True)
class Who:
    """Somebody who may use the console. ``nonce`` is that of the session, empty for a bearer token."""

    name: str
    role: Role
    nonce: str = ""


class Auth:
    """Tokens and sessions of one console."""

    def __init__(self, tokens: tuple[TokenConfig, ...], key: bytes | None = None) -> None:
        self._tokens = tokens
        self._key = key or secrets.token_bytes(32)
        self._ended: dict[str, float] = {}  # nonces of sessions that were logged out -> when they would have ended

    @property
    def open(self) -> bool:
        """True when no token is configured."""
        return not self._tokens

    def by_token(self, token: str) -> Who | None:
        """Whose token this is. Takes as long for a wrong one as for a right one."""
        digest = hashlib.sha256(token.encode(errors="replace")).hexdigest()
        found: Who | None = None
        for known in self._tokens:
            if hmac.compare_digest(known.sha256, digest):
                found = Who(known.name, known.role)
        return found

    def session(self, who: Who, now: float | None = None) -> tuple[str, Who]:
        """A new session: the cookie's value, and who it stands for."""
        nonce = secrets.token_urlsafe(16)
        body = {"name": who.name, "role": who.role, "nonce": nonce, "at": now if now is not None else time.time()}
        text = base64.urlsafe_b64encode(json.dumps(body).encode()).decode()
        return f"{text}.{self._sign('session', text)}", Who(who.name, who.role, nonce)

    def by_cookie(self, value: str, now: float | None = None) -> Who | None:
        """Whose session this is; None when it is not of ours, has run out or was ended."""
        text, _, signature = value.partition(".")
        if not signature or not hmac.compare_digest(self._sign("session", text).encode(), signature.encode()):
            return None
        body = json.loads(base64.urlsafe_b64decode(text))
        age = (now if now is not None else time.time()) - body["at"]
        if not 0 <= age < SESSION_S or body["nonce"] in self._ended:
            return None
        return Who(body["name"], body["role"], body["nonce"])

    def end(self, who: Who) -> None:
        """Log out: the session's cookie is worth nothing from now on."""
        now = time.time()
        self._ended = {nonce: until for nonce, until in self._ended.items() if until > now}
        self._ended[who.nonce] = now + SESSION_S

    def csrf(self, who: Who) -> str:
        """What a change made in this session must carry in ``X-CSRF-Token``."""
        return self._sign("csrf", who.nonce)

    def csrf_ok(self, who: Who, given: str) -> bool:
        """True for the CSRF token of the session."""
        return hmac.compare_digest(self.csrf(who).encode(), given.encode())

    def _sign(self, use: str, text: str) -> str:
        return hmac.new(self._key, f"{use}:{text}".encode(), hashlib.sha256).hexdigest()


class Tries:
    """Counts wrong tokens: by address, and in all, because addresses are cheap."""

    def __init__(self) -> None:
        self._by_address: dict[str, deque[float]] = {}
        self._all: deque[float] = deque()

    def wait_s(self, address: str, now: float) -> float:
        """How long this address has to wait before it may try again; 0 when it may now."""
        waits = [_wait(self._by_address.get(address, deque()), TRIES, now), _wait(self._all, TRIES_IN_ALL, now)]
        return max(waits)

    def wrong(self, address: str, now: float) -> None:
        """Count one."""
        for name in [name for name, kept in self._by_address.items() if not kept or kept[-1] < now - TRIES_S]:
            del self._by_address[name]
        self._by_address.setdefault(address, deque(maxlen=TRIES)).append(now)
        self._all.append(now)
        while self._all and self._all[0] < now - TRIES_S:
            self._all.popleft()


def _wait(times: deque[float], allowed: int, now: float) -> float:
    if len(times) < allowed:
        return 0.0
    return max(0.0, times[-allowed] + TRIES_S - now)
