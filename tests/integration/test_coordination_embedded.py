"""What only the SQLite coordinator can meet: other processes, a locked or lost or foreign file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from canal.errors import Refused, StateError, Unreachable
from node.coordination import embedded
from node.coordination.base import Create, Event, Write
from node.coordination.coordinator import Coordinator
from node.coordination.embedded import EmbeddedStore
from node.coordination.plan import ShardId
from tests.support.coordination import Heard, wait_for
from tests.support.process import ROOT

SHARD = ShardId("t", "0")
Open = Callable[[], Coordinator]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "coordination.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    stores: list[EmbeddedStore] = []

    def one() -> Coordinator:
        stores.append(EmbeddedStore(path, timeout_s=1.5))
        stores[-1].start()
        return Coordinator(stores[-1])

    yield one
    for store in stores:
        store.close()


def test_the_file_is_for_its_owner_only(opened: Open, path: Path) -> None:
    opened()
    assert path.stat().st_mode & 0o777 == 0o600


def test_processes_write_at_the_same_time_and_nothing_is_lost(opened: Open, path: Path) -> None:
    one = opened()
    one.store.commit(Create("counter", b"0"))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from node.coordination.base import Conflict, Write\n"
        "from node.coordination.embedded import EmbeddedStore\n"
        "store = EmbeddedStore(Path(sys.argv[1]))\n"
        "store.start()\n"
        "done = 0\n"
        "while done < 50:\n"
        "    record = store.get('counter')\n"
        "    try:\n"
        "        store.commit(Write('counter', b'%d' % (int(record.data) + 1), record.version))\n"
        "        done += 1\n"
        "    except Conflict:\n"
        "        pass\n"
        "store.close()\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT) for _ in range(3)]
    assert [other.wait(60) for other in others] == [0, 0, 0]
    record = one.store.get("counter")
    assert record is not None and (record.data, record.version) == (b"150", 150)


def test_progress_wakes_nobody_but_a_change_does(opened: Open) -> None:
    one, other = opened(), opened()
    one.tasks.create("t", {})
    lease = one.leases.acquire(SHARD, "a")
    assert lease is not None
    known = one.leases.begin_run(lease)
    time.sleep(5 * embedded.POLL_S)
    heard = Heard(other)
    for _ in range(5):
        known = one.leases.write_state(SHARD, known, known.state)
        time.sleep(2 * embedded.POLL_S)
    assert heard.events == []
    one.leases.release(lease)
    heard.wait(Event.CHANGED, 5)


def test_another_process_that_holds_the_lock_too_long_is_unreachable_not_a_traceback(
    opened: Open, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "DEADLINE_S", 0.3)
    one = opened()
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unreachable, match="was locked by another process"):
            one.store.commit(Create("x", b""))
        assert one.store.get("x") is None, "reading goes on meanwhile"
        wait_for(lambda: one.store.connection == "suspended", "the store says that it cannot write")
        holder.execute("ROLLBACK")
    holder.close()
    wait_for(lambda: one.store.connection == "connected", "it goes on")
    one.store.commit(Create("x", b""))


@pytest.mark.parametrize("fate", ["removed", "replaced"])
def test_a_lost_file_ends_the_session_and_everything_can_be_made_again(opened: Open, path: Path, fate: str) -> None:
    one = opened()
    one.tasks.create("t", {})
    assert one.leases.acquire(SHARD, "a") is not None
    heard = Heard(one)
    for file in path.parent.iterdir():
        file.unlink()
    if fate == "replaced":
        opened().tasks.create("other", {})
    heard.wait(Event.LOST, 10)
    one.store.start()
    assert list(one.tasks.all()) == (["other"] if fate == "replaced" else [])
    one.tasks.create("t", {})
    assert one.leases.acquire(SHARD, "a") is not None


def test_what_is_no_coordinator_file_is_one_clear_line(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is not a database, it only stands where one is expected\n" * 20)
    with pytest.raises(StateError, match="is not a sound SQLite file"):
        EmbeddedStore(text).start()
    newer = tmp_path / "newer"
    with sqlite3.connect(newer) as link:
        link.execute("PRAGMA user_version = 99")
    link.close()
    with pytest.raises(Refused, match="has format 99, this redis-canal knows up to 1"):
        EmbeddedStore(newer).start()
    with pytest.raises(StateError, match="cannot be used"):
        EmbeddedStore(tmp_path).start()


def test_sessions_of_an_earlier_boot_are_over(opened: Open, path: Path) -> None:
    one = opened()
    one.store.commit(Create("e/1", b"", ephemeral=True))
    with sqlite3.connect(path) as link:
        link.execute("UPDATE sessions SET boot = 'another', expires = expires + 1000000")
    link.close()
    two = opened()
    assert two.store.get("e/1") is None
    two.store.commit(Create("e/1", b"mine", ephemeral=True))


def test_committed_records_survive_a_killed_process(path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from node.coordination.base import Create\n"
        "from node.coordination.embedded import EmbeddedStore\n"
        "store = EmbeddedStore(Path(sys.argv[1]))\n"
        "store.start()\n"
        "store.commit(Create('a/b', b'kept'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT).returncode == -9
    with Coordinator(EmbeddedStore(path)) as after:
        record = after.store.get("a/b")
        assert record is not None and record.data == b"kept"
        after.store.commit(Write("a/b", b"changed", 0))
