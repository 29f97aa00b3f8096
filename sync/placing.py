"""Where a key of the source stands at the target, and back: filters, database map and key prefix. No I/O.

The mapping is one to one, so that a sweep can tell from a key of the target which key of the source it is. What would
make two keys of the source one key of the target is refused (ConfigError), or filtered: with a prefix to remove or to
replace, keys that do not have it are not carried.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from canal.errors import ConfigError
from sync.filters import KeyFilter, KeyPattern
from sync.tag import RESERVED

# Why something is not carried: the closed set of the counters.
DATABASE: Final = "database"
KEY: Final = "key"
TYPE: Final = "type"
COMMAND: Final = "command"
HOOK: Final = "hook"
RESERVED_KEY: Final = "reserved"
REASONS: Final = frozenset({DATABASE, KEY, TYPE, COMMAND, HOOK, RESERVED_KEY})

TYPES: Final = frozenset({"string", "list", "set", "zset", "hash", "stream", "array", "module"})
"""What types can be filtered by. Vector sets count as ``module``: their values are a module's."""

_USUAL: Final = 16  # databases of a server whose configuration says nothing else


@dataclass(frozen=True, slots=True)
class TransformOptions:
    """What a link carries, and what it becomes. Empty include: everything.

    ``remove_prefix`` and ``add_prefix`` together replace a prefix. ``databases``: how many the source has, for
    FLUSHALL; 0: `Placing.source_has` is told, 16 until then. Types: of TYPES; command names in any case.
    """

    include_databases: frozenset[int] = frozenset()
    exclude_databases: frozenset[int] = frozenset()
    include_keys: tuple[KeyPattern, ...] = ()
    exclude_keys: tuple[KeyPattern, ...] = ()
    include_types: frozenset[str] = frozenset()
    exclude_types: frozenset[str] = frozenset()
    include_commands: frozenset[str] = frozenset()
    exclude_commands: frozenset[str] = frozenset()
    db_map: Mapping[int, int] = field(default_factory=dict)
    add_prefix: bytes = b""
    remove_prefix: bytes = b""
    hook: str = ""
    databases: int = 0


class Placing:
    """The mapping of keys. Raises ConfigError when ``options`` would put two keys of the source into one place."""

    def __init__(self, options: TransformOptions) -> None:
        self.keys = KeyFilter(options.include_keys, options.exclude_keys)
        self.add = options.add_prefix
        self.remove = options.remove_prefix
        unknown = (options.include_types | options.exclude_types) - TYPES
        if unknown:
            raise ConfigError(f"types {', '.join(sorted(unknown))} are not known: expected {', '.join(sorted(TYPES))}")
        self._include = options.include_databases
        self._exclude = options.exclude_databases
        self._map = {source: target for source, target in options.db_map.items() if source != target}
        self._databases = options.databases or _USUAL
        self._told = bool(options.databases)
        if (self.add or self.remove).startswith(RESERVED):
            raise ConfigError(f"keys under {RESERVED.decode()} are redis-canal's own and cannot be a prefix")
        self._back = self._inverted()

    def _inverted(self) -> dict[int, int]:
        back = {target: source for source, target in self._map.items() if self.carries(source)}
        if len(back) < sum(self.carries(source) for source in self._map):
            raise ConfigError("db_map: two databases of the source have the same target; their keys would mix")
        for target, source in back.items():
            if self.carries(target) and target not in self._map:
                raise ConfigError(
                    f"db_map: database {source} goes to {target}, and so does {target} itself; their keys would mix: "
                    f"map or exclude database {target} too"
                )
        return back

    def source_has(self, databases: int) -> None:
        """How many databases the source has, unless the options said it."""
        if not self._told:
            self._databases = databases

    @property
    def changes_names(self) -> bool:
        """Do keys get other names?"""
        return bool(self.add or self.remove)

    @property
    def whole_databases(self) -> bool:
        """Is everything carried of a database that is carried at all, under its own name?"""
        return self.keys.empty and not self.changes_names

    @property
    def identity(self) -> bool:
        """Does everything stay where it is?"""
        return self.whole_databases and not self._include and not self._exclude and not self._map

    @property
    def all_databases(self) -> bool:
        """Is every database carried, in its own place?"""
        return not self._include and not self._exclude and not self._map

    def carries(self, db: int) -> bool:
        """Is this database of the source carried?"""
        return db not in self._exclude and (not self._include or db in self._include)

    def carried_databases(self) -> list[int]:
        """Those of the source that are carried and that can be told."""
        known = self._include or frozenset(range(self._databases))
        return sorted(db for db in known if self.carries(db))

    def database(self, db: int) -> int:
        """Where a carried database of the source stands at the target."""
        return self._map.get(db, db)

    def name(self, key: bytes) -> bytes | str:
        """The key's name at the target, or why it is not carried."""
        if key.startswith(RESERVED):
            return RESERVED_KEY
        if not self.keys.passes(key) or not key.startswith(self.remove):
            return KEY
        named = self.add + key[len(self.remove) :]
        return RESERVED_KEY if named.startswith(RESERVED) else named

    def place(self, db: int, key: bytes) -> tuple[int, bytes] | str:
        """(database, name) at the target, or why the key is not carried."""
        if not self.carries(db):
            return DATABASE
        named = self.name(key)
        return named if isinstance(named, str) else (self.database(db), named)

    def invert(self, db: int, key: bytes) -> tuple[int, bytes] | None:
        """Which key of the source stands at this place of the target; None: none that this link carries."""
        source = self._back.get(db)
        if source is None:
            source = db
            if db in self._map:
                return None
        if not self.carries(source) or not key.startswith(self.add) or key.startswith(RESERVED):
            return None
        original = self.remove + key[len(self.add) :]
        if original.startswith(RESERVED) or not self.keys.passes(original):
            return None
        return source, original
