"""The JSON API over a coordinator file, without nodes that answer."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from console.web.routes import OPERATIONS, PREFIX
from node.config.models import TaskSpec
from node.coordination.coordinator import Coordinator
from tests.support.console import SPEC, console, coordinator
from tests.support.process import eventually


@pytest.fixture
def there(tmp_path: Path) -> object:
    with coordinator(tmp_path) as made:
        yield made


async def test_a_task_s_life_over_the_api(tmp_path: Path, there: Coordinator) -> None:
    async with console(tmp_path) as web:
        await web.ready()
        made = await web.post("/api/v1/tasks", json={"spec": SPEC})
        assert made.status_code == 201 and made.json()["desired"] == "stopped"
        record = there.tasks.get("sh-bj")
        assert record.spec == SPEC and record.changed_by == "ann (console)"
        again = await web.post("/api/v1/tasks", json={"spec": SPEC})
        assert again.status_code == 409 and "exists already" in again.json()["error"]["message"]
        [listed] = (await web.get("/api/v1/tasks")).json()["tasks"]
        assert (listed["task"], listed["state"], listed["lag_seconds"]) == ("sh-bj", "created", None)
        for verb, desired in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
            answer = await web.put(f"/api/v1/tasks/sh-bj/{verb}")
            assert answer.status_code == 202 and answer.json()["desired"] == desired
            assert there.tasks.get("sh-bj").desired == desired
            assert (await web.get("/api/v1/tasks/sh-bj/status")).json()["desired"] == desired
        assert (await web.post("/api/v1/tasks/sh-bj/resync")).status_code == 409
        await web.put("/api/v1/tasks/sh-bj/start")
        jobs = (await web.post("/api/v1/tasks/sh-bj/resync")).json()["jobs"]
        detail = (await web.get("/api/v1/tasks/sh-bj")).json()
        assert [job["id"] for job in detail["jobs"]] == jobs and detail["shard_list"][0]["shard"] == "0"
        assert yaml.safe_load(detail["yaml"]) == SPEC and detail["events"][0]["what"] == "full resync asked for"
        wrong = await web.post("/api/v1/tasks/sh-bj/verify", json={"repair": "yes", "rounds": 0, "x": 1})
        problems = {item["path"] for item in wrong.json()["error"]["problems"]}
        assert wrong.status_code == 422 and problems == {"repair", "rounds", "x"}
        asked = await web.post("/api/v1/tasks/sh-bj/verify", json={"repair": True, "pattern": "user:*", "rounds": 2})
        assert asked.status_code == 202
        [made_job, *_] = (await web.get("/api/v1/tasks/sh-bj/jobs")).json()["jobs"]
        assert [made_job["id"]] == asked.json()["jobs"] and made_job["kind"] == "repair"
        assert made_job["options"] == {"pattern": "user:*", "rounds": 2} and made_job["by"] == "ann (console)"
        cancelled = await web.delete(f"/api/v1/tasks/sh-bj/jobs/{made_job['id']}")
        assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
        assert (await web.delete(f"/api/v1/tasks/sh-bj/jobs/{made_job['id']}")).status_code == 409
        assert (await web.delete("/api/v1/tasks/sh-bj/jobs/x")).status_code == 404
        assert (await web.delete("/api/v1/tasks/sh-bj")).status_code == 202
        await eventually(lambda: "sh-bj" not in there.tasks.all(), 5)
        assert (await web.get("/api/v1/tasks/sh-bj")).status_code == 404
    actions = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [line["action"] for line in actions if line["subject"] == "sh-bj"] == [
        *("create task", "create task", "start task", "pause task", "resume task", "stop task"),
        *("start task", "resync task", "repair task", "delete task"),
    ]
    assert {line["who"] for line in actions} == {"ann"}


async def test_all_that_is_wrong_is_said_at_once_with_its_path(tmp_path: Path, there: Coordinator) -> None:
    async with console(tmp_path) as web:
        spec = {"task": "a/b", "source": {"datacenter": "sh", "url": "http://x"}, "on_error": "shrug", "writr": "auto"}
        answer = await web.post("/api/v1/tasks/preview", json={"spec": spec})
        assert answer.status_code == 422
        problems = {item["path"]: item["message"] for item in answer.json()["error"]["problems"]}
        assert set(problems) == {"task", "source.url", "target", "on_error", "writr"}
        assert problems["target"] == "target is missing" and "did you mean writer?" in problems["writr"]
        secret = {**SPEC, "target": {"datacenter": "bj", "url": "redis://u:hunter2@h:1"}}
        refused = await web.post("/api/v1/tasks/preview", json={"spec": secret})
        assert refused.status_code == 422 and "hunter2" not in refused.text
        text = "task: x\nsource: {datacenter: sh}\n"
        lines = (await web.post("/api/v1/tasks/preview", json={"yaml": text})).json()["error"]["problems"]
        assert any(line["message"].startswith("task.yaml:2:") for line in lines)
        for body in ({}, {"spec": SPEC, "yaml": ""}, {"yaml": 3}, {"spec": 3}, {"spec": [1]}, {"yaml": "a: [" * 2000}):
            assert (await web.post("/api/v1/tasks/preview", json=body)).status_code == 422, body
    assert there.tasks.all() == {}


async def test_a_preview_shows_yaml_and_what_to_know_and_creates_nothing(tmp_path: Path, there: Coordinator) -> None:
    async with console(tmp_path) as web:
        await web.ready()
        spec = {**SPEC, "target": {"datacenter": "gz", "url": "redis://127.0.0.1:2"}, "batch_commands": 1000}
        found = (await web.post("/api/v1/tasks/preview", json={"spec": spec})).json()
        assert TaskSpec.model_validate(yaml.safe_load(found["yaml"])) == TaskSpec.model_validate(spec)
        assert "batch_commands" not in found["yaml"]
        assert any("gz is not in console.yaml" in line for line in found["warnings"])
        assert there.tasks.all() == {}
        far = {**SPEC, "source": {"datacenter": "gz", "url": "redis://127.0.0.1:9"}}
        assert (await web.post("/api/v1/tasks", json={"spec": far})).status_code == 404


async def test_a_third_datacenter_s_task_mends_the_others_and_a_double_is_refused(
    tmp_path: Path, there: Coordinator
) -> None:
    async with console(tmp_path) as web:
        await web.ready()
        await web.post("/api/v1/tasks", json={"spec": SPEC})
        twice = await web.post("/api/v1/tasks", json={"spec": {**SPEC, "task": "again"}})
        assert twice.status_code == 409 and "twice" in twice.json()["error"]["message"]
        changed = {**SPEC, "batch_commands": 5}
        version = there.tasks.get("sh-bj").version
        stale = await web.put("/api/v1/tasks/sh-bj", json={"spec": changed, "version": version + 1})
        assert stale.status_code == 409
        assert (await web.put("/api/v1/tasks/sh-bj", json={"spec": changed, "version": version})).status_code == 202
        assert there.tasks.get("sh-bj").spec["batch_commands"] == 5
        other = await web.put("/api/v1/tasks/sh-bj", json={"spec": {**SPEC, "task": "x"}})
        assert other.status_code == 422


async def test_nodes_are_listed_and_drained(tmp_path: Path, there: Coordinator) -> None:
    async with console(tmp_path) as web:
        await web.ready()
        [node] = (await web.get("/api/v1/nodes")).json()["nodes"]
        assert (node["node"], node["state"], node["datacenter"], node["shards"]) == ("n1", "ready", "sh", [])
        assert (await web.put("/api/v1/nodes/n1/drain")).status_code == 202
        assert there.nodes.draining() == {"n1"}
        assert (await web.get("/api/v1/nodes")).json()["nodes"][0]["state"] == "draining"
        assert (await web.delete("/api/v1/nodes/n1/drain")).status_code == 202
        assert not there.nodes.draining()
        assert (await web.put("/api/v1/nodes/n2/drain")).status_code == 404
        assert (await web.put("/api/v1/nodes/n1/drain?datacenter=gz")).status_code == 404


async def test_an_unreachable_coordinator_is_said_and_takes_nothing_else_with_it(tmp_path: Path) -> None:
    with coordinator(tmp_path) as there:
        there.tasks.create("sh-bj", SPEC)
        gone = {"embedded": {"path": str(tmp_path / "no-such.db")}}
        here = {"embedded": {"path": str(tmp_path / "coordination.db")}}
        both = {"sh": {"coordination": here}, "bj": {"coordination": gone}}
        async with console(tmp_path, datacenters=both) as web:
            await eventually(lambda: len(web.state.sites.tasks) == 1, 5)
            sh, bj = (await web.get("/api/v1/datacenters")).json()["datacenters"]
            assert sh["reachable"] and not bj["reachable"] and "there is no coordinator at" in bj["trouble"]
            assert (await web.get("/api/v1/tasks/sh-bj")).status_code == 200
            lost = await web.get("/api/v1/tasks/other")
            assert lost.status_code == 503 and "bj cannot be asked" in lost.json()["error"]["message"]
            assert not (tmp_path / "no-such.db").exists()


async def test_the_same_name_in_two_datacenters_must_be_told_apart(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with coordinator(tmp_path) as first, coordinator(tmp_path / "b") as second:
        for place in (first, second):
            place.tasks.create("sh-bj", SPEC)
        two = {
            "sh": {"coordination": {"embedded": {"path": str(tmp_path / "coordination.db")}}},
            "bj": {"coordination": {"embedded": {"path": str(tmp_path / "b" / "coordination.db")}}},
        }
        async with console(tmp_path, datacenters=two) as web:
            await web.ready()
            assert (await web.put("/api/v1/tasks/sh-bj/start")).status_code == 409
            assert (await web.put("/api/v1/tasks/sh-bj/start?datacenter=bj")).status_code == 202
            assert (first.tasks.get("sh-bj").desired, second.tasks.get("sh-bj").desired) == ("stopped", "running")
            assert len((await web.get("/api/v1/tasks")).json()["tasks"]) == 2


async def test_events_begin_with_everything_and_go_on_with_changes(tmp_path: Path, there: Coordinator) -> None:
    async with console(tmp_path) as web:
        await web.ready()
        watching = web.state.sites.hub.watch()
        first = await anext(watching)
        assert first.startswith("event: all\n") and '"tasks":[]' in first
        await web.post("/api/v1/tasks", json={"spec": SPEC})
        second = await asyncio.wait_for(anext(watching), 60)
        assert second.startswith("event: changes\n")
        data = json.loads(second.partition("data: ")[2])
        [task] = data["tasks"]
        there.tasks.delete("sh-bj")
        while True:
            data = json.loads((await asyncio.wait_for(anext(watching), 60)).partition("data: ")[2])
            if "removed_tasks" in data:
                break
        assert data["removed_tasks"] == [task["uid"]]
        await watching.aclose()
        assert web.state.sites.hub.watchers == 0


async def test_the_document_names_every_path_and_is_open(tmp_path: Path) -> None:
    async with console(tmp_path, login=None) as web:
        found = (await web.get("/api/v1/openapi.json")).json()
        for item in OPERATIONS:
            assert found["paths"][PREFIX + item.path][item.method.lower()]["summary"] == item.summary
        text = json.dumps(found)
        for name in {part.partition('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
            assert name in found["components"]["schemas"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"null", b'"x"', b"\xff", b"[" * 100_000, b'{"token": "\\ud800"}'])
async def test_bodies_that_are_no_objects_are_refused_by_every_path(tmp_path: Path, body: bytes) -> None:
    async with console(tmp_path) as web:
        kind = {"Content-Type": "application/json"}
        for path in ("/tasks", "/tasks/preview", "/connections/test", "/session"):
            answer = await web.post(f"/api/v1{path}", content=body, headers=kind)
            assert 400 <= answer.status_code < 500, (path, answer.text)
            assert (await web.post(f"/api/v1{path}", content=body)).status_code in (401, 415, 429)
        assert (await web.request("PATCH", "/api/v1/tasks")).status_code == 405
        assert (await web.get("/api/v1/nothing")).json()["error"]["code"] == "not_found"
