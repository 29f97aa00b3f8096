"""The user's hook: a Python function that sees every command before it is sent."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import Any, Final

from canal.errors import CanalError, ConfigError

Placed = tuple[int, list[bytes]]
Hook = Callable[[int, list[bytes]], Iterable[Placed]]
"""(database, argv) → the commands to send instead: the same, others, several, or none.

The list may be changed in place. A hook that renames keys can have an attribute ``invert``: (database, key) at the
target → at the source, or None; without it a resync removes nothing that the hook could have made."""

_SHOWN: Final = 60


class HookError(CanalError):
    """The user's hook raised, or returned what is no list of commands. The command becomes a dead letter."""


def load_hook(name: str) -> Hook:
    """Import ``module:function``. Raises ConfigError when there is no such thing."""
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(f"hook {name!r}: expected module:function, like mycompany.hooks:anonymise")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigError(f"hook {name!r}: cannot import {module_name}: {type(error).__name__}: {error}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigError(f"hook {name!r}: module {module_name} has no function {function_name}")
    hook: Hook = function
    return hook


def call_hook(hook: Hook, db: int, argv: list[bytes]) -> list[Placed]:
    """What the hook makes of one command. Raises HookError, whatever the hook does."""
    name = argv[0].decode("ascii", "replace")
    try:
        result = hook(db, argv)
        commands = [] if result is None else list(result)
    except Exception as error:
        raise HookError(f"the hook failed on {name}: {type(error).__name__}: {error}") from error
    for command in commands:
        if not _is_command(command):
            raise HookError(
                f"the hook returned {_shown(command)} for {name}: expected (database, [name, argument, …]) of bytes"
            )
    return commands


def _is_command(command: Any) -> bool:
    if not isinstance(command, tuple) or len(command) != 2:
        return False
    db, argv = command
    if type(db) is not int or db < 0 or not isinstance(argv, list) or not argv:
        return False
    return all(isinstance(argument, bytes) for argument in argv)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
