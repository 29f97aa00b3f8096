"""What a survey says of any stretch is what the command table says of its commands."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from canal.commands import needed_keys, written_in
from canal.resp import encode
from sync.look import Stretch

KEYS = st.sampled_from([b"a", b"b", b"c", b"", b"\r\n"])
NAMES = st.sampled_from([b"SET", b"set", b"INCR", b"HSET", b"DEL", b"UNLINK", b"MSET", b"RENAME", b"COPY", b"MOVE"])
WORDS = st.sampled_from([[b"NX"], [b"PXAT", b"5"], [b"5"], [b"KEEPTTL"], [b"f"], [b"DB", b"1"], [b"1"]])
OPTIONS = st.lists(WORDS, max_size=4).map(lambda words: [*chain(*words)])  # no server takes PXAT NX, nor sends it on
COMMANDS = st.one_of(
    st.builds(lambda name, key, rest: [name, key, *rest], NAMES, KEYS, OPTIONS),
    st.builds(lambda key: [b"PERSIST", key], KEYS),
    st.builds(lambda db: [b"SELECT", b"%d" % db], st.integers(0, 2)),
    st.sampled_from([[b"MULTI"], [b"EXEC"], [b"PING"], [b"FLUSHALL"]]),
)


@given(st.lists(COMMANDS, max_size=20), st.integers(0, 30))
def test_a_survey_finds_every_key(commands: list[list[bytes]], cut: int) -> None:
    db = 0
    builds: set[tuple[int, bytes]] = set()
    writes: set[tuple[int, bytes]] = set()
    for argv in commands:
        if argv[0] == b"SELECT":
            db = int(argv[1])
            continue
        builds |= {(db, key) for _, key in needed_keys(argv)}
        writes |= set(written_in(db, argv))
    tail = encode([b"SET", b"never", b"v"])
    found = Stretch.of(b"".join(map(encode, commands)) + tail[: min(cut, len(tail) - 1)], 0)
    assert {(db, key) for db, names in found.builds.items() for key in names} == builds
    seen = {(db, key) for names in (found.builds, found.replaces) for db, keys in names.items() for key in keys}
    assert seen == builds | writes
    assert found.unnamed == ([b"FLUSHALL"] in commands)
    assert found.persists <= builds
