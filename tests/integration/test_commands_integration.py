"""The command table against real servers: nothing that writes is missing, and each row says what the server does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from canal.commands import COMMANDS, READ, WRITE, CommandInfo, Flag, ServerKind, all_keys, key_positions, lookup
from tests.support.servers import MAIN_VERSIONS, MORE_VERSIONS, Server

pytestmark = pytest.mark.servers

# What COMMAND flags as a write although it is none of ours.
NOT_OURS = {"pfselftest"}

# state to start from; the first word of a command is its row in the table
STATE = [
    "SET a 5", "SET b 7", "RPUSH l 1 2 3 1 2 3 1 2 3", "RPUSH l2 x", "SADD s 1 2 3", "SADD s2 2 3 4",
    "ZADD z 1 m 2 n 3 o", "ZADD z2 5 m", "HSET h f 1 g 2 i 3", "GEOADD g 13.361389 38.115556 Palermo",
    "PFADD p x y", "PFADD p2 z", "XADD x 1-1 f v", "XADD x 2-1 f v", "XGROUP CREATE x grp 0",
    "XREADGROUP GROUP grp c COUNT 1 STREAMS x >", "VADD v VALUES 2 0.1 0.2 e", "VADD v VALUES 2 0.5 0.2 k",
]  # fmt: skip

EXAMPLES = """
SET a v | SET a v PXAT 4102444800000 | SET a v NX | SET n v NX | SET a v XX | SET a v KEEPTTL
SETEX a 100 v | PSETEX a 100000 v | SETNX a v | SETNX n v | GETSET a v | GETDEL a | GETEX a PERSIST
MSET a 1 n 2 | MSETNX n 1 n2 2 | MSETNX a 1 n 2 | MSETEX 2 a 1 n 2 PXAT 4102444800000 | MSETEX 2 a 1 n 2 NX
APPEND a x | INCR a | DECR a | INCRBY a 2 | DECRBY a 2 | INCRBYFLOAT a 1.5 | INCREX a
SETRANGE a 2 zz | SETBIT a 7 1 | BITFIELD a INCRBY u8 0 1 | BITOP AND n a b | BITOP NOT a b
PFADD p q | PFCOUNT p | PFMERGE p p2 | PFDEBUG TODENSE p | DELEX a IFEQ 5 | DELIFEQ a 5 | GCRA a 1 1 1
DEL a n | UNLINK a l | TOUCH a b | EXPIREAT a 4102444800 | PEXPIREAT a 4102444800000 | PERSIST a
EXPIRE a 100000 | PEXPIRE a 100000000
RENAME a n | RENAMENX a n | RENAMENX a b | COPY a n | COPY a b REPLACE | COPY a b | MOVE a 1
MIGRATE 127.0.0.1 1 a 0 10 | MIGRATE 127.0.0.1 1 '' 0 10 KEYS a b
RESTORE n 0 x | RESTORE a 0 x REPLACE | RESTORE-ASKING n 0 x
SORT l STORE n | SORT l STORE a | SORT l BY k_* GET # LIMIT 0 2 STORE n
LPUSH l x | RPUSH l x | LPUSHX l x | RPUSHX n x | LPOP l | RPOP l | LINSERT l BEFORE 2 x | LSET l 0 x
LREM l 1 1 | LTRIM l 1 -2 | RPOPLPUSH l l2 | RPOPLPUSH l n | LMOVE l l2 LEFT RIGHT | LMPOP 2 n l LEFT
BLPOP n l 1 | BRPOP l 1 | BRPOPLPUSH l l2 1 | BLMOVE l l2 LEFT LEFT 1 | BLMPOP 1 2 n l LEFT
SADD s 9 | SREM s 1 2 | SPOP s | SMOVE s s2 1 | SMOVE s n 1 | SUNIONSTORE n s s2 | SINTERSTORE a s s2
SDIFFSTORE n s s2
ZADD z 5 m | ZADD z GT 5 m 1 o | ZINCRBY z 0.1 m | ZREM z m | ZREMRANGEBYSCORE z 1 1 | ZREMRANGEBYRANK z 0 0
ZREMRANGEBYLEX z [m [m | ZPOPMIN z | ZPOPMAX z 2 | ZMPOP 2 n z MIN | BZPOPMIN n z 1 | BZPOPMAX z 1
BZMPOP 1 2 n z MAX | ZUNIONSTORE n 2 z z2 WEIGHTS 1 2 | ZINTERSTORE n 2 z z2 | ZDIFFSTORE n 2 z z2
ZRANGESTORE n z 0 1 | GEOADD g 15 37 Catania | GEORADIUS g 15 37 200 km STORE n
GEORADIUSBYMEMBER g Palermo 200 km STOREDIST n | GEOSEARCHSTORE n g FROMLONLAT 15 37 BYRADIUS 200 km
HSET h f 9 | HMSET h f 9 k 8 | HSETNX h f 9 | HSETNX h k 9 | HDEL h f | HINCRBY h f 2 | HINCRBYFLOAT h f 0.5
HEXPIRE h 100000 FIELDS 1 f | HPEXPIRE h 100000000 FIELDS 1 f | HEXPIREAT h 4102444800 FIELDS 1 f
HPEXPIREAT h 4102444800000 FIELDS 1 f | HPERSIST h FIELDS 1 f | HSETEX h PXAT 4102444800000 FIELDS 1 f 9
HGETEX h PERSIST FIELDS 1 f | HGETDEL h FIELDS 1 f | HIMPORT SET u f v
XADD x 5-5 f v | XDEL x 1-1 | XDELEX x KEEPREF IDS 1 1-1 | XTRIM x MAXLEN = 1 | XSETID x 9-9
XGROUP CREATE x g2 0 | XGROUP SETID x grp 2-1 | XACK x grp 1-1 | XACKDEL x grp KEEPREF IDS 1 1-1
XNACK x grp FAIL IDS 1 1-1 | XCLAIM x grp c2 0 1-1 TIME 4102444800000 RETRYCOUNT 3 FORCE JUSTID LASTID 1-1
XAUTOCLAIM x grp c2 0 0-0 | XREADGROUP GROUP grp c COUNT 1 STREAMS x > | XCFGSET x IDMP-DURATION 60
XIDMPRECORD x p i 1-1
ARSET r 0 a b | ARMSET r 0 a 9 b | ARINSERT r a | ARDEL r 0 | ARDELRANGE r 0 1 | ARRING r 3 a | ARSEEK r 4
VADD v VALUES 2 0.3 0.4 e2 | VREM v e | VSETATTR v e {"k":1}
FLUSHDB | FLUSHALL | SWAPDB 0 1 | CLUSTER FLUSHSLOT 1 | EVAL return 2 a b | EVALSHA 0 1 a | FCALL f 2 a b x
FUNCTION FLUSH
SCRIPT FLUSH | PUBLISH c m | SPUBLISH c m | PING | SELECT 0 | REPLCONF GETACK * | MULTI | EXEC
"""


def words(text: str) -> list[bytes]:
    return [b"" if word == "''" else word.encode() for word in text.split()]


BUILT_IN = [info for info in COMMANDS if b"." not in info.name]  # no server at hand has the modules
COMMAND_LINES = [line.strip() for row in EXAMPLES.strip().splitlines() for line in row.split("|")]
BY_NAME: dict[bytes, list[str]] = {}
for _line in COMMAND_LINES:
    BY_NAME.setdefault(_line.split()[0].encode(), []).append(_line)


@pytest.fixture(params=[*MORE_VERSIONS, *MAIN_VERSIONS])
def server(request: pytest.FixtureRequest, redis_server: Any) -> Iterator[Server]:
    yield redis_server(request.param)


def kind_of(server: Server) -> ServerKind:
    return ServerKind.from_info(server.info("server"))


def on_server(server: Server) -> list[CommandInfo]:
    kind = kind_of(server)
    return [info for info in BUILT_IN if info.exists_on(kind.flavor, kind.version)]


def raw(client: redis.Redis, *args: Any) -> Any:
    """A reply as it came: none of redis-py's conversions, errors as values."""
    client.response_callbacks.clear()
    try:
        return client.execute_command(*args)
    except redis.ResponseError as error:
        return error


def command_table(client: redis.Redis) -> dict[str, set[str]]:
    """name → flags, with those of its subcommands added."""
    table = {}
    for row in raw(client, "COMMAND"):
        flags = {flag.decode() for flag in row[2]}
        for sub in row[9] if len(row) > 9 else []:
            flags |= {flag.decode() for flag in sub[2] if flag in (b"write", b"may_replicate", b"noscript")}
        table[row[0].decode().lower()] = flags
    return table


def test_every_row_has_an_example() -> None:
    assert {info.name for info in BUILT_IN} == set(BY_NAME)


def test_no_command_that_writes_is_missing_and_none_is_made_up(server: Server) -> None:
    theirs = command_table(server.client())
    writing = {name for name, flags in theirs.items() if flags & {"write", "may_replicate"}} - NOT_OURS
    ours = {info.name.decode().lower() for info in on_server(server)}
    assert writing - ours == set()
    assert ours - set(theirs) == set()


def test_flags_agree_with_the_servers(server: Server) -> None:
    theirs = command_table(server.client())
    for info in on_server(server):
        flags = theirs[info.name.decode().lower()]
        assert "noscript" not in flags or info.flags & Flag.NOSCRIPT, info.name
        if "write" in flags:
            assert info.flags & Flag.WRITE, info.name


def test_key_positions_agree_with_command_getkeys(server: Server) -> None:
    client = server.client()
    for info in on_server(server):
        for line in BY_NAME[info.name]:
            argv = words(line)
            if _not_told(server, argv):
                continue
            theirs = raw(client, "COMMAND", "GETKEYS", *argv)
            ours = [key for _, key in all_keys(argv)]
            if isinstance(theirs, redis.ResponseError):
                assert "key arguments" in str(theirs) or "nvalid" in str(theirs) or argv[1:] == [], f"{line}: {theirs}"
                assert ours == [] or "nvalid" in str(theirs), f"{line}: {theirs}"
            else:
                assert sorted(ours) == sorted(theirs), line


def _not_told(server: Server, argv: list[bytes]) -> bool:
    """GETKEYS of old servers does not see the key after a subcommand, nor TOUCH's further keys."""
    return argv[0] in (b"PFDEBUG", b"XGROUP", b"TOUCH") and not server.at_least((7, 0))


def test_access_agrees_with_getkeysandflags(server: Server) -> None:
    if not server.at_least((7, 0)):
        pytest.skip("COMMAND GETKEYSANDFLAGS came with 7.0")
    client = server.client()
    for info in on_server(server):
        if info.name in (b"TOUCH", b"XREADGROUP"):  # they note a time or move a group on: a write for us
            continue
        for line in BY_NAME[info.name]:
            argv = words(line)
            theirs = raw(client, "COMMAND", "GETKEYSANDFLAGS", *argv)
            if isinstance(theirs, redis.ResponseError):
                continue
            for (index, access), (key, flags) in zip(key_positions(argv), sorted_like(argv, theirs), strict=True):
                assert argv[index] == key, line
                assert bool(access & WRITE) == (b"RO" not in flags), line
                if b"RO" in flags:
                    assert access & READ, line


def sorted_like(argv: list[bytes], theirs: list[list[Any]]) -> list[list[Any]]:
    order = [key for _, key in all_keys(argv)]
    return sorted(theirs, key=lambda pair: order.index(pair[0]))


# --- what a command does, seen by doing it ---------------------------------------------------------------------

SKIP_RUNNING = {
    b"MIGRATE", b"FUNCTION", b"SCRIPT", b"EVAL", b"EVALSHA", b"FCALL", b"MULTI", b"EXEC", b"REPLCONF", b"RESTORE",
    b"RESTORE-ASKING", b"SPOP", b"SELECT", b"TOUCH",
}  # fmt: skip


@dataclass
class _About:
    """So many ms are left: the same as a little less, or more where a command counts from when it comes."""

    ms: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _About) and abs(self.ms - other.ms) < 60_000


class Scene:
    """One server, put into the same state again and again; a snapshot is every key with its DUMP and TTL."""

    def __init__(self, server: Server) -> None:
        self.client = server.client(single_connection_client=True)
        self.server = server

    def fresh(self, *, empty: frozenset[bytes] = frozenset()) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for line in ["FLUSHALL", *STATE]:
            pipeline.execute_command(*words(line))
        for key in empty:
            pipeline.execute_command("DEL", key)
        pipeline.execute(raise_on_error=False)

    def run(self, argv: list[bytes]) -> Any:
        return raw(self.client, *argv)

    def snapshot(self, keys: set[bytes] | None = None) -> dict[tuple[int, bytes], Any]:
        found: dict[tuple[int, bytes], Any] = {}
        for db in (1, 0):
            raw(self.client, "SELECT", str(db))
            for key in sorted(raw(self.client, "KEYS", "*")):
                if keys is None or key in keys:
                    found[db, key] = (self._content(key), self._deadline(key))
        return found

    def _deadline(self, key: bytes) -> int | _About:
        left = int(raw(self.client, "PTTL", key))
        return left if left < 0 else _About(left)

    def _content(self, key: bytes) -> Any:
        kind = raw(self.client, "TYPE", key)
        if kind == b"set":
            return sorted(raw(self.client, "SMEMBERS", key))
        if kind == b"hash":
            flat = raw(self.client, "HGETALL", key)
            return sorted(zip(flat[::2], flat[1::2], strict=True))
        if kind == b"stream":
            return raw(self.client, "XRANGE", key, "-", "+"), raw(self.client, "XPENDING", key, "grp")
        if kind == b"vectorset":
            return raw(self.client, "VCARD", key)
        return raw(self.client, "DUMP", key)


def test_idempotent_commands_done_twice_are_done_once(server: Server) -> None:
    scene = Scene(server)
    for info in on_server(server):
        if info.name in SKIP_RUNNING or not info.flags & Flag.IDEMPOTENT:
            continue
        for line in BY_NAME[info.name]:
            scene.fresh()
            if isinstance(scene.run(words(line)), redis.ResponseError):
                continue  # an option that this version does not have
            once = scene.snapshot()
            reply = scene.run(words(line))
            assert not isinstance(reply, redis.ResponseError), f"{line}: {reply}"
            assert scene.snapshot() == once, line


def test_a_key_that_is_not_needed_can_be_gone_or_of_another_type(server: Server) -> None:
    """Access W: the outcome is the same whether the key held its old value or nothing."""
    scene = Scene(server)
    for info in on_server(server):
        if info.name in SKIP_RUNNING:
            continue
        for line in BY_NAME[info.name]:
            argv = words(line)
            replaced = frozenset(argv[index] for index, access in key_positions(argv) if access == WRITE)
            if not replaced:
                continue
            scene.fresh()
            if isinstance(scene.run(argv), redis.ResponseError):
                continue
            over = scene.snapshot(set(replaced))
            scene.fresh(empty=replaced)
            scene.run(argv)
            assert scene.snapshot(set(replaced)) == over, line


# The outcome of these depends on what the key held, but not with the state and arguments of the example.
SAME_ANYWAY = {
    "SET a v XX", "SET a v KEEPTTL", "PERSIST a", "HPERSIST h FIELDS 1 f", "GETEX a PERSIST", "PFCOUNT p",
    "HGETEX h PERSIST FIELDS 1 f", "EXPIRE n 1", "SETNX a v", "SET a v NX", "MSETNX a 1 n 2", "COPY a b",
    "RENAMENX a b", "HSETNX h f 9", "DELEX a IFEQ 5", "DELIFEQ a 5",
}  # fmt: skip


def test_a_key_that_is_needed_makes_a_difference(server: Server) -> None:
    """Access U, R or M: without the old value something else comes out, or an error."""
    scene = Scene(server)
    for info in on_server(server):
        if info.name in SKIP_RUNNING or info.flags & Flag.NOSCRIPT:  # those would block
            continue
        for line in BY_NAME[info.name]:
            argv = words(line)
            needed = frozenset(argv[index] for index, access in key_positions(argv) if access & READ or access == 6)
            scene.fresh()
            held = needed & {key for _, key in scene.snapshot()}
            if not held or line in SAME_ANYWAY:
                continue
            if isinstance(scene.run(argv), redis.ResponseError):
                continue
            with_old = scene.snapshot(set(argv))
            scene.fresh(empty=frozenset(held))
            scene.run(argv)
            assert scene.snapshot(set(argv)) != with_old, line


def test_only_commands_marked_so_take_the_last_element_away(server: Server) -> None:
    """Every command that can remove a key it does not replace is marked EMPTIES, DELETES or moves it."""
    scene = Scene(server)
    small = ["RPUSH l 1", "SADD s 1", "ZADD z 1 m", "HSET h f 1", "VADD v VALUES 2 0.1 0.2 e"]
    for info in on_server(server):
        if info.name in SKIP_RUNNING or info.flags & (Flag.ALLKEYS | Flag.NOSCRIPT):
            continue
        for line in BY_NAME[info.name]:
            argv = words(line)
            raw(scene.client, "FLUSHALL")
            for prelude in small:
                scene.run(words(prelude))
            before = {key for _, key in scene.snapshot()}
            scene.run(argv)
            gone = before - {key for _, key in scene.snapshot()}
            for key in gone:
                moved = any(argv[index] == key and access & (READ | 1) for index, access in key_positions(argv))
                replaced = any(argv[index] == key and access == WRITE for index, access in key_positions(argv))
                marked = info.flags & (Flag.EMPTIES | Flag.DELETES)
                assert marked or moved or replaced, line


def test_what_scripts_may_not_call(server: Server) -> None:
    client = server.client()
    for info in on_server(server):
        for line in BY_NAME[info.name]:
            argv = words(line)
            if info.name in (b"FLUSHALL", b"MIGRATE"):
                continue
            body = "return redis.call(" + ",".join(f"'{word.decode()}'" for word in argv) + ")"
            reply = raw(client, "EVAL", body, "0")
            refused = isinstance(reply, redis.ResponseError) and "not allowed from script" in str(reply).lower()
            assert not refused or info.flags & Flag.NOSCRIPT, f"{line}: {reply}"


def test_lookup_knows_what_the_servers_spell_in_lower_case(server: Server) -> None:
    for name in ("zadd", "zpopmin", "ping"):
        assert lookup(name.encode()) is not None
