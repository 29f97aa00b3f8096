"""Writers of all types over the same few keys, for two and more live datacenters.

Whatever type a key has, it may get another: by SET, by DEL and a first element, by RENAME, COPY and the stores. Errors
of commands (WRONGTYPE and the like) are part of it and not looked at.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence

from tests.support.servers import Server
from tests.support.wire import Command, Wire

FULL = bool(os.environ.get("REDIS_CANAL_FULL"))
ROUNDS = int(os.environ.get("REDIS_CANAL_ROUNDS", "1"))
SECONDS = 60.0 if FULL else 4.0
"""How long tests have writers at work, and how often, where the environment asks for the long form."""
RATE = 400  # commands a second and writer
KEYS = 100
Commands = Sequence[Command]


def write(server: Server, name: str, seed: int, seconds: float, rate: int = RATE) -> None:
    """Write for so long, at about this rate, without looking at replies."""
    r = random.Random(seed)
    end = time.monotonic() + seconds
    with Wire(server) as wire:
        while time.monotonic() < end:
            wire.call([one for _ in range(max(1, rate // 50)) for one in command(r, name)])
            time.sleep(0.02)


def _key(r: random.Random) -> str:
    return f"k{r.randrange(KEYS)}"


def command(r: random.Random, name: str) -> Commands:
    """One write by the writer ``name``."""
    return r.choice(_MAKERS)(r, name)


def _value(r: random.Random, name: str) -> str:
    return f"{name}{r.randrange(1000)}"


_MAKERS: tuple[Callable[[random.Random, str], Commands], ...] = (
    lambda r, n: [("SET", _key(r), _value(r, n))],
    lambda r, n: [("SET", _key(r), r.randrange(1000))],
    lambda r, n: [("SET", _key(r), _value(r, n), "EX", r.randrange(1000, 2000))],
    lambda r, n: [("SET", _key(r), _value(r, n), "NX")],
    lambda r, n: [("INCR", _key(r))],
    lambda r, n: [("INCRBYFLOAT", _key(r), "0.5")],
    lambda r, n: [("APPEND", _key(r), _value(r, n))],
    lambda r, n: [("SETRANGE", _key(r), r.randrange(5), _value(r, n))],
    lambda r, n: [("DEL", _key(r), _key(r))],
    lambda r, n: [("RPUSH", _key(r), _value(r, n))],
    lambda r, n: [("LPUSH", _key(r), _value(r, n), _value(r, n))],
    lambda r, n: [("LPOP", _key(r))],
    lambda r, n: [("LSET", _key(r), 0, _value(r, n))],
    lambda r, n: [("LTRIM", _key(r), 0, 10)],
    lambda r, n: [("LINSERT", _key(r), "BEFORE", _value(r, n), "x")],
    lambda r, n: [("SADD", _key(r), *(r.randrange(20) for _ in range(3)))],
    lambda r, n: [("SREM", _key(r), r.randrange(20))],
    lambda r, n: [("SPOP", _key(r))],
    lambda r, n: [("HSET", _key(r), f"f{r.randrange(10)}", _value(r, n))],
    lambda r, n: [("HINCRBY", _key(r), f"n{r.randrange(5)}", r.randrange(1, 9))],
    lambda r, n: [("HDEL", _key(r), f"f{r.randrange(10)}")],
    lambda r, n: [("HSETNX", _key(r), f"f{r.randrange(10)}", _value(r, n))],
    lambda r, n: [("ZADD", _key(r), r.random(), f"m{r.randrange(10)}")],
    lambda r, n: [("ZADD", _key(r), "GT", r.random(), f"m{r.randrange(10)}")],
    lambda r, n: [("ZINCRBY", _key(r), 0.1, f"m{r.randrange(10)}")],
    lambda r, n: [("ZREM", _key(r), f"m{r.randrange(10)}")],
    lambda r, n: [("ZPOPMIN", _key(r))],
    lambda r, n: [("XADD", _key(r), "MAXLEN", 20, "*", "n", _value(r, n))],
    lambda r, n: [("XGROUP", "CREATE", _key(r), f"g{r.randrange(2)}", "0")],
    lambda r, n: [("PFADD", _key(r), _value(r, n))],
    lambda r, n: [("EXPIRE", _key(r), r.randrange(1000, 2000))],
    lambda r, n: [("PERSIST", _key(r))],
    lambda r, n: [("RENAME", _key(r), _key(r))],
    lambda r, n: [("COPY", _key(r), _key(r), "REPLACE")],
    lambda r, n: [("SUNIONSTORE", _key(r), _key(r), _key(r))],
    lambda r, n: [("ZUNIONSTORE", _key(r), 2, _key(r), _key(r))],
    lambda r, n: [("RPOPLPUSH", _key(r), _key(r))],
    lambda r, n: [("SMOVE", _key(r), _key(r), r.randrange(20))],
    lambda r, n: [("MULTI",), ("SET", _key(r), _value(r, n)), ("RPUSH", _key(r), _value(r, n)), ("EXEC",)],
    lambda r, n: [("SORT", _key(r), "ALPHA", "STORE", _key(r))],
)
