"""Numbers and grammars of RDB files: opcodes, value types, and how each value type is laid out.

The numbers are those of Redis (src/rdb.h, RDB versions 1 to 15) and Valkey (src/rdb.h, RDB version 80); the layouts of
types 26 to 32 were deduced from files that Redis 8.6 and 8.10 wrote and are held by golden dumps. One number means two
things: 22 and 243 differ between the two families, so that every look-up takes the flavor that the magic told.
"""

from __future__ import annotations

from typing import Final

REDIS: Final = "redis"
VALKEY: Final = "valkey"
NEWEST_REDIS: Final = 15
NEWEST_VALKEY: Final = 80

# Value types.
STRING: Final = 0
LIST: Final = 1
SET: Final = 2
ZSET: Final = 3
HASH: Final = 4
ZSET_2: Final = 5
MODULE_PRE_GA: Final = 6
MODULE_2: Final = 7
HASH_ZIPMAP: Final = 9
LIST_ZIPLIST: Final = 10
SET_INTSET: Final = 11
ZSET_ZIPLIST: Final = 12
HASH_ZIPLIST: Final = 13
LIST_QUICKLIST: Final = 14
STREAM: Final = 15
HASH_LISTPACK: Final = 16
ZSET_LISTPACK: Final = 17
LIST_QUICKLIST_2: Final = 18
STREAM_2: Final = 19
SET_LISTPACK: Final = 20
STREAM_3: Final = 21
HASH_METADATA_PRE_GA: Final = 22  # Redis 7.4 release candidates
VALKEY_HASH_2: Final = 22  # Valkey 9
HASH_LISTPACK_EX_PRE_GA: Final = 23
HASH_METADATA: Final = 24
HASH_LISTPACK_EX: Final = 25
STREAM_4: Final = 26
STREAM_5: Final = 27
ARRAY: Final = 28
HASH_TEMPLATE_LISTPACK: Final = 29  # fields within the value: DUMP only
HASH_TEMPLATE_LISTPACK_REF: Final = 30  # fields in the template that an opcode 242 defined
HASH_TEMPLATE_ARRAY: Final = 31  # fields within the value: DUMP only
HASH_TEMPLATE_ARRAY_REF: Final = 32

# Opcodes.
OP_HASH_TEMPLATE: Final = 242  # Redis 8.10
OP_KEY_META: Final = 243  # Redis 8.6: module metadata of the next key
OP_SLOT_IMPORT: Final = 243  # Valkey 9: a slot that is being imported
OP_SLOT_INFO: Final = 244
OP_FUNCTION2: Final = 245
OP_FUNCTION_PRE_GA: Final = 246
OP_MODULE_AUX: Final = 247
OP_IDLE: Final = 248
OP_FREQ: Final = 249
OP_AUX: Final = 250
OP_RESIZEDB: Final = 251
OP_EXPIRE_MS: Final = 252
OP_EXPIRE_S: Final = 253
OP_SELECTDB: Final = 254
OP_EOF: Final = 255

# Steps of a grammar; see Step.
STR: Final = 0
LEN: Final = 1
RAW: Final = 2
ASCII_DOUBLE: Final = 3
COUNT: Final = 4
EACH: Final = 5
MODULE_DATA: Final = 6
OPTIONAL_LEN: Final = 7
ARRAY_ITEM: Final = 8
TEMPLATE_ID: Final = 9


class Step:
    """One step of a value's layout.

    ``STR`` a string, ``LEN`` a length, ``RAW`` ``arg`` bytes, ``ASCII_DOUBLE`` a score of RDB < 8, ``COUNT`` a length
    that says how often the next ``EACH`` repeats its ``body``, ``MODULE_DATA`` typed module fields up to their end
    mark, ``OPTIONAL_LEN`` a byte and, where it is not 0, a length, ``ARRAY_ITEM`` an element of an array,
    ``TEMPLATE_ID`` the number of a hash template, whose field count is the count. ``flat``: an ``EACH`` whose body
    holds no other ``EACH``.
    """

    __slots__ = ("arg", "body", "flat", "op")

    def __init__(self, op: int, arg: int = 0, body: tuple[Step, ...] = ()) -> None:
        self.op = op
        self.arg = arg
        self.body = body
        self.flat = op == EACH and all(step.op <= ASCII_DOUBLE or step.op == ARRAY_ITEM for step in body)


