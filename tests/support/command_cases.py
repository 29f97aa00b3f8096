"""Every command of the table that writes, with its rarer options, as a client of each version sends it.

`play(server, spare)` sends all that the server's version knows, to a server without these keys. A case is a list of
commands, or a client that blocks and the command that wakes it. `covered` are the names for the test that no row of the
table is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import hiredis

from tests.support.process import wait_until
from tests.support.servers import Server
from tests.support.wire import Argument, Wire

Version = tuple[int, int]
Part = Argument | Callable[[Wire, Server], Argument]
Line = Sequence[Part]


@dataclass(frozen=True)
class Case:
    """Commands that are sent one after another; ``blocked``: the first one waits until the second one wakes it.

    ``since``: first Redis; ``valkey``: first Valkey, None where none has it, (7, 2) where all have.
    """

    lines: tuple[Line, ...]
    since: Version | None = (5, 0)
    valkey: Version | None = (7, 2)
    blocked: bool = False
    refused: bool = False  # an error is what is to be expected

    def exists_on(self, server: Server) -> bool:
        since = self.valkey if server.flavor == "valkey" else self.since
        return since is not None and server.number >= since


def _spare_port(_: Wire, spare: Server) -> Argument:
    return spare.port


def _dump(key: str) -> Callable[[Wire, Server], Argument]:
    def read(wire: Wire, _: Server) -> Argument:
        payload: bytes = wire.ask("DUMP", key)
        return payload

    return read


def _sha(script: str) -> Callable[[Wire, Server], Argument]:
    def load(wire: Wire, _: Server) -> Argument:
        found: bytes = wire.ask("SCRIPT", "LOAD", script)
        return found

    return load


def _library(name: str) -> Callable[[Wire, Server], Argument]:
    def dump(wire: Wire, _: Server) -> Argument:
        payload: bytes = wire.ask("FUNCTION", "DUMP")
        assert name.encode() in payload
        return payload

    return dump


def _words(text: str) -> tuple[Line, ...]:
    return tuple(tuple(line.split()) for line in text.strip().split(";"))


def _case(text: str, since: Version | None = (5, 0), valkey: Version | None = (7, 2), **more: Any) -> Case:
    return Case(_words(text), since, valkey, **more)


FAR: Final = 4_102_444_800  # unix seconds; a deadline that no test lives to see
_SCRIPT = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('INCR', KEYS[2])"
_CODE = "#!lua name={0}\nredis.register_function('{0}_f', function(k, a) return redis.call('SET', k[1], a[1]) end)"

CASES: Final[tuple[Case, ...]] = (
    # strings
    _case("SET s v; SET s2 v EX 5000; SET s3 v PX 5000123; SET s4 v NX; SET s4 w XX; set s5 lower; SeT s6 mixed"),
    _case(f"SET s7 v KEEPTTL; SET s2 w KEEPTTL; SET s8 v EXAT {FAR}; SET s9 v PXAT {FAR}123", (6, 2)),
    _case("SET s10 a; SET s10 b GET; SET s10 c XX GET", (6, 2)),
    _case("SET s11 v NX GET", (7, 0)),
    _case("SET s12 a; SET s12 b IFEQ a", None, (8, 1)),
    _case("SET s13 v; DELIFEQ s13 v; SET s14 v; DELIFEQ s14 w", None, (9, 0)),
    _case("SETEX se 5000 v; PSETEX pse 5000123 v; SETNX snx v; SETNX snx w; GETSET snx x"),
    _case("SET gd 1; GETDEL gd; SET gx 1; GETEX gx EX 5000; SET gy 1; GETEX gy PX 5000123", (6, 2)),
    _case(f"SET gz 1; GETEX gz EXAT {FAR}; GETEX gz PERSIST; GETEX gz PXAT 1000; SET gw 1; GETEX gw", (6, 2)),
    _case("MSET m1 1 m2 2; MSETNX m3 3 m4 4; MSETNX m1 9 m5 5"),
    _case("MSETEX 2 mx1 a mx2 b EX 5000; MSETEX 1 mx1 z NX; MSETEX 1 mx1 c XX KEEPTTL", (8, 4), (9, 1)),
    _case("APPEND a x; APPEND a y; INCR n; DECR n; INCRBY n 40; DECRBY n 7; INCRBYFLOAT n 0.5; INCRBYFLOAT n 1e2"),
    _case("SET nt 1; INCRBYFLOAT nt 1.5", (6, 0)),
    _case("SET nx 1 EX 5000; INCRBYFLOAT nx 1.5", (6, 0)),  # 5.0 sends a SET without the deadline: see facts, section 4
    _case("SETRANGE sr 3 zz; SETRANGE sr 0 a; SETBIT bm 7 1; SETBIT bm 100 1; SETBIT bm 7 0"),
    _case("BITFIELD bf SET u8 0 255 GET u8 0 INCRBY u8 8 300; BITFIELD bf OVERFLOW SAT INCRBY i4 #3 99"),
    # within its length: refused beyond it, the source's string grows and no server replicates that
    _case("BITFIELD bf OVERFLOW FAIL INCRBY u2 2 9; BITFIELD bf GET u8 0"),
    _case("SET b1 abc; SET b2 bcd; BITOP AND bd b1 b2; BITOP OR be b1 b2; BITOP NOT bg b1; BITOP XOR bh b1 nosuch"),
    _case("BITOP DIFF bi b1 b2; BITOP ONE bj b1 b2", (8, 2), None),
    _case("PFADD h a b c; PFADD h a; PFADD h2; PFCOUNT h; PFMERGE h3 h h2; PFMERGE h3; PFCOUNT h3"),
    _case("PFADD hd a b; PFDEBUG TODENSE hd"),
    # keys
    _case("SET d1 1; SET d2 1; DEL d1 nosuch; UNLINK d2 nosuch; DEL nosuch; TOUCH s nosuch"),
    _case(
        f"SET e1 1; EXPIRE e1 5000; SET e2 1; PEXPIRE e2 5000123; SET e3 1; EXPIREAT e3 {FAR}; "
        f"PEXPIREAT e3 {FAR}123",
    ),
    _case("SET e4 1; EXPIRE e4 -1; SET e5 1; EXPIREAT e5 1; SET e6 1; PEXPIRE e6 0; SET e7 1 EX 99; PERSIST e7"),
    _case("SET e8 1; EXPIRE e8 5000 NX; EXPIRE e8 50 GT; EXPIRE e8 6000 XX; PEXPIRE e8 5500000 LT", (7, 0)),
    _case("SET r1 1; RENAME r1 r2; SET r3 1 EX 5000; RENAME r3 r4; RENAMENX r4 r5; RENAMENX r2 r5; RENAME r5 r5"),
    _case(
        "SET c1 1 EX 5000; COPY c1 c2; COPY c2 c1 REPLACE; COPY c1 c3 DB 1; COPY c1 c3 DB 1 REPLACE; "
        "COPY s c1", (6, 2),
    ),
    _case("SET mv 1; MOVE mv 1; SET mw 1; SELECT 1; SET mw 2; SELECT 0; MOVE mw 1"),
    _case("SELECT 5; SET in5 1; SELECT 0; SWAPDB 5 6; SELECT 6; APPEND in5 x; SELECT 0; SWAPDB 3 4"),
    Case((("SET", "mg", "v"), ("MIGRATE", "127.0.0.1", _spare_port, "mg", 0, 5000))),
    Case((("SET", "mg2", "v"),
          ("MIGRATE", "127.0.0.1", _spare_port, "", 0, 5000, "COPY", "REPLACE", "KEYS", "mg2", "s"))),
    Case((("RPUSH", "rs", "a", "b"), ("RESTORE", "rs2", 0, _dump("rs")), ("RESTORE", "rs3", 5_000_123, _dump("rs")))),
    Case((("RESTORE", "rs3", 0, _dump("rs"), "REPLACE"), ("RESTORE", "rs4", FAR * 1000, _dump("rs"), "ABSTTL"))),
    Case((("RESTORE", "rs5", 0, _dump("rs"), "IDLETIME", 100), ("RESTORE", "rs6", 0, _dump("rs"), "FREQ", 5))),
    Case((("RESTORE", "rs7", 1, _dump("rs"), "ABSTTL"),)),  # in the past
    Case((("RESTORE-ASKING", "rs8", 0, _dump("rs")),)),
    _case(
        "RPUSH so 3 1 2; SORT so STORE sod; SORT so DESC LIMIT 0 2 STORE sod; SORT so ALPHA STORE soe; "
        "SORT nosuch STORE soe",
    ),
    _case("SET w_1 9; SET w_2 8; SET w_3 7; SORT so BY w_* GET # GET w_* STORE sog"),
    # lists
    _case("RPUSH l a b c d e f g h; LPUSH l z y; LPUSHX l w; RPUSHX l v; RPUSHX nosuch v; LPOP l; RPOP l"),
    _case("LPOP l 2; RPOP l 1; RPUSH lc a; LPOP lc 0", (6, 2)),
    _case("LINSERT l BEFORE c q; LINSERT l AFTER c r; LINSERT l AFTER nosuch r; LSET l 0 s; LREM l -1 q; LREM l 0 c"),
    _case("RPUSH lt a b c; LTRIM lt 1 1; LTRIM lt 5 9; RPUSH lp a b c; RPOPLPUSH lp lq; RPOPLPUSH lp lp"),
    _case("LMOVE l lq LEFT RIGHT; LMOVE lq lq RIGHT LEFT; lmove l lq right left", (6, 2)),
    _case("LMPOP 2 nosuch l LEFT COUNT 2; LMPOP 1 l RIGHT", (7, 0)),
    _case("RPUSH bl 1 2 3; BLPOP bl 1; BRPOP nosuch bl 1; RPUSH bm1 1 2; BRPOPLPUSH bm1 bm2 1"),
    _case("RPUSH bm3 1 2 3; BLMOVE bm3 bm4 LEFT LEFT 1", (6, 2)),
    _case("BLMPOP 1 2 nosuch bm3 LEFT COUNT 5", (7, 0)),
    _case("BLPOP wq1 wq2 60; RPUSH wq2 x y", blocked=True),
    _case("BRPOP wq3 60; LPUSH wq3 x y", blocked=True),
    _case("BRPOPLPUSH wq4 wq5 60; LPUSH wq4 x", blocked=True),
    _case("BLMOVE wq6 wq7 LEFT RIGHT 60; RPUSH wq6 x", (6, 2), blocked=True),
    _case("BLMPOP 60 1 wq8 LEFT COUNT 2; RPUSH wq8 1 2 3", (7, 0), blocked=True),
    # sets
    _case("SADD st 1 2 3 4 5 6 7 8; SADD st 1 x; SREM st 1 nosuch; SPOP st; SPOP st 2; SPOP st 0; SRANDMEMBER st"),
    _case("SADD sp 0 1 2; SPOP sp 9; SADD sq a b c d e f g; SPOP sq 6; SADD sm a b; SMOVE sm sn a; SMOVE sm sn nosuch"),
    _case(
        "SADD su a b; SADD sv b c; SUNIONSTORE sx su sv; SINTERSTORE sy su sv; SDIFFSTORE sz su sv; "
        "SINTERSTORE sx su nosuch",
    ),
    # sorted sets
    _case("ZADD z 1 a 2 b 3 c 4 d; ZADD z NX 9 a 5 e; ZADD z XX CH 6 e; ZADD z INCR 1.5 a; ZADD z inf i -inf j"),
    _case("ZADD z GT CH 9 a 1 b; ZADD z LT 0.5 b; ZADD z XX GT INCR 3 a", (6, 2)),
    _case("ZINCRBY z 0.1 a; ZINCRBY z 1e-3 new; ZREM z d nosuch; ZPOPMIN z; ZPOPMAX z 1; ZADD zp 1 a; ZPOPMIN zp 5"),
    _case(
        "ZADD zr 1 a 2 b 3 c 4 d; ZREMRANGEBYSCORE zr (1 2; ZREMRANGEBYRANK zr -1 -1; ZADD zl 0 a 0 b 0 c; "
        "ZREMRANGEBYLEX zl [b +",
    ),
    _case("BZPOPMIN zr 1; BZPOPMAX nosuch zl 1; ZADD zr 1 x 2 y 3 z"),
    _case("ZMPOP 2 nosuch zr MIN COUNT 2; BZMPOP 1 1 zr MAX", (7, 0)),
    _case("BZPOPMIN wz1 60; ZADD wz1 1 m 2 n", blocked=True),
    _case("BZPOPMAX wz2 60; ZADD wz2 1 m 2 n", blocked=True),
    _case("BZMPOP 60 1 wz3 MAX; ZADD wz3 1 m", (7, 0), blocked=True),
    _case(
        "ZADD za 1 a 2 b; ZADD zb 3 b 4 c; ZUNIONSTORE zc 2 za zb WEIGHTS 2 0.5 AGGREGATE MAX; "
        "ZINTERSTORE zd 2 za zb",
    ),
    _case("ZUNIONSTORE ze 2 za su AGGREGATE MIN; ZINTERSTORE zd 2 za nosuch"),
    _case("ZDIFFSTORE zf 2 za zb; ZRANGESTORE zg za 0 -1; ZRANGESTORE zh za (1 +inf BYSCORE LIMIT 0 5", (6, 2)),
    _case("ZRANGESTORE zi zl - + BYLEX; ZRANGESTORE zj za 0 0 REV", (6, 2)),
    _case("GEOADD g 13.361389 38.115556 Palermo 15.087269 37.502669 Catania; GEOADD g 1 1 far"),
    _case("GEOADD g NX 2 2 far; GEOADD g XX CH 3 3 far", (6, 2)),
    _case("GEORADIUS g 15 37 300 km STORE gr; GEORADIUS g 15 37 300 km COUNT 1 STOREDIST gt"),
    _case("GEORADIUSBYMEMBER g Palermo 300 km STORE gu"),
    _case(
        "GEOSEARCHSTORE gv g FROMLONLAT 15 37 BYRADIUS 300 km; "
        "GEOSEARCHSTORE gw g FROMMEMBER Palermo BYBOX 400 400 km STOREDIST", (6, 2),
    ),
    # hashes
    _case("HSET h1 a 1 b 2 c 3 d 4; HMSET h1 e 5 f 6; HSETNX h1 a 9; HSETNX h1 g 7; HDEL h1 b nosuch; HINCRBY h1 a 5"),
    _case("HINCRBYFLOAT h1 c 1.5; HINCRBYFLOAT h1 new 1e2; HSET hz a 1; HDEL hz a"),
    _case(
        "HSET hf a 1 b 2 c 3 d 4 e 5 f 6; HEXPIRE hf 5000 FIELDS 2 a b; HPEXPIRE hf 5000123 NX FIELDS 1 c",
        (7, 4),
        (9, 0),
    ),
    _case(f"HEXPIREAT hf {FAR} FIELDS 1 d; HPEXPIREAT hf {FAR}123 FIELDS 1 e; HPERSIST hf FIELDS 1 a", (7, 4), (9, 0)),
    _case(
        "HEXPIRE hf 0 FIELDS 1 f; HEXPIRE hf 4000 LT FIELDS 1 b; HEXPIRE hf 9000 GT FIELDS 1 b; "
        "HSET hf c plain", (7, 4), (9, 0),
    ),
    _case(
        f"HSETEX hs EX 5000 FIELDS 2 x 1 y 2; HSETEX hs FNX PXAT {FAR}123 FIELDS 1 z 3; "
        "HSETEX hs FXX KEEPTTL FIELDS 1 x 9", (8, 0), (9, 0),
    ),
    _case("HGETEX hs PX 5000123 FIELDS 1 x; HGETEX hs PERSIST FIELDS 1 y; HGETEX hs FIELDS 1 y", (8, 0), (9, 0)),
    _case("HSET hg a 1 b 2; HGETDEL hg FIELDS 1 a; HGETDEL hg FIELDS 2 b nosuch", (8, 0), (9, 1)),
    # streams
    _case(
        "XADD x * f v; XADD x 4000000000000-1 f v g w; XADD x MAXLEN ~ 1000 4000000000000-2 f v; "
        "XADD x MAXLEN 2 * f v",
    ),
    _case("XADD x NOMKSTREAM * f w; XADD nosuch NOMKSTREAM * f v; XADD x MINID = 4000000000000-2 * f v", (6, 2)),
    _case("XADD yl 1-1 f v; XADD yl 2-1 f v; XADD yl MINID ~ 3 LIMIT 10 5-1 f v; XTRIM yl MINID ~ 9 LIMIT 1", (6, 2)),
    _case("XADD xp 5-1 f v; XADD xp 5-* f v; XTRIM xp MINID ~ 5-2 LIMIT 10", (7, 0)),
    _case(
        "XADD xt 1-1 f v; XADD xt 2-1 f v; XADD xt 3-1 f v; XDEL xt 2-1 9-9; XTRIM xt MAXLEN 1; "
        "XTRIM xt MAXLEN ~ 0; XSETID xt 9-0",
    ),
    _case("XSETID xt 10-0 ENTRIESADDED 50 MAXDELETEDID 4-0", (7, 0)),
    _case(
        "XADD y 1-1 f v; XADD y 2-1 f v; XADD y 3-1 f v; XADD y 4-1 f v; XGROUP CREATE y g 0; "
        "XGROUP CREATE ynew g $ MKSTREAM",
    ),
    _case(
        "XREADGROUP GROUP g ann COUNT 2 STREAMS y >; XREADGROUP GROUP g bob NOACK COUNT 1 STREAMS y >; "
        "XREADGROUP GROUP g ann STREAMS y 0",
    ),
    _case(
        "XACK y g 1-1; XCLAIM y g cy 0 2-1 IDLE 5 RETRYCOUNT 9 FORCE JUSTID; XGROUP SETID y g 1-1; "
        "XREADGROUP GROUP g ann STREAMS y >",
    ),
    _case("XCLAIM y g bob 0 3-1 TIME 1700000000123 LASTID 3-1; XGROUP DELCONSUMER y g cy; XGROUP DESTROY ynew g"),
    _case(
        "XGROUP CREATECONSUMER y g made; XAUTOCLAIM y g eve 0 0-0 COUNT 1; XDEL y 3-1; "
        "XAUTOCLAIM y g eve 0 0-0", (6, 2),
    ),
    _case("XGROUP CREATE y g7 2-1 ENTRIESREAD 2; XGROUP SETID y g7 3-1 ENTRIESREAD 3", (7, 0)),
    _case("XREADGROUP GROUP g dave BLOCK 60000 STREAMS y >; XADD y 9-1 f blocked", blocked=True),
    _case(
        "XADD xd 1-1 f v; XADD xd 2-1 f v; XADD xd 3-1 f v; XDELEX xd KEEPREF IDS 1 1-1; "
        "XDELEX xd DELREF IDS 1 2-1", (8, 2), None,
    ),
    _case(
        "XGROUP CREATE xd g 0; XREADGROUP GROUP g a STREAMS xd >; XACKDEL xd g ACKED IDS 1 3-1; "
        "XADD xd ACKED MAXLEN = 0 * f v", (8, 2), None,
    ),
    # vector sets: only RESTORE and their own commands carry them
    _case("VADD vs VALUES 3 0.1 0.2 0.3 el1; VADD vs VALUES 3 1 2 3 el2 NOQUANT", (8, 0), None, refused=True),
    _case(
        "VADD vt VALUES 3 0.1 0.2 0.3 e1; VADD vt VALUES 3 0.3 0.2 0.1 e2 SETATTR {\"a\":1}; "
        "VSETATTR vt e1 {\"b\":2}; VREM vt e2", (8, 0), None,
    ),
    # transactions, scripts, functions, messages
    _case("MULTI; SET t1 1; INCR t2; RPUSH t3 a b; EXEC; MULTI; SET t1 2; EXEC; MULTI; GET t1; EXEC; MULTI; EXEC"),
    _case(
        "MULTI; SELECT 2; SET t4 in2; SELECT 0; SET t5 in0; EXEC; MULTI; SET t1 9; DISCARD; MULTI; "
        "DEL nosuch; INCR t2; EXEC",
    ),
    _case("SADD t6 a b c; MULTI; SPOP t6; PUBLISH ch in; EXEC; PUBLISH ch out"),
    Case((("MULTI",), ("SET", "t7", "x"), ("LPUSH", "t7", "y"), ("INCR", "t8"), ("EXEC",))),  # one of them fails
    Case((("EVAL", _SCRIPT, 2, "v1", "v2", "a"), ("EVALSHA", _sha(_SCRIPT), 2, "v1", "v2", "b"),
          ("EVAL", "return 1", 0))),
    Case((("EVAL", "redis.call('SET', KEYS[1], 'x', 'EX', 5000) return redis.call('SPOP', KEYS[2])", 2, "v3", "st"),)),
    Case((("EVAL", "redis.call('SELECT', '3') redis.call('SET', KEYS[1], 'in3')", 1, "v4"),)),
    Case((("MULTI",), ("EVAL", _SCRIPT, 2, "v1", "v2", "c"), ("SET", "t1", "3"), ("EXEC",))),
    Case((("EVAL", "redis.call('SET', KEYS[1], 'kept') return redis.error_reply('refused')", 1, "v5"),), refused=True),
    Case((("FUNCTION", "LOAD", _CODE.format("one")), ("FCALL", "one_f", 1, "fk", "fv"),
          ("FUNCTION", "LOAD", "REPLACE", _CODE.format("one")), ("FUNCTION", "LOAD", _CODE.format("two")),
          ("FUNCTION", "DELETE", "one")), (7, 0)),
    Case((("FUNCTION", "RESTORE", _library("two"), "REPLACE"),
          ("FUNCTION", "RESTORE", _library("two"), "FLUSH")), (7, 0)),
    _case("SPUBLISH sch message", (7, 0)),
    # everything: the last ones, each with something that comes after it
    _case("SELECT 7; SET gone 1; FLUSHDB; SET after 1; FLUSHDB ASYNC; SET after2 1; SELECT 0"),
)  # fmt: skip

FLUSHING: Final[tuple[Case, ...]] = (
    Case((("FUNCTION", "FLUSH"), ("FUNCTION", "LOAD", _CODE.format("three"))), (7, 0)),
    _case("FLUSHALL; SET f1 1; SELECT 3; SET f2 1; FLUSHALL ASYNC; SET f3 1; SELECT 0; SET f4 1"),
)

_ANSWERED = re.compile(r"^(MULTI|EXEC|DISCARD)$", re.IGNORECASE)


def covered() -> set[str]:
    """The names that stand in a case."""
    return {str(line[0]).upper() for case in (*CASES, *FLUSHING) for line in case.lines}


def play(server: Server, spare: Server, cases: Sequence[Case] = CASES) -> int:
    """Send what this server knows; ``spare``: where keys are migrated to. AssertionError for an unexpected refusal."""
    sent = 0
    with Wire(server) as wire:
        for case in cases:
            if case.exists_on(server):
                sent += _blocked(server, wire, case, spare) if case.blocked else _straight(server, wire, case, spare)
    return sent


def _straight(server: Server, wire: Wire, case: Case, spare: Server) -> int:
    for line in case.lines:
        given = [part(wire, spare) if callable(part) else part for part in line]
        [reply] = wire.call([given])
        if isinstance(reply, hiredis.ReplyError) and not case.refused:
            raise AssertionError(f"{server.version} refuses {str(given)[:200]}: {reply}")
    return len(case.lines)


def _blocked(server: Server, wire: Wire, case: Case, spare: Server) -> int:
    with Wire(server) as waiter:
        waiter.send([[part for part in case.lines[0] if not callable(part)]])
        wait_until(lambda: server.info("clients")["blocked_clients"] == 1, 10, f"{case.lines[0][0]!s} blocks")
        wire.call([[part for part in line if not callable(part)] for line in case.lines[1:]])
        [reply] = waiter.receive(1)
        assert reply is not None and not isinstance(reply, hiredis.ReplyError), f"{case.lines[0]}: {reply!r}"
    return len(case.lines)
