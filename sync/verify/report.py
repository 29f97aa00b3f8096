"""What is asked of a comparison, and what it found."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, get_args

Kind = Literal["missing", "extra", "type", "value", "ttl", "function"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Options:
    """What to compare and how hard. A difference counts that ``rounds`` looks, ``pause_s`` apart, all saw the same.

    ``sample``: so many keys chosen at random instead of all. ``rate``: keys a second at most, larger values counting
    for more; 0: as fast as the servers answer. ``keep``: how many differences are remembered, more are counted.
    """

    databases: tuple[int, ...] | None = None  # of the first side; None: all that hold keys on either side
    pattern: bytes | None = None  # glob, as SCAN MATCH, of the first side's names
    sample: int = 0
    ttl_tolerance_ms: int = 1
    rounds: int = 3
    pause_s: float = 1.0
    patience: int = 7  # further looks at keys that change from look to look
    rate: float = 0.0
    page: int = 500
    max_weight: int = 20_000  # elements asked for in one go
    max_bytes: int = 4 << 20  # of values asked for in one go; larger ones are compared in pieces
    keep: int = 10_000
    flowing: bool = False  # no look counts while a link between the sides is behind and stands still


@dataclass(frozen=True, slots=True)
class Difference:
    """One key (or function library) that is not the same. ``missing`` at the second side, or ``extra`` there.

    ``db`` and ``key`` are the first side's names.
    """

    db: int
    key: bytes
    kind: Kind
    detail: str = ""

    def __str__(self) -> str:
        what = "function library" if self.kind == "function" else f"db {self.db} key"
        return f"{self.kind}: {what} {self.key!r}" + (f": {self.detail}" if self.detail else "")


@dataclass(slots=True)
class Report:
    """The result. ``keys`` were compared; ``first_keys`` and ``second_keys`` were seen on each side.

    ``unsettled``: keys that changed from look to look on either side and never looked equal: neither equal nor
    different can be said of them.
    """

    keys: int = 0
    first_keys: int = 0
    second_keys: int = 0
    total: int = 0  # keys to be looked at on both sides together, as counted at the beginning
    rounds: int = 0
    found: int = 0  # differences, remembered or not
    unsettled: int = 0
    repaired: int = 0
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)

    @property
    def overflow(self) -> bool:
        """True when more differences were found than are remembered."""
        return self.found > len(self.differences)

    @property
    def different(self) -> int:
        """How many keys differ, remembered or not."""
        return max(self.found, len(self.differences))

    @property
    def equal(self) -> bool:
        """True when no key differs."""
        return not self.different

    def add(self, difference: Difference, keep: int) -> None:
        """Count a difference, and remember it while there is room."""
        self.found += 1
        if len(self.differences) < keep:
            self.differences.append(difference)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; keys as text with what is not printable escaped."""
        out = asdict(self)
        out["equal"], out["overflow"] = self.equal, self.overflow
        out["kinds"] = self.by_kind()
        for difference in out["differences"]:
            difference["key"] = difference["key"].decode("utf-8", "backslashreplace")
        return out

    def by_kind(self) -> dict[str, int]:
        """How many of those remembered are of each kind."""
        kinds = [one.kind for one in self.differences]
        return {kind: kinds.count(kind) for kind in KINDS if kind in kinds}

    def packed(self) -> dict[str, Any]:
        """To go on from, as JSON: keys keep every byte."""
        out = asdict(self)
        for difference in out["differences"]:
            difference["key"] = base64.b64encode(difference["key"]).decode()
        return out

    @classmethod
    def unpacked(cls, packed: dict[str, Any]) -> Report:
        """The counterpart of `packed`. Raises KeyError, TypeError or ValueError for what it did not make."""
        known = {one.name for one in fields(cls)} - {"differences"}
        report = cls(**{name: value for name, value in packed.items() if name in known})
        report.differences = [
            Difference(int(one["db"]), base64.b64decode(one["key"]), one["kind"], str(one["detail"]))
            for one in packed["differences"]
        ]
        return report


Progress = Callable[[Report], None]
