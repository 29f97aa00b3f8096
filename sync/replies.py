"""Two ways: what the target's replies say of keys that are not the same on both sides, and who is to echo these.

An error that comes of the key's state, or no effect where there must have been one: the command met something else than
it did where it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from canal.commands import read_keys
from sync.conditional import is_conditional
from sync.config import LinkConfig
from sync.conflict import Conflicts
from sync.echoes import Echoes
from sync.effects import is_usual
from sync.homes import Homes, Place
from sync.status import LinkStatus
from sync.tag import is_reserved
from sync.window import places_written

_OF_STATE: Final = (
    "WRONGTYPE",
    "BUSYGROUP",
    "NOGROUP",
    "BUSYKEY",
    "INVALIDOBJ",
    "ERR no such key",
    "ERR index out of range",
    "ERR value is not",
    "ERR hash value is not",
    "ERR increment",
    "ERR decrement",
    "ERR The ID specified in X",
    "ERR The XGROUP subcommand requires the key",
    "ERR Library",
    "ERR source and destination",
    "ERR resulting score",
    "ERR One or more scores",
    "ERR string exceeds",
    "ERR bit",
    "ERR value is out of range",
)


def of_state(text: str) -> bool:
    """Does this error of a command say that the key is not what it was where the command was made?"""
    return text.startswith(_OF_STATE)


class Replies:
    """Of one link. ``conflicts()``: those of the session, None before there is one."""

    def __init__(
        self,
        config: LinkConfig,
        status: LinkStatus,
        homes: Homes,
        echoes: Echoes,
        conflicts: Callable[[], Conflicts | None],
    ) -> None:
        self._config = config
        self._status = status
        self._homes = homes
        self._echoes = echoes
        self._conflicts = conflicts

    def refused(self, db: int, argv: list[bytes], text: str) -> bool:
        """A command met another state at the target. False when the error says something else."""
        if not of_state(text):
            return False
        self.differs(places_of(db, argv), "reply")
        return True

    def unlike(self, db: int, argv: list[bytes]) -> None:
        """A command had no effect at the target where it must have had one, or where that cannot be told."""
        if is_conditional(argv):
            self._status.expiry_refused += 1
            # An expired key that lives on at the target. Nobody meant the key's end, so the living one is written
            # again; where both wrote it since, that is a conflict as any other.
            self._echoes.target.ask([(db, argv[3])])
        elif is_usual(argv) and (found := self._conflicts()) is not None:
            found.quiet = True
            self.differs(places_written(db, argv), "reply")
            found.quiet = False
        else:
            self._status.conflicts_marked += 1
            self.differs(places_of(db, argv), "reply")

    def differs(self, places: Iterable[Place], reason: str) -> None:
        """Keys that are not the same on both sides: their home is made to echo them."""
        found = self._conflicts()
        for place in places:
            home = self._homes.home(place)
            if found is not None:
                found.mark(place, reason)
            if home == self._config.target_dc:
                self._echoes.target.ask([place])
            elif found is not None:
                found.restate(place)

    def never_rests(self, places: Iterable[Place]) -> None:
        """Keys written so often that nobody can say whether they differ: whoever writes them echoes them.

        The other side's state, its home's too, lacks what is on its way, and a queue set back to that gives elements
        out twice.
        """
        found = self._conflicts()
        for place in places:
            ours = found is not None and found.local_window.get(place) > found.oldest_seen
            (self._echoes.source if ours else self._echoes.target).ask([place])

    def of_third(self, place: Place) -> bool:
        """Is its home none of the two that are compared? Then what differs may be on its way from there."""
        return self._homes.home(place) not in (self._config.source_dc, self._config.target_dc)


def places_of(db: int, argv: list[bytes]) -> list[Place]:
    """Keys that a command writes, and those whose values it carries into them."""
    places = [*places_written(db, argv), *((db, key) for _, key in read_keys(argv))]
    return [place for place in dict.fromkeys(places) if not is_reserved(place[1])]
