"""Builds the hot paths (COMPILED) as C extensions by mypyc; everything else is in pyproject.toml.

Without a C compiler, or with REDIS_CANAL_PURE=1, the same files run as plain Python.
"""

from __future__ import annotations

import os
from typing import Any

from setuptools import setup

COMPILED = [
    "canal/framing.py",
    "canal/keyscan.py",
    "canal/stretch.py",
    "canal/rdb/plain.py",
    "canal/compaction.py",
    "canal/routing.py",
    "canal/grouping.py",
]


def extensions() -> list[Any]:
    """The extensions, each optional: a build that fails leaves the plain module in use."""
    if os.environ.get("REDIS_CANAL_PURE"):
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        return []
    found = [extension for path in COMPILED for extension in mypycify(["--strict", path], opt_level="3")]
    for extension in found:
        extension.optional = True
    return list(found)


setup(ext_modules=extensions())
