"""What is kept carries its format: the next release writes this one's until it is switched; then this one refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from canal import formats
from canal.errors import CanalError, ConfigError, Refused, StateError
from canal.journal.index import Header, pack_header, unpack_header
from canal.journal.state import JournalState, load_state
from canal.journal.transfer import _meta, load_transfer
from canal.position import Position
from node.config.models import NodeConfig
from node.coordination.embedded import EmbeddedStore
from node.coordination.leases import _epoch_record
from node.coordination.records import NodeRecord, decode, decode_object, encode
from node.worker import start_message
from sync.failover import Fork
from sync.linkstate import LinkState
from sync.tag import Checkpoint, Tagger, recognise
from sync.windowfile import Boundary

AT = Position("a" * 40, 7)


def kept(directory: Path) -> dict[str, Callable[[], Any]]:
    """What is written now, each with the way to read it."""
    header = pack_header(Header(0, b"i" * 16, "a" * 40))
    journal, snapshot, link, fork, store = (directory / name for name in ("journal", "snapshot", "link", "fork", "db"))
    for one in (journal, snapshot, link, fork):
        one.mkdir()
    JournalState.fresh(AT).save(journal)
    (snapshot / "snapshot.json").write_bytes(_meta(AT, 0))
    (snapshot / "snapshot.rdb").write_bytes(b"")
    LinkState("uid").save(link)
    Fork(AT, 0, [(0, b"k")]).save(fork)
    coordinator = EmbeddedStore(store)
    coordinator.start()
    coordinator.close()
    tag = Tagger(b"redis-canal:checkpoint:t/0", "u", "sh", None).make(AT, 0)
    record, epoch = encode(NodeRecord("n")), _epoch_record(3)

    def database() -> str:
        again = EmbeddedStore(store)
        again.start()
        again.close()
        return "read"

    return {
        "index": lambda: unpack_header(header, "0.index"),
        "journal": lambda: load_state(journal),
        "snapshot": lambda: load_transfer(snapshot, 0),
        "link": lambda: LinkState.load(link),
        "fork": lambda: Fork.load(fork),
        "database": database,
        "tag": lambda: recognise(tag),
        "checkpoint": lambda: Checkpoint.from_fields(dict(zip(tag[2::2], tag[3::2], strict=True)), "key"),
        "record": lambda: decode(NodeRecord, record, "nodes/n"),
        "epoch": lambda: decode_object(epoch, "epoch"),
    }


KINDS = ("index", "journal", "snapshot", "link", "fork", "database", "tag", "checkpoint", "record", "epoch")


@pytest.fixture(autouse=True)
def the_release_s_choice() -> Iterator[None]:
    yield
    formats.write(None)


def next_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "NEWEST", formats.NEWEST + 1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_release_writes_what_this_one_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    with monkeypatch.context() as patch:
        next_release(patch)
        read = kept(tmp_path)[kind]
        assert read()
    assert read(), "unswitched, it can be rolled back"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_once_switched_this_one_refuses_and_the_next_still_reads_the_older(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "older").mkdir()
    older = kept(tmp_path / "older")[kind]
    with monkeypatch.context() as patch:
        next_release(patch)
        formats.write(formats.NEWEST)
        read = kept(tmp_path)[kind]
        assert read() and older()
    newest = formats.NEWEST
    with pytest.raises(
        CanalError, match=f"has format {newest + 1}, this redis-canal knows up to {newest}: .*newer"
    ) as found:
        read()
    assert found.type in (StateError, Refused) or found.type.__name__ == "TagError"
    assert older()


def test_a_boundary_of_a_newer_format_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        next_release(patch)
        formats.write(formats.NEWEST)
        Boundary(str(AT), 0, "").save(tmp_path)
        assert Boundary.load(tmp_path)
    assert Boundary.load(tmp_path) is None, "every key counts as written"


def test_a_format_that_is_no_longer_read_is_named() -> None:
    with pytest.raises(StateError, match="x has format 0, this redis-canal knows from 1 on: run the release between"):
        formats.check("x", 0)


@pytest.mark.parametrize("number", [0, -1, formats.NEWEST + 1])
def test_only_a_known_format_can_be_asked_for(number: int) -> None:
    with pytest.raises(ConfigError, match="not among those that this redis-canal knows"):
        formats.write(number)
    with pytest.raises(ValueError, match="this redis-canal knows formats 1 to"):
        NodeConfig(format=number)
    assert formats.written() == max(formats.OLDEST, formats.NEWEST - 1)


def test_a_worker_writes_what_its_daemon_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    next_release(monkeypatch)
    for chosen in (None, formats.NEWEST):
        formats.write(chosen)
        config: Any = "anything that can be pickled"
        message = start_message(config, paused=False, log_level=20)
        assert message["start"]["format"] == formats.written()
