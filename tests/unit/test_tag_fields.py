"""Each field of a tag by itself: when it is written, when it is left out, and what it says to the letter.

Found missing by changing `sync.tag` at random: these fields decide where a link begins again and what counts as seen.
"""

from __future__ import annotations

import pytest

from canal.position import Position
from canal.resp import encode
from sync.tag import PREFIX, Checkpoint, TagError, Tagger, begins_tagged, checkpoint_key, encode_tag, recognise

KEY = checkpoint_key("a-b", "0")
AT = Position("0123456789abcdef0123456789abcdef01234567", 1000)


def fields(argv: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(argv[2::2], argv[3::2], strict=True))


def test_the_time_is_in_milliseconds_to_the_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.tag.time.time_ns", lambda: 1_700_000_000_123_999_999)
    tagger = Tagger(KEY, "uid", "a", None)
    assert fields(tagger.make(AT, 0))[b"at"] == b"1700000000123"
    assert fields(tagger.words(b"other", AT))[b"at"] == b"1700000000123"


def test_the_homes_are_told_at_once_also_when_the_clock_begins_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.tag.time.time_ns", lambda: 1000 * 1_000_000)
    tagger = Tagger(KEY, "uid", "a", None, "12345678")
    assert fields(tagger.make(AT, 0))[b"homes"] == b"12345678"
    assert b"homes" not in fields(Tagger(KEY, "uid", "a", None).make(AT, 0))


def test_a_snapshot_is_the_first_only_when_that_is_said() -> None:
    assert fields(Tagger(KEY, "uid", "a", None).make(AT, 0, snapshot=True))[b"phase"] == b"snapshot"
    assert fields(Tagger(KEY, "uid", "a", None).make(AT, 0, snapshot=True, again=True))[b"phase"] == b"snapshot"


def test_a_forwarded_position_names_who_passed_it_on() -> None:
    made = fields(Tagger(KEY, "uid", "b", None).make(AT, 0, origin="a", opos="pos"))
    assert (made[b"opos"], made[b"via"]) == (b"pos", b"b")
    assert b"via" not in fields(Tagger(KEY, "uid", "b", None).make(AT, 0, origin="a"))


@pytest.mark.parametrize(
    ("homes", "own", "written"),
    [("h", 0, True), ("h", 999, True), ("h", 1000, False), ("h", -1, False), ("", 5, False)],
)
def test_own_says_where_own_writes_end_when_that_is_before_the_position(homes: str, own: int, written: bool) -> None:
    argv = Tagger(KEY, "uid", "a", None, homes).make(AT, 0, own=own)
    assert argv[:2] == [b"HSET", KEY]
    assert fields(argv).get(b"own") == (b"%d" % own if written else None)


def test_past_is_told_when_it_changes_and_given_up_with_a_snapshot() -> None:
    tagger = Tagger(KEY, "uid", "a", None)
    assert b"past" not in fields(tagger.make(AT, 0))
    tagger.past = "one"
    argv = tagger.make(AT, 0)
    assert argv[:2] == [b"HSET", KEY] and fields(argv)[b"past"] == b"one"
    assert b"past" not in fields(tagger.make(AT, 0))
    assert fields(tagger.make(AT, 0, full=True))[b"past"] == b"one"
    tagger.past = ""
    assert b"past" not in fields(tagger.make(AT, 0)), "what was told before still holds"
    assert fields(tagger.make(AT, 0, snapshot=True))[b"past"] == b""
    assert b"past" not in fields(tagger.make(AT, 0, snapshot=True))
    assert b"past" not in fields(tagger.make(AT, 0, full=True))


@pytest.mark.parametrize("kind", [{}, {"full": True}, {"snapshot": True}])
def test_who_knows_no_past_tells_none(kind: dict[str, bool]) -> None:
    assert b"past" not in fields(Tagger(KEY, "uid", "a", None).make(AT, 0, **kind))  # type: ignore[arg-type]


