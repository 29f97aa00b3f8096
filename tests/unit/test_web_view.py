"""What is shown is made of records and figures: pure functions, rings, rates, and what watchers are sent."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from canal.errors import ConfigError, Unreachable
from console.web.audit import Audit
from console.web.fetch import fetch_json
from console.web.history import EVERY_S, KEEP_S, SPARK_POINTS, History, Rates, Ring
from console.web.hub import WAITING, Hub
from console.web.view import Place, datacenter_document, node_document, shard_document, snapshot_fraction, task_document
from node.coordination.coordinator import Facts
from node.coordination.plan import ShardId
from node.coordination.records import NodeRecord, ShardView, TaskRecord
from node.coordination.state import ShardState
from sync.status import LinkStatus

RECORD = TaskRecord("t", "u1", {"source": {"datacenter": "sh", "url": "redis://a"}, "target": {"datacenter": "bj"}})
STATE = ShardState(state="streaming", run=2, node="n", applied_offset=10, lag_seconds=1.5, lag_bytes=7, updated=5.0)


def view(shard: str = "0", holder: str | None = "n", state: ShardState = STATE) -> ShardView:
    return ShardView(ShardId("t", shard), holder, 3, state, 1)


def shard(**more: Any) -> dict[str, Any]:
    return {**shard_document(view(), None), "commands_per_second": 1.0, "bytes_per_second": 2.0, **more}


# ---- documents ----


def test_live_figures_replace_recorded_ones_and_unknown_stays_unknown() -> None:
    recorded = shard_document(view(), None)
    assert (recorded["live"], recorded["applied_offset"], recorded["lag_seconds"]) == (False, 10, 1.5)
    assert recorded["commands_applied"] is None and recorded["epoch"] == 3
    status = LinkStatus("t", "0", "sh", "bj", state="streaming", applied_offset=99, commands_applied=4)
    live = shard_document(view(), {**status.as_dict(), "state": "paused", "phase": "p", "run": 4})
    assert (live["live"], live["applied_offset"], live["state"], live["run"]) == (True, 99, "paused", 4)
    assert live["lag_seconds"] is None, "not connected: not known"
    assert shard_document(view(holder=None), None)["lag_seconds"] is None, "nobody runs it: the recorded lag is old"


def test_a_task_is_as_bad_as_its_worst_shard() -> None:
    shards = [shard(), shard(state="failed", error="broken", lag_seconds=9.0, node="m", dead_letters=2)]
    found = task_document(RECORD, shards)
    assert (found["state"], found["error"], found["lag_seconds"], found["lag_bytes"]) == ("failed", "broken", 9.0, 14)
    assert found["nodes"] == ["m", "n"] and found["dead_letters"] == 2 and found["commands_per_second"] == 2.0
    one_unknown = task_document(RECORD, [shard(), shard(lag_seconds=None, commands_per_second=None)])
    assert one_unknown["lag_seconds"] is None and one_unknown["commands_per_second"] is None
    nothing = task_document(replace(RECORD, spec={}), [])
    assert nothing["state"] == "created" and nothing["source"]["datacenter"] is None
    json.dumps([found, nothing], allow_nan=False)


@pytest.mark.parametrize(
    ("progress", "fraction"),
    [
        ({"bytes_total": 100, "bytes_done": 25}, 0.25),
        ({"bytes_total": 0, "keys_total": 10, "keys_done": 5, "bytes_done": 7}, 0.5),
        ({"bytes_total": 100, "bytes_done": 140}, 1.0),
        ({"bytes_total": 0, "keys_total": 0, "keys_done": 5}, None),
        (None, None),
    ],
)
def test_how_far_a_snapshot_is(progress: dict[str, int] | None, fraction: float | None) -> None:
    assert snapshot_fraction([{"state": "snapshot", "snapshot": progress}]) == fraction
    assert snapshot_fraction([{"state": "streaming", "snapshot": progress}]) is None


def test_nodes_and_datacenters() -> None:
    record = NodeRecord("n", datacenter="sh", max_shards=4)
    facts = Facts({"n": record}, frozenset({"gone"}), {}, {ShardId("t", "0"): "n", ShardId("u", "0"): None})
    ready = node_document(record, "n", facts, {"usage": {"memory_bytes": 5}})
    assert (ready["state"], ready["shards"], ready["memory_bytes"], ready["reachable"]) == ("ready", ["t/0"], 5, True)
    silent = node_document(record, "n", facts, "refused")
    assert (silent["reachable"], silent["trouble"], silent["memory_bytes"]) == (False, "refused", None)
    down = node_document(None, "gone", facts, None)
    assert (down["state"], down["draining"], down["max_shards"]) == ("down", True, None)
    task = task_document(RECORD, [shard()])
    sh = datacenter_document("sh", Place("file", facts, {}, ""), [ready, down], [task])
    assert (sh["reachable"], sh["nodes"], sh["nodes_ready"], sh["tasks_out"], sh["tasks_in"]) == (True, 1, 1, 1, 0)
    unknown = datacenter_document("bj", None, [], [task])
    assert not unknown["configured"] and unknown["tasks_in"] == 1 and "not among" in unknown["trouble"]


# ---- figures over time ----


def sample(rate: float | None, lag: float | None = 0.0) -> dict[str, float | None]:
    return {"lag_seconds": lag, "lag_bytes": 0.0, "commands_per_second": rate, "bytes_per_second": rate}


def test_a_ring_keeps_an_hour_and_shows_gaps() -> None:
    ring = Ring()
    for second in range(2 * int(KEEP_S)):
        ring.add(float(second), sample(None if second < 3601 else 1.0))
    found = ring.document(2 * KEEP_S)
    assert len({len(column) for column in found.values()}) == 1
    assert KEEP_S / EVERY_S * 0.9 <= len(found["time"]) <= KEEP_S / EVERY_S * 1.1
    assert found["time"][0] >= KEEP_S and None in found["commands_per_second"] and found["lag_seconds"][-1] == 0.0  # type: ignore[operator]
    assert len(ring._columns[0]) <= KEEP_S / EVERY_S * 1.1 + 1
    json.dumps(found, allow_nan=False)


def test_a_spark_has_at_most_sixty_means_of_ten_minutes() -> None:
    ring = Ring()
    assert ring.spark(0.0) == []
    for second in range(0, 1200, 2):
        ring.add(float(second), sample(10.0 if second < 900 else 20.0))
    spark = ring.spark(1199.0)
    assert len(spark) == SPARK_POINTS and spark[0] == 10.0 and spark[-1] == 20.0
    assert ring.spark(5000.0) == [], "old figures are no present ones"


def test_tasks_that_are_gone_are_forgotten() -> None:
    history = History()
    history.add("a", 1.0, sample(1.0))
    history.add("b", 1.0, sample(1.0))
    history.keep({"b"})
    assert history.ring("a").document(1.0)["time"] == [] and history.ring("b").document(1.0)["time"] == [1.0]


def test_rates_begin_anew_with_a_new_worker() -> None:
    rates = Rates()

    def at(now: float, commands: int, started: float = 1.0) -> tuple[float | None, float | None]:
        rates.rate("k", now, {"started": started, "commands_applied": commands, "bytes_applied": commands * 10})
        return rates.last("k")

    assert at(10.0, 100) == (None, None)
    assert at(12.0, 300) == (100.0, 1000.0)
    assert rates.last("k") == (100.0, 1000.0), "looking changes nothing"
    assert at(13.0, 5, started=12.5) == (None, None)
    assert at(14.0, 6, started=12.5) == (1.0, 10.0)
    rates.rate("k", 15.0, None)
    assert rates.last("k") == (None, None)


# ---- watchers ----


def data(event: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(event.partition("data: ")[2])
    return found


async def test_a_watcher_that_is_behind_gets_everything_anew_and_close_ends_it() -> None:
    hub = Hub()
    hub.publish({"tasks": {"a": {"n": 0}}})
    watching = hub.watch()
    assert data(await anext(watching)) == {"tasks": [{"n": 0}]}
    for number in range(1, WAITING + 2):
        hub.publish({"tasks": {"a": {"n": number}, "b": {}}})
    hub.publish({"tasks": {"a": {"n": WAITING + 1}, "b": {}}})  # nothing new: nothing sent
    event = await anext(watching)
    assert event.startswith("event: all") and data(event) == {"tasks": [{"n": WAITING + 1}, {}]}
    hub.publish({"tasks": {"b": {}}})
    assert data(await anext(watching)) == {"removed_tasks": ["a"]}
    hub.close()
    assert [event async for event in watching] == [] and hub.watchers == 0


# ---- asking nodes ----


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = {"/ok": b'{"a": 1}', "/text": b"hello"}.get(self.path, b"")
            self.send_response(302 if self.path == "/away" else 200)
            self.send_header("Location", "/ok")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_node_s_answer_is_json_from_where_it_was_asked(web: str) -> None:
    assert fetch_json(web, "/ok") == {"a": 1}
    for path, said in (("/text", "Expecting value"), ("/away", "answered 302")):
        with pytest.raises(Unreachable, match=said):
            fetch_json(web, path)
    for address in ("file:///etc", "gopher://x", "", "127.0.0.1:80", "http://", "http://127.0.0.1:1", "http://[x"):
        with pytest.raises(Unreachable):
            fetch_json(address, "/ok", timeout_s=1.0)


def test_an_audit_log_that_cannot_be_written_is_an_error_at_the_start(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match=r"audit_log: .* cannot be written"):
        Audit(tmp_path)
    Audit(tmp_path / "log").write("ann\nforged", "::1", "stop task", "t", more="x")
    [line] = (tmp_path / "log").read_text().splitlines()
    assert json.loads(line)["who"] == "ann\nforged"
