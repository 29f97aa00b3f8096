"""The tag: the checkpoint write inside every target transaction; loop mark and progress record at once. No I/O.

A link keeps one hash at its target, `redis-canal:checkpoint:<task>/<shard>`, with these fields:

=========  ========================================================================================================
``v``      format version, ``1``; a tag of an unknown newer version is refused
``uid``    of the task, so that a new task of the same name does not go on from an old one's checkpoint
``origin`` datacenter where the writes of the batch were first made
``pos``    ``<replid>:<offset>``, always outside MULTI: the source's stream up to here is applied
``db``     database that was selected in the source's stream at ``pos``
``phase``  ``snapshot`` while a snapshot is being applied (``first``: at first contact; ``again``: likewise, after
           another that was applied in part), else ``stream``
``snap``   progress of the snapshot: bytes of the RDB whose keys are applied
``seen``   ``<dc>=<replid>:<offset>,…``: what had been applied of other datacenters before the batch (two-way); of a
           cluster ``<dc>/<shard>=…`` for each of its shards
``opos``   position at the origin, in forwarded transactions only
``via``    datacenter that ``pos`` belongs to, in forwarded transactions only
``own``    offset after the newest write of the batch, where ``pos`` is beyond it (two-way): a third datacenter that
           has this lacks nothing that the batch brought
``past``   ``<replid>:<offset> <db> <floor> <seen>``: a place of the source's stream before everything that some
           datacenter has not yet seen, and what was selected and seen there; another node reads on from it (two-way;
           about once a second)
``homes``  fingerprint of the policy that gives each key its home (two-way; `sync.homes`); told again about once a
           second, for a link back that starts later
``slots``  of a shard of a source cluster: the slots whose writes it brings (two-way), told likewise
``epoch``  fencing: a writer that finds a higher one stops
``owner``  who came with it when nobody had used it, so that it knows its own again when the reply was lost
``at``     unix time in ms when the batch was made
=========  ========================================================================================================

Every tag carries ``v``, ``origin``, ``pos`` and ``at``; the other fields are written when they change, because the hash
keeps them. A tag costs under 200 bytes of stream that way.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import Final

from canal import formats
from canal.errors import CanalError
from canal.position import Position
from canal.resp import encode, parse

RESERVED: Final = b"redis-canal:"
"""Keys with this prefix are never replicated and never counted as user data. They stand in database 0."""
PREFIX: Final = RESERVED + b"checkpoint:"
INDEX: Final = RESERVED + b"links"
"""A set of the checkpoint keys of all links into this server, so that finding them needs no SCAN."""
_TELL_HOMES_MS: Final = 1000


class TagError(CanalError):
    """A checkpoint that cannot be read: written by a newer redis-canal, or damaged."""


def checkpoint_key(task: str, shard: str) -> bytes:
    """The name of a link's checkpoint hash."""
    return PREFIX + f"{task}/{shard}".encode()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a link's checkpoint hash says. ``position`` is None when nothing has been applied under this ``uid`` yet."""

    uid: str = ""
    epoch: int = 0
    position: Position | None = None
    db: int = 0
    origin: str = ""
    snapshot: bool = False
    first: bool = False
    again: bool = False
    progress: int = 0
    seen: str = ""
    at_ms: int = 0
    past: str = ""

    @classmethod
    def from_fields(cls, fields: dict[bytes, bytes], key: str) -> Checkpoint:
        """Read the hash. Raises `TagError` that names the key, the field and what stands there."""

        def number(name: bytes) -> int:
            text = fields.get(name, b"0")
            if not text.isdigit():
                raise TagError(f"checkpoint {key}: field {name.decode()} should be a number, found {text[:40]!r}")
            return int(text)

        version = number(b"v") or formats.OLDEST
        formats.check(f"checkpoint {key}", version, TagError, "upgrade this one, or let that one go on with this task")
        position = None
        if b"pos" in fields:
            try:
                position = Position.parse(fields[b"pos"].decode("ascii", "replace"))
            except ValueError as error:
                raise TagError(f"checkpoint {key}: field pos: {error}") from None
        return cls(
            uid=fields.get(b"uid", b"").decode("utf-8", "replace"),
            epoch=number(b"epoch"),
            position=position,
            db=number(b"db"),
            origin=fields.get(b"origin", b"").decode("utf-8", "replace"),
            snapshot=fields.get(b"phase") in (b"snapshot", b"first", b"again"),
            first=fields.get(b"phase") in (b"first", b"again"),
            again=fields.get(b"phase") == b"again",
            progress=number(b"snap"),
            seen=fields.get(b"seen", b"").decode("utf-8", "replace"),
            at_ms=number(b"at"),
            past=fields.get(b"past", b"").decode("utf-8", "replace"),
        )


