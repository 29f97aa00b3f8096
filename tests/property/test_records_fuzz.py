"""Tags, checkpoints, coordinator records and small state files: any bytes are accepted, or the one documented error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal import formats
from canal.errors import CanalError, Refused, StateError
from canal.journal.state import JournalState, load_state
from node.coordination.records import LeaseRecord, NodeRecord, TaskRecord, decode, decode_object, encode
from node.coordination.state import ShardState
from sync.failover import Fork
from sync.linkstate import LinkState
from sync.tag import PREFIX, Checkpoint, Tag, TagError, recognise
from tests.support.effort import examples

words = st.sampled_from([b"v", b"origin", b"pos", b"db", b"seen", b"epoch", b"at", b"phase", b"snap", b"uid", b"opos"])
values = st.one_of(
    st.binary(max_size=60),
    st.integers(-(2**70), 2**70).map(lambda n: b"%d" % n),
    st.sampled_from([b"1", b"a" * 40 + b":5", b"snapshot", b"", b"\xff", "٣".encode()]),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=12), inner, max_size=4)),
    max_leaves=12,
)


@given(st.dictionaries(st.one_of(words, st.binary(max_size=10)), values, max_size=12))
@examples(120)
def test_any_hash_is_a_checkpoint_or_a_tag_error(fields: dict[bytes, bytes]) -> None:
    try:
        found = Checkpoint.from_fields(fields, "key")
    except TagError as error:
        assert "key" in str(error) and "\n" not in str(error)
        return
    assert found.epoch >= 0 and found.db >= 0


@given(st.lists(st.one_of(words, values, st.just(PREFIX + b"t/0"), st.just(b"HSET"), st.just(b"hset")), max_size=20))
@examples(120)
def test_any_command_is_a_tag_or_none_or_a_tag_error(argv: list[bytes]) -> None:
    for given_argv in (argv, [b"HSET", PREFIX + b"t/0", *argv]):
        try:
            found = recognise(given_argv)
        except TagError as error:
            assert "upgrade" in str(error)
            continue
        assert found is None or isinstance(found, Tag)
        if found is not None:
            assert given_argv[1].startswith(PREFIX)


@pytest.mark.parametrize("version", [formats.NEWEST + 1, 2**70])
def test_a_newer_tag_is_refused_by_its_number(version: int) -> None:
    number = b"%d" % version
    with pytest.raises(TagError, match=str(version)):
        recognise([b"HSET", PREFIX + b"t/0", b"v", number, b"origin", b"sh"])
    with pytest.raises(TagError, match=str(version)):
        Checkpoint.from_fields({b"v": number}, "key")


@given(st.one_of(st.binary(max_size=200), json_values.map(lambda value: json.dumps(value).encode())))
@examples(120)
def test_any_bytes_are_a_record_or_a_state_error(data: bytes) -> None:
    for kind in (NodeRecord, TaskRecord, LeaseRecord, ShardState):
        try:
            decode(kind, data, "path")
        except (StateError, Refused) as error:
            assert "path" in str(error)


@given(json_values)
@examples(120)
def test_any_content_of_a_known_format_is_a_record_or_a_state_error(value: object) -> None:
    data = json.dumps({"format": formats.NEWEST, **(value if isinstance(value, dict) else {"node": value})}).encode()
    for kind in (NodeRecord, TaskRecord, LeaseRecord, ShardState):
        try:
            decode(kind, data, "path")
        except (StateError, Refused) as error:
            assert "path" in str(error)


def test_a_newer_record_is_refused_and_an_unknown_field_is_not() -> None:
    record = json.loads(encode(LeaseRecord("a", 1, "t")))
    assert decode(LeaseRecord, json.dumps({**record, "added later": 1}).encode(), "path") == LeaseRecord("a", 1, "t")
    for newer in (formats.NEWEST + 1, 2**70):
        with pytest.raises(Refused, match=f"format {newer}"):
            decode_object(json.dumps({**record, "format": newer}).encode(), "path")


@given(
    st.sampled_from(["link.json", "journal.json", "fork.json"]),
    st.one_of(
        st.binary(max_size=200),
        json_values.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(
            st.sampled_from(["format", "uid", "epoch", "worked", "id", "replids", "position", "db", "keys"]),
            json_values,
        ).map(lambda value: json.dumps({"format": 1, **value}).encode()),
    ),
)
@examples(120)
def test_any_small_state_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes
) -> None:
    directory = tmp_path_factory.getbasetemp() / "fuzzed"
    directory.mkdir(exist_ok=True)
    (directory / name).write_bytes(data)
    try:
        if name == "link.json":
            LinkState.load(directory)
        elif name == "journal.json":
            assert isinstance(load_state(directory), (JournalState, str))
        else:
            Fork.load(directory)
    except CanalError as error:
        assert name in str(error) and "\n" not in str(error).strip()
    finally:
        (directory / name).unlink()


def test_a_directory_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.json").write_text('{"format": 99, "uid": "u", "epoch": 1, "worked": true}')
    with pytest.raises(StateError, match=r"format 99.*upgrade"):
        LinkState.load(tmp_path)
