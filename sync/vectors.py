"""Who has seen how much of whose stream, as told by the tags of other datacenters in one stream. No I/O.

A datacenter's *vector* says per stream how far it has applied it (`sync.seen`). Ours grows with each tag that arrives
here; the others' are told by what their tags say was seen when they were written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from sync.homes import Place
from sync.seen import Line, Vector, format_seen, parse_position, parse_seen
from sync.streams import Scope, Streams, datacenter_of, stream_name, writer_of
from sync.tag import Tag

_HISTORY: Final = 4096


class Author(NamedTuple):
    """Who made the commands that a tag heads: in which stream, where in it, and what had been seen there by then."""

    stream: str
    position: int
    vector: dict[str, int]


class Vectors:
    """``here``: the source's datacenter, ``stream``: the name of its stream that is read, ``datacenters``: all that
    write. ``slots``: those of the source, where it is a cluster's shard. ``clock``: monotonic seconds.
    """

    def __init__(
        self,
        here: str,
        stream: str,
        datacenters: Sequence[str],
        slots: Callable[[], frozenset[int]] | None,
        clock: Callable[[], float],
    ) -> None:
        self.peers = [name for name in datacenters if name != here]
        self.seen = ""  # our own vector as text, for the tags that we write
        self.needs = ""  # likewise, up to the newest write of each: what a third datacenter must have before ours
        self._here = here
        self.stream = stream
        self._datacenters = datacenters
        self._slots = slots
        self._clock = clock
        self._streams = Streams()
        self._lines = {name: Line() for name in (*datacenters, stream)}
        self._own: Vector = {}
        self._needed: Vector = {}
        self._known: dict[str, dict[str, int]] = {}  # others' stream -> stream -> how far it was seen there
        self._heard: dict[str, float] = {}
        self._history: deque[tuple[int, str]] = deque(maxlen=_HISTORY)  # (position after which, our own vector)
        self._first_seen = ""

    # --- what tags tell ---

    def start(self, seen: str, eras: Sequence[tuple[str, int]]) -> None:
        """Our own vector where reading begins, and our stream's history."""
        self._own = parse_seen(seen)
        self.seen = self._first_seen = format_seen(self._own)
        self.learn(eras)

    def learn(self, eras: Sequence[tuple[str, int]]) -> None:
        """Our stream's history as the journal has it."""
        self._lines[self.stream].learn(eras)

    def concerned(self, origin: str) -> bool:
        """Does a tag of this datacenter tell anything here?"""
        return origin != self._here and origin in self._lines

    def tag(self, tag: Tag, end: int, *, snapshot: bool) -> Author | None:
        """A tag of a datacenter that is `concerned`, which ends at ``end`` of our stream; ``snapshot``: what it heads
        belongs to one, and is seen only at its end. None where it says nothing of who made what it heads.
        """
        fields, origin = tag.fields, tag.origin
        shard, scope = writer_of(tag.link)
        via = fields.get(b"via", b"").decode("utf-8", "replace")
        at = parse_position(fields.get(b"pos", b""))
        forwarded = parse_position(fields.get(b"opos", b""))
        stream = origin if via else stream_name(origin, shard)
        if stream != origin:
            self._streams.met(origin)
            if (slots := fields.get(b"slots")) is not None:
                self._streams.told(origin, stream, slots)
        if scope == "link" and self.stream != self._here:
            return None  # of a whole cluster, for people: what is here is told by the node's tag
        where = forwarded or (None if via else at)
        if where is None:
            return None
        self._follow(stream, where)
        position = self._lines[stream].place(where)
        # where nothing is said, what was said before still holds: nothing that was seen is unseen again
        said_seen = fields.get(b"seen")
        before = {} if via or said_seen is not None else self._known.get(stream, {})
        vector = {**before, **self._placed(parse_seen(said_seen or b"")), stream: position}
        now = self._clock()
        self._heard[origin] = now
        if via and at is not None and via in self._lines:
            self._heard[via] = now
            self._follow(via, at)
            self._known.setdefault(via, {})[via] = self._lines[via].place(at)
            self._saw(via, at, end, "link")
        if not snapshot:
            self._known[stream] = vector
            self._saw(stream, where, end, scope)
        return Author(stream, position, vector)

    def need(self, tag: Tag) -> None:
        """Our next writes may build on those that this tag heads."""
        where = parse_position(tag.fields.get(b"opos", tag.fields.get(b"pos", b"")))
        if where is not None and tag.origin in self._lines:
            own = tag.fields.get(b"own", b"")
            self._needed[tag.origin] = (where[0], int(own)) if own.isdigit() and b"opos" not in tag.fields else where
            self.needs = format_seen(self._needed)

    def _follow(self, name: str, position: tuple[str, int]) -> None:
        self._lines.setdefault(name, Line()).follow(*position)

    def _saw(self, name: str, position: tuple[str, int], end: int, scope: Scope) -> None:
        """Our datacenter has all up to there; of a cluster: our shard."""
        before = self._own.get(name)
        if scope == "slot" or (
            scope == "node" and before is not None and before[0] == position[0] and before > position
        ):
            return
        if before != position:
            self._own[name] = position
            self.seen = format_seen(self._own)
            self._history.append((end, self.seen))

    def _placed(self, vector: Vector) -> dict[str, int]:
        return {name: self._lines[name].place(where) for name, where in vector.items() if name in self._lines}

    # --- what follows from them ---

    def seen_at(self, position: int) -> str:
        """Our own vector as it was at ``position`` of our stream, or an older one."""
        for at, seen in reversed(self._history):
            if at <= position:
                return seen
        return self._first_seen

    @property
    def oldest_seen(self) -> int:
        """What every other datacenter has seen of our stream, as far as their tags have told; -1 for nothing."""
        return self.seen_by_all_but(self.stream)

    def seen_by_all_but(self, name: str) -> int:
        """What all datacenters but its own have seen of the stream of ``name``; -1 for nothing."""
        peers = self.peers if name == self.stream else [peer for peer in self._datacenters if peer != name]
        return min((self.seen_by(peer, name) for peer in peers), default=-1)

    def seen_by(self, peer: str, name: str) -> int:
        """How far ``peer`` has applied the stream of ``name``; -1 when that is not known."""
        if peer == self._here:
            return self._lines[name].place(self._own.get(name))
        streams = self._streams.all(peer, None if self._slots is None else self._slots())
        return min((self._known.get(one, {}).get(name, -1) for one in streams), default=-1)

    def known_of(self, peer: str, place: Place) -> Mapping[str, int]:
        """What the stream of ``peer`` that has this key has seen of each."""
        return self._known.get(self._streams.of(peer, place), {})

    def heard(self, peer: str) -> float:
        """When a tag of this datacenter came last, by the clock; 0 for never."""
        return self._heard.get(peer, 0.0)


def covered(vector: Mapping[str, int], positions: Mapping[str, int], owner: str) -> bool:
    """Does somebody of ``owner`` who has seen this know of all these writes? Of its own in any case."""
    return all(vector.get(name, -1) >= offset for name, offset in positions.items() if datacenter_of(name) != owner)
