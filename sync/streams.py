"""Two ways: the streams of a datacenter. A single server has one; a cluster has one for each shard. No I/O.

A stream is named after its datacenter; that of a cluster's shard ``<datacenter>/<shard>``, as the tasks from there call
it. Which of a cluster's shards writes a key is told by the field ``slots`` of its links' tags.
"""

from __future__ import annotations

from typing import Final, Literal

from canal.cluster import SLOTS, slot_of
from canal.errors import StateError
from sync.homes import Place
from sync.slotmap import parse_ranges

_WHOLE: Final = "0"
Scope = Literal["link", "node", "slot"]
"""Of what a tag's position speaks: of all keys, of those of the node that has the tag, or of one slot's."""


def stream_name(datacenter: str, shard: str) -> str:
    """The stream that a task's shard reads."""
    return datacenter if shard == _WHOLE else f"{datacenter}/{shard}"


def datacenter_of(stream: str) -> str:
    """Whose stream it is."""
    return stream.partition("/")[0]


def writer_of(link: str) -> tuple[str, Scope]:
    """The shard that a tag's link reads, and of what its position speaks."""
    shard, colon, rest = link.partition("/")[2].partition(":")
    return shard or _WHOLE, "link" if not colon else "node" if rest.startswith("tag:") else "slot"


class Streams:
    """Which stream of the other datacenters a key's writes come by."""

    def __init__(self) -> None:
        self._owners: dict[str, list[str]] = {}  # of clusters: by slot; empty where nobody said
        self._texts: dict[str, bytes] = {}
        self._relevant: dict[str, tuple[frozenset[int] | None, list[str]]] = {}

    def met(self, datacenter: str) -> None:
        """It has shards."""
        self._owners.setdefault(datacenter, [""] * SLOTS)

    def told(self, datacenter: str, stream: str, slots: bytes) -> None:
        """A shard says which slots it has; others do not have them any more."""
        if self._texts.get(stream) == slots:
            return
        try:
            mine = parse_ranges(slots.decode("ascii", "replace"))
        except StateError:
            return
        self.met(datacenter)
        self._texts[stream] = slots
        owners = self._owners[datacenter] = [
            "" if one == stream and slot not in mine else one for slot, one in enumerate(self._owners[datacenter])
        ]
        for slot in mine:
            owners[slot] = stream
        self._texts = {one: text for one, text in self._texts.items() if one == stream or one in owners}
        self._relevant.clear()

    def of(self, datacenter: str, place: Place) -> str:
        """The stream that has a key's writes; empty where that is not known."""
        owners = self._owners.get(datacenter)
        return datacenter if owners is None else owners[slot_of(place[1])]

    def all(self, datacenter: str, slots: frozenset[int] | None) -> list[str]:
        """Those of these slots (None: of all); an empty one among them where some are not known."""
        owners = self._owners.get(datacenter)
        if owners is None:
            return [datacenter]
        known = self._relevant.get(datacenter)
        if known is None or known[0] is not slots:
            names = set(owners) if slots is None else {owners[slot] for slot in slots}
            known = self._relevant[datacenter] = slots, sorted(names)
        return known[1]