def test_past_goes_on_from_what_is_stored() -> None:
    stored = Checkpoint(uid="uid", position=AT, db=0, past="one")
    tagger = Tagger(KEY, "uid", "a", stored)
    assert b"past" not in fields(tagger.make(AT, 0))
    tagger.past = "one"
    assert b"past" not in fields(tagger.make(AT, 0))
    assert fields(Tagger(KEY, "uid", "a", stored).make(AT, 0, snapshot=True))[b"past"] == b""


def test_words_are_what_every_tag_says_and_nothing_else() -> None:
    tagger = Tagger(KEY, "uid", "b", None, "12345678")
    argv = tagger.words(b"node", AT)
    assert argv[:2] == [b"HSET", b"node"]
    made = fields(argv)
    assert made.keys() == {b"v", b"origin", b"pos", b"at"}
    assert (made[b"v"], made[b"origin"], made[b"pos"]) == (b"1", b"b", str(AT).encode())
    more = fields(tagger.words(b"node", AT, origin="a", opos="pos", seen="c=x:1"))
    assert more.keys() == {b"v", b"origin", b"pos", b"at", b"seen", b"opos", b"via"}
    assert (more[b"origin"], more[b"seen"], more[b"opos"], more[b"via"]) == (b"a", b"c=x:1", b"pos", b"b")


def test_an_epoch_that_was_raised_stands_in_full_tags() -> None:
    tagger = Tagger(KEY, "uid", "a", Checkpoint(uid="uid", position=AT, db=2, epoch=4))
    tagger.epoch_raised(7)
    made = fields(tagger.make(AT, 2, full=True))
    assert (made[b"epoch"], made[b"db"]) == (b"7", b"2")


def test_the_shortest_tag_is_one_with_its_origin_and_version() -> None:
    tag = recognise([b"HSET", KEY, b"v", b"1", b"origin", b"a"])
    assert tag is not None and tag.origin == "a"
    odd = recognise([b"HSET", KEY, b"v", b"1", b"origin", b"a", b"cut"])
    assert odd is not None and odd.fields == {b"v": b"1", b"origin": b"a"}


def test_names_that_are_no_text_are_shown_all_the_same() -> None:
    tag = recognise([b"HSET", PREFIX + b"\xff", b"v", b"1", b"origin", b"\xfe"])
    assert tag is not None
    assert (tag.link, tag.origin) == ("\ufffd", "\ufffd")


def test_what_is_said_of_a_tag_that_cannot_be_read() -> None:
    with pytest.raises(TagError, match=r"^a tag of link a-b/0 in the source's stream has the format b'', which is no"):
        recognise([b"HSET", KEY, b"origin", b"a"])
    with pytest.raises(TagError, match=r"^a tag of link a-b/0 in the source's stream .*9.*; upgrade this one$"):
        recognise([b"HSET", KEY, b"v", b"9", b"origin", b"a"])
    with pytest.raises(TagError, match=r"^checkpoint key .*; upgrade this one, or let that one go on with this task$"):
        Checkpoint.from_fields({b"v": b"9"}, "key")
    with pytest.raises(ValueError, match=r"^expected <40 hex digits>:<offset>, got 'nonsense'$"):
        Position.parse("nonsense")


def test_what_begins_with_a_tag_of_these_origins() -> None:
    tag = encode_tag([b"HSET", KEY, b"v", b"1", b"origin", b"a"])
    assert tag == encode([b"HSET", KEY, b"v", b"1", b"origin", b"a"])
    other = encode([b"SET", b"k", b"v"])
    assert begins_tagged(tag + other, 0, {"a"})
    assert begins_tagged(other + tag, len(other), {"a"})
    assert not begins_tagged(tag + other, 0, {"b"})
    assert not begins_tagged(other + tag, 0, {"a"})
    assert not begins_tagged(tag[:-3], 0, {"a"})
    assert not begins_tagged(encode([b"HSET", KEY, b"v", b"9", b"origin", b"a"]), 0, {"a"})


