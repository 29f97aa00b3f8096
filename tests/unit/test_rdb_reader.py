"""Records that the golden dumps do not have: old versions, rare opcodes, values in parts, and what must be an error."""

from __future__ import annotations

import struct

import pytest

from canal.errors import RdbError
from canal.rdb.decode import HashValue, decode
from canal.rdb.dump import crc64, dump_payload, split_payload
from canal.rdb.events import (
    Aux,
    End,
    Event,
    Function,
    HashTemplate,
    Header,
    Key,
    KeyEnd,
    KeyStart,
    ModuleAux,
    ResizeDb,
    SelectDb,
    SlotImport,
    SlotInfo,
    ValuePart,
)
from canal.rdb.reader import RdbReader
from tests.support.rdb_apply import read
from tests.support.rdb_build import key, length, little, lzf_literal, rdb, select, string, valkey


def events(data: bytes, **options: int) -> list[Event]:
    whole = list(read(data, piece=len(data), **options))
    assert list(read(data, piece=1, **options)) == whole or options
    return whole


def keys(data: bytes) -> list[Key]:
    return [event for event in events(data) if isinstance(event, Key)]


def failure(data: bytes, **options: int) -> RdbError:
    with pytest.raises(RdbError) as at_once:
        list(read(data, piece=max(1, len(data)), **options))
    with pytest.raises(RdbError) as byte_by_byte:
        list(read(data, piece=1, **options))
    assert at_once.value.offset == byte_by_byte.value.offset
    return at_once.value


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_before_version_5_there_is_no_checksum(version: int) -> None:
    found = events(rdb(select(0), key(0, b"a", string(b"b")), version=version))
    assert found[0] == Header(version, "redis")
    assert found[-1] == End(None, len(b"REDIS0001\xfe\x00\x00\x01a\x01b\xff"), False)


def test_a_checksum_of_0_is_none() -> None:
    assert events(rdb(key(0, b"a", string(b"b")), checksum=0))[-1] == End(0, 23, False)


def test_a_wrong_checksum_is_an_error_at_its_place() -> None:
    error = failure(rdb(key(0, b"a", string(b"b")), checksum=1))
    assert "checksum does not match: the file says 0000000000000001" in str(error)
    assert error.offset == 15


def test_an_unknown_newer_version_is_tried() -> None:
    assert events(rdb(key(0, b"a", string(b"b")), version=99))[0] == Header(99, "redis")
    error = failure(rdb(key(77, b"a", string(b"b")), version=99))
    assert "unknown value type or opcode 77 in a redis RDB of version 99; known up to version 15" in str(error)
    assert error.offset == 9


@pytest.mark.parametrize("data", [b"", b"REDI", b"REDIS00", b"VALKEY08"])
def test_a_header_cut_short(data: bytes) -> None:
    with pytest.raises(RdbError, match=f"truncated: the input ends after {len(data)} bytes"):
        list(read(data))


@pytest.mark.parametrize("data", [b"HTTP/1.1 200", b"REDIS00x1...", b"REDIS0000\xff", b"\x00", b"REDISX"])
def test_what_is_not_an_rdb(data: bytes) -> None:
    with pytest.raises(RdbError, match=r"expected REDIS and four digits or VALKEY and three|truncated"):
        list(read(data))


def test_the_opcodes_before_a_key_are_for_that_key_alone() -> None:
    hints = b"\xfc" + little(1234567890123, 8) + b"\xf8" + length(300)
    first, second = keys(rdb(hints + key(0, b"a", string(b"1")), key(0, b"b", string(b"2"))))
    assert (first.expire_ms, first.idle, first.freq) == (1234567890123, 300, None)
    assert (first.offset, first.end) == (9, 9 + 12 + 5)
    assert (second.expire_ms, second.idle, second.offset) == (None, None, first.end)


def test_deadlines_in_seconds_are_signed_32_bit() -> None:
    past = b"\xfd" + little(-7, 4) + b"\xf9\xff" + key(0, b"a", string(b"1"))
    (found,) = keys(rdb(past, version=2))
    assert (found.expire_ms, found.freq) == (-7000, 255)