Program = tuple[Step, ...]

_STR: Final = Step(STR)
_LEN: Final = Step(LEN)
_COUNT: Final = Step(COUNT)
_STREAM_ID: Final = (_LEN, _LEN)  # milliseconds, sequence
_RAW_ID: Final = Step(RAW, 16)
_MS: Final = Step(RAW, 8)


def _each(*body: Step) -> Program:
    return (_COUNT, Step(EACH, 0, body))


def _stream(version: int) -> Program:
    """A stream: nodes of packed entries, then its counters, then groups with pending entries and consumers."""
    nodes = _each(_STR, _STR)
    counters: Program = (_LEN, *_STREAM_ID)
    if version >= 2:
        counters += (*_STREAM_ID, *_STREAM_ID, _LEN)  # first id, greatest deleted id, entries ever added
    consumer = (_STR, _MS, *((_MS,) if version >= 3 else ()), *_each(_RAW_ID))
    group = (
        _STR,
        *_STREAM_ID,
        *((_LEN,) if version >= 2 else ()),  # entries read
        *_each(_RAW_ID, _MS, _LEN),  # pending: id, delivery time, delivery count
        *_each(*consumer),
        *(_each(_RAW_ID) if version >= 5 else ()),  # pending entries that were given back and have no consumer
    )
    program: Program = nodes + counters + _each(*group)
    if version >= 4:
        producer = (_STR, *_each(_STR, *_STREAM_ID))
        program += (_LEN, _LEN, *_each(*producer), _LEN, _LEN)  # window, size, producers, ids added, duplicates
    return program


_PACKED: Final = (_STR,)

_COMMON: Final[dict[int, Program]] = {
    STRING: _PACKED,
    LIST: _each(_STR),
    SET: _each(_STR),
    ZSET: _each(_STR, Step(ASCII_DOUBLE)),
    HASH: _each(_STR, _STR),
    ZSET_2: _each(_STR, Step(RAW, 8)),
    MODULE_2: (_LEN, Step(MODULE_DATA)),
    HASH_ZIPMAP: _PACKED,
    LIST_ZIPLIST: _PACKED,
    SET_INTSET: _PACKED,
    ZSET_ZIPLIST: _PACKED,
    HASH_ZIPLIST: _PACKED,
    LIST_QUICKLIST: _each(_STR),
    STREAM: _stream(1),
    HASH_LISTPACK: _PACKED,
    ZSET_LISTPACK: _PACKED,
    LIST_QUICKLIST_2: _each(_LEN, _STR),
    STREAM_2: _stream(2),
    SET_LISTPACK: _PACKED,
    STREAM_3: _stream(3),
}

GRAMMAR: Final[dict[str, dict[int, Program]]] = {
    REDIS: {
        **_COMMON,
        HASH_METADATA_PRE_GA: _each(_LEN, _STR, _STR),
        HASH_LISTPACK_EX_PRE_GA: _PACKED,
        HASH_METADATA: (_MS, *_each(_LEN, _STR, _STR)),
        HASH_LISTPACK_EX: (_MS, _STR),
        STREAM_4: _stream(4),
        STREAM_5: _stream(5),
        ARRAY: (_COUNT, Step(OPTIONAL_LEN), Step(EACH, 0, (_LEN, Step(ARRAY_ITEM)))),
        HASH_TEMPLATE_LISTPACK: (*_each(_STR), _STR),
        HASH_TEMPLATE_LISTPACK_REF: _PACKED,
        HASH_TEMPLATE_ARRAY: _each(_STR, _STR),
        HASH_TEMPLATE_ARRAY_REF: (Step(TEMPLATE_ID), Step(EACH, 0, (_STR,))),
    },
    VALKEY: {
        **_COMMON,
        VALKEY_HASH_2: _each(_STR, _STR, _MS),
    },
}

