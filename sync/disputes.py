"""What becomes of disputed keys: their home echoes them, the others wait for that, until all have seen it. No I/O.

A key is *pending* from the first of the writes in dispute until everybody has what settles it. Where it is for us to
echo it the owner is told (`Disputes.asks`), once at a time; where the home does not know of the dispute its server is
asked from here (`Disputes.prompts`); where it is silent the next in the circle stands in for it.
See docs/architecture/two-way.md for the rules and the sequences that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from sync.homes import Homes, Place
from sync.vectors import Vectors, covered

_SILENT_S: Final = 600.0
_PROMPT_S: Final = 2.0
_AGAIN_S: Final = 2.0
_STALE_S: Final = 30.0
_MOST_PENDING: Final = 100_000


@dataclass(slots=True)
class Pending:
    """A key whose home has not settled it for everybody yet."""

    positions: dict[str, int]  # of the writes that everybody has to see
    since: float
    acting: bool  # it is for us to echo it
    disputed_at: float  # by the newest write
    asked_at: float = 0.0
    echoed_at: int = 0  # our echo stands in our stream there
    again: bool = False  # written concurrently once more after our echo
    twice: bool = False  # echoed once more after all had seen both writes
    marked: bool = False  # told by other things than the stream, which cannot be read again


@dataclass(slots=True)
class Figures:
    """Counters of one `sync.conflict.Conflicts`; they only grow."""

    conflicts: int = 0
    settled: int = 0
    given_up: int = 0  # keys that could not be waited for, for lack of room
    shown: int = 0  # of the conflicts, by the owner


class Disputes:
    """``here``: the source's datacenter. ``delay_s``: how long to leave the first echo to another link. ``there``: the
    datacenter whose server can be asked for an echo. The dicts are changed in place only: others may hold them.
    """

    def __init__(
        self,
        here: str,
        homes: Homes,
        vectors: Vectors,
        *,
        delay_s: float,
        there: str,
        clock: Callable[[], float],
    ) -> None:
        self.pending: dict[Place, Pending] = {}
        self.asks: dict[Place, None] = {}  # to be echoed here; taken by the owner
        self.prompts: dict[Place, None] = {}  # likewise, at ``there``
        self.figures = Figures()
        self._here = here
        self._homes = homes
        self._vectors = vectors
        self._delay_s = delay_s
        self._there = there
        self._clock = clock

    # --- what is told of a key ---

    def dispute(self, place: Place, writes: Iterable[tuple[str, int]]) -> str:
        """Writes of a key (stream, offset in it) that had not seen each other. Returns its home, whose state stays."""
        entry = self.pending.get(place)
        winner = self._homes.home(place)
        now = self._clock()
        if entry is None:
            if len(self.pending) >= _MOST_PENDING:
                self.pending.pop(next(iter(self.pending)))
                self.figures.given_up += 1
            entry = self.pending[place] = Pending({}, now, winner == self._here, now)
            if entry.acting and self._delay_s == 0.0:
                self._ask(place, entry)
        elif entry.acting:
            entry.again = True
        for name, offset in writes:
            entry.positions[name] = max(offset, entry.positions.get(name, -1))
        entry.twice = False
        entry.disputed_at = now
        return winner

    def restate(self, place: Place) -> None:
        """Echo a disputed key once from here, since its home may not know of the dispute; it settles what that meets.

        So for a copy that we made of a key which is not what it was: where the copying had no effect elsewhere, its
        home's stream says nothing of it.
        """
        entry = self.pending[place]
        if not entry.acting and not entry.asked_at:
            entry.asked_at = self._clock()
            self.asks[place] = None

    def echoed(self, place: Place, end: int) -> None:
        """A whole value of a disputed key stands in our stream."""
        entry = self.pending[place]
        if entry.acting:
            entry.echoed_at = end

    def settled(self, place: Place, origin: str, vector: dict[str, int]) -> None:
        """A whole value of a disputed key came from somebody who had seen ``vector``: maybe all that was in dispute."""
        entry = self.pending[place]
        if not entry.acting and covered(vector, entry.positions, origin):
            del self.pending[place]
            self.figures.settled += 1

    def drop(self, place: Place) -> None:
        """It cannot be echoed: nobody waits for it any more."""
        if self.pending.pop(place, None) is not None:
            self.figures.given_up += 1

    # --- what goes by time and by what others have seen ---

    def begin(self, name: str) -> int | None:
        """Position of the oldest write in dispute in the stream of ``name``."""
        disputed = [at for entry in self.pending.values() if (at := entry.positions.get(name)) is not None]
        return min(disputed, default=None)

    def progress(self, now: float, applied: int) -> None:
        """Settle what everybody has seen, and ask for what is still to be echoed. ``applied``: of our stream, at
        ``there``, whose tags need not have told yet.
        """
        for place, entry in list(self.pending.items()):
            if entry.acting:
                self._follow_up(place, entry, now)
            elif now - entry.disputed_at > _PROMPT_S and self._prompt(place, entry, now, applied):
                continue
            elif now - entry.since > _SILENT_S:
                self._stand_in(place, entry, now)

    def _follow_up(self, place: Place, entry: Pending, now: float) -> None:
        if not entry.asked_at:
            if entry.echoed_at:  # by the other link
                entry.asked_at = now
            elif now - entry.since >= self._delay_s:
                self._ask(place, entry)
            return
        if not entry.echoed_at:
            if now - entry.asked_at > _STALE_S:
                self._ask(place, entry)
            return
        vectors, peers = self._vectors, self._vectors.peers
        everybody = all(vectors.known_of(peer, place).get(vectors.stream, -1) >= entry.echoed_at for peer in peers)
        if everybody and len(peers) > 1:
            everybody = all(
                vectors.seen_by(peer, name) >= offset for peer in peers for name, offset in entry.positions.items()
            )
        if everybody:
            if entry.again or (len(peers) > 1 and not entry.twice):
                entry.twice = not entry.again
                self._ask(place, entry)
            else:
                del self.pending[place]
                self.figures.settled += 1
        elif entry.again and now - entry.asked_at > _AGAIN_S:
            self._ask(place, entry)

    def _prompt(self, place: Place, entry: Pending, now: float, applied: int) -> bool:
        """The home has all the writes in dispute, and no echo came: a write that had no effect there is not in its
        stream, so it may not know of the dispute. Its server is asked for the echo from here.
        """
        if self._there != self._homes.home(place):
            return False
        known = self._vectors.known_of(self._there, place)
        if applied > known.get(self._vectors.stream, -1):  # a write without effect there asks for no tag in return
            known = {**known, self._vectors.stream: applied}
        if not covered(known, entry.positions, self._there):
            return False
        entry.disputed_at = now
        self.prompts[place] = None
        return True

    def _stand_in(self, place: Place, entry: Pending, now: float) -> None:
        """The home is silent: the next in the circle echoes. Or it saw no conflict, and nothing is waited for."""
        home = self._homes.home(place)
        if covered(self._vectors.known_of(home, place), entry.positions, home):
            # Alive, then: to echo another state over its own would undo writes that nobody else made.
            del self.pending[place]
            return
        for name in self._homes.ranking(place):
            if name == self._here:
                entry.acting = True
                self._ask(place, entry)
                return
            if now - max(self._vectors.heard(name), entry.since) <= _SILENT_S:
                return

    def _ask(self, place: Place, entry: Pending) -> None:
        entry.asked_at = self._clock()
        entry.echoed_at = 0
        entry.again = False
        self.asks[place] = None

    def take_asks(self) -> list[Place]:
        """Keys to be echoed here now, each told once."""
        asks = [place for place in self.asks if (entry := self.pending.get(place)) and not entry.echoed_at]
        self.asks.clear()
        return asks
