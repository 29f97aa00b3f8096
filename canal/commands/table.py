"""Every command that writes, or that can stand in a replication stream, of Redis 2.8 … 8.10 and Valkey 8 … 9.1.

Sources: COMMAND of each server (compared in tests/integration/test_commands_integration.py) and the project's captures
of what each server propagates. Redis commands that no server at hand has (8.6 and newer) are from the Redis
documentation.

Columns: name, type of the value it works on (``-``: any, or none), keys (notation: keyspec.py), flags, first Redis,
first Valkey (``=``: inherited from Redis 7.2, ``-``: not there).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from canal.commands.keyspec import FINDERS, Finder, KeySpec, parse_word

Version = tuple[int, ...]
FORKED: Final[Version] = (7, 2)  # Valkey started as Redis 7.2.4


class Flag(IntFlag):
    """What is known of a command whatever its arguments are; options can add to it (see options.py)."""

    NONE = 0
    WRITE = 1  # changes data (PUBLISH, SELECT … do not)
    IDEMPOTENT = 2  # done twice in a row = done once, and the second time is no error
    EMPTIES = 4  # takes elements away: the key may disappear with its last one
    DELETES = 8  # removes the keys it names
    CONDITIONAL = 16  # always does nothing or fails depending on the old value (SETNX, RENAMENX …)
    RELATIVE = 32  # always or by option holds a time relative to now
    NOSCRIPT = 64  # a script may not call it
    ALLKEYS = 128  # concerns every key of one or all databases
    CONTROL = 256  # steers the stream or the server; no data
    NEVER = 512  # a client may send it, but no server propagates it under this name
    OPAQUE = 1024  # may read or write keys that its arguments do not name
    OPTIONS = 2048  # options change what it means to another server: never passed on unlooked at


@dataclass(frozen=True, slots=True)
class CommandInfo:
    """One row of the table. ``name`` is upper case; ``since_redis`` and ``since_valkey`` None: not there."""

    name: bytes
    type: str
    keys: tuple[KeySpec, ...]
    finder: Finder | None
    flags: int
    since_redis: Version | None
    since_valkey: Version | None

    def exists_on(self, flavor: str, version: Version) -> bool:
        """Does a server of this flavor ("redis" or "valkey") and version know the command?"""
        since = self.since_valkey if flavor == "valkey" else self.since_redis
        return since is not None and version >= since


_ROWS: Final = """
SET              string  {set}       idem,opt,rel        1.0   =
SETEX            string  W1          idem,rel            2.0   =
PSETEX           string  W1          idem,rel            2.6   =
SETNX            string  U1          idem,cond           1.0   =
GETSET           string  W1          idem                1.0   =
GETDEL           string  W1          idem,del,never      6.2   =
GETEX            string  U1          rel,never           6.2   =
MSET             string  W1../2      idem                1.0   =
MSETNX           string  U1../2      idem,cond           1.0   =
MSETEX           string  {msetex}    idem,opt,rel        8.4   9.1
APPEND           string  U1          -                   2.0   =
INCR             string  U1          -                   1.0   =
DECR             string  U1          -                   1.0   =
INCRBY           string  U1          -                   1.0   =
DECRBY           string  U1          -                   1.0   =
INCRBYFLOAT      string  U1          never               2.6   =
INCREX           string  U1          rel,never           8.8   9.2
SETRANGE         string  U1          idem                2.2   =
SETBIT           string  U1          idem                2.2   =
BITFIELD         string  U1          -                   3.2   =
BITOP            string  W2,R3..     idem                2.6   =
PFADD            string  U1          idem                2.8.9 =
PFCOUNT          string  U1..        idem                2.8.9 =
PFMERGE          string  U1,R2..     idem                2.8.9 =
PFDEBUG          string  U2          idem                2.8.9 =
DELEX            string  U1          idem,del,cond,never 8.4   -
DELIFEQ          string  U1          idem,del,cond,never -     9.0
GCRA             string  U1          never               8.8   -
DEL              -       W1..        idem,del            1.0   =
UNLINK           -       W1..        idem,del            4.0   =
TOUCH            -       U1..        idem,never          3.2.1 =
EXPIRE           -       U1          idem,rel            1.0   =
PEXPIRE          -       U1          idem,rel            2.6   =
EXPIREAT         -       U1          idem                1.2   =
PEXPIREAT        -       U1          idem                2.6   =
PERSIST          -       U1          idem                2.2   =
RENAME           -       M1,W2       -                   1.0   =
RENAMENX         -       M1,U2       cond                1.0   =
COPY             -       {copy}      idem                6.2   =
MOVE             -       M1          idem,cond           1.0   =
MIGRATE          -       {migrate}   del,never           2.6   =
RESTORE          -       {restore}   opt,rel             2.6   =
RESTORE-ASKING   -       {restore}   opt,rel             3.0   =
SORT             -       {sort}      idem,opaque         1.0   =
LPUSH            list    U1          -                   1.0   =
RPUSH            list    U1          -                   1.0   =
LPUSHX           list    U1          cond                2.2   =
RPUSHX           list    U1          cond                2.2   =
LPOP             list    U1          empty               1.0   =
RPOP             list    U1          empty               1.0   =
LINSERT          list    U1          -                   2.2   =
LSET             list    U1          idem                1.0   =
LREM             list    U1          empty               1.0   =
LTRIM            list    U1          empty               1.0   =
RPOPLPUSH        list    M1,U2       empty               1.2   =
LMOVE            list    M1,U2       empty               6.2   =
LMPOP            list    U#1         empty,never         7.0   =
BLPOP            list    U1..-2      empty,never,noscript 2.0  =
BRPOP            list    U1..-2      empty,never,noscript 2.0  =
BRPOPLPUSH       list    M1,U2       empty,never,noscript 2.2  =
BLMOVE           list    M1,U2       empty,never,noscript 6.2  =
BLMPOP           list    U#2         empty,never,noscript 7.0  =
SADD             set     U1          idem                1.0   =
SREM             set     U1          idem,empty          1.0   =
SPOP             set     U1          empty,never         1.0   =
SMOVE            set     M1,U2       idem,empty          1.0   =
SUNIONSTORE      set     W1,R2..     idem                1.0   =
SINTERSTORE      set     W1,R2..     idem                1.0   =
SDIFFSTORE       set     W1,R2..     idem                1.0   =
ZADD             zset    U1          idem                1.2   =
ZINCRBY          zset    U1          -                   1.2   =
ZREM             zset    U1          idem,empty          1.2   =
ZREMRANGEBYSCORE zset    U1          idem,empty          1.2   =
ZREMRANGEBYRANK  zset    U1          empty               2.0   =
ZREMRANGEBYLEX   zset    U1          idem,empty          2.8.9 =
ZPOPMIN          zset    U1          empty               5.0   =
ZPOPMAX          zset    U1          empty               5.0   =
ZMPOP            zset    U#1         empty,never         7.0   =
BZPOPMIN         zset    U1..-2      empty,never,noscript 5.0  =
BZPOPMAX         zset    U1..-2      empty,never,noscript 5.0  =
BZMPOP           zset    U#2         empty,never,noscript 7.0  =
ZUNIONSTORE      zset    W1,R#2      idem                2.0   =
ZINTERSTORE      zset    W1,R#2      idem                2.0   =
ZDIFFSTORE       zset    W1,R#2      idem                6.2   =
ZRANGESTORE      zset    W1,R2       idem                6.2   =
GEOADD           zset    U1          idem,never          3.2   =
GEORADIUS        zset    {georadius} idem                3.2   =
GEORADIUSBYMEMBER zset   {georadius} idem                3.2   =
GEOSEARCHSTORE   zset    W1,R2       idem                6.2   =
HSET             hash    U1          idem                2.0   =
HMSET            hash    U1          idem                2.0   =
HSETNX           hash    U1          idem,cond           2.0   =
HDEL             hash    U1          idem,empty          2.0   =
HINCRBY          hash    U1          -                   2.0   =
HINCRBYFLOAT     hash    U1          never               2.6   =
HEXPIRE          hash    U1          idem,rel,empty,never 7.4  9.0
HPEXPIRE         hash    U1          idem,rel,empty,never 7.4  9.0
HEXPIREAT        hash    U1          idem,empty,never    7.4   9.0
HPEXPIREAT       hash    U1          idem,empty          7.4   9.0
HPERSIST         hash    U1          idem                7.4   9.0
HSETEX           hash    U1          idem,opt,rel,empty  8.0   9.0
HGETEX           hash    U1          rel,empty,never     8.0   9.0
HGETDEL          hash    U1          idem,empty          8.0   9.1
HIMPORT          hash    -           never,opaque        8.10  -
XADD             stream  U1          opt                 5.0   =
XDEL             stream  U1          idem                5.0   =
XDELEX           stream  U1          idem                8.2   -
XTRIM            stream  U1          idem,opt            5.0   =
XSETID           stream  U1          idem                5.0   =
XGROUP           stream  {xgroup}    -                   5.0   =
XACK             stream  U1          idem                5.0   =
XACKDEL          stream  U1          idem                8.2   -
XNACK            stream  U1          -                   8.8   9.2
XCLAIM           stream  U1          idem                5.0   =
XAUTOCLAIM       stream  U1          rel,never           6.2   =
XREADGROUP       stream  {xreadgroup} never,noscript     5.0   =
XCFGSET          stream  U1          idem                8.6   -
XIDMPRECORD      stream  U1          idem                8.6   -
ARSET            array   U1          idem                8.8   -
ARMSET           array   U1          idem                8.8   -
ARINSERT         array   U1          -                   8.8   -
ARDEL            array   U1          idem,empty          8.8   -
ARDELRANGE       array   U1          idem,empty          8.8   -
ARRING           array   U1          -                   8.8   -
ARSEEK           array   U1          idem                8.8   -
VADD             vectorset U1        idem                8.0   -
VREM             vectorset U1        idem,empty          8.0   -
VSETATTR         vectorset U1        idem                8.0   -
FLUSHDB          -       -           idem,all            1.0   =
FLUSHALL         -       -           idem,all            1.0   =
SWAPDB           -       -           all                 4.0   =
CLUSTER          -       -           all,never,noscript  3.0   =
EVAL             -       M#2         opaque,noscript     2.6   =
EVALSHA          -       M#2         opaque,noscript     2.6   =
FCALL            -       M#2         opaque,noscript,never 7.0 =
FUNCTION         -       -           noscript            7.0   =
SCRIPT           -       -           control,noscript    2.6   =
PUBLISH          -       -           control             2.0   =
SPUBLISH         -       -           control             7.0   =
PING             -       -           control             1.0   =
SELECT           -       -           control             1.0   =
REPLCONF         -       -           control,noscript    2.8   =
MULTI            -       -           control,noscript    1.2   =
EXEC             -       -           control,noscript    1.2   =
"""

# Commands of the widespread modules (part of Redis 8 itself), from their documentation: without their keys nothing that
# holds JSON, filters, sketches or time series could be filtered. Whether a server has them its version does not tell.
_MODULE_ROWS: Final = """
JSON.SET         module  U1          idem                4.0   =
JSON.MSET        module  U1../3      idem                4.0   =
JSON.MERGE       module  U1          idem                4.0   =
JSON.DEL         module  U1          -                   4.0   =
JSON.FORGET      module  U1          -                   4.0   =
JSON.CLEAR       module  U1          idem                4.0   =
JSON.ARRAPPEND   module  U1          -                   4.0   =
JSON.ARRINSERT   module  U1          -                   4.0   =
JSON.ARRPOP      module  U1          -                   4.0   =
JSON.ARRTRIM     module  U1          -                   4.0   =
JSON.NUMINCRBY   module  U1          -                   4.0   =
JSON.NUMMULTBY   module  U1          -                   4.0   =
JSON.STRAPPEND   module  U1          -                   4.0   =
JSON.TOGGLE      module  U1          -                   4.0   =
BF.RESERVE       module  U1          -                   4.0   =
BF.ADD           module  U1          idem                4.0   =
BF.MADD          module  U1          idem                4.0   =
BF.INSERT        module  U1          idem                4.0   =
BF.LOADCHUNK     module  U1          -                   4.0   =
CF.RESERVE       module  U1          -                   4.0   =
CF.ADD           module  U1          -                   4.0   =
CF.ADDNX         module  U1          idem                4.0   =
CF.INSERT        module  U1          -                   4.0   =
CF.INSERTNX      module  U1          idem                4.0   =
CF.DEL           module  U1          -                   4.0   =
CF.LOADCHUNK     module  U1          -                   4.0   =
CMS.INITBYDIM    module  U1          -                   4.0   =
CMS.INITBYPROB   module  U1          -                   4.0   =
CMS.INCRBY       module  U1          -                   4.0   =
CMS.MERGE        module  U1,R#2      -                   4.0   =
TOPK.RESERVE     module  U1          -                   4.0   =
TOPK.ADD         module  U1          -                   4.0   =
TOPK.INCRBY      module  U1          -                   4.0   =
TDIGEST.CREATE   module  U1          -                   4.0   =
TDIGEST.ADD      module  U1          -                   4.0   =
TDIGEST.RESET    module  U1          idem                4.0   =
TDIGEST.MERGE    module  U1,R#2      -                   4.0   =
TS.CREATE        module  U1          -                   4.0   =
TS.ALTER         module  U1          idem                4.0   =
TS.ADD           module  U1          -                   4.0   =
TS.MADD          module  U1../3      -                   4.0   =
TS.INCRBY        module  U1          -                   4.0   =
TS.DECRBY        module  U1          -                   4.0   =
TS.DEL           module  U1          idem                4.0   =
TS.CREATERULE    module  U1,U2       -                   4.0   =
TS.DELETERULE    module  U1,U2       -                   4.0   =
"""

_FLAGS: Final[dict[str, Flag]] = {
    "-": Flag.NONE,
    "idem": Flag.IDEMPOTENT,
    "empty": Flag.EMPTIES,
    "del": Flag.DELETES,
    "cond": Flag.CONDITIONAL,
    "rel": Flag.RELATIVE,
    "noscript": Flag.NOSCRIPT,
    "all": Flag.ALLKEYS,
    "control": Flag.CONTROL,
    "never": Flag.NEVER,
    "opaque": Flag.OPAQUE,
    "opt": Flag.OPTIONS,
}


def _version(text: str) -> Version | None:
    return None if text == "-" else tuple(int(part) for part in text.split("."))


def _row(line: str) -> CommandInfo:
    name, kind, keys, words, redis, valkey = line.split()
    flags = Flag.NONE
    for word in words.split(","):
        flags |= _FLAGS[word]
    if not flags & Flag.CONTROL:
        flags |= Flag.WRITE
    finder = FINDERS.get(keys)
    specs = () if finder or keys == "-" else tuple(parse_word(word) for word in keys.split(","))
    since = _version(redis)
    return CommandInfo(
        name=name.encode(),
        type="" if kind == "-" else kind,
        keys=specs,
        finder=finder,
        flags=int(flags),
        since_redis=since,
        since_valkey=FORKED if valkey == "=" else _version(valkey),
    )


COMMANDS: Final[tuple[CommandInfo, ...]] = tuple(_row(line) for line in (_ROWS + _MODULE_ROWS).split("\n") if line)

_BY_NAME: Final[dict[bytes, CommandInfo]] = {
    spelling: info for info in COMMANDS for spelling in (info.name, info.name.lower())
}


def lookup(name: bytes) -> CommandInfo | None:
    """The row of a command, whatever the case of its letters; None when the table does not have it."""
    info = _BY_NAME.get(name)
    return info if info is not None else _BY_NAME.get(name.upper())


_FIRST: Final = {(1, 1, 0)}
ONE_KEY: Final[frozenset[bytes]] = frozenset(
    spelling
    for info in COMMANDS
    if {(spec.first, spec.last, spec.count_at) for spec in info.keys} == _FIRST
    or info.name in (b"SET", b"RESTORE", b"RESTORE-ASKING")
    for spelling in (info.name, info.name.lower())
)
"""Names, in upper and in lower case, of commands whose one key is the first argument, whatever the others are. MOVE is
among them; the database it moves to is an argument of its own."""

_LOOKED_AT: Final = (
    Flag.RELATIVE | Flag.NOSCRIPT | Flag.ALLKEYS | Flag.NEVER | Flag.OPTIONS
)  # any of these, and the arguments must be seen before the command is passed on

PLAIN: Final[frozenset[bytes]] = frozenset(
    spelling
    for info in COMMANDS
    if not info.flags & _LOOKED_AT and info.name not in (b"PING", b"SELECT")
    for spelling in (info.name, info.name.lower())
)
"""Names, in upper and in lower case, that pass to a server of the same flavor and the same or a newer version byte for
byte whatever their arguments are. SET is not among them because of its options; ``SET key value`` with exactly three
arguments is as plain as these (``is_plain_set``)."""


def is_plain_set(argc: int, name: bytes) -> bool:
    """Is this a SET without options? ``argc`` counts the name. It then passes like the names in PLAIN."""
    return argc == 3 and (name == b"SET" or name == b"set")