# Records other than keys that have a length of their own only through their parts.
MODULE_AUX: Final[Program] = (_LEN, _LEN, _LEN, Step(MODULE_DATA))  # module id, kind of "when", when
KEY_META: Final[Program] = (_COUNT, Step(EACH, 0, (Step(RAW, 4), Step(MODULE_DATA))))  # classes
HASH_TEMPLATE: Final[Program] = (_LEN, *_each(_STR))  # id, fields

# Types whose elements may be handed over in parts: their first EACH holds them. Other values are one packed blob,
# or can be brought by RESTORE alone.
STREAMED: Final = frozenset(
    {LIST, SET, ZSET, HASH, ZSET_2, LIST_QUICKLIST, LIST_QUICKLIST_2, VALKEY_HASH_2, HASH_METADATA}
    | {STREAM, STREAM_2, STREAM_3, STREAM_4, STREAM_5, HASH_TEMPLATE_ARRAY_REF}
)

# Hashes whose fields may have deadlines of their own.
MAY_HAVE_DEADLINES: Final = frozenset(
    {VALKEY_HASH_2, HASH_METADATA_PRE_GA, HASH_LISTPACK_EX_PRE_GA, HASH_METADATA, HASH_LISTPACK_EX}
)

STREAMS: Final[dict[int, int]] = {STREAM: 1, STREAM_2: 2, STREAM_3: 3, STREAM_4: 4, STREAM_5: 5}

# The two names of each type: what TYPE answers, and how the file packs it.
_NAMES: Final[dict[int, tuple[str, str]]] = {
    STRING: ("string", "string"),
    LIST: ("list", "linkedlist"),
    SET: ("set", "hashtable"),
    ZSET: ("zset", "skiplist-ascii"),
    HASH: ("hash", "hashtable"),
    ZSET_2: ("zset", "skiplist"),
    MODULE_PRE_GA: ("module", "module-1"),
    MODULE_2: ("module", "module-2"),
    HASH_ZIPMAP: ("hash", "zipmap"),
    LIST_ZIPLIST: ("list", "ziplist"),
    SET_INTSET: ("set", "intset"),
    ZSET_ZIPLIST: ("zset", "ziplist"),
    HASH_ZIPLIST: ("hash", "ziplist"),
    LIST_QUICKLIST: ("list", "quicklist"),
    STREAM: ("stream", "stream-1"),
    HASH_LISTPACK: ("hash", "listpack"),
    ZSET_LISTPACK: ("zset", "listpack"),
    LIST_QUICKLIST_2: ("list", "quicklist-2"),
    STREAM_2: ("stream", "stream-2"),
    SET_LISTPACK: ("set", "listpack"),
    STREAM_3: ("stream", "stream-3"),
    HASH_METADATA_PRE_GA: ("hash", "hashtable-ttl"),
    HASH_LISTPACK_EX_PRE_GA: ("hash", "listpack-ttl-rc"),
    HASH_METADATA: ("hash", "hashtable-ttl"),
    HASH_LISTPACK_EX: ("hash", "listpack-ttl"),
    STREAM_4: ("stream", "stream-4"),
    STREAM_5: ("stream", "stream-5"),
    ARRAY: ("array", "sliced-array"),
    HASH_TEMPLATE_LISTPACK: ("hash", "template-listpack"),
    HASH_TEMPLATE_LISTPACK_REF: ("hash", "template-listpack"),
    HASH_TEMPLATE_ARRAY: ("hash", "template-array"),
    HASH_TEMPLATE_ARRAY_REF: ("hash", "template-array"),
}


def type_name(value_type: int) -> str:
    """What TYPE answers for a value of this type; ``unknown`` for a number that is not known."""
    return _NAMES.get(value_type, ("unknown", ""))[0]


def encoding_name(value_type: int) -> str:
    """How the file packs it; ``type-<n>`` for a number that is not known."""
    return _NAMES.get(value_type, ("", f"type-{value_type}"))[1]
