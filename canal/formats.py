"""The format version of what others read, or this program later: state directories, tags, coordinators' records.

One number for all of them. This release reads formats `OLDEST` to `NEWEST`, and until it is told otherwise (`write`)
writes the one before its newest: so an upgraded node can be taken back to the release before, and nodes of two releases
work in one ensemble. Format 1 is the first; each later one says here what changed.

    1   as the modules say that write it
"""

from __future__ import annotations

from canal.errors import CanalError, ConfigError, StateError

OLDEST: int = 1
NEWEST: int = 1
_chosen: int | None = None


def written() -> int:
    """The format that this process writes."""
    return _chosen if _chosen is not None else max(OLDEST, NEWEST - 1)


def write(number: int | None) -> None:
    """Write this format from now on; None: the release's choice. Raises `ConfigError` for one that it does not know."""
    global _chosen
    if number is not None and not OLDEST <= number <= NEWEST:
        raise ConfigError(f"format {number} is not among those that this redis-canal knows: {OLDEST} to {NEWEST}")
    _chosen = number


def check(what: str, number: int, error: type[CanalError] = StateError, hint: str = "") -> None:
    """Raise ``error`` for a format that this release cannot read. ``what`` names the thing and says where it is."""
    if number > NEWEST:
        raise error(
            f"{what} has format {number}, this redis-canal knows up to {NEWEST}: it was written by a newer one; "
            f"{hint or 'upgrade this one'}"
        )
    if number < OLDEST:
        raise error(
            f"{what} has format {number}, this redis-canal knows from {OLDEST} on: "
            "run the release between the two once, or start with a new directory"
        )
