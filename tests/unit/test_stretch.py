"""Keys of a stretch, and deadlines held off in passing: plain and compiled form alike."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import pytest

from canal import stretch
from canal.resp import encode
from canal.stretch import BUILDS, NOTHING, ONE, REPLACES, SET
from tests.support.process import ROOT


def _plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_stretch", ROOT / "canal" / "stretch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MODULES = (_plain(), *([stretch] if stretch.compiled() else []))
both = pytest.mark.parametrize("module", MODULES, ids=[module.__name__ for module in MODULES])
KINDS = {b"INCR": BUILDS, b"GETSET": REPLACES, b"SET": SET, b"DEL": ONE, b"PING": NOTHING}
HELD = b"1800000000000"


def words(*commands: bytes) -> bytes:
    return b"".join(encode(command.split()) for command in commands)


def survey(module: ModuleType, buf: bytes) -> tuple[int, set[bytes], set[bytes]]:
    builds: set[bytes] = set()
    replaces: set[bytes] = set()
    return module.survey(buf, 0, len(buf), KINDS, builds, replaces), builds, replaces


@both
def test_keys_by_what_the_command_does_with_them(module: ModuleType) -> None:
    buf = words(b"INCR a", b"PING", b"SET b v", b"SET c v pxAT 5", b"DEL d", b"GETSET e v", b"INCR a")
    assert survey(module, buf) == (len(buf), {b"a"}, {b"b", b"c", b"d", b"e"})


@both
@pytest.mark.parametrize(
    "command",
    [b"SET k v NX", b"SET k v EX 5", b"SET k", b"DEL a b", b"HSET k f v", b"incr k", b"INCR", b"SET k v PXAT 5 GET"],
)
def test_it_stops_before_what_has_to_be_looked_at(module: ModuleType, command: bytes) -> None:
    head = words(b"INCR a")
    assert survey(module, head + words(command, b"INCR z"))[:2] == (len(head), {b"a"})


@both
def test_it_stops_before_a_command_that_is_not_complete(module: ModuleType) -> None:
    head, last = words(b"INCR a"), words(b"SET key value")
    for cut in range(len(last)):
        assert survey(module, head + last[:cut]) == (len(head), {b"a"}, set()), cut


@both
@pytest.mark.parametrize("lie", [b"+OK\r\n", b"*x\r\n", b"*1\r\n:5\r\n", b"*0\r\n", b"*99999999999999999999\r\n"])
def test_it_stops_before_lies(module: ModuleType, lie: bytes) -> None:
    head = words(b"INCR a")
    assert survey(module, head + lie)[0] == len(head)


@both
def test_near_deadlines_are_held_off_and_those_to_come_are_told(module: ModuleType) -> None:
    past, soon, far = b"1600000000000", b"1700000000500", b"1700000999000"
    buf = words(b"PEXPIREAT a " + past, b"SET b v PXAT " + soon, b"pexpireat c " + far, b"SET d v", b"HSET e f " + past)
    out, due = module.hold_off(buf, 1_700_000_001_000, 1_700_000_000_000, HELD)
    assert out == words(
        b"PEXPIREAT a " + HELD, b"SET b v PXAT " + HELD, b"pexpireat c " + far, b"SET d v", b"HSET e f " + past
    )
    assert due == [(b"b", 1_700_000_000_500)]


@both
def test_nothing_near_gives_the_same_object(module: ModuleType) -> None:
    buf = words(b"PEXPIREAT a 1700000999000", b"SET b v", b"PEXPIREAT c x", b"PEXPIREAT d 5", b"SET e v EX 5")
    out, due = module.hold_off(buf, 1_700_000_001_000, 1_700_000_000_000, HELD)
    assert out is buf
    assert due == []
