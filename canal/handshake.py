"""The replication handshake as a state table, without I/O: bytes in, bytes out, and at the end an answer.

States in order, each sends one request and waits for one reply line (redis/src/replication.c, syncWithMaster; replies
as captured from Redis 2.8 to 8.10 and Valkey 8.0 to 9.1)::

    PING ──▶ AUTH (only with a password) ──▶ PORT ──▶ CAPA ──▶ VERSION ──▶ PSYNC ──▶ FullResync | Continue

Empty lines are keepalives (a master sends one a second while it prepares the snapshot) and never replies. What each
reply means stands in ``_TABLE``: it moves on, is tolerated (older servers know neither ``capa`` nor ``version``), or
is one of the documented errors: AuthError, Unready, NotRedis, Unreachable, ProtocolError. Nothing else is raised,
whatever the bytes.

The password is sent only after something that looks like Redis has answered PING.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from canal.errors import AuthError, NotRedis, PeerError, ProtocolError, Unreachable, Unready
from canal.position import Position
from canal.resp import encode

MAX_LINE = 4096
MAX_OFFSET = (1 << 63) - 1
# Valkey 9.1 converts its snapshot down for replicas that do not say they are 9.0 or newer, and fails for ever when a
# hash has field TTLs. This is the newest version whose snapshots and commands we know.
VERSION = b"9.1.2"
ACL_RULES = "+psync +replconf +ping"

_FULL = re.compile(rb"\+FULLRESYNC ([0-9a-fA-F]{40}) (\d{1,19})\Z")
_CONTINUE = re.compile(rb"\+CONTINUE(?: ([0-9a-fA-F]{40}))?\Z")


class State(enum.Enum):
    """Which reply is awaited."""

    PING = "PING"
    AUTH = "AUTH"
    PORT = "REPLCONF listening-port"
    CAPA = "REPLCONF capa"
    VERSION = "REPLCONF version"
    PSYNC = "PSYNC"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class FullResync:
    """The source sends a snapshot; the stream after it starts at ``position``."""

    position: Position


@dataclass(frozen=True, slots=True)
class Continue:
    """The stream goes on at ``position``: the offset asked for, under the replid the source now has."""

    position: Position


@dataclass(frozen=True, slots=True)
class Step:
    """What to do after some bytes: send ``send``; ``used`` bytes were taken; ``result`` once the handshake is over."""

    send: bytes
    used: int
    result: FullResync | Continue | None


class _Does(enum.Enum):
    """What a reply means."""

    NEXT = "go on with the next state"
    NEXT_WITH_AUTH = "go on if there is a password to give, else AuthError: a password is needed"
    FULL = "read FULLRESYNC"
    CONTINUE = "read CONTINUE"


@dataclass(frozen=True, slots=True)
class _Is:
    """A reply that is an error: its class, and what to tell the operator (``{server}``: the reply's own words)."""

    error: type[PeerError]
    text: str


_NO_RIGHT = _Is(AuthError, f"the user may not replicate; its ACL needs {ACL_RULES} (no keys): {{server}}")
_NEEDS_AUTH = _Is(AuthError, "the server wants a password and none was given: {server}")
_LOST_AUTH = _Is(AuthError, "the server does not take this connection as authenticated: {server}")
_NO_REPLICATION = _Is(
    NotRedis, "this server offers no replication (a Sentinel, a proxy or a managed service?): {server}"
)
_NO_PASSWORD_SET = _Is(AuthError, "a password was given but the server has none set; leave it out: {server}")
_NO_USERS = _Is(AuthError, "this server knows no users (older than 6.0); give the password alone: {server}")
_WRONG_PASSWORD = _Is(AuthError, "wrong user or password: {server}")
_NO_LINK = _Is(Unready, "the source is a replica that has no link to its own master now: {server}")
_NOT_NOW = _Is(Unready, "not now: {server}")

# Replies that mean the same in every state; looked at after the state's own rows.
_ANYWHERE: tuple[tuple[bytes, _Is], ...] = (
    (b"-LOADING", _Is(Unready, "the server is loading its data: {server}")),
    (b"-MASTERDOWN", _NO_LINK),
    (b"-NOMASTERLINK", _NO_LINK),
    (b"-BUSY", _Is(Unready, "the server is busy with a script: {server}")),
    (b"-MISCONF", _NOT_NOW),
    (b"-TRYAGAIN", _NOT_NOW),
    (b"-CLUSTERDOWN", _NOT_NOW),
    (b"-ERR max number of clients", _Is(Unready, "the server has no free connection: {server}")),
    (b"-DENIED", _Is(AuthError, "the server's protected mode lets only local clients in: {server}")),
    (b"-NOAUTH", _LOST_AUTH),
    (b"-NOPERM", _NO_RIGHT),
)

# (state, start of the reply, compared without case) -> meaning; the first row that fits counts.
_TABLE: dict[State, tuple[tuple[bytes, _Does | _Is], ...]] = {
    State.PING: (
        (b"+PONG", _Does.NEXT),
        (b"-NOAUTH", _Does.NEXT_WITH_AUTH),
        (b"-ERR operation not permitted", _Does.NEXT_WITH_AUTH),  # NOAUTH of Redis 2.6 and older
        (b"-NOPERM", _Does.NEXT_WITH_AUTH),  # the default user may not PING; the one we are given perhaps may
    ),
    State.AUTH: (
        (b"+OK", _Does.NEXT),
        (b"-WRONGPASS", _WRONG_PASSWORD),
        (b"-ERR invalid password", _WRONG_PASSWORD),  # before 6.0
        (b"-ERR Client sent AUTH, but no password is set", _NO_PASSWORD_SET),  # before 6.0
        (b"-ERR AUTH <password> called without any password", _NO_PASSWORD_SET),
        (b"-ERR wrong number of arguments", _NO_USERS),
        (b"-ERR", _Is(AuthError, "AUTH was refused: {server}")),
    ),
    State.PORT: (
        (b"+OK", _Does.NEXT),
        (b"-ERR unknown command", _NO_REPLICATION),
        (b"-ERR", _Does.NEXT),
    ),
    State.CAPA: (
        (b"+OK", _Does.NEXT),
        (b"-ERR", _Does.NEXT),  # Redis 2.8: Unrecognized REPLCONF option
    ),
    State.VERSION: (
        (b"+OK", _Does.NEXT),
        (b"-ERR", _Does.NEXT),  # every Redis: Unrecognized REPLCONF option
    ),
    State.PSYNC: (
        (b"+FULLRESYNC", _Does.FULL),
        (b"+CONTINUE", _Does.CONTINUE),
        (b"-ERR Can't SYNC", _NO_LINK),  # before 4.0
        (b"-ERR unknown command", _NO_REPLICATION),
        (b"-ERR", _Is(Unready, "the server refused PSYNC: {server}")),
    ),
}


class Handshake:
    """One handshake. Send ``start()``, then feed what arrives to ``receive`` until it gives a result or raises.

    ``resume``: ask to go on there; None asks for a full resync. ``port`` is what we announce as ours; 0 keeps tools
    that read the master's replica list (Sentinel, FAILOVER) from finding anything there.
    """

    def __init__(
        self, resume: Position | None, *, username: str | None = None, password: str | None = None, port: int = 0
    ) -> None:
        self.state = State.PING
        self._resume = resume
        self._username = username
        self._password = password
        self._port = port
        self._line = bytearray()  # of a reply whose end has not come yet

    def start(self) -> bytes:
        """The first request."""
        return self._request()

    def receive(self, data: bytes | bytearray | memoryview) -> Step:
        """Take bytes; after a result the rest of ``data`` (from ``used`` on) belongs to snapshot or stream."""
        block = bytes(data)
        send = b""
        at = 0
        while at < len(block):
            end = block.find(b"\n", at)
            self._line += block[at:] if end < 0 else block[at:end]
            if len(self._line) > MAX_LINE:
                raise self._unexpected(bytes(self._line))
            if end < 0:
                return Step(send, len(block), None)
            at = end + 1
            line = bytes(self._line).removesuffix(b"\r")
            self._line.clear()
            if not line:
                continue
            result = self._reply(line)
            if result is not None:
                return Step(send, at, result)
            send += self._request()
        return Step(send, at, None)

    @property
    def unfinished(self) -> bool:
        """Part of a line has come, its end has not."""
        return bool(self._line)

    def closed(self) -> PeerError:
        """What it means that the peer hung up now, or sends no more."""
        if self._line:
            return self._unexpected(bytes(self._line))
        if self.state is State.PING:
            return Unreachable("the server closed the connection without a word; perhaps it expects TLS (rediss://)")
        return Unreachable(f"the server closed the connection while a reply to {self.state.value} was awaited")

    def _reply(self, line: bytes) -> FullResync | Continue | None:
        meaning = self._meaning(line)
        if isinstance(meaning, _Is):
            raise meaning.error(meaning.text.format(server=_text(line[1:])))
        if meaning is _Does.FULL:
            return self._full_resync(line)
        if meaning is _Does.CONTINUE:
            return self._continue(line)
        if meaning is _Does.NEXT_WITH_AUTH and self._password is None:
            needs = _NO_RIGHT if line.startswith(b"-NOPERM") else _NEEDS_AUTH
            raise needs.error(needs.text.format(server=_text(line[1:])))
        self.state = self._next()
        return None

    def _meaning(self, line: bytes) -> _Does | _Is:
        lowered = line.lower()
        for start, meaning in (*_TABLE[self.state], *_ANYWHERE):
            if lowered.startswith(start.lower()):
                return meaning
        if line.startswith(b"-") and self.state is not State.PING:
            return _Is(Unready, f"{self.state.value} was refused: {{server}}")
        raise self._unexpected(line)

    def _next(self) -> State:
        following = {
            State.PING: State.AUTH if self._password is not None else State.PORT,
            State.AUTH: State.PORT,
            State.PORT: State.CAPA,
            State.CAPA: State.VERSION,
            State.VERSION: State.PSYNC,
        }
        return following[self.state]

    def _request(self) -> bytes:
        if self.state is State.PING:
            return encode([b"PING"])
        if self.state is State.AUTH:
            user = [self._username.encode()] if self._username else []
            return encode([b"AUTH", *user, (self._password or "").encode()])
        if self.state is State.PORT:
            return encode([b"REPLCONF", b"listening-port", b"%d" % self._port])
        if self.state is State.CAPA:
            return encode([b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"])
        if self.state is State.VERSION:
            return encode([b"REPLCONF", b"version", VERSION])
        if self._resume is None:
            return encode([b"PSYNC", b"?", b"-1"])
        return encode([b"PSYNC", self._resume.replid.encode(), b"%d" % (self._resume.offset + 1)])

    def _full_resync(self, line: bytes) -> FullResync:
        found = _FULL.match(line)
        if found is None or int(found[2]) > MAX_OFFSET:
            raise ProtocolError(f"expected +FULLRESYNC <40 hex digits> <offset>, got {_quoted(line)}")
        self.state = State.DONE
        return FullResync(Position(found[1].decode().lower(), int(found[2])))

    def _continue(self, line: bytes) -> Continue:
        found = _CONTINUE.match(line.rstrip())
        if found is None or self._resume is None:
            expected = "+CONTINUE [<40 hex digits>]" if self._resume else "+FULLRESYNC, as nothing was asked to go on"
            raise ProtocolError(f"expected {expected}, got {_quoted(line)}")
        self.state = State.DONE
        replid = found[1].decode().lower() if found[1] else self._resume.replid
        return Continue(Position(replid, self._resume.offset))

    def _unexpected(self, line: bytes) -> PeerError:
        """Bytes that no Redis sends: before the first reply it is not a Redis, later a broken one."""
        what = _quoted(line) if len(line) <= MAX_LINE else f"a line of more than {MAX_LINE} bytes"
        if self.state is not State.PING:
            return ProtocolError(f"expected a reply to {self.state.value}, got {what}")
        if line.startswith(b"\x15\x03"):
            return NotRedis("this port speaks TLS; use rediss://")
        return NotRedis(f"expected +PONG as Redis answers PING, got {what}; is it the right port?")


def _text(line: bytes) -> str:
    """A server's own words in a message: one line, printable, bounded."""
    text = line[:200].decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else "?" for char in text)


def _quoted(line: bytes) -> str:
    return repr(line[:80])[1:] + ("…" if len(line) > 80 else "")
