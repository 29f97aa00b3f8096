"""What is running: version of the package and of Python, and which framing the data path uses."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec


def version_text() -> str:
    """``redis-canal <version>, Python <version>, framing <plain|compiled>``."""
    import platform

    return f"redis-canal {package_version()}, Python {platform.python_version()}, framing {framing()}"


def package_version() -> str:
    """Version of the installed distribution; ``unpackaged`` when run from a bare source tree.

    Read from the name of its ``.dist-info`` directory: importlib.metadata alone would cost a third of a start.
    """
    for place in sys.path:
        try:
            names = [entry.name for entry in os.scandir(place or ".")]
        except OSError:
            continue
        for name in names:
            if name.startswith("rediscanal-") and name.endswith(".dist-info"):
                return name.removeprefix("rediscanal-").removesuffix(".dist-info")
    return "unpackaged"


def framing() -> str:
    """``compiled`` when the hot paths are extension modules, ``partly compiled`` when some are, else ``plain``."""
    found = [find_spec(name) for name in ("canal.framing", "canal.keyscan", "canal.rdb.plain", "canal.compaction")]
    plain = [one is None or not one.origin or one.origin.endswith((".py", ".pyc")) for one in found]
    return "plain" if all(plain) else "partly compiled" if any(plain) else "compiled"
