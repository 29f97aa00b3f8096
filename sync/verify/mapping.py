"""Where a key of the first side stands at the second: the same place, or as a task's filters and rewrites say."""

from __future__ import annotations

from sync.rules import Dropped
from sync.transform import Transform
from sync.verify.glance import Place


class Mapping:
    """Everything stays where it is."""

    identity = True
    typed = False  # must `back` be told the type?

    def there(self, place: Place) -> Place | None:
        """The place at the second side; None: not carried."""
        return place

    def back(self, place: Place, kind: str = "") -> Place | None:
        """The place at the first side of what stands here at the second; None: nothing that could be compared."""
        return place

    def carries(self, kind: str) -> bool:
        """Are values of this type carried?"""
        return True


class TaskMapping(Mapping):
    """As a link's `Transform` says. Values that a hook changes show as different."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self.identity = transform.identity
        self.typed = transform.needs_type

    def there(self, place: Place) -> Place | None:
        found = self._transform.key(*place)
        return None if isinstance(found, Dropped) else found

    def back(self, place: Place, kind: str = "") -> Place | None:
        return self._transform.invert(*place, kind)

    def carries(self, kind: str) -> bool:
        return self._transform.carries_type(kind)