def test_databases_may_be_missing_and_repeated() -> None:
    found = keys(
        rdb(key(0, b"a", b"\xc0\x05"), select(3), key(0, b"b", b"\xc0\x06"), select(3), key(0, b"c", b"\xc0\x07"))
    )
    assert [(k.db, k.key, k.value) for k in found] == [
        (0, b"a", b"\xc0\x05"),
        (3, b"b", b"\xc0\x06"),
        (3, b"c", b"\xc0\x07"),
    ]


def test_keys_may_be_integers_and_compressed() -> None:
    found = keys(rdb(b"\x00\xc1" + little(-300, 2) + string(b"v"), b"\x00" + lzf_literal(b"x" * 40) + string(b"v")))
    assert [k.key for k in found] == [b"-300", b"x" * 40]


def test_other_records_between_keys() -> None:
    records = (
        b"\xfa" + string(b"slot-info") + string(b"0,1,0"),
        b"\xfb" + length(70) + length(5),
        b"\xf4" + length(16383) + length(1) + length(0),
        b"\xf5" + string(b"#!lua name=x\n"),
        b"\xf6" + string(b"name") + string(b"LUA") + length(1) + string(b"text") + string(b"return 1"),
        b"\xf6" + string(b"name") + string(b"LUA") + length(0) + string(b"return 2"),
        key(0, b"a", string(b"1")),
    )
    assert [e for e in events(rdb(*records)) if not isinstance(e, Key)] == [
        Header(12, "redis"),
        Aux(b"slot-info", b"0,1,0"),
        ResizeDb(70, 5),
        SlotInfo(16383, 1, 0),
        Function(b"#!lua name=x\n"),
        Function(b"return 1", pre_release=True),
        Function(b"return 2", pre_release=True),
        End(events(rdb(*records))[-1].crc, len(rdb(*records)), True),  # type: ignore[union-attr]
    ]


MODULE_FIELDS = b"\x01\x05\x02\x40\xff\x03abcd\x04abcdefgh\x05" + string(b"text") + b"\x05\xc0\x05" + b"\x00"
MODULE_ID = 0x8000000000000401


def test_a_module_value_is_walked_field_by_field() -> None:
    value = length(MODULE_ID) + MODULE_FIELDS
    first, second = keys(rdb(key(7, b"m", value), key(0, b"a", string(b"1"))))
    assert (first.value, second.key) == (value, b"a")


def test_module_data_outside_of_keys() -> None:
    raw = length(MODULE_ID) + b"\x02\x01" + MODULE_FIELDS
    assert [e for e in events(rdb(b"\xf7" + raw)) if isinstance(e, ModuleAux)] == [ModuleAux("gAAAAAAAB/1", raw)]


def test_a_module_field_of_an_unknown_kind_is_an_error() -> None:
    error = failure(rdb(key(7, b"m", length(MODULE_ID) + b"\x01\x05\x09")))
    assert "expected a module field, got kind 9" in str(error)
    assert error.key == b"m"


def test_a_module_value_of_a_pre_release_has_no_end_to_be_found() -> None:
    assert "type 6, of a pre-release of modules" in str(failure(rdb(key(6, b"m", b"\x00"))))


def test_opcode_243_means_module_metadata_in_redis() -> None:
    raw = b"\x01abcd" + MODULE_FIELDS
    expire = b"\xfc" + little(9, 8)
    first, second = keys(
        rdb(expire + b"\xf3" + raw + key(0, b"a", string(b"1")), key(0, b"b", string(b"2")), version=14)
    )
    assert (first.meta, first.expire_ms, first.offset) == (b"\xf3" + raw, 9, 9)
    assert second.meta == b""
    payload = split_payload(dump_payload(first.type, first.value, 14, first.meta))
    assert (payload.meta, payload.type, payload.value) == (first.meta, 0, first.value)


def test_opcode_243_means_a_slot_import_in_valkey() -> None:
    raw = b"\xf3" + string(b"job") + length(2) + length(0) + length(9) + length(100) + length(16383)
    assert SlotImport(b"job", ((0, 9), (100, 16383))) in events(valkey(raw, key(0, b"a", string(b"1"))))
    assert "expected at most 16384 slot ranges" in str(failure(valkey(b"\xf3" + string(b"job") + length(1 << 40))))


