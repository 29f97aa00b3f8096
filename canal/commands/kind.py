"""What a server is: Redis or Valkey, and which version. Commands, RDB types and error texts depend on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

REDIS: Final = "redis"
VALKEY: Final = "valkey"


@dataclass(frozen=True, slots=True)
class ServerKind:
    """``flavor`` is ``redis`` or ``valkey``; ``version`` is Valkey's own for Valkey (not the 7.2.4 it also claims)."""

    flavor: str
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.flavor} {'.'.join(str(part) for part in self.version)}"

    def at_least(self, redis: tuple[int, ...] | None, valkey: tuple[int, ...] | None = (0,)) -> bool:
        """Is this Redis of at least ``redis``, or Valkey of at least ``valkey``? None: no version of that flavor.

        Left out, any Valkey will do: it started as Redis 7.2 and has all that came before.
        """
        since = valkey if self.flavor == VALKEY else redis
        return since is not None and self.version >= since

    def same_or_newer_than(self, other: ServerKind) -> bool:
        """Same flavor, and this version is not older: whatever ``other`` propagates is understood here as it stands."""
        return self.flavor == other.flavor and self.version >= other.version

    @classmethod
    def parse(cls, flavor: str, version: str) -> ServerKind:
        """Read a version as INFO writes it: ``7.0.15``, ``8.0.0-rc1``. ValueError quotes what has no number first."""
        numbers: list[int] = []
        for part in version.split("-")[0].split("."):
            if not part.isdigit():
                break
            numbers.append(int(part))
        if not numbers or flavor not in (REDIS, VALKEY):
            raise ValueError(f"expected redis or valkey and a version like 7.0.15, got {flavor!r} {version!r}")
        return cls(flavor, tuple(numbers))

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> ServerKind:
        """From the fields of INFO server. ValueError when it names no version."""
        valkey = info.get("valkey_version")
        if valkey:
            return cls.parse(VALKEY, str(valkey))
        return cls.parse(REDIS, str(info.get("redis_version", "")))
