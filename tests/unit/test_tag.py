"""Tags: written short, read back whole, recognised in a stream, and refused when they are from the future."""

from __future__ import annotations

import pytest

from canal.position import Position
from canal.resp import encode
from sync.tag import INDEX, PREFIX, Checkpoint, TagError, Tagger, checkpoint_key, is_reserved, recognise

KEY = checkpoint_key("a-b", "0")
AT = Position("0123456789abcdef0123456789abcdef01234567", 1000)


def fields(argv: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(argv[2::2], argv[3::2], strict=True))


def test_the_first_tag_says_everything() -> None:
    made = fields(Tagger(KEY, "uid", "a", None).make(AT, 3))
    assert made.keys() == {b"v", b"origin", b"pos", b"at", b"db", b"uid", b"phase", b"snap"}
    stored = Checkpoint.from_fields(made, "key")
    assert (stored.uid, stored.position, stored.db, stored.origin, stored.snapshot) == ("uid", AT, 3, "a", False)


def test_later_tags_leave_out_what_does_not_change_and_stay_short() -> None:
    tagger = Tagger(KEY, "uid", "a", None)
    hash_at_target = fields(tagger.make(AT, 0))
    for number in range(1, 4):
        argv = tagger.make(Position(AT.replid, AT.offset + number), 0)
        assert fields(argv).keys() == {b"v", b"origin", b"pos", b"at"}
        assert len(encode(argv)) < 200
        hash_at_target |= fields(argv)
    assert Checkpoint.from_fields(hash_at_target, "key").position == Position(AT.replid, AT.offset + 3)


def test_homes_are_told_again_for_a_link_that_starts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000_000
    monkeypatch.setattr("sync.tag.time.time_ns", lambda: now * 1_000_000)
    tagger = Tagger(PREFIX + b"t/0", "uid", "sh", None, "12345678")
    told = []
    for _ in range(25):
        told.append(b"homes" in tagger.make(Position("a" * 40, now), 0))
        now += 100
    assert [number for number, one in enumerate(told) if one] == [0, 10, 20]


def test_a_change_of_database_or_phase_is_written() -> None:
    tagger = Tagger(KEY, "uid", "a", None)
    tagger.make(AT, 0)
    assert fields(tagger.make(AT, 5))[b"db"] == b"5"
    assert b"db" not in fields(tagger.make(AT, 5))
    snapshot = fields(tagger.make(AT, 5, snapshot=True, first=True, progress=10))
    assert (snapshot[b"phase"], snapshot[b"snap"]) == (b"first", b"10")
    assert fields(tagger.make(AT, 5, snapshot=True, progress=20))[b"snap"] == b"20"
    stream = fields(tagger.make(AT, 5))
    assert (stream[b"phase"], stream[b"snap"]) == (b"stream", b"0")


def test_a_tagger_goes_on_from_what_is_stored() -> None:
    stored = Checkpoint(uid="uid", position=AT, db=2, epoch=4)
    assert fields(Tagger(KEY, "uid", "a", stored).make(AT, 2)).keys() == {b"v", b"origin", b"pos", b"at"}
    assert fields(Tagger(KEY, "other", "a", stored).make(AT, 2))[b"uid"] == b"other"


def test_a_full_tag_replaces_a_hash_that_is_gone() -> None:
    tagger = Tagger(KEY, "uid", "a", Checkpoint(uid="uid", position=AT, db=2, epoch=4))
    tagger.make(AT, 2)
    stored = Checkpoint.from_fields(fields(tagger.make(AT, 2, full=True)), "key")
    assert (stored.uid, stored.epoch, stored.db, stored.position) == ("uid", 4, 2, AT)


def test_a_forwarded_tag_carries_origin_and_its_position() -> None:
    made = fields(Tagger(KEY, "uid", "b", None).make(AT, 0, origin="a", opos=str(AT), seen="c=x:1"))
    assert (made[b"origin"], made[b"opos"], made[b"seen"]) == (b"a", str(AT).encode(), b"c=x:1")


