"""Streams: idempotent ids, and what newer versions added to XADD, XTRIM, XGROUP and XDEL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from canal.commands import integer
from sync.rewrite.rules import DUPLICATE, NO_IDMP, Command, Context, Result
from sync.rewrite.scripts import XDELEX, XTRIM_MINID, script
from sync.rules import Dropped

_REFERENCES: Final = frozenset({b"KEEPREF", b"DELREF", b"ACKED"})
_LAST_SEQUENCE: Final = (1 << 64) - 1


@dataclass(slots=True)
class Add:
    """XADD or XTRIM taken apart. ``trim`` holds MAXLEN or MINID with its arguments, without a LIMIT that has done its
    work: a source propagates ``~ n LIMIT m`` as ``= n LIMIT m``, which only its replicas may say to a server.
    """

    nomkstream: bool = False
    references: bytes = b""
    idempotent: Command = field(default_factory=list)  # [IDMP, producer, id] or [IDMPAUTO, producer]
    trim: Command = field(default_factory=list)
    rest: Command = field(default_factory=list)  # the id and what follows
    limited: bool = False  # a LIMIT was left out


def read_add(argv: Command, start: int = 2) -> Add:
    """Read the options of XADD (or XTRIM) up to the first argument that is none."""
    add = Add()
    index = start
    while index < len(argv):
        word = argv[index].upper()
        if word == b"NOMKSTREAM":
            add.nomkstream = True
            index += 1
        elif word in _REFERENCES:
            add.references = word
            index += 1
        elif word in (b"IDMP", b"IDMPAUTO"):
            size = 3 if word == b"IDMP" else 2
            add.idempotent = argv[index : index + size]
            index += size
        elif word in (b"MAXLEN", b"MINID"):
            size = 3 if index + 1 < len(argv) and argv[index + 1] in (b"=", b"~") else 2
            add.trim += argv[index : index + size]
            index += size
        elif word == b"LIMIT":
            add.limited = b"~" not in add.trim
            if not add.limited:
                add.trim += argv[index : index + 2]
            index += 2
        else:
            break
    add.rest = argv[index:]
    return add


def xadd(argv: Command, now_ms: int, context: Context) -> Result:
    """XADD key [NOMKSTREAM] [KEEPREF|DELREF|ACKED] [IDMP p i|IDMPAUTO p] [MAXLEN|MINID …] id field value …

    A client may not give an explicit id together with IDMP, so the message is added and its id recorded after it
    (XIDMPRECORD); the id that IDMPAUTO made cannot be recorded. A repetition has ``*`` for its id: the source added
    nothing. Streams are otherwise told apart by target: NOMKSTREAM and MINID came with 6.2, references with 8.2.
    """
    add = read_add(argv)
    if not add.rest:
        return [argv]
    identifier = add.rest[0]
    if add.idempotent and identifier == b"*":
        return Dropped(DUPLICATE)
    old_references = bool(add.references) and not context.target.at_least((8, 2), None)
    if old_references and add.references != b"KEEPREF" and add.trim:
        return context.lacks(f"XADD {add.references.decode()}")
    minid = bool(add.trim) and add.trim[0].upper() == b"MINID" and not context.target.at_least((6, 2))
    nomkstream = add.nomkstream and not context.target.at_least((6, 2))
    if not (add.idempotent or old_references or minid or nomkstream or add.limited):
        return [argv]
    command = [b"XADD", argv[1]]
    if add.nomkstream and not nomkstream:
        command.append(b"NOMKSTREAM")
    if add.references and not old_references:
        command.append(add.references)
    commands = [[*command, *([] if minid else add.trim), *add.rest]]
    if len(add.idempotent) == 3 and context.target.at_least((8, 6), None):
        commands.append([b"XIDMPRECORD", argv[1], add.idempotent[1], add.idempotent[2], identifier])
    if minid:
        commands.append(_trim_below(argv[1], add.trim))
    return commands


def xtrim(argv: Command, now_ms: int, context: Context) -> Result:
    """XTRIM key MAXLEN|MINID … [KEEPREF|DELREF|ACKED]"""
    add = read_add(argv)
    if add.references in (b"DELREF", b"ACKED") and not context.target.at_least((8, 2), None):
        return context.lacks(f"XTRIM {add.references.decode()}")
    if add.trim and add.trim[0].upper() == b"MINID" and not context.target.at_least((6, 2)):
        return [_trim_below(argv[1], add.trim)]
    old_references = bool(add.references) and not context.target.at_least((8, 2), None)
    if not (old_references or add.limited):
        return [argv]
    return [[b"XTRIM", argv[1], *add.trim, *([add.references] if add.references and not old_references else [])]]


def _trim_below(key: bytes, trim: Command) -> Command:
    words = [word for word in trim[1:] if word not in (b"=", b"~")]
    return script(XTRIM_MINID, [key], [before(words[0] if words else b"0")])


def before(identifier: bytes) -> bytes:
    """The greatest stream id below ``identifier`` (``ms`` or ``ms-seq``); 0-0 stays what it is."""
    ms_text, _, sequence_text = identifier.partition(b"-")
    ms, sequence = integer(ms_text) or 0, integer(sequence_text) or 0
    if sequence > 0:
        return b"%d-%d" % (ms, sequence - 1)
    return b"%d-%d" % (ms - 1, _LAST_SEQUENCE) if ms > 0 else b"0-0"


def xsetid(argv: Command, now_ms: int, context: Context) -> Result:
    """XSETID key id [ENTRIESADDED n] [MAXDELETEDID id]: the counters came with 7.0."""
    return [argv[:3]] if len(argv) > 3 else [argv]


def xgroup(argv: Command, now_ms: int, context: Context) -> Result:
    """XGROUP … ENTRIESREAD n came with 7.0, CREATECONSUMER with 6.2 (an empty read of history makes one too)."""
    action = argv[1].upper() if len(argv) > 1 else b""
    if action == b"CREATECONSUMER" and len(argv) == 5 and not context.target.at_least((6, 2)):
        return [[b"XREADGROUP", b"GROUP", argv[3], argv[4], b"COUNT", b"1", b"STREAMS", argv[2], b"0"]]
    if action not in (b"CREATE", b"SETID"):
        return [argv]
    for index in range(5, len(argv) - 1):
        if argv[index].upper() == b"ENTRIESREAD":
            return [argv[:index] + argv[index + 2 :]]
    return [argv]


def _ids(argv: Command, start: int) -> tuple[bytes, Command] | None:
    """``[KEEPREF|DELREF|ACKED] IDS n id …``: what happens to references, and the ids."""
    references = b"KEEPREF"
    for index in range(start, len(argv) - 1):
        word = argv[index].upper()
        if word == b"IDS":
            count = integer(argv[index + 1])
            ids = argv[index + 2 :]
            return (references, ids) if count == len(ids) else None
        if word in _REFERENCES:
            references = word
    return None


def xdelex(argv: Command, now_ms: int, context: Context) -> Result:
    """XDELEX key [KEEPREF|DELREF|ACKED] IDS n id … before 8.2."""
    found = _ids(argv, 2)
    if found is None:
        return [argv]
    references, ids = found
    if references == b"KEEPREF":
        return [[b"XDEL", argv[1], *ids]]
    return [script(XDELEX, [argv[1]], [references, b"", *ids])]


def xackdel(argv: Command, now_ms: int, context: Context) -> Result:
    """XACKDEL key group [KEEPREF|DELREF|ACKED] IDS n id … before 8.2."""
    found = _ids(argv, 3)
    if found is None:
        return [argv]
    references, ids = found
    return [script(XDELEX, [argv[1]], [references, argv[2], *ids])]


def idmp_only(argv: Command, now_ms: int, context: Context) -> Result:
    """XCFGSET, XIDMPRECORD: about idempotent ids, which the target does not have."""
    return Dropped(NO_IDMP)
