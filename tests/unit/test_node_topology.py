"""Which origins a task leaves to others, and which sets of tasks would apply a write twice."""

from __future__ import annotations

from itertools import permutations

from node.config.models import TaskSpec
from node.topology import direct_for, doubled, forwards, shape


def task(route: str, *direct: str, port: int = 6379) -> TaskSpec:
    """``ab``: from datacenter a to datacenter b."""
    source, target = route
    return TaskSpec.model_validate(
        {
            "task": route if port == 6379 else f"{route}{port}",
            "source": {"datacenter": source, "url": f"redis://{source}:{port}"},
            "target": {"datacenter": target, "url": f"redis://{target}:{port}"},
            "direct": list(direct),
        }
    )


def fitted(*routes: str) -> list[TaskSpec]:
    """Tasks with ``direct`` worked out among all of them."""
    tasks = [task(route) for route in routes]
    return [one.model_copy(update={"direct": direct_for(one, tasks)}) for one in tasks]


def test_two_ways_and_a_cascade_and_a_ring_need_no_direct() -> None:
    for routes in (("ab", "ba"), ("ab", "bc", "cd"), ("ab", "bc", "ca")):
        tasks = fitted(*routes)
        assert all(one.direct == () for one in tasks) and doubled(tasks) == []
    assert doubled(fitted("ab", "ba", "bc", "cb")) == []


def test_a_mesh_of_three_leaves_each_origin_to_its_own_task() -> None:
    tasks = fitted(*("".join(pair) for pair in permutations("abc", 2)))
    assert {one.task: one.direct for one in tasks} == {
        "ab": ("c",), "ac": ("b",), "ba": ("c",), "bc": ("a",), "ca": ("b",), "cb": ("a",)
    }  # fmt: skip
    assert doubled(tasks) == []
    without = [one.model_copy(update={"direct": ()}) if one.task == "ab" else one for one in tasks]
    assert doubled(without) == ["writes made in c would reach b:6379 in b twice: by ab and by cb"]


def test_a_mesh_of_four_is_well_too() -> None:
    assert doubled(fitted(*("".join(pair) for pair in permutations("abcd", 2)))) == []


def test_a_diamond_doubles_whatever_is_left_to_whom() -> None:
    found = doubled(fitted("ab", "ac", "bd", "cd"))
    assert "writes made in a would reach d:6379 in d twice: by bd and by cd" in found


def test_a_ring_with_a_way_in_circulates_unless_the_ring_leaves_the_origin_to_the_way_in() -> None:
    routes = ("ab", "bc", "cd", "db")
    assert doubled([task(route) for route in routes]) == [
        "writes made in a would reach b:6379 in b twice: by ab and by db"
    ]
    assert doubled(fitted(*routes)) == []


def test_other_servers_of_the_same_datacenters_are_another_graph() -> None:
    tasks = [task("ab"), task("ab", port=7000)]
    assert doubled(tasks) == [] and direct_for(tasks[1], tasks) == ()


def test_two_tasks_of_the_same_pair_are_refused() -> None:
    twin = task("ab").model_copy(update={"task": "twin"})
    assert doubled([task("ab"), twin]) == ["writes made in a would reach b:6379 in b twice: by ab and by twin"]


def test_forwarding_is_by_origin() -> None:
    one = task("ab", "c")
    assert forwards(one, "a") and forwards(one, "d") and not forwards(one, "b") and not forwards(one, "c")


def test_a_shape_has_its_name() -> None:
    shapes = {
        ("ab",): "one way",
        ("ab", "ba"): "two ways",
        ("ab", "ba", "xy"): "two ways",  # others are not connected
        ("ab", "bc", "cd"): "a cascade",
        ("ab", "ac", "ad"): "a cascade",
        ("ab", "bc", "ca"): "a ring of 3",
        ("ha", "ah", "hb", "bh", "hc", "ch"): "a hub at h",
        ("ab", "ba", "bc", "cb", "cd", "dc"): "a chain, two ways",
        ("ab", "bc", "cb"): "",
    }
    for routes, expected in shapes.items():
        assert shape([task(route) for route in routes]) == expected, routes
    assert shape(fitted(*("".join(pair) for pair in permutations("abcd", 2)))) == "a mesh of 4"


def test_a_way_in_to_two_ways_needs_direct_and_gets_it() -> None:
    assert doubled([task("ab"), task("bc"), task("cb")]) == [
        "writes made in a would reach b:6379 in b twice: by ab and by cb"
    ]
    tasks = fitted("ab", "bc", "cb")
    assert {one.task: one.direct for one in tasks}["cb"] == ("a",)
    assert doubled(tasks) == []


def test_a_ring_of_four_both_ways_cannot_be_had() -> None:
    found = doubled(fitted("ab", "bc", "cd", "da", "ba", "cb", "dc", "ad"))
    assert "writes made in a would reach c:6379 in c twice: by bc and by dc" in found