def test_an_empty_hash_is_no_checkpoint() -> None:
    assert Checkpoint.from_fields({}, "key") == Checkpoint()
    assert Checkpoint.from_fields({b"epoch": b"3"}, "key").position is None


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({b"v": b"2"}, "upgrade"),
        ({b"v": b"x"}, "field v"),
        ({b"pos": b"nonsense"}, "field pos"),
        ({b"pos": b":5"}, "field pos"),
        ({b"pos": b"\xff\xfe"}, "field pos"),
        ({b"epoch": b"-1"}, "field epoch"),
        ({b"db": b"1.5"}, "field db"),
        ({b"snap": b""}, "field snap"),
    ],
)
def test_a_hash_that_cannot_be_read_is_named(bad: dict[bytes, bytes], said: str) -> None:
    with pytest.raises(TagError) as caught:
        Checkpoint.from_fields(bad, "redis-canal:checkpoint:a-b/0")
    assert said in str(caught.value)
    assert "a-b/0" in str(caught.value)


@pytest.mark.parametrize("name", [b"HSET", b"hset", b"HMSET", b"hMsEt"])
def test_tags_are_recognised_however_the_server_spells_them(name: bytes) -> None:
    argv = [name, *Tagger(KEY, "uid", "a", None).make(AT, 0)[1:]]
    tag = recognise(argv)
    assert tag is not None
    assert (tag.link, tag.origin, tag.fields[b"pos"]) == ("a-b/0", "a", str(AT).encode())


@pytest.mark.parametrize(
    "argv",
    [
        [b"HSET", KEY, b"epoch", b"3"],  # raising the epoch moves nothing
        [b"HSET", b"user:key", b"v", b"1", b"origin", b"a"],
        [b"DEL", KEY],
        [b"SET", KEY, b"origin", b"a"],
        [b"HSET", KEY],
        [b"HSET"],
    ],
)
def test_other_writes_are_no_tags(argv: list[bytes]) -> None:
    assert recognise(argv) is None


@pytest.mark.parametrize("version", [b"2", b"", b"x"])
def test_a_tag_from_the_future_is_refused(version: bytes) -> None:
    with pytest.raises(TagError, match="upgrade"):
        recognise([b"HSET", KEY, b"v", version, b"origin", b"a"])


def test_the_names_at_the_target_never_change() -> None:
    """Another release looks for them there."""
    assert checkpoint_key("a-b", "0") == b"redis-canal:checkpoint:a-b/0"
    assert INDEX == b"redis-canal:links"


def test_reserved_keys_are_those_with_the_prefix() -> None:
    assert is_reserved(KEY)
    assert is_reserved(b"redis-canal:anything")
    assert not is_reserved(b"redis-cana")
    assert not is_reserved(b"x" + PREFIX)


@pytest.mark.parametrize(
    ("snapshot", "first", "again"),
    [(False, False, False), (True, False, False), (True, True, False), (True, True, True)],
)
def test_what_a_tag_says_is_read_back(snapshot: bool, first: bool, again: bool) -> None:
    tagger, seen = Tagger(PREFIX + b"t/0", "uid", "sh", None, "12345678"), f"bj={'b' * 16}:5"
    argv = tagger.make(Position("a" * 40, 9), 3, snapshot=snapshot, first=first, again=again, progress=7, seen=seen)
    found = Checkpoint.from_fields(dict(zip(argv[2::2], argv[3::2], strict=True)), "t/0")
    assert (found.snapshot, found.first, found.again) == (snapshot, first, again)
    assert (found.uid, found.origin, found.position, found.db) == ("uid", "sh", Position("a" * 40, 9), 3)
    assert (found.progress, found.seen) == (7, seen)
    assert found.at_ms > 1_700_000_000_000


def test_text_of_a_hash_that_is_not_text_is_read_all_the_same() -> None:
    fields = {b"uid": b"\xff", b"origin": b"\xff", b"seen": b"\xff", b"past": b"\xff"}
    found = Checkpoint.from_fields(fields, "t/0")
    assert {found.uid, found.origin, found.seen, found.past} == {"\ufffd"}
