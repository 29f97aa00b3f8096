"""What can happen to a ZooKeeper ensemble and to the way there, and what the coordinator makes of it."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from kazoo.client import KazooClient

from canal.errors import AuthError, ConfigError, Unreachable
from node.coordination.base import DEADLINE_S, Create, Event, SessionLost, Write
from node.coordination.coordinator import Coordinator
from node.coordination.plan import ShardId
from node.coordination.zookeeper import ZooKeeperOptions, ZooKeeperStore
from tests.support.coordination import TIMEOUT_S, Heard, ZooKeeperPlace, node_record, wait_for
from tests.support.proxy import Proxy
from tests.support.zookeeper import Ensemble, ZooKeeper

pytestmark = [pytest.mark.zookeeper]
SHARD = ShardId("sh-bj", "0")
Start = Callable[[], ZooKeeper]


@pytest.fixture
def opened() -> Iterator[Callable[..., Coordinator]]:
    stores: list[ZooKeeperStore] = []

    def open_one(hosts: str, **options: object) -> Coordinator:
        store = ZooKeeperStore(ZooKeeperOptions(hosts, **{"timeout_s": TIMEOUT_S, **options}))  # type: ignore[arg-type]
        stores.append(store)
        store.start()
        return Coordinator(store)

    yield open_one
    for store in stores:
        store.close()


def working(one: Coordinator) -> bool:
    try:
        one.store.children("nodes")
    except Unreachable:
        return False
    return True


def test_a_short_loss_of_connection_keeps_session_and_leases(zookeeper: Start) -> None:
    place = ZooKeeperPlace(("127.0.0.1", zookeeper().port), "/t")
    one = place.open()
    one.tasks.create("sh-bj", {})
    lease = one.leases.acquire(SHARD, "a")
    assert lease is not None
    heard = Heard(one)
    assert place.proxy(one).cut() == 1
    heard.wait(Event.SUSPENDED)
    heard.wait(Event.CONNECTED)
    assert one.leases.holds(lease) and Event.LOST not in heard.events
    place.close()


def test_a_watch_still_works_after_a_lost_connection(zookeeper: Start) -> None:
    """What changed while the connection was away is seen, and so is the next change."""
    place = ZooKeeperPlace(("127.0.0.1", zookeeper().port), "/t")
    one, other = place.open(), place.open()
    other.store.commit(Create("w/1", b"old"))
    assert one.store.get("w/1", watch=True) is not None
    heard = Heard(one)
    place.freeze(one)
    heard.wait(Event.SUSPENDED)
    other.store.commit(Write("w/1", b"new"))
    place.thaw(one)
    heard.wait(Event.CONNECTED)
    record = one.store.get("w/1", watch=True)
    assert record is not None and record.data == b"new"
    heard.events.clear()
    other.store.commit(Write("w/1", b"newer"))
    heard.wait(Event.CHANGED)
    record = one.store.get("w/1", watch=True)
    assert record is not None and record.data == b"newer"
    place.close()


def test_a_write_whose_answer_was_lost_is_found_to_have_landed(zookeeper: Start) -> None:
    place = ZooKeeperPlace(("127.0.0.1", zookeeper().port), "/t")
    one, other = place.open(), place.open()
    one.store.commit(Create("x", b"0"))
    for number in range(1, 6):
        place.proxy(one).stall("to_client")
        result: list[object] = []

        def write(number: int = number, result: list[object] = result) -> None:
            result.extend(one.store.commit(Write("x", b"%d" % number, number - 1), Create(f"made-{number}", b"", True)))

        writer = threading.Thread(target=write)
        writer.start()
        wait_for(lambda number=number: (r := other.store.get("x")) and r.version == number, "the write has landed")
        place.proxy(one).cut()
        place.proxy(one).flow()
        writer.join(60)
        assert result == [number, 0]
    place.close()


def test_without_a_connection_calls_fail_in_time_and_nothing_is_sent_later(zookeeper: Start) -> None:
    place = ZooKeeperPlace(("127.0.0.1", zookeeper().port), "/t")
    one, other = place.open(), place.open()
    one.tasks.create("sh-bj", {})
    heard = Heard(one)
    place.freeze(one)
    heard.wait(Event.SUSPENDED)
    started = time.monotonic()
    with pytest.raises(Unreachable, match=r"zookeeper 127\.0\.0\.1:\d+/t cannot be reached"):
        one.leases.acquire(SHARD, "a")
    assert time.monotonic() - started < DEADLINE_S + 30
    place.thaw(one)
    wait_for(lambda: working(one), "connected again")
    assert other.leases.holder(SHARD) is None
    place.close()


def test_a_server_killed_and_restarted_keeps_sessions_leases_and_tasks(
    zookeeper: Start, opened: Callable[..., Coordinator], proxy: Callable[..., Proxy]
) -> None:
    """The way there is opened when it serves: it can take a connection before, and leave it without an answer until the
    session's time is over.
    """
    server = zookeeper()
    door = proxy(("127.0.0.1", server.port))
    one = opened(f"127.0.0.1:{door.port}", timeout_s=30.0)
    one.nodes.register(node_record("a"))
    one.tasks.create("sh-bj", {"x": 1})
    lease = one.leases.acquire(SHARD, "a")
    assert lease is not None
    heard = Heard(one)
    door.refuse()
    server.kill()
    heard.wait(Event.SUSPENDED)
    assert one.store.connection == "suspended"
    server.restart()
    door.accept()
    heard.wait(Event.CONNECTED)
    assert one.leases.holds(lease) and one.nodes.registered("a") and one.tasks.get("sh-bj").spec == {"x": 1}
    assert Event.LOST not in heard.events


def test_a_server_whose_data_is_lost_ends_the_session_and_everything_can_be_made_again(
    zookeeper: Start, opened: Callable[..., Coordinator]
) -> None:
    server = zookeeper()
    one = opened(server.hosts)
    one.nodes.register(node_record("a"))
    for number in range(20):
        one.tasks.create(f"task-{number}", {})
    heard = Heard(one)
    server.kill()
    shutil.rmtree(server.directory / "data" / "version-2")
    server.restart()
    heard.wait(Event.LOST, 30)
    wait_for(lambda: _started(one), "a new session")
    assert one.tasks.all() == {} and one.nodes.living() == {}
    one.nodes.register(node_record("a"))
    one.tasks.create("task-1", {}, uid="0123456789abcdef")
    assert one.tasks.get("task-1").uid == "0123456789abcdef" and list(one.nodes.living()) == ["a"]


def _started(one: Coordinator) -> bool:
    try:
        one.store.start()
    except Unreachable:
        return False
    return working(one)


def test_an_ensemble_that_loses_its_leader_goes_on(
    zookeeper_ensemble: Callable[[], Ensemble], opened: Callable[..., Coordinator]
) -> None:
    three = zookeeper_ensemble()
    one, other = opened(three.hosts, timeout_s=30.0), opened(three.hosts, timeout_s=30.0)
    one.nodes.register(node_record("a"))
    one.tasks.create("sh-bj", {})
    lease = one.leases.acquire(SHARD, "a")
    assert lease is not None
    heard = Heard(one)
    leader = three.leader
    leader.kill()
    wait_for(lambda: working(one) and working(other), "both work again", 30)
    assert one.leases.holds(lease) and other.leases.holder(SHARD) == "a" and Event.LOST not in heard.events
    other.tasks.create("bj-sh", {})
    assert set(one.tasks.all()) == {"sh-bj", "bj-sh"}
    leader.restart()
    wait_for(lambda: leader.mode() == "follower", "the old leader follows")


def test_a_wrong_acl_is_refused_with_one_clear_line(zookeeper: Start, opened: Callable[..., Coordinator]) -> None:
    hosts = zookeeper().hosts
    owner = opened(hosts, username="canal", password="right", chroot="/a/canal")
    owner.tasks.create("sh-bj", {})
    for username, password in (("canal", "wrong"), ("other", "right"), ("", "")):
        with pytest.raises(AuthError, match=r"may not use it.*check coordination\.zookeeper\.credentials") as caught:
            opened(hosts, username=username, password=password, chroot="/a/canal")
        assert "\n" not in str(caught.value) and "wrong" not in str(caught.value)
    again = opened(hosts, username="canal", password="right", chroot="/a/canal")
    assert list(again.tasks.all()) == ["sh-bj"]


def test_no_server_is_one_clear_line(opened: Callable[..., Coordinator]) -> None:
    with pytest.raises(
        Unreachable, match=r"zookeeper 127\.0\.0\.1:1/redis-canal cannot be reached \(no server answered"
    ):
        opened("127.0.0.1:1")
    with pytest.raises(ConfigError, match="chroot"):
        opened("127.0.0.1:1", chroot="no-slash")


def test_a_connection_that_breaks_again_at_once_is_an_outage_and_no_fault(zookeeper: Start) -> None:
    """Found by chaos: a node that registered anew while ZooKeeper stood still ended with an internal error."""
    with Proxy(("127.0.0.1", zookeeper().port), on_connect=lambda each: each.cut_after(60, "to_client")) as proxy:
        store = ZooKeeperStore(ZooKeeperOptions(f"127.0.0.1:{proxy.port}", timeout_s=TIMEOUT_S))
        try:
            with pytest.raises(Unreachable, match="the connection broke again at once"):
                store.start()
            proxy.on_connect = None
            store.start()
            assert store.connection == "connected"
        finally:
            store.close()


def test_a_session_that_ends_while_it_is_begun_is_begun_again(
    zookeeper: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by chaos: the store held itself for connected, with no connection, and a node waited for ever."""
    store = ZooKeeperStore(ZooKeeperOptions(zookeeper().hosts, timeout_s=TIMEOUT_S))
    try:

        def lost(path: str, **_: object) -> None:
            monkeypatch.undo()
            raise SessionLost("the session has ended")

        monkeypatch.setattr(store, "get", lost)
        with pytest.raises(SessionLost):
            store.start()
        assert store.connection == "closed"
        store.start()
        assert store.connection == "connected"
        assert store.children("nodes") == []
    finally:
        store.close()