class Tagger:
    """Makes the tags of one link on one connection; leaves out what the hash already holds."""

    def __init__(self, key: bytes, uid: str, origin: str, stored: Checkpoint | None, homes: str = "") -> None:
        self.key = key
        self._homes = homes
        self._told_ms: dict[bytes, int] = {}
        self.slots: Callable[[], bytes] | None = None  # of a shard of a cluster
        self.past = ""  # goes with the next tag when it has changed
        self._past_told = "" if stored is None else stored.past
        self.uid = uid
        self.origin = origin
        self._stored = stored or Checkpoint()

    def make(
        self,
        position: Position,
        db: int,
        *,
        origin: str = "",
        snapshot: bool = False,
        first: bool = False,
        again: bool = False,
        progress: int = 0,
        seen: str = "",
        opos: str = "",
        own: int = -1,
        full: bool = False,
    ) -> list[bytes]:
        """The HSET of one batch as arguments. ``full`` writes every field (after a command that removed the hash)."""
        last = self._stored
        at_ms = time.time_ns() // 1_000_000
        argv = [b"HSET", self.key, b"v", b"%d" % formats.written(), b"origin", (origin or self.origin).encode()]
        argv += [b"pos", str(position).encode(), b"at", b"%d" % at_ms]
        if full or last.position is None or last.db != db:
            argv += [b"db", b"%d" % db]
        if full or last.uid != self.uid:
            argv += [b"uid", self.uid.encode()]
        if full or last.position is None or last.snapshot != snapshot or snapshot:
            phase = b"stream" if not snapshot else b"snapshot" if not first else b"again" if again else b"first"
            argv += [b"phase", phase, b"snap", b"%d" % progress]
        if seen:
            argv += [b"seen", seen.encode()]
        if opos:
            argv += [b"opos", opos.encode(), b"via", self.origin.encode()]
        if self._homes and 0 <= own < position.offset:
            argv += [b"own", b"%d" % own]
        argv += self._policy(self.key, at_ms, full)
        past = "" if snapshot else self.past or self._past_told
        if past != self._past_told or (full and past):
            argv += [b"past", past.encode()]  # an empty one: what was known before a snapshot is of no use after it
            self._past_told = past
        if full:
            argv += [b"epoch", b"%d" % last.epoch]
        self._stored = replace(last, uid=self.uid, position=position, db=db, snapshot=snapshot)
        return argv

    @property
    def settles(self) -> bool:
        """Two ways, and conflicts are settled."""
        return bool(self._homes)

    def _policy(self, key: bytes, at_ms: int, full: bool = False) -> list[bytes]:
        """What a link back has to know, now and then."""
        if not self._homes or not (full or abs(at_ms - self._told_ms.get(key, 0)) >= _TELL_HOMES_MS):
            return []
        self._told_ms[key] = at_ms
        said = [b"homes", self._homes.encode()]
        return said if self.slots is None else [*said, b"slots", self.slots()]

    def words(
        self,
        key: bytes,
        position: Position,
        *,
        origin: str = "",
        opos: str = "",
        seen: str = "",
        snapshot: bool = False,
        node: bool = False,
    ) -> list[bytes]:
        """A tag in another hash than the link's own: what every tag says, and nothing that is only kept. ``node``: one
        that opens the transactions of a cluster's node.
        """
        at_ms = time.time_ns() // 1_000_000
        argv = [b"HSET", key, b"v", b"%d" % formats.written(), b"origin", (origin or self.origin).encode()]
        argv += [b"pos", str(position).encode(), b"at", b"%d" % at_ms]
        argv += [b"seen", seen.encode()] if seen else []
        if self._homes:
            argv += [b"phase", b"snapshot"] if snapshot else []
            argv += self._policy(key, at_ms) if node else []
        return [*argv, b"opos", opos.encode(), b"via", self.origin.encode()] if opos else argv

    def epoch_raised(self, epoch: int) -> None:
        """Remember the epoch that was written at the target, for full tags."""
        self._stored = replace(self._stored, epoch=epoch)


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag met in a stream: whose link wrote it, where its writes were first made, and how far that writer was."""

    link: str
    origin: str
    fields: dict[bytes, bytes]


def is_reserved(key: bytes) -> bool:
    """True for keys of redis-canal itself."""
    return key.startswith(RESERVED)


def recognise(argv: list[bytes]) -> Tag | None:
    """The tag in a command of the stream, or None when it is no tag (the reserved keys' other writes are none)."""
    if len(argv) < 4 or argv[0].upper() not in (b"HSET", b"HMSET") or not argv[1].startswith(PREFIX):
        return None
    fields = dict(zip(argv[2::2], argv[3::2], strict=False))
    origin = fields.get(b"origin")
    if origin is None:
        return None
    version = fields.get(b"v", b"")
    link = argv[1][len(PREFIX) :].decode("utf-8", "replace")
    what = f"a tag of link {link} in the source's stream"
    if not version.isdigit():
        raise TagError(f"{what} has the format {version[:40]!r}, which is no number; upgrade this one")
    formats.check(what, int(version), TagError)
    return Tag(link, origin.decode("utf-8", "replace"), fields)


def begins_tagged(buf: bytes, at: int, origins: Container[str]) -> bool:
    """Does what a transaction holds, from ``at`` on, begin with the tag of one of these origins?"""
    first = parse(buf, at, len(buf))
    try:
        tag = None if first is None else recognise(first[0])
    except TagError:
        return False  # to be told by who reads it in its turn
    return tag is not None and tag.origin in origins


def encode_tag(argv: list[bytes]) -> bytes:
    """The tag as RESP."""
    return encode(argv)
