"""The records of an RDB that are neither keys nor about one key: each from its opcode's payload to an event."""

from __future__ import annotations

from typing import Final

from canal.rdb.events import Aux, Event, Function, HashTemplate, ModuleAux, ResizeDb, SlotImport, SlotInfo
from canal.rdb.types import (
    HASH_TEMPLATE,
    KEY_META,
    MODULE_AUX,
    OP_AUX,
    OP_FUNCTION2,
    OP_FUNCTION_PRE_GA,
    OP_HASH_TEMPLATE,
    OP_KEY_META,
    OP_MODULE_AUX,
    OP_RESIZEDB,
    OP_SLOT_IMPORT,
    OP_SLOT_INFO,
    REDIS,
    VALKEY,
    Program,
)
from canal.rdb.wire import Malformed, read_length, read_string

_MODULE_NAME_CHARS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_MAX_SLOT_RANGES: Final = 16384


def read_record(opcode: int, flavor: str, buf: bytes, pos: int) -> tuple[Event, int] | None:
    """(event, position after it) of a record with a short payload at ``pos``; None for an opcode that is not one.

    Raises Short or Malformed.
    """
    if opcode == OP_AUX:
        key, pos = read_string(buf, pos)
        value, pos = read_string(buf, pos)
        return Aux(key, value), pos
    if opcode == OP_RESIZEDB:
        keys, pos = read_length(buf, pos)
        expires, pos = read_length(buf, pos)
        return ResizeDb(keys, expires), pos
    if opcode == OP_SLOT_INFO:
        slot, pos = read_length(buf, pos)
        keys, pos = read_length(buf, pos)
        expires, pos = read_length(buf, pos)
        return SlotInfo(slot, keys, expires), pos
    if opcode == OP_FUNCTION2:
        code, pos = read_string(buf, pos)
        return Function(code), pos
    if opcode == OP_FUNCTION_PRE_GA:
        return _pre_release_function(buf, pos)
    if opcode == OP_SLOT_IMPORT and flavor == VALKEY:
        return _slot_import(buf, pos)
    return None


def _pre_release_function(buf: bytes, pos: int) -> tuple[Event, int]:
    """Name, engine, whether a description follows, the description, the code."""
    _, pos = read_string(buf, pos)
    _, pos = read_string(buf, pos)
    described, pos = read_length(buf, pos)
    if described:
        _, pos = read_string(buf, pos)
    code, pos = read_string(buf, pos)
    return Function(code, pre_release=True), pos


def _slot_import(buf: bytes, pos: int) -> tuple[Event, int]:
    job, pos = read_string(buf, pos)
    at = pos
    count, pos = read_length(buf, pos)
    if count > _MAX_SLOT_RANGES:
        raise Malformed(f"expected at most {_MAX_SLOT_RANGES} slot ranges, got {count}", at)
    ranges = []
    for _ in range(count):
        first, pos = read_length(buf, pos)
        last, pos = read_length(buf, pos)
        ranges.append((first, last))
    return SlotImport(job, tuple(ranges)), pos


def long_record(opcode: int, flavor: str) -> Program | None:
    """The layout of a record that may be long, for a Held; None for other opcodes."""
    if opcode == OP_MODULE_AUX:
        return MODULE_AUX
    if opcode == OP_KEY_META and flavor == REDIS:
        return KEY_META
    if opcode == OP_HASH_TEMPLATE and flavor == REDIS:
        return HASH_TEMPLATE
    return None


def long_event(opcode: int, raw: bytes) -> Event:
    """The event of a long record that is complete. Raises Malformed."""
    if opcode == OP_MODULE_AUX:
        module_id, _ = read_length(raw, 0)
        return ModuleAux(module_name(module_id), raw)
    number, pos = read_length(raw, 0)
    count, pos = read_length(raw, pos)
    fields = []
    for _ in range(count):
        field, pos = read_string(raw, pos)
        fields.append(field)
    return HashTemplate(number, tuple(fields))


def module_name(module_id: int) -> str:
    """The nine characters and the encoding version that a module type's id packs: ``ReJSON-RL/3``.

    Format: Redis src/module.c, moduleTypeEncodeId: nine times 6 bits, then 10 bits of version.
    """
    name = "".join(_MODULE_NAME_CHARS[module_id >> (10 + 6 * i) & 63] for i in range(8, -1, -1))
    return f"{name}/{module_id & 1023}"
