"""A task's specification turned round: what was carried one way is carried back, under its old names."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canal.errors import Refused
from console.reversal import reversed_spec
from node.config.models import TaskSpec
from sync.rules import Dropped
from sync.transform import Transform


def spec(**more: Any) -> TaskSpec:
    return TaskSpec.model_validate(
        {
            "task": "sh-bj",
            "source": {"datacenter": "sh", "url": "redis://10.0.0.1:6379", "credentials": "sh"},
            "target": {"datacenter": "bj", "url": "redis://10.1.0.1:6379"},
            **more,
        }
    )


def test_the_sides_change_places_and_settings_stay() -> None:
    old = spec(on_error="continue", direct=["gz"], throttle={"commands_per_second": 5})
    new = reversed_spec(old, "back")
    assert (new.task, new.source, new.target, new.direct) == ("back", old.target, old.source, ())
    assert (new.on_error, new.throttle) == (old.on_error, old.throttle)
    assert reversed_spec(new, "sh-bj") == old.model_copy(update={"direct": ()})


KEYS = st.sampled_from([b"user:1", b"old:user:1", b"new:user:1", b"cart:9", b"old:cart:9", b"x", b"", b"old:"])


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"filter": {"include": {"keys": ["user:*", "prefix:cart:", "regex:^x$"], "databases": [0, 1]}}},
        {"map": {"databases": {1: 2, 2: 1}, "add_prefix": "new:"}, "filter": {"exclude": {"databases": [3]}}},
        {"map": {"remove_prefix": "old:", "add_prefix": "new:"}, "filter": {"include": {"keys": ["prefix:old:us"]}}},
        {"map": {"remove_prefix": "old:"}, "filter": {"exclude": {"keys": ["glob:old:c*"]}}},
        {"map": {"remove_prefix": "old:"}, "filter": {"include": {"keys": ["prefix:ol"]}}},
        {"map": {"databases": {5: 0}}, "filter": {"include": {"databases": [5], "types": ["string"]}}},
    ],
)
@given(db=st.integers(0, 5), key=KEYS)
def test_what_went_there_comes_back_under_its_name(more: dict[str, Any], db: int, key: bytes) -> None:
    there, back = (Transform(one.transform) for one in (spec(**more), reversed_spec(spec(**more), "back")))
    placed = there.key(db, key)
    if not isinstance(placed, Dropped):
        assert back.key(*placed) == (db, key)
    returned = back.key(db, key)
    if not isinstance(returned, Dropped):
        assert there.key(*returned) == (db, key), "nothing comes back that could not have gone there"


@pytest.mark.parametrize(
    "more",
    [
        {"map": {"hook": "package.module:function"}},
        {"map": {"add_prefix": "new:"}, "filter": {"include": {"keys": ["regex:^user"]}}},
        {"map": {"remove_prefix": "old:"}, "filter": {"include": {"keys": ["glob:*:user"]}}},
        {"map": {"add_prefix": "n*w:"}, "filter": {"include": {"keys": ["glob:user*"]}}},
    ],
)
def test_what_cannot_be_turned_round_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(Refused, match="create the task by hand"):
        reversed_spec(spec(**more), "back")
