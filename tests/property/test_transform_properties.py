"""The mapping is one to one; splitting a command equals filtering its parts; arguments that are no keys stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from canal.commands import COMMANDS, all_keys
from canal.errors import ConfigError
from sync.filters import KeyFilter, KeyPattern, escape_glob, glob_expression
from sync.rules import Dropped, Impossible
from sync.transform import Transform, TransformOptions

keys = st.one_of(
    st.sampled_from([b"a1", b"a2", b"b1", b"b2", b"ab", b"", b"redis-canal:x", b"p:a", b"p:redis-canal:y"]),
    st.binary(max_size=6),
)
patterns = st.one_of(
    st.builds(lambda text: KeyPattern("prefix", text), st.sampled_from([b"a", b"b", b"", b"p:", b"redis"])),
    st.builds(lambda text: KeyPattern("glob", text), st.sampled_from([b"a*", b"*1", b"?", b"[ab]?", b"*"])),
    st.builds(lambda text: KeyPattern("regex", text), st.sampled_from([b"^a", b"[0-9]$", b"b"])),
)
databases = st.integers(0, 4)


@st.composite
def transforms(draw: st.DrawFn) -> Transform:
    """Any that the options allow."""
    while True:
        options = TransformOptions(
            include_databases=frozenset(draw(st.sets(databases, max_size=3))),
            exclude_databases=frozenset(draw(st.sets(databases, max_size=2))),
            include_keys=tuple(draw(st.lists(patterns, max_size=2))),
            exclude_keys=tuple(draw(st.lists(patterns, max_size=2))),
            db_map=draw(st.dictionaries(databases, databases, max_size=3)),
            add_prefix=draw(st.sampled_from([b"", b"p:", b"a"])),
            remove_prefix=draw(st.sampled_from([b"", b"p:", b"a"])),
        )
        try:
            return Transform(options)
        except ConfigError:
            continue


@given(transforms(), databases, keys)
def test_what_was_carried_maps_back(transform: Transform, db: int, key: bytes) -> None:
    place = transform.key(db, key)
    if not isinstance(place, Dropped):
        assert transform.invert(*place) == (db, key)
        assert not place[1].startswith(b"redis-canal:")


@given(transforms(), databases, keys)
def test_what_maps_back_is_carried_to_where_it_stands(transform: Transform, db: int, key: bytes) -> None:
    source = transform.invert(db, key)
    if source is not None:
        assert transform.key(*source) == (db, key)


@given(transforms(), st.lists(st.tuples(databases, keys), unique=True, max_size=8))
def test_no_two_keys_share_a_place(transform: Transform, sources: list[tuple[int, bytes]]) -> None:
    places = [place for db, key in sources if not isinstance(place := transform.key(db, key), Dropped)]
    assert len(places) == len(set(places))


def flattened(name: bytes, result: object, step: int) -> list[tuple[int, tuple[bytes, ...]]]:
    """A command over many keys as one over each."""
    assert not isinstance(result, Impossible)
    if isinstance(result, Dropped):
        return []
    assert isinstance(result, list)
    out = []
    for db, argv in result:
        assert argv[0] == name
        out += [(db, tuple(argv[index : index + step])) for index in range(1, len(argv), step)]
    return out


@given(
    transforms(),
    databases,
    st.sampled_from([(b"DEL", 1), (b"UNLINK", 1), (b"TOUCH", 1), (b"MSET", 2)]),
    st.lists(keys, min_size=1, max_size=6),
)
def test_a_split_command_equals_its_single_keys_filtered(
    transform: Transform, db: int, command: tuple[bytes, int], names: list[bytes]
) -> None:
    name, step = command
    groups = [[key, b"value%d" % index][:step] for index, key in enumerate(names)]
    whole = transform.command(db, [name, *(word for group in groups for word in group)])
    single = [flattened(name, transform.command(db, [name, *group]), step) for group in groups]
    assert flattened(name, whole, step) == [part for parts in single for part in parts]


@given(transforms(), databases, st.lists(keys, min_size=1, max_size=5))
def test_msetex_is_split_like_mset(transform: Transform, db: int, names: list[bytes]) -> None:
    pairs = [word for key in names for word in (key, b"v")]
    mset = transform.command(db, [b"MSET", *pairs])
    msetex = transform.command(db, [b"MSETEX", b"%d" % len(names), *pairs, b"PXAT", b"5"])
    if isinstance(mset, list):
        ((to_db, argv),) = mset
        assert msetex == [(to_db, [b"MSETEX", b"%d" % (len(argv) // 2), *argv[1:], b"PXAT", b"5"])]
    else:
        assert msetex == mset


words = st.one_of(keys, st.sampled_from([b"1", b"2", b"STORE", b"KEYS", b"STREAMS", b"DB", b"BY", b"GET", b"LEFT"]))


@given(transforms(), databases, st.sampled_from(COMMANDS), st.lists(words, max_size=6))
def test_every_key_that_is_sent_is_carried_and_nothing_raises(
    transform: Transform, db: int, info: object, arguments: list[bytes]
) -> None:
    argv = [info.name, *arguments]  # type: ignore[attr-defined]
    before = list(argv)
    result = transform.command(db, argv)
    assert argv == before
    if isinstance(result, list) and not transform.identity:
        for to_db, out in result:
            if out[0] in (b"PUBLISH", b"SPUBLISH", b"SCRIPT", b"FUNCTION") or out[:1] == [b"EVAL"]:
                continue
            for _, key in all_keys(out):
                if not key.startswith(b"redis-canal:"):  # whole databases: the reader keeps reserved keys away
                    assert transform.invert(to_db, key) is not None


@given(transforms(), databases, keys, st.lists(st.binary(max_size=4), min_size=1, max_size=3))
def test_a_command_on_one_key_goes_where_the_key_goes(
    transform: Transform, db: int, key: bytes, values: list[bytes]
) -> None:
    argv = [b"RPUSH", key, *values]
    place = transform.key(db, key)
    result = transform.command(db, argv)
    if isinstance(place, Dropped):
        assert isinstance(result, Dropped) or key.startswith(b"redis-canal:")
    else:
        assert result == [(place[0], [b"RPUSH", place[1], *values])]


@given(st.binary(max_size=8), st.binary(max_size=8))
def test_an_escaped_text_matches_itself_alone(text: bytes, other: bytes) -> None:
    keys_like_it = KeyFilter([KeyPattern("glob", escape_glob(text))], [])
    assert keys_like_it.passes(text)
    assert keys_like_it.passes(other) is (other == text)


@given(st.binary(max_size=12))
def test_every_glob_is_a_regular_expression(glob: bytes) -> None:
    KeyPattern("glob", glob).checked()
    glob_expression(glob)
