"""Command table: which arguments are keys, what a command does to them, what it needs.

Pure data and pure functions over argument lists; the name is ``argv[0]`` in any case of letters.
"""

from canal.commands.keys import (
    Keys,
    all_keys,
    builds_on_old_value,
    destination_db,
    destination_db_index,
    is_write,
    key_positions,
    needed_keys,
    read_keys,
    with_keys,
    written_in,
    written_keys,
)
from canal.commands.keyspec import OLD, READ, WRITE, Argv, integer
from canal.commands.kind import ServerKind
from canal.commands.table import COMMANDS, ONE_KEY, PLAIN, CommandInfo, Flag, is_plain_set, lookup

__all__ = [
    "COMMANDS",
    "OLD",
    "ONE_KEY",
    "PLAIN",
    "READ",
    "WRITE",
    "Argv",
    "CommandInfo",
    "Flag",
    "Keys",
    "ServerKind",
    "all_keys",
    "builds_on_old_value",
    "destination_db",
    "destination_db_index",
    "integer",
    "is_plain_set",
    "is_write",
    "key_positions",
    "lookup",
    "needed_keys",
    "read_keys",
    "with_keys",
    "written_in",
    "written_keys",
]
