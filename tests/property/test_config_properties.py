"""Whatever stands in a file: it is a configuration, or a list of one-line problems."""

from __future__ import annotations

import contextlib
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from node.config import ConfigProblems, ConsoleConfig, NodeConfig, TaskSpec
from node.config.loader import parse
from node.config.secrets import redacted

NAMES = (
    "node datacenter coordination zookeeper hosts chroot embedded path state_dir http listen credentials username "
    "password_file password_env task source target url two_way peer snapshot stale_keys journal fsync filter include "
    "keys map databases datacenters tokens role sha256 max_shards password nod taks"
)
KEYS = st.sampled_from(NAMES.split())
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=20),
    st.sampled_from(["redis://h:1", "64m"]),
)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(KEYS, st.text(max_size=5)), inner, max_size=5)
    ),
    max_leaves=25,
)
MODELS = st.sampled_from([NodeConfig, TaskSpec, ConsoleConfig])


def read(model: Any, text: str, environ: dict[str, str] | None = None) -> None:
    try:
        found = parse(model, text, "x.yaml", environ or {})
    except ConfigProblems as error:
        assert error.problems
        for line in error.problems:
            assert "\n" not in line and line.startswith(("x.yaml", "environment variable"))
    else:
        redacted(found)


@given(MODELS, TREES)
def test_any_tree_is_a_configuration_or_problems(model: Any, tree: Any) -> None:
    read(model, yaml.safe_dump(tree))


@given(MODELS, st.text(max_size=200))
def test_any_text_is_a_configuration_or_problems(model: Any, text: str) -> None:
    read(model, text)


@given(
    st.dictionaries(
        st.text("ABCDEFGHI_", max_size=12).map(lambda name: f"REDIS_CANAL__{name}"), st.text(max_size=10), max_size=3
    )
)
def test_any_environment_is_a_configuration_or_problems(environ: dict[str, str]) -> None:
    read(NodeConfig, "node: a\nhttp: {listen: '127.0.0.1:1'}", environ)


@given(st.text(min_size=6, max_size=20, alphabet="abcdefghijklmnop0123456789"))
def test_a_secret_written_by_mistake_is_never_repeated(secret: str) -> None:
    for text in (f"credentials: {{a: {{password: '{secret}'}}}}", f"password: '{secret}'"):
        with contextlib.suppress(ConfigProblems):
            parse(NodeConfig, text, "x.yaml")
            raise AssertionError("a password was accepted")
        try:
            parse(NodeConfig, text, "x.yaml")
        except ConfigProblems as error:
            assert secret not in str(error)
