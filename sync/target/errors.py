"""What an error reply of the target means: wait and try again, or a command that it will not take. No I/O."""

from __future__ import annotations

import re
from typing import Final

from canal.errors import AuthError, CanalError, ReplayError, Unready

TRANSIENT: Final = (
    "LOADING",
    "BUSY ",  # with the space: BUSYGROUP and BUSYKEY are about keys
    "READONLY",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "OOM ",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOSCRIPT",
    "ERR max number of clients",
)
PERMISSION: Final = ("NOAUTH", "NOPERM", "WRONGPASS", "DENIED", "ERR operation not permitted")
"""Retried too, once the link has worked: passwords and rules are changed under running links."""


_IN_SCRIPT: Final = re.compile(r"ERR Error running script \(.*: -(?P<error>[A-Z].*)", re.DOTALL)
"""How Redis before 7.0 wraps the error of a command that a script called."""
_AT_EXEC: Final = re.compile(r"EXECABORT Transaction discarded because of: (?P<error>[A-Z].*)", re.DOTALL)
"""EXEC that was itself refused, since a script is running for instance."""


def is_transient(text: str) -> bool:
    """True when the same command may be taken a little later."""
    wrapped = _IN_SCRIPT.match(text) or _AT_EXEC.match(text)
    if wrapped is not None:
        text = wrapped["error"]
    return text.startswith(TRANSIENT + PERMISSION) or "command not allowed when used memory" in text


def is_of_keys(text: str) -> bool:
    """True when the user may run the command, but not on these keys: a rule that stays, where ours are permitted."""
    return text.startswith("NOPERM") and " key" in text


def classify(text: str, doing: str, who: str = "target") -> CanalError:
    """The exception for an error reply; ``doing`` says what was asked, for the message."""
    if text.startswith(PERMISSION):
        return AuthError(f"{who}: {doing}: {text}")
    if is_transient(text):
        return Unready(f"{who}: {doing}: {text}")
    return ReplayError(f"{who}: {doing}: {text}")
