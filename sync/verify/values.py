"""Are two values the same? Small ones are read whole, many in one go; large ones in pieces (`sync.verify.pieces`)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import hiredis

from sync.content import SIZES, comparable, describe, field_deadlines_command, read_command, weight
from sync.verify.glance import NO_DEADLINE, Glance, Place, dumped
from sync.verify.pieces import in_pieces
from sync.verify.report import Options
from sync.verify.side import Pair

UNKNOWN_ELEMENTS: Final = 1000
"""Where a server does not tell a value's memory, a collection of more elements is read in pieces."""


@dataclass(frozen=True, slots=True)
class Both:
    """A key that both sides have with one type: its places and what the glance said."""

    here: Place
    there: Place
    left: Glance
    right: Glance


@dataclass(frozen=True, slots=True)
class Verdict:
    """How two values differ. ``mark`` stands for the state of both sides: two looks with one mark saw the same."""

    detail: str
    mark: tuple[bytes, ...]
    ttl: bool = False  # a hash field's deadline, not the value


class Values:
    """Compares values of one pair."""

    def __init__(self, pair: Pair, options: Options, tolerance_ms: int) -> None:
        self._pair, self._options, self._tolerance = pair, options, tolerance_ms

    async def compare(self, keys: list[Both]) -> list[Verdict | None]:
        """What differs of each; None: nothing. Holds about ``max_bytes`` of each side at a time."""
        out: list[Verdict | None] = [None] * len(keys)
        group: list[int] = []
        total = size = 0
        for index, key in enumerate(keys):
            if key.left.digest and key.left.digest == key.right.digest:
                continue
            large = self._large(key.left) or self._large(key.right)
            if key.left.size != key.right.size and not large:
                kind = key.left.kind.decode()
                out[index] = Verdict(f"{kind} of size {key.left.size} against {key.right.size}", _sizes(key))
                continue
            if large:
                out[index] = await self._in_pieces(key)
                continue
            cost = weight(key.left.kind, key.left.size)
            memory = max(key.left.memory, key.right.memory, 0)
            if group and (total + cost > self._options.max_weight or size + memory > self._options.max_bytes):
                await self._whole(keys, group, out)
                group, total, size = [], 0, 0
            group.append(index)
            total += cost
            size += memory
        await self._whole(keys, group, out)
        return out

    def _large(self, one: Glance) -> bool:
        if one.kind not in SIZES:
            return False
        if one.memory < 0:
            return one.size > UNKNOWN_ELEMENTS
        return one.memory > self._options.max_bytes or weight(one.kind, one.size) > self._options.max_weight

    async def _in_pieces(self, key: Both) -> Verdict | None:
        found = await in_pieces(self._pair, key.left, key.here, key.there, self._tolerance)
        return None if found is None else Verdict(found.detail, (_digest(found.left), _digest(found.right)), found.ttl)

    async def _whole(self, keys: list[Both], group: list[int], out: list[Verdict | None]) -> None:
        """Read these whole on both sides; fill in what differs."""
        known = [index for index in group if keys[index].left.kind in SIZES]
        here = [(keys[i].here[0], read_command(keys[i].left.kind, keys[i].here[1])) for i in known]
        there = [(keys[i].there[0], read_command(keys[i].left.kind, keys[i].there[1])) for i in known]
        lefts, rights = await self._pair.both(here, there)
        hashes: list[tuple[int, list[bytes]]] = []
        for index, left, right in zip(known, lefts, rights, strict=True):
            kind = keys[index].left.kind
            ours, theirs = comparable(kind, left), comparable(kind, right)
            if ours != theirs:
                detail = f"{kind.decode()}: {describe(kind, ours, theirs)}"
                out[index] = Verdict(detail, (_digest(ours), _digest(theirs)))
            elif kind == b"hash" and self._pair.field_deadlines and isinstance(ours, dict) and ours:
                hashes.append((index, list(ours)))
        await self._fields(keys, hashes, out)
        for index in group:
            if keys[index].left.kind not in SIZES:
                out[index] = await self._dumped(keys[index])

    async def _fields(self, keys: list[Both], hashes: list[tuple[int, list[bytes]]], out: list[Verdict | None]) -> None:
        """Deadlines of hash fields."""
        lefts, rights = await self._pair.both(
            [(keys[i].here[0], field_deadlines_command(keys[i].here[1], names)) for i, names in hashes],
            [(keys[i].there[0], field_deadlines_command(keys[i].there[1], names)) for i, names in hashes],
        )
        for (index, names), left, right in zip(hashes, lefts, rights, strict=True):
            if left == right or isinstance(left, hiredis.ReplyError) or isinstance(right, hiredis.ReplyError):
                continue
            for name, ours, theirs in zip(names, left, right, strict=True):
                if not same_deadline(ours, theirs, self._tolerance):
                    detail = f"field {name!r}: {when(ours)} against {when(theirs)}"
                    out[index] = Verdict(detail, (_digest(left), _digest(right)), ttl=True)
                    break

    async def _dumped(self, key: Both) -> Verdict | None:
        """A value of a type that is not known here: the servers' own form of it."""
        left = await dumped(self._pair.first, key.here)
        right = await dumped(self._pair.second, key.there)
        if left == right and not isinstance(left, hiredis.ReplyError):
            return None
        return Verdict(f"{key.left.kind.decode()}: the dumps differ", (_digest(left), _digest(right)))


def same_deadline(left: int, right: int, tolerance_ms: int) -> bool:
    """Deadlines in unix ms, negative for none."""
    return left == right or (left > 0 and right > 0 and abs(left - right) <= tolerance_ms)


def when(deadline: int) -> str:
    """A deadline for people."""
    return "none" if deadline == NO_DEADLINE else f"{deadline} ms"


def _sizes(key: Both) -> tuple[bytes, ...]:
    """The state of both sides when their sizes tell them apart already: digests, where there are any, see more."""
    return b"%d" % key.left.size, key.left.digest, b"%d" % key.right.size, key.right.digest


def _digest(value: Any) -> bytes:
    """Stands for a value whatever order the server told its members in."""
    if isinstance(value, frozenset):
        value = sorted(value)
    elif isinstance(value, dict):
        value = sorted(value.items(), key=lambda item: repr(item[0]))
    return hashlib.blake2b(repr(value).encode(), digest_size=16).digest()
