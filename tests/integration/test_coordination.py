"""One suite over both coordinators: the store, registrations, tasks, leases and progress."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from canal import formats
from canal.errors import ConfigError, Refused, StateError
from node.coordination.base import Check, Conflict, Create, Event, Remove, SessionLost, Write
from node.coordination.coordinator import Coordinator
from node.coordination.leases import Lease, Progress
from node.coordination.plan import ShardId, assign
from node.coordination.registry import boot_id, pid_started
from node.coordination.state import Backward, Known, Stale, moved
from node.coordination.tasks import NotFound
from tests.support.coordination import (
    TIMEOUT_S,
    EmbeddedPlace,
    Heard,
    Place,
    ZooKeeperPlace,
    node_record,
    wait_for,
)
from tests.support.zookeeper import ZooKeeper, ZooKeeperMissing

_chroots = itertools.count()
SHARD = ShardId("sh-bj", "0")


@pytest.fixture(scope="module")
def zookeeper_server() -> Iterator[ZooKeeper]:
    try:
        with ZooKeeper.start() as server:
            yield server
    except ZooKeeperMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(params=["embedded", pytest.param("zookeeper", marks=pytest.mark.zookeeper)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made: Place
    if request.param == "embedded":
        made = EmbeddedPlace(tmp_path)
    else:
        server: ZooKeeper = request.getfixturevalue("zookeeper_server")
        made = ZooKeeperPlace(("127.0.0.1", server.port), f"/test/{next(_chroots)}")
    yield made
    made.close()


def with_task(place: Place, task: str = "sh-bj") -> Coordinator:
    one = place.open()
    one.tasks.create(task, {"note": "x"}, desired="running", by="tester")
    return one


def acquired(coordinator: Coordinator, shard: ShardId = SHARD, node: str = "a") -> Lease:
    lease = coordinator.leases.acquire(shard, node)
    assert lease is not None
    return lease


# ---- the store -------------------------------------------------------------------------------------------------------


def test_records_have_versions_and_conditions(place: Place) -> None:
    store = place.open().store
    assert store.get("a/b") is None and store.children("a") == []
    assert store.commit(Create("a/b", b"1")) == [0]
    assert store.commit(Write("a/b", b"2", 0)) == [1]
    assert store.commit(Write("a/b", b"3")) == [2]
    record = store.get("a/b")
    assert record is not None and (record.data, record.version, record.ephemeral) == (b"3", 2, False)
    for op, reason in (
        (Create("a/b", b""), "exists"),
        (Write("a/b", b"", 1), "changed"),
        (Write("a/c", b""), "missing"),
        (Remove("a/c"), "missing"),
        (Remove("a/b", 1), "changed"),
        (Remove("a"), "changed"),
        (Check("a/b", 7), "changed"),
    ):
        with pytest.raises(Conflict) as caught:
            store.commit(op)
        assert (caught.value.path, caught.value.reason) == (op.path, reason)
    assert store.commit(Check("a/b", 2), Remove("a/b", 2)) == [2, -1]
    assert store.children("a") == []


def test_a_transaction_is_all_or_nothing(place: Place) -> None:
    store = place.open().store
    store.commit(Create("x", b"old"))
    with pytest.raises(Conflict):
        store.commit(Write("x", b"new", 0), Create("y/z", b""), Write("x", b"again", 0))
    record = store.get("x")
    assert record is not None and record.data == b"old"
    assert store.get("y/z") is None


def test_children_are_sorted_and_a_tree_can_be_removed(place: Place) -> None:
    store = place.open().store
    for name in ("t/b", "t/a", "t/c/d", "t/c/e"):
        store.commit(Create(name, b""))
    assert store.children("t") == ["a", "b", "c"]
    store.remove_tree("t")
    store.remove_tree("t")
    assert store.get("t") is None


def test_ephemeral_records_go_with_close(place: Place) -> None:
    a, b = place.open(), place.open()
    a.store.commit(Create("e/1", b"", ephemeral=True))
    mine, theirs = a.store.get("e/1"), b.store.get("e/1")
    assert mine is not None and mine.ephemeral and mine.mine
    assert theirs is not None and theirs.ephemeral and not theirs.mine
    a.store.close()
    assert b.store.get("e/1") is None


def test_ephemeral_records_go_with_a_silent_session_and_watchers_are_told(place: Place) -> None:
    a, b = place.open(), place.open()
    a.store.commit(Create("e/1", b"", ephemeral=True))
    assert b.store.get("e/1", watch=True) is not None
    heard = Heard(b)
    started = time.monotonic()
    place.vanish(a)
    wait_for(lambda: b.store.get("e/1", watch=True) is None, "the record vanishes")
    assert time.monotonic() - started > TIMEOUT_S * 0.5
    heard.wait(Event.CHANGED)


@pytest.mark.parametrize("change", ["written", "created", "removed", "child"])
def test_watchers_hear_of_every_kind_of_change(place: Place, change: str) -> None:
    a, b = place.open(), place.open()
    if change != "created":
        a.store.commit(Create("w/1", b""))
    b.store.get("w/1", watch=True)
    b.store.children("w", watch=True)
    heard = Heard(b)
    a.store.commit(
        {
            "written": Write("w/1", b"2"),
            "created": Create("w/1", b""),
            "removed": Remove("w/1"),
            "child": Create("w/2", b""),
        }[change]
    )
    heard.wait(Event.CHANGED, 5)
    expected = {"written": b"2", "created": b"", "removed": None, "child": b""}[change]
    names: list[str] = {"removed": [], "child": ["1", "2"]}.get(change, ["1"])

    def seen() -> bool:
        record = b.store.get("w/1", watch=True)
        return (record.data if record else None) == expected and b.store.children("w", watch=True) == names

    wait_for(seen, "the change is seen, at the latest when its own event has come")


def test_a_session_that_was_silent_too_long_is_told_and_can_start_again(place: Place) -> None:
    a, b = place.open(), place.open()
    a.store.commit(Create("e/1", b"", ephemeral=True))
    heard = Heard(a)
    place.freeze(a)
    wait_for(lambda: b.store.get("e/1") is None, "the record vanishes")
    place.thaw(a)
    heard.wait(Event.LOST)
    wait_for(lambda: _restart(a), "the session starts again")
    a.store.commit(Create("e/1", b"new", ephemeral=True))
    again = a.store.get("e/1")
    assert again is not None and again.mine


def _restart(coordinator: Coordinator) -> bool:
    try:
        coordinator.store.start()
    except SessionLost:
        return False
    return coordinator.store.connection == "connected"


# ---- nodes -----------------------------------------------------------------------------------------------------------


def test_nodes_register_and_are_listed_while_they_live(place: Place) -> None:
    a, b = place.open(), place.open()
    a.nodes.register(node_record("sh-1", http="http://10.0.0.1:9477", max_shards=7))
    b.nodes.register(node_record("sh-2"))
    assert sorted(a.nodes.living()) == ["sh-1", "sh-2"]
    assert b.nodes.living()["sh-1"].max_shards == 7
    assert a.nodes.registered("sh-1") and not a.nodes.registered("sh-2")
    place.vanish(b)
    wait_for(lambda: list(a.nodes.living()) == ["sh-1"], "sh-2 is not listed any more")
    a.nodes.unregister("sh-1")
    assert a.nodes.living() == {}, "who wrote reads what it wrote"


def test_who_wrote_reads_what_it_wrote(place: Place) -> None:
    """Watches tell of a change a little later than the answer to the write comes."""
    one = place.open()
    for number in range(50):
        one.nodes.register(node_record("sh-1", max_shards=number))
        assert [record.max_shards for record in one.nodes.living().values()] == [number]
        one.nodes.unregister("sh-1")
        assert one.nodes.living() == {} and not one.nodes.registered("sh-1")


def test_a_second_live_daemon_of_a_name_is_refused_with_one_clear_line(place: Place) -> None:
    a, b = place.open(), place.open()
    a.nodes.register(node_record("sh-1"))
    with pytest.raises(
        Refused, match=r"node sh-1 is registered by a live daemon on elsewhere .*another name"
    ) as caught:
        b.nodes.register(node_record("sh-1"), patience_s=0.3)
    assert "\n" not in str(caught.value)
    assert a.nodes.registered("sh-1")


def test_a_second_daemon_on_the_same_machine_is_refused_at_once(place: Place) -> None:
    import os

    a, b = place.open(), place.open()
    here = {"host": os.uname().nodename, "pid": os.getpid(), "boot": boot_id(), "pid_started": pid_started(os.getpid())}
    a.nodes.register(replace(node_record("sh-1"), **here))
    with pytest.raises(Refused, match=f"already running on this machine as process {os.getpid()}"):
        b.nodes.register(node_record("sh-1"), patience_s=3600)


def test_a_restart_after_kill_waits_for_its_own_old_session(place: Place) -> None:
    old = place.open()
    old.nodes.register(node_record("sh-1"))
    place.vanish(old)
    new = place.open()
    new.nodes.register(node_record("sh-1", version="new"), patience_s=3600)
    assert new.nodes.registered("sh-1") and new.nodes.living()["sh-1"].version == "new"


def test_draining_is_remembered_for_a_node_that_is_down(place: Place) -> None:
    one = place.open()
    one.nodes.drain("sh-9")
    one.nodes.drain("sh-9")
    assert one.nodes.draining() == {"sh-9"}
    one.nodes.drain("sh-9", on=False)
    one.nodes.drain("sh-9", on=False)
    assert one.nodes.draining() == frozenset()


# ---- tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_are_created_changed_and_deleted(place: Place) -> None:
    one, two = with_task(place), place.open()
    task = two.tasks.get("sh-bj")
    assert (task.spec, task.desired, task.changed_by, task.version) == ({"note": "x"}, "running", "tester", 0)
    assert len(task.uid) == 16
    paused = two.tasks.set_desired("sh-bj", "paused", by="somebody")
    assert (paused.desired, paused.uid, paused.version) == ("paused", task.uid, 1)
    assert two.tasks.set_desired("sh-bj", "paused") == paused
    changed = one.tasks.set_spec("sh-bj", {"note": "y"}, version=1)
    assert changed.version == 2
    with pytest.raises(Refused, match="changed meanwhile"):
        one.tasks.set_spec("sh-bj", {"note": "z"}, version=1)
    assert [event.what for event in one.tasks.events("sh-bj")] == [
        "created, to be running",
        "to be paused",
        "specification changed",
    ]
    [view] = one.tasks.shards("sh-bj")
    assert (view.id, view.holder, view.epoch, view.state.state, view.version) == (SHARD, None, 0, "created", 0)
    one.tasks.delete("sh-bj")
    assert two.tasks.all() == {}
    with pytest.raises(NotFound, match="there is no task 'sh-bj'"):
        two.tasks.get("sh-bj")


def test_a_new_task_of_an_old_name_is_another_task(place: Place) -> None:
    one = with_task(place)
    first = one.tasks.get("sh-bj").uid
    with pytest.raises(Refused, match="exists already"):
        one.tasks.create("sh-bj", {})
    one.tasks.delete("sh-bj")
    assert one.tasks.create("sh-bj", {}).uid != first
    assert one.tasks.create("taken-up", {}, uid="0123456789abcdef").uid == "0123456789abcdef"


def test_a_task_that_runs_is_not_deleted(place: Place) -> None:
    one = with_task(place)
    lease = acquired(one)
    with pytest.raises(Refused, match="still runs on a; stop it first"):
        one.tasks.delete("sh-bj")
    one.leases.release(lease)
    one.tasks.delete("sh-bj")


def test_names_are_checked(place: Place) -> None:
    one = place.open()
    for name in ("", "a/b", "ü", ".hidden", "x" * 129, "a b"):
        with pytest.raises(ConfigError, match="cannot name a task"):
            one.tasks.create(name, {})


def test_history_keeps_the_newest_hundred(place: Place) -> None:
    one = with_task(place)
    for n in range(103):
        one.tasks.record_event("sh-bj", f"event {n}", by="a")
    events = one.tasks.events("sh-bj")
    assert len(events) == 100 and events[-1].what == "event 102" and events[-1].by == "a"


def test_shards_can_be_added(place: Place) -> None:
    one = with_task(place)
    assert one.tasks.add_shard(ShardId("sh-bj", "1")) and not one.tasks.add_shard(ShardId("sh-bj", "1"))
    assert one.tasks.shard_ids("sh-bj") == [SHARD, ShardId("sh-bj", "1")]
    with pytest.raises(NotFound):
        one.tasks.add_shard(ShardId("none", "1"))


def test_a_record_of_a_newer_format_is_refused_clearly(place: Place) -> None:
    one = with_task(place)
    record = one.store.get("tasks/sh-bj")
    assert record is not None
    newer = record.data.replace(b'"format":1', f'"format":{formats.NEWEST + 1}'.encode())
    one.store.commit(Write("tasks/sh-bj", newer))
    with pytest.raises(Refused, match=f"format {formats.NEWEST + 1}.*upgrade this node"):
        one.tasks.get("sh-bj")
    one.store.commit(Write("tasks/sh-bj", b"not json"))
    with pytest.raises(StateError, match="not one of redis-canal's"):
        one.tasks.get("sh-bj")


# ---- leases and progress ---------------------------------------------------------------------------------------------


def test_one_lease_at_a_time_and_epochs_only_grow(place: Place) -> None:
    a, b = with_task(place), place.open()
    first = acquired(a)
    assert first.epoch == 1
    assert b.leases.acquire(SHARD, "b") is None and a.leases.acquire(SHARD, "a") is None
    assert b.leases.holder(SHARD) == "a"
    assert a.leases.holds(first) and not b.leases.holds(first)
    assert not b.leases.release(first)
    assert a.leases.release(first) and not a.leases.release(first)
    second = acquired(b, node="b")
    assert second.epoch == 2 and not a.leases.holds(first)
    assert a.leases.acquire(ShardId("sh-bj", "9"), "a") is None
    assert a.leases.acquire(ShardId("none", "0"), "a") is None


def test_the_owner_raises_its_epoch_above_the_target_s(place: Place) -> None:
    a, b = with_task(place), place.open()
    lease = a.leases.raise_epoch(acquired(a), 41)
    assert lease.epoch == 41 and a.leases.holds(lease)
    assert a.leases.raise_epoch(lease, 7).epoch == 42
    a.leases.release(lease)
    assert acquired(b, node="b").epoch == 43
    with pytest.raises(SessionLost, match="not held any more"):
        a.leases.raise_epoch(lease, 100)


def test_progress_names_the_version_it_replaces(place: Place) -> None:
    a, b = with_task(place), place.open()
    known = a.leases.begin_run(acquired(a), phase="starts")
    assert (known.state.run, known.state.state, known.state.node, known.state.epoch) == (1, "assigned", "a", 1)
    streaming = moved(known.state, "streaming", now=1.0)
    newer = a.leases.write_state(SHARD, known, replace(streaming, applied_offset=5))
    with pytest.raises(Stale, match="sh-bj/0: its record is not at version"):
        b.leases.write_state(SHARD, known, streaming)
    with pytest.raises(Backward):
        a.leases.write_state(SHARD, newer, replace(streaming, state="snapshot"))
    assert b.leases.read_state(SHARD) == newer


def test_progress_of_many_shards_is_accepted_or_refused_one_by_one(place: Place) -> None:
    a = with_task(place)
    shards = [ShardId("sh-bj", str(n)) for n in range(1, 121)]
    for shard in shards:
        a.tasks.add_shard(shard)
    known = {shard: a.leases.read_state(shard) for shard in shards}
    new = {shard: replace(known[shard].state, state="assigned", run=1, applied_offset=9) for shard in shards}
    a.leases.write_state(shards[7], known[shards[7]], replace(new[shards[7]], node="other"))
    new[shards[9]] = replace(new[shards[9]], run=5)
    done = a.leases.write_states([Progress(shard, known[shard], new[shard]) for shard in shards])
    assert isinstance(done[shards[7]], Stale) and isinstance(done[shards[9]], Stale)
    good = {shard: known for shard, known in done.items() if isinstance(known, Known)}
    assert len(good) == 118 and all(a.leases.read_state(shard) == known for shard, known in good.items())


def test_begin_run_needs_the_lease(place: Place) -> None:
    a = with_task(place)
    lease = acquired(a)
    a.leases.release(lease)
    with pytest.raises(Stale, match="the lease under epoch 1 is not held"):
        a.leases.begin_run(lease)


# ---- the four founding ideas; the fourth, asynchronous jobs, is in test_coordination_jobs.py ------------------------


def test_idea_1_registration_and_scheduling(place: Place) -> None:
    """Nodes register, see the same tasks, and come to the same assignment without a leader."""
    nodes = [place.open() for _ in range(3)]
    for number, coordinator in enumerate(nodes):
        coordinator.nodes.register(node_record(f"node-{number}"))
    for number in range(12):
        nodes[number % 3].tasks.create(f"task-{number}", {}, desired="running")
    nodes[0].tasks.create("idle", {})
    plans = []
    for coordinator in nodes:
        facts = coordinator.facts()
        plans.append(assign(facts.wanted, facts.capacities, facts.held))
    assert plans[0] == plans[1] == plans[2]
    assert len(plans[0]) == 12 and sorted(plans[0].values()) == sorted(["node-0", "node-1", "node-2"] * 4)
    nodes[1].nodes.drain("node-1")
    place.vanish(nodes[2])
    wait_for(lambda: len(nodes[0].facts().nodes) == 2, "node-2 is gone")
    facts = nodes[0].facts()
    assert set(assign(facts.wanted, facts.capacities, facts.held).values()) == {"node-0"}


@pytest.mark.parametrize("end", ["given back", "timed out"])
def test_idea_2_the_lock_released_is_announced_to_idle_standbys_and_one_goes_on(place: Place, end: str) -> None:
    owner = with_task(place)
    lease = acquired(owner)
    known = owner.leases.begin_run(lease)
    at = replace(moved(known.state, "streaming", now=1.0), replid="f" * 40, applied_offset=4711)
    owner.leases.write_state(SHARD, known, at)
    standbys = [place.open(), place.open()]
    heard = []
    for standby in standbys:
        assert standby.leases.holder(SHARD) == "a"
        heard.append(Heard(standby))
    if end == "given back":
        owner.leases.release(lease)
    else:
        place.vanish(owner)
    for ear in heard:
        ear.wait(Event.CHANGED)
    wait_for(lambda: standbys[0].leases.holder(SHARD) is None, "the lock is free")
    taken = [standby.leases.acquire(SHARD, f"standby-{n}") for n, standby in enumerate(standbys)]
    winners = [n for n, lease in enumerate(taken) if lease is not None]
    assert len(winners) == 1
    new_lease = taken[winners[0]]
    assert new_lease is not None and new_lease.epoch == lease.epoch + 1
    resumed = standbys[winners[0]].leases.begin_run(new_lease).state
    assert (resumed.run, resumed.replid, resumed.applied_offset) == (2, "f" * 40, 4711)


def test_idea_3_lease_based_consumption_of_shards_with_recorded_progress(place: Place) -> None:
    """Several nodes consume the shards of one task, each under its lease; what one recorded, the next goes on from."""
    a, b = with_task(place), place.open()
    shards = [SHARD, ShardId("sh-bj", "1"), ShardId("sh-bj", "2")]
    for shard in shards[1:]:
        a.tasks.add_shard(shard)
    leases = {
        shard: acquired(coordinator, shard, node)
        for shard, coordinator, node in zip(shards, (a, b, a), "aba", strict=True)
    }
    known = {}
    for shard, lease in leases.items():
        coordinator = a if lease.node == "a" else b
        start = coordinator.leases.begin_run(lease)
        progress = replace(moved(start.state, "streaming", now=1.0), applied_offset=100 + int(shard.shard))
        known[shard] = coordinator.leases.write_state(shard, start, progress)
    assert {v.id.shard: (v.holder, v.state.applied_offset) for v in b.tasks.shards("sh-bj")} == {
        "0": ("a", 100),
        "1": ("b", 101),
        "2": ("a", 102),
    }
    a.leases.release(leases[shards[2]])
    taken = b.leases.begin_run(acquired(b, shards[2], "b"))
    assert (taken.state.node, taken.state.applied_offset, taken.state.epoch) == ("b", 102, 2)
    with pytest.raises(Stale):
        a.leases.write_state(shards[2], known[shards[2]], replace(known[shards[2]].state, applied_offset=999))
    assert b.leases.read_state(shards[2]) == taken