def test_a_connection_is_there_before_its_listener_is_told(zookeeper: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by a demonstration: kazoo's start had returned, the listener had not run, and that was "broken again"."""
    store = ZooKeeperStore(ZooKeeperOptions(zookeeper().hosts, timeout_s=TIMEOUT_S))
    told = store._on_state

    def late(client: KazooClient, state: str) -> None:
        time.sleep(0.3)
        told(client, state)

    monkeypatch.setattr(store, "_on_state", late)
    try:
        store.start()
        assert store.connection == "connected"
        assert store.children("nodes") == []
    finally:
        store.close()


def test_a_client_that_is_dropped_while_it_connects_leaves_no_connection_behind(
    zookeeper: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by a demonstration: the store was held for connected without a client, and its node waited for ever."""
    store = ZooKeeperStore(ZooKeeperOptions(zookeeper().hosts, timeout_s=TIMEOUT_S))
    forget = store._forget
    closer = threading.Thread(target=store.close)

    def forget_and_be_closed() -> None:  # within the listener, after it saw whose client it is
        forget()
        if closer.ident is None and threading.current_thread() is not threading.main_thread():
            closer.start()
            closer.join(0.3)

    monkeypatch.setattr(store, "_forget", forget_and_be_closed)
    try:
        with contextlib.suppress(Unreachable, AttributeError):
            store.start()
        wait_for(lambda: closer.ident is not None, "the listener is told")
        closer.join()
        assert store.connection == "closed"
        store.start()
        assert store.children("nodes") == []
    finally:
        store.close()
