"""The last hour of every task, for charts without Prometheus: kept in the console's memory, lost when it restarts."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from typing import Any, Final

EVERY_S: Final = 2.0
KEEP_S: Final = 3600.0
SERIES: Final = ("lag_seconds", "lag_bytes", "commands_per_second", "bytes_per_second")
SPARK_POINTS: Final = 60
SPARK_S: Final = 600.0


class Ring:
    """Samples of one task, oldest first: ``time`` and the `SERIES`; what is unknown is a gap (None)."""

    def __init__(self, size: int = int(KEEP_S / EVERY_S)) -> None:
        self._size = size
        self._columns = [array("d") for _ in range(1 + len(SERIES))]

    def add(self, now: float, values: dict[str, float | None]) -> None:
        """Add one sample, unless the newest is younger than `EVERY_S`."""
        times = self._columns[0]
        if times and now < times[-1] + EVERY_S * 0.9:
            return
        times.append(now)
        for column, name in zip(self._columns[1:], SERIES, strict=True):
            value = values.get(name)
            column.append(math.nan if value is None else float(value))
        if len(times) > self._size * 1.1:  # in portions: cutting the front of an array moves all of it
            for column in self._columns:
                del column[: len(column) - self._size]

    def document(self, now: float, seconds: float = KEEP_S) -> dict[str, list[float | None]]:
        """The samples of the last ``seconds``, as columns."""
        times = self._columns[0]
        first = next((i for i, at in enumerate(times) if at >= now - seconds), len(times))
        out: dict[str, list[float | None]] = {"time": list(times[first:])}
        for name, column in zip(SERIES, self._columns[1:], strict=True):
            out[name] = [None if math.isnan(value) else value for value in column[first:]]
        return out

    def spark(self, now: float) -> list[float | None]:
        """Commands per second over the last ten minutes in at most sixty means."""
        times, rates = self._columns[0], self._columns[1 + SERIES.index("commands_per_second")]
        width = SPARK_S / SPARK_POINTS
        slots: dict[int, list[float]] = {}
        for at, rate in zip(reversed(times), reversed(rates), strict=True):
            age = now - at
            if age >= SPARK_S:
                break
            if not math.isnan(rate):
                slots.setdefault(int(age // width), []).append(rate)
        if not slots:
            return []
        oldest = max(slots)
        return [round(sum(s) / len(s), 1) if (s := slots.get(i)) else None for i in range(oldest, -1, -1)]


class History:
    """The rings of all tasks by uid."""

    def __init__(self) -> None:
        self._rings: dict[str, Ring] = {}

    def add(self, uid: str, now: float, values: dict[str, float | None]) -> None:
        """Add a sample to the ring of a task."""
        self._rings.setdefault(uid, Ring()).add(now, values)

    def ring(self, uid: str) -> Ring:
        """The ring of a task; an empty one for a task not seen yet."""
        return self._rings.get(uid) or Ring()

    def keep(self, uids: Iterable[str]) -> None:
        """Forget all tasks but these."""
        wanted = set(uids)
        for uid in [uid for uid in self._rings if uid not in wanted]:
            del self._rings[uid]


class Rates:
    """Rates from counters that only grow while the worker lives."""

    def __init__(self) -> None:
        self._base: dict[str, tuple[float, float, int, int]] = {}  # when, worker's start, commands, bytes
        self._found: dict[str, tuple[float, float]] = {}

    def rate(self, key: str, now: float, live: dict[str, Any] | None) -> None:
        """Look at the counters of ``key``; what they say since the last look is `last`."""
        if live is None:
            self._base.pop(key, None)
            self._found.pop(key, None)
            return
        commands, size = live.get("commands_applied") or 0, live.get("bytes_applied") or 0
        new = (now, live.get("started") or 0.0, commands, size)
        before = self._base.get(key)
        if before is None or before[1] != new[1] or now <= before[0]:
            self._found.pop(key, None)
        else:
            span = now - before[0]
            self._found[key] = (
                round(max(0.0, (commands - before[2]) / span), 1),
                round(max(0.0, (size - before[3]) / span), 1),
            )
        self._base[key] = new

    def last(self, key: str) -> tuple[float | None, float | None]:
        """Commands and bytes applied per second between the last two looks; None while there is nothing to compare."""
        return self._found.get(key, (None, None))
