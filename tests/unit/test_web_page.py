"""The page's first answer: what it is to show stands in it, for whoever may see it and for nobody else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from console.web.auth import COOKIE
from node.coordination.coordinator import Coordinator
from tests.support.console import READER, SPEC, Web, console, coordinator
from tests.support.process import eventually


@pytest.fixture
def there(tmp_path: Path) -> object:
    with coordinator(tmp_path) as made:
        yield made


async def known(web: Web) -> Any:
    """What the page comes with, read as a browser does; None when it comes with nothing."""
    answer = await web.get("/")
    assert answer.status_code == 200 and answer.text.count("<script") == answer.text.count("</script>")
    found = re.search(r'<script type="application/json" id="known">(.*?)</script>', answer.text, re.DOTALL)
    assert answer.headers["cache-control"] == ("no-cache" if found is None else "no-store")
    return None if found is None else json.loads(found[1])


async def test_the_page_comes_with_what_the_api_would_answer(tmp_path: Path, there: Coordinator) -> None:
    there.tasks.create("sh-bj", SPEC, by="</script><script>alert(1)</script><!--")
    async with console(tmp_path, login=READER) as web:
        await web.ready()
        await eventually(lambda: bool(web.state.sites.tasks), 5)
        found = await known(web)
        assert found["session"] == (await web.get("/api/v1/session")).json()
        assert found["session"]["name"] == "rob" and found["session"]["csrf"]
        assert found["world"]["tasks"] == (await web.get("/api/v1/tasks")).json()["tasks"]
        assert {dc["datacenter"]: dc["read"] for dc in found["world"]["datacenters"]} == {"sh": True, "bj": True}


async def test_who_is_not_logged_in_gets_the_page_alone(tmp_path: Path, there: Coordinator) -> None:
    there.tasks.create("sh-bj", SPEC)
    async with console(tmp_path, login=None) as web:
        await web.ready()
        assert await known(web) is None
        web.cookies.set(COOKIE, "forged")
        assert await known(web) is None
    async with console(tmp_path) as web:
        await web.ready()
        assert await known(web) is not None
        await web.delete("/api/v1/session")
        assert await known(web) is None


async def test_without_tokens_the_page_begins_a_session(tmp_path: Path, there: Coordinator) -> None:
    there.tasks.create("sh-bj", SPEC)
    async with console(tmp_path, login=None, tokens=False) as web:
        await web.ready()
        session = (await known(web))["session"]
        assert session["open"] and session["role"] == "admin"
        assert (await known(web))["session"] == session, "the session that it has is kept"
        headers = {"X-CSRF-Token": session["csrf"]}
        assert (await web.put("/api/v1/tasks/sh-bj/start", headers=headers)).status_code == 202
        there.tasks.get("sh-bj")


async def test_before_anything_was_read_the_page_says_so_itself(tmp_path: Path) -> None:
    async with console(tmp_path) as web:
        found = await known(web)
        assert found is None or not any(dc["read"] for dc in found["world"]["datacenters"])
