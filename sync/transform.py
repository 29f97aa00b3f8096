"""Filters, database map, key prefix and user hook, for snapshot and stream alike. No I/O.

A command whose keys are all carried gets their names at the target; one with none is filtered, with its reason. Where
its keys stand on both sides of a filter it is split if the parts mean the same (sync/split.py), else it is impossible:
a dead letter by policy, never half of a command in silence.

Types: the stream tells a key's type by the command. Where a command of a filtered type replaces a key whole, the key is
removed at the target: it may have held a value of a carried type before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from canal.commands import ONE_KEY, WRITE, CommandInfo, Flag, all_keys, key_positions, lookup
from canal.errors import RdbError
from canal.rdb.dump import split_payload
from canal.rdb.types import type_name
from sync.conditional import stands_for
from sync.flushing import flush_database
from sync.hook import Hook, HookError, call_hook, load_hook
from sync.placing import COMMAND, DATABASE, HOOK, REASONS, TYPE, TYPES, Placing, TransformOptions
from sync.rewrite import Rewriter
from sync.rules import Adjust, Adjusted, Dropped, Impossible
from sync.split import SPLITTERS, Carried, mapped
from sync.tag import RESERVED

__all__ = ["REASONS", "Transform", "TransformOptions", "compose"]

_NO_DATABASE: Final = frozenset({b"PUBLISH", b"SPUBLISH", b"SCRIPT", b"FUNCTION"})
_SIMPLE: Final = frozenset(name for name in ONE_KEY if name.upper() not in SPLITTERS)
_SORTED_READS_SETS: Final = frozenset({b"ZUNIONSTORE", b"ZINTERSTORE", b"ZDIFFSTORE"})


def _ignore(reason: str) -> None:
    pass


class Transform:
    """What one link carries and what it becomes. Raises ConfigError for options that contradict each other.

    ``on_filtered`` is told the reason of each key or command that is left out of a command that is otherwise carried;
    what is left out whole is the caller's to count (`Dropped.reason`, of REASONS).
    """

    def __init__(self, options: TransformOptions, on_filtered: Callable[[str], None] = _ignore) -> None:
        self.placing = Placing(options)
        self.options = options
        self._carried = Carried(self.placing, on_filtered)
        self._own = Carried(Placing(TransformOptions()), on_filtered)  # leaves out nothing but the reserved keys
        self._include_commands = frozenset(name.upper().encode() for name in options.include_commands)
        self._exclude_commands = frozenset(name.upper().encode() for name in options.exclude_commands)
        self._typed = bool(options.include_types or options.exclude_types)
        named = bool(self._include_commands or self._exclude_commands)
        self._simple = frozenset() if self._typed or named else _SIMPLE
        self._hook: Hook | None = load_hook(options.hook) if options.hook else None
        self.identity = self.placing.identity and not self._typed and not named and self._hook is None

    # --- keys: the snapshot and the sweep --------------------------------------------------------------------

    def key(self, db: int, key: bytes, kind: str = "") -> tuple[int, bytes] | Dropped:
        """Where a key of the snapshot goes; ``kind`` is its type (as TYPE says), empty when it is not known."""
        if kind and not self.carries_type(kind):
            return Dropped(TYPE)
        place = self.placing.place(db, key)
        return Dropped(place) if isinstance(place, str) else place

    def invert(self, db: int, key: bytes, kind: str = "") -> tuple[int, bytes] | None:
        """Which (database, key) of the source stands here at the target; None: none that this link could have made.

        ``kind`` is what TYPE says at the target; without it nothing is this link's where types are filtered
        (`needs_type`): a key of a filtered type was made by somebody else.
        """
        if self._typed and not (kind and self.carries_type(kind)):
            return None
        if self._hook is not None:
            undo = getattr(self._hook, "invert", None)
            undone = None if undo is None else undo(db, key)
            if undone is None:
                return None
            db, key = undone
        return self.placing.invert(db, key)

    @property
    def needs_type(self) -> bool:
        """Must `key` and `invert` be told the type?"""
        return self._typed

    def carries_type(self, kind: str) -> bool:
        """Are values of this type carried?"""
        known = "module" if kind not in TYPES else kind
        options = self.options
        return known not in options.exclude_types and (not options.include_types or known in options.include_types)

    # --- commands: the stream --------------------------------------------------------------------------------

    def command(self, db: int, argv: list[bytes]) -> Adjusted:
        """What becomes of a command of the stream. The same argv object, when nothing about it changes.

        redis-canal's own keys are taken out of it in any case: `DEL k redis-canal:…` at the source removes k only.
        """
        for word in argv:
            if word.startswith(RESERVED):
                return self._without_reserved(db, argv)
        return self._commanded(db, argv)

    def _without_reserved(self, db: int, argv: list[bytes]) -> Adjusted:
        if not any(key.startswith(RESERVED) for _, key in all_keys(argv)):
            return self._commanded(db, argv)
        splitter = SPLITTERS.get(argv[0].upper())
        cleaned = splitter(self._own, db, argv) if splitter else mapped(self._own, db, argv, key_positions(argv))
        if not isinstance(cleaned, list):
            return cleaned
        ((db, argv),) = cleaned
        return self._commanded(db, argv)

    def _commanded(self, db: int, argv: list[bytes]) -> Adjusted:
        if self.identity:
            return [(db, argv)]
        if argv[0] in self._simple and len(argv) > 1:
            result = self._by_one_key(db, argv)
        else:
            result = self._command(db, argv)
        if self._hook is None or not isinstance(result, list):
            return result
        return self.hooked(result)

    def _by_one_key(self, db: int, argv: list[bytes]) -> Adjusted:
        key = argv[1]
        place = self.placing.place(db, key)
        if isinstance(place, str):
            return Dropped(place)
        to_db, name = place
        return [(to_db, argv if name == key else [argv[0], name, *argv[2:]])]

    def hooked(self, commands: list[tuple[int, list[bytes]]]) -> Adjusted:
        """The commands as the user's hook wants them; for the commands of a snapshot's keys too."""
        if self._hook is None:
            return commands
        out: list[tuple[int, list[bytes]]] = []
        try:
            for db, argv in commands:
                out += call_hook(self._hook, db, argv)
        except HookError as error:
            return Impossible(str(error))
        return out if out else Dropped(HOOK)

    def _command(self, db: int, argv: list[bytes]) -> Adjusted:
        name = stands_for(argv) or argv[0].upper()
        if name in self._exclude_commands or (self._include_commands and name not in self._include_commands):
            return Dropped(COMMAND)
        if name in _NO_DATABASE:
            return [(db, argv)]
        info = lookup(name)
        if info is not None and info.flags & Flag.ALLKEYS:
            return self._all_keys(name, db, argv)
        if self._typed:
            decided = self._by_type(name, info, db, argv)
            if decided is not None:
                return decided
        splitter = SPLITTERS.get(name) if name == argv[0].upper() else None
        if splitter is not None:
            return splitter(self._carried, db, argv)
        if not self.placing.carries(db):
            return Dropped(DATABASE)
        if self.placing.whole_databases:
            return [(self.placing.database(db), argv)]
        return self._by_keys(info, db, argv)

    def _by_keys(self, info: CommandInfo | None, db: int, argv: list[bytes]) -> Adjusted:
        name = argv[0].decode("ascii", "replace")
        if info is None:
            return Impossible(f"{name} is unknown: its keys cannot be told, so that it cannot be filtered by key")
        positions = key_positions(argv)
        if info.flags & Flag.OPAQUE and not positions:
            return Impossible(f"{name} names no keys, so that it cannot be filtered by key")
        return mapped(self._carried, db, argv, positions)

    # --- types -----------------------------------------------------------------------------------------------

    def _by_type(self, name: bytes, info: CommandInfo | None, db: int, argv: list[bytes]) -> Adjusted | None:
        """What the types decide; None leaves the command to the keys."""
        if info is None:
            return Impossible(f"{name.decode('ascii', 'replace')} is unknown: its type cannot be told")
        if info.flags & Flag.OPAQUE and name != b"SORT":
            return Impossible(f"{name.decode()}: what a script writes cannot be filtered by type")
        kind = _type_of(name, info, argv)
        if kind and not self.carries_type(kind):
            return self._replaced(db, argv)
        if name in _SORTED_READS_SETS and not self.carries_type("set"):
            return Impossible(f"{name.decode()} may read sets, which are filtered")
        if name == b"SORT" and not all(self.carries_type(read) for read in ("list", "set", "zset")):
            return Impossible("SORT … STORE may read a type that is filtered")
        if name in (b"RENAME", b"RENAMENX", b"COPY"):
            return self._carried.moved_untyped(name, db, argv)
        return None

    def _replaced(self, db: int, argv: list[bytes]) -> Adjusted:
        """A command of a filtered type: keys that it replaces whole are gone for the target."""
        gone = [
            named
            for index, access in key_positions(argv)
            if access == WRITE and not isinstance(named := self.placing.name(argv[index]), str)
        ]
        if not gone or not self.placing.carries(db):
            return Dropped(TYPE)
        self._carried.on_filtered(TYPE)
        return [(self.placing.database(db), [b"DEL", *gone])]

    # --- whole databases -------------------------------------------------------------------------------------

    def _all_keys(self, name: bytes, db: int, argv: list[bytes]) -> Adjusted:
        placing = self.placing
        if name == b"SWAPDB":
            return self._swap(argv)
        if name == b"FLUSHDB":
            if not placing.carries(db):
                return Dropped(DATABASE)
            return self._flush([db], argv)
        if name != b"FLUSHALL":
            return Impossible(f"{name.decode()} concerns all keys and cannot be filtered")
        if placing.all_databases and placing.whole_databases and not self._typed:
            return [(db, argv)]
        return self._flush(placing.carried_databases(), argv)

    def _flush(self, databases: list[int], argv: list[bytes]) -> Adjusted:
        """FLUSHDB of each database that is carried whole; else a script that removes this link's keys alone."""
        if not databases:
            return Dropped(DATABASE)
        out: list[tuple[int, list[bytes]]] = []
        hooked = self._hook is not None and not self.placing.whole_databases
        for db in databases:
            command = None if self._typed or hooked else flush_database(self.placing, argv[1:])
            if command is None:
                return Impossible(
                    f"{argv[0].decode('ascii', 'replace')}: which keys of the target are this link's cannot be told "
                    "under a hook or a filter by type or regular expression; remove them by a resync"
                )
            out.append((self.placing.database(db), command))
        return out

    def _swap(self, argv: list[bytes]) -> Adjusted:
        if len(argv) != 3 or not (argv[1].isdigit() and argv[2].isdigit()):
            return Impossible("SWAPDB: expected two databases")
        first, second = int(argv[1]), int(argv[2])
        carried = self.placing.carries(first), self.placing.carries(second)
        if not any(carried):
            return Dropped(DATABASE)
        if not all(carried) or not self.placing.whole_databases or self._typed:
            return Impossible("SWAPDB under a filter: one of the databases, or a part of it, is not carried")
        places = [b"%d" % self.placing.database(db) for db in (first, second)]
        same = places == argv[1:]
        return [(0, argv if same else [argv[0], *places])]


def _type_of(name: bytes, info: CommandInfo, argv: list[bytes]) -> str:
    """The type of value that a command makes or works on; empty: any."""
    if name == b"SORT":
        return "list"
    if name not in (b"RESTORE", b"RESTORE-ASKING") or len(argv) < 4:
        return info.type
    try:
        return type_name(split_payload(argv[3], check=False).type)
    except RdbError:
        return ""


def compose(transform: Transform, rewriter: Rewriter) -> Adjust:
    """What a `UnitReader` does to each command: transform it, then put it into words that the target knows."""

    def adjust(db: int, argv: list[bytes], received_ms: int, end: int) -> Adjusted:
        carried = transform.command(db, argv)
        if not isinstance(carried, list):
            return carried
        out: list[tuple[int, list[bytes]]] = []
        dropped: Dropped | None = None
        for to_db, command in carried:
            result = rewriter.command(command, received_ms, to_db)
            if isinstance(result, Impossible):
                return result
            if isinstance(result, Dropped):
                dropped = result
            else:
                out += [(to_db, spoken) for spoken in result]
        return dropped if dropped is not None and not out else out

    return adjust