def test_type_22_is_told_apart_by_the_magic() -> None:
    # Redis 7.4 candidates: deadline, field, value. Valkey 9: field, value, deadline.
    redis_value = length(2) + length(5000) + string(b"f") + string(b"v") + length(0) + string(b"g") + string(b"w")
    valkey_value = (
        length(2) + string(b"f") + string(b"v") + little(5000, 8) + string(b"g") + string(b"w") + little(-1, 8)
    )
    (of_redis,) = keys(rdb(key(22, b"h", redis_value)))
    (of_valkey,) = keys(valkey(key(22, b"h", valkey_value)))
    expected = HashValue({b"f": b"v", b"g": b"w"}, {b"f": 5000})
    assert decode(22, of_redis.value, "redis") == decode(22, of_valkey.value, "valkey") == expected


def test_types_of_redis_alone_are_unknown_in_a_valkey_file() -> None:
    assert "unknown value type or opcode 24 in a valkey RDB" in str(failure(valkey(key(24, b"h", b"\x00" * 9))))
    assert "unknown value type or opcode 242" in str(failure(valkey(b"\xf2\x01\x00")))


def test_hash_templates() -> None:
    template = b"\xf2" + length(7) + length(2) + string(b"name") + string(b"age")
    by_array = key(32, b"h", length(7) + string(b"ann") + string(b"30"))
    found = events(rdb(template, by_array, version=15))
    assert HashTemplate(7, (b"name", b"age")) in found
    (hash_key,) = [event for event in found if isinstance(event, Key)]
    assert hash_key.fields == (b"name", b"age")
    decoded = decode(32, hash_key.value, "redis", hash_key.fields)
    assert decoded == HashValue({b"name": b"ann", b"age": b"30"}, {})
    assert "hash template 7 is not defined before its use" in str(failure(rdb(by_array, version=15)))


def test_templates_survive_a_resume() -> None:
    template = b"\xf2" + length(7) + length(1) + string(b"f")
    data = rdb(template, key(0, b"a", string(b"1")), key(32, b"h", length(7) + string(b"v")), version=15)
    reader = RdbReader()
    first = next(event for event in reader.feed(data) if isinstance(event, Key))
    point = reader.resume_point(first.db, first.end)
    later = RdbReader(resume=type(point).from_json(point.to_json())).feed(data[first.end :])
    assert isinstance(later[0], Key) and later[0].fields == (b"f",)
    assert later[-1] == End(later[-1].crc, len(data), False)  # type: ignore[union-attr]


def test_a_resume_with_the_checksum_so_far_checks_the_rest() -> None:
    data = rdb(key(0, b"a", string(b"1")), key(0, b"b", string(b"2")))
    reader = RdbReader()
    first = next(event for event in reader.feed(data) if isinstance(event, Key))
    point = reader.resume_point(0, first.end, crc64(data[: first.end]))
    end = RdbReader(resume=point).feed(data[first.end :])[-1]
    assert isinstance(end, End) and end.checked
    broken = data[first.end :].replace(b"\x012", b"\x013")
    again = RdbReader(resume=point)
    assert isinstance(again.feed(broken)[0], Key)
    with pytest.raises(RdbError, match="checksum"):
        again.finish()


def test_bytes_after_the_end_are_left_alone() -> None:
    data = rdb(key(0, b"a", string(b"1")))
    reader = RdbReader()
    assert isinstance(reader.feed(data + b"more")[-1], End)
    assert reader.feed(b"!") == []
    reader.finish()
    assert (reader.unused, reader.offset) == (b"more!", len(data))


def test_events_before_an_error_are_not_lost() -> None:
    reader = RdbReader()
    found = reader.feed(rdb(key(0, b"a", string(b"1")), b"\x80"))
    assert [type(event) for event in found] == [Header, Key]
    with pytest.raises(RdbError, match="opcode 128"):
        reader.feed(b"more")
    with pytest.raises(RdbError, match="opcode 128"):
        reader.finish()


def test_a_truncated_value_names_its_key_and_the_end() -> None:
    data = rdb(key(1, b"a list", length(3) + string(b"1")))[:-9]
    reader = RdbReader()
    reader.feed(data)
    with pytest.raises(RdbError, match="truncated") as caught:
        reader.finish()
    assert (caught.value.offset, caught.value.key) == (len(data), b"a list")