def test_policy_and_slots_are_told_to_each_hash_by_itself_and_again_after_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000
    monkeypatch.setattr("sync.tag.time.time_ns", lambda: now * 1_000_000)
    tagger = Tagger(KEY, "uid", "a", None, "12345678")
    tagger.slots = lambda: b"0-5"

    def told(argv: list[bytes]) -> bool:
        said = fields(argv)
        assert (b"homes" in said) is (b"slots" in said)
        assert said.get(b"homes", b"12345678") == b"12345678" and said.get(b"slots", b"0-5") == b"0-5"
        return b"homes" in said

    assert told(tagger.make(AT, 0)) and not told(tagger.make(AT, 0)) and told(tagger.make(AT, 0, full=True))
    assert told(tagger.words(b"node", AT, node=True)) and not told(tagger.words(b"node", AT, node=True))
    assert told(tagger.words(b"next", AT, node=True)) and not told(tagger.words(b"plain", AT))
    for passed, again in ((999, False), (1, True), (-999, False), (-1, True)):  # a clock may be set back
        now += passed
        assert told(tagger.make(AT, 0)) is again
    assert not told(Tagger(KEY, "uid", "a", None).words(b"node", AT, node=True))


@pytest.mark.parametrize(("homes", "snapshot"), [("h", True), ("h", False), ("", True), ("", False)])
def test_words_tell_of_a_snapshot_where_conflicts_are_settled(homes: str, snapshot: bool) -> None:
    tagger = Tagger(KEY, "uid", "a", None, homes)
    assert tagger.settles is bool(homes)
    said = fields(tagger.words(b"node", AT, snapshot=snapshot))
    assert said.get(b"phase") == (b"snapshot" if homes and snapshot else None)


def test_a_tag_says_each_thing_under_its_name() -> None:
    tagger = Tagger(KEY, "uid", "a", Checkpoint(uid="other", epoch=4, past="p"), "h")
    said = fields(tagger.make(AT, 3, seen="c=x:1", opos="y:2", own=1, full=True))
    assert said.pop(b"at").isdigit()
    wanted = {b"v": b"1", b"origin": b"a", b"pos": str(AT).encode(), b"db": b"3", b"uid": b"uid", b"phase": b"stream"}
    wanted |= {b"snap": b"0", b"seen": b"c=x:1", b"opos": b"y:2", b"via": b"a", b"own": b"1", b"homes": b"h"}
    assert said == wanted | {b"past": b"p", b"epoch": b"4"}


def test_a_checkpoint_is_read_field_by_field() -> None:
    assert Checkpoint.from_fields({}, "key") == Checkpoint("", 0, None, 0, "", False, False, False, 0, "", 0, "")
    said = {b"uid": b"u", b"epoch": b"1", b"pos": str(AT).encode(), b"db": b"2", b"origin": b"a", b"phase": b"again"}
    said |= {b"snap": b"3", b"seen": b"s", b"at": b"4", b"past": b"p", b"v": b"1"}
    found = Checkpoint.from_fields(said, "key")
    assert found == Checkpoint("u", 1, AT, 2, "a", True, True, True, 3, "s", 4, "p")


def test_what_stands_in_a_field_is_shown_but_not_without_end() -> None:
    with pytest.raises(TagError, match=r"^checkpoint key: field db should be a number, found b'x{40}'$"):
        Checkpoint.from_fields({b"db": b"x" * 99}, "key")
    with pytest.raises(TagError, match=r" has the format b'x{40}', which is no number; upgrade this one$"):
        recognise([b"HSET", KEY, b"v", b"x" * 99, b"origin", b"a"])
    with pytest.raises(TagError, match=r"^checkpoint key: field pos: expected <40 hex digits>:<offset>, got '\ufffd'$"):
        Checkpoint.from_fields({b"pos": b"\xff"}, "key")
