"""The one exception tree of redis-canal.

::

    CanalError                      message says: what was expected, what came, where, what to do
    ├── ConfigError                 our caller's fault: options, URLs, files            exit 2
    ├── StateError                  our own disk: state directory, journal, spool       exit 2
    │   ├── StateLocked             another daemon holds this state directory           exit 2
    │   └── NoRoom                  the disk or the quota is full                       exit 2, transient
    ├── Refused                     a safety rule says no; needs a person               exit 1
    ├── PeerError                   the peer's fault
    │   ├── Unreachable             no connection, or it broke                          exit 4, transient
    │   ├── Unready                 the peer answers "not now" (LOADING, NOMASTERLINK)  exit 4, transient
    │   ├── AuthError               wrong password, no such user, missing permission    exit 4
    │   ├── TlsError                certificate not accepted, or no TLS there           exit 4
    │   ├── NotRedis                whatever listens there does not speak the protocol  exit 4
    │   ├── ProtocolError           bytes that the protocol does not allow, with offset exit 1
    │   └── RdbError                a snapshot that cannot be read, with offset and key exit 1
    └── ReplayError                 the target refused a command for good               exit 1

``transient`` errors are retried with backoff by whoever owns the connection, or the worker; nothing advances meanwhile.
"""

from __future__ import annotations


class CanalError(Exception):
    """Root of all errors that redis-canal raises on purpose; ``str()`` is one line fit for an operator."""

    exit_code = 1
    transient = False


class ConfigError(CanalError):
    """An option, URL or file of the caller is wrong."""

    exit_code = 2


class StateError(CanalError):
    """The local disk (state directory, journal, spool) cannot be used as needed."""

    exit_code = 2


class StateLocked(StateError):
    """Another process holds the lock of this state directory."""


class NoRoom(StateError):
    """The disk is full, or the quota used up; what was to be written is not needed less for it."""

    transient = True


class Refused(CanalError):
    """A safety rule stops here and a person has to decide; the message names the choices."""


class PeerError(CanalError):
    """A server did what it should not, or cannot be used."""

    exit_code = 4


class Unreachable(PeerError):
    """No connection could be made, or an established one broke."""

    transient = True


class Unready(PeerError):
    """The server answers but cannot serve now (LOADING, NOMASTERLINK, MASTERDOWN …)."""

    transient = True


class AuthError(PeerError):
    """Wrong password, unknown user, or a permission that is missing."""


class TlsError(PeerError):
    """The TLS handshake failed: a certificate was not accepted, or one side does not speak TLS."""


class NotRedis(PeerError):
    """What listens there does not speak the Redis protocol."""


class ProtocolError(PeerError):
    """Bytes that the protocol does not allow. ``offset`` is the stream position (bytes) where they stand."""

    exit_code = 1

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at offset {offset})")
        self.offset = offset


class RdbError(PeerError):
    """A snapshot that cannot be read. ``offset`` counts bytes from the start of the RDB."""

    exit_code = 1

    def __init__(self, message: str, offset: int, key: bytes | None = None) -> None:
        where = f"at byte {offset}" + ("" if key is None else f", key {key!r}")
        super().__init__(f"RDB: {message} ({where})")
        self.offset = offset
        self.key = key


class ReplayError(CanalError):
    """The target refused a command for good; names command, key, error and offset."""
