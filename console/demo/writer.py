"""Writes keys of all types into one datacenter, each under names that only this datacenter uses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final

from redis.asyncio import Redis

PER_ROUND: Final = 40  # commands in one pipeline
PAUSE_S: Final = 0.02
KEYS: Final = 400  # names per type: enough that keys are written again and again
DATABASES: Final = (0, 1)

Pipeline = Any  # redis-py's pipeline is untyped where it matters


class Writer:
    """Writes until it is stopped; ``written`` counts commands that the server has answered."""

    def __init__(self, prefix: str, client: Redis, seed: int) -> None:
        self.written = 0
        self._prefix, self._client = prefix, client
        self._random = random.Random(seed)
        self._stopping = False

    def stop(self) -> None:
        """Write no more after the round that is under way."""
        self._stopping = True

    async def run(self) -> None:
        """Raises what redis-py raises when the server goes away."""
        await self._prepare()
        while not self._stopping:
            db = self._random.choice(DATABASES)
            pipe: Pipeline = self._client.pipeline(transaction=False)
            pipe.execute_command("SELECT", db)
            for _ in range(PER_ROUND):
                self._random.choice(_WRITES)(self, pipe)
            pipe.execute_command("SELECT", 0)
            await pipe.execute()
            self.written += PER_ROUND
            await asyncio.sleep(PAUSE_S)

    async def _prepare(self) -> None:
        """Streams with a group, in every database."""
        for db in DATABASES:
            pipe: Pipeline = self._client.pipeline(transaction=False)
            pipe.execute_command("SELECT", db)
            for number in range(3):
                pipe.execute_command("XGROUP", "CREATE", f"{self._prefix}:stream:{number}", "workers", "0", "MKSTREAM")
            pipe.execute_command("SELECT", 0)
            await pipe.execute()

    def _key(self, kind: str, count: int = KEYS) -> str:
        return f"{self._prefix}:{kind}:{self._random.randrange(count)}"

    def _text(self) -> str:
        return f"{self._random.getrandbits(64):016x}" * self._random.randrange(1, 6)

    def _number(self) -> int:
        return self._random.randrange(1000)


def _string(w: Writer, p: Pipeline) -> None:
    p.execute_command("SET", w._key("string"), w._text())


def _deadline(w: Writer, p: Pipeline) -> None:
    p.execute_command("SET", w._key("deadline"), w._text(), "EX", 3600 + w._number())


def _short_lived(w: Writer, p: Pipeline) -> None:
    p.execute_command("SET", f"{w._prefix}:short:{w._random.getrandbits(64):x}", w._text(), "PX", 500 + w._number())


def _counter(w: Writer, p: Pipeline) -> None:
    p.execute_command("INCR", w._key("counter"))


def _append(w: Writer, p: Pipeline) -> None:
    p.execute_command("APPEND", w._key("append", 50), w._text()[:8])


def _bits(w: Writer, p: Pipeline) -> None:
    p.execute_command("SETBIT", w._key("bits", 20), w._number(), w._random.randrange(2))


def _list(w: Writer, p: Pipeline) -> None:
    key = w._key("list", 50)
    p.execute_command("RPUSH", key, w._text(), w._number())
    p.execute_command("LTRIM", key, -50, -1)


def _set(w: Writer, p: Pipeline) -> None:
    p.execute_command("SADD", w._key("set", 50), w._number(), w._text())


def _set_pop(w: Writer, p: Pipeline) -> None:
    p.execute_command("SPOP", w._key("set", 50))


def _sorted_set(w: Writer, p: Pipeline) -> None:
    p.execute_command("ZINCRBY", w._key("zset", 50), repr(w._random.uniform(-1, 1)), w._number())


def _hash(w: Writer, p: Pipeline) -> None:
    p.execute_command("HSET", w._key("hash"), f"field{w._number() % 60}", w._text())


def _hash_counter(w: Writer, p: Pipeline) -> None:
    p.execute_command("HINCRBY", w._key("hash"), "hits", 1)


def _stream(w: Writer, p: Pipeline) -> None:
    p.execute_command("XADD", w._key("stream", 3), "MAXLEN", 200, "*", "temperature", w._number())


def _stream_read(w: Writer, p: Pipeline) -> None:
    key = w._key("stream", 3)
    p.execute_command("XREADGROUP", "GROUP", "workers", f"worker{w._number() % 3}", "COUNT", 2, "STREAMS", key, ">")


def _geo(w: Writer, p: Pipeline) -> None:
    p.execute_command("GEOADD", w._key("geo", 5), w._random.uniform(-180, 180), w._random.uniform(-80, 80), w._number())


def _hyperloglog(w: Writer, p: Pipeline) -> None:
    p.execute_command("PFADD", w._key("visitors", 5), w._text())


def _transaction(w: Writer, p: Pipeline) -> None:
    p.execute_command("MULTI")
    p.execute_command("DECRBY", w._key("account"), 5)
    p.execute_command("INCRBY", w._key("account"), 5)
    p.execute_command("EXEC")


def _script(w: Writer, p: Pipeline) -> None:
    lua = "redis.call('SET', KEYS[1], ARGV[1]); return redis.call('INCR', KEYS[2])"
    p.execute_command("EVAL", lua, 2, w._key("string"), w._key("counter"), w._text())


def _delete(w: Writer, p: Pipeline) -> None:
    p.execute_command("DEL", w._key(w._random.choice(("string", "hash", "list", "counter"))))


_WRITES: Final[tuple[Callable[[Writer, Pipeline], None], ...]] = (
    _string, _deadline, _short_lived, _counter, _append, _bits, _list, _set, _set_pop, _sorted_set, _hash,
    _hash_counter, _stream, _stream_read, _geo, _hyperloglog, _transaction, _script, _delete,
)  # fmt: skip