def test_the_end_between_attributes_and_key_is_an_error() -> None:
    assert "between a key's attributes and the key" in str(failure(rdb(b"\xf9\x05")))


def test_a_length_that_lies_allocates_nothing_and_is_refused() -> None:
    error = failure(rdb(key(9, b"a", length(1 << 40))))
    assert "exceeds the bound of 1073741824" in str(error)
    assert failure(rdb(key(9, b"a", length(5000))), max_element=1000).offset == 9
    # A count of elements is believed only as far as elements come.
    reader = RdbReader()
    reader.feed(rdb(key(2, b"a", length(1 << 62) + string(b"m")))[:-9])
    with pytest.raises(RdbError, match="truncated"):
        reader.finish()


VALUES = {
    1: length(40) + b"".join(string(b"item %d" % i) for i in range(40)),
    2: length(40) + b"".join(string(b"item %d" % i) for i in range(40)),
    3: length(40) + b"".join(string(b"item %d" % i) + b"\x031.5" for i in range(39)) + string(b"inf") + b"\xfe",
    4: length(40) + b"".join(string(b"f%d" % i) + string(b"v%d" % i) for i in range(40)),
    5: length(40) + b"".join(string(b"item %d" % i) + struct.pack("<d", i / 7) for i in range(40)),
    24: little(1000, 8) + length(40) + b"".join(length(i) + string(b"f%d" % i) + string(b"v") for i in range(40)),
    18: length(40) + b"".join(length(1) + string(b"plain %d" % i) for i in range(40)),
}


@pytest.mark.parametrize("kind", VALUES)
@pytest.mark.parametrize("piece", [1, 17, 10_000])
def test_a_value_in_parts_is_the_value(kind: int, piece: int) -> None:
    value = VALUES[kind]
    before, after = key(0, b"a", string(b"1")), key(0, b"z", string(b"1"))
    data = rdb(before, b"\xfc" + little(5, 8) + key(kind, b"big", value), after)

    found = list(read(data, piece=piece, stream_above=100))

    (start,) = [event for event in found if isinstance(event, KeyStart)]
    (end,) = [event for event in found if isinstance(event, KeyEnd)]
    parts = [event for event in found if isinstance(event, ValuePart)]
    assert (start.key, start.type, start.count, start.expire_ms) == (b"big", kind, 40, 5)
    assert start.head + b"".join(part.data for part in parts) == value
    assert sum(part.count for part in parts) == 40
    assert end.end == data.index(key(0, b"z", string(b"1")))
    assert [event.key for event in found if isinstance(event, Key)] == [b"a", b"z"]
    # One byte more of a bound, and it comes whole.
    assert keys_with(data, len(value))[1].value == value
    assert len(keys_with(data, len(value) - 1)) == 2


def keys_with(data: bytes, bound: int) -> list[Key]:
    return [event for event in read(data, piece=9, stream_above=bound) if isinstance(event, Key)]


@pytest.mark.parametrize("piece", [1, 17, 10_000])
def test_a_string_in_parts_is_the_string(piece: int) -> None:
    text = bytes(range(256)) * 4
    found = list(read(rdb(key(0, b"big", string(text)), key(0, b"z", b"\xc0\x01")), piece=piece, stream_above=100))
    start = next(event for event in found if isinstance(event, KeyStart))
    assert (start.type, start.count, start.head) == (0, 1024, b"")
    assert b"".join(event.data for event in found if isinstance(event, ValuePart)) == text
    assert isinstance(found[-2], Key)


def test_what_has_no_elements_comes_whole_whatever_its_length() -> None:
    module = length(MODULE_ID) + b"\x05" + string(b"x" * 500) + b"\x00"
    packed = string(b"y" * 500)
    compressed = lzf_literal(b"z" * 500)  # of a collection; strings of themselves come in parts: test_rdb_lzf.py
    data = rdb(key(7, b"m", module), key(10, b"l", packed), key(10, b"c", compressed))
    assert [k.value for k in keys_with(data, 100)] == [module, packed, compressed]


def test_the_database_of_a_big_key() -> None:
    found = list(read(rdb(select(9), key(2, b"s", VALUES[2])), stream_above=10))
    assert SelectDb(9) in found
    assert next(event for event in found if isinstance(event, KeyStart)).db == 9
