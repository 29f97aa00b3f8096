"""Who may use the console, and what is refused before any handler sees it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from console.web.auth import SESSION_S, TRIES, TRIES_S, Auth, Tries, Who
from console.web.guard import MAX_BODY
from console.web.routes import OPERATIONS, PREFIX, Operation
from node.config.models import ConsoleConfig, TokenConfig
from tests.support.console import ADMIN, READER, SPEC, console, coordinator, digest

WRITES = [item for item in OPERATIONS if item.method != "GET" and not item.public]


def path_of(template: str) -> str:
    return PREFIX + template.replace("{task}", "sh-bj").replace("{verb}", "stop").replace("{node}", "n1")


@pytest.mark.parametrize("item", [i for i in OPERATIONS if not i.public], ids=lambda i: f"{i.method} {i.path}")
async def test_nothing_but_the_login_is_open(tmp_path: Path, item: Operation) -> None:
    async with console(tmp_path, login=None) as web:
        answer = await web.request(item.method, path_of(item.path), json={})
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "unauthenticated"


@pytest.mark.slow
@pytest.mark.parametrize("item", WRITES, ids=lambda i: f"{i.method} {i.path}")
async def test_a_reader_changes_nothing_and_a_change_needs_the_csrf_token(tmp_path: Path, item: Operation) -> None:
    with coordinator(tmp_path) as there:
        there.tasks.create("sh-bj", SPEC)
        async with console(tmp_path, login=READER) as web:
            refused = await web.request(item.method, path_of(item.path), json={})
            assert refused.status_code == 403 and refused.json()["error"]["code"] == "read_only"
            assert (await web.get("/api/v1/tasks")).status_code == 200
        async with console(tmp_path) as web:
            own = web.csrf
            for forged in ("", "0" * 64, own[:-1], f"{own}0", "ü"):
                headers = {"X-CSRF-Token": forged.encode()}
                refused = await web.request(item.method, path_of(item.path), json={}, headers=headers)
                assert refused.status_code == 403 and refused.json()["error"]["code"] == "csrf"
        assert there.tasks.get("sh-bj").desired == "stopped" and not there.nodes.draining()


async def test_the_csrf_token_of_another_session_is_worth_nothing(tmp_path: Path) -> None:
    coordinator(tmp_path).store.close()
    async with console(tmp_path) as web:
        first = web.csrf
        await web.login()
        assert web.csrf != first
        answer = await web.put("/api/v1/tasks/x/stop", headers={"X-CSRF-Token": first})
        assert answer.status_code == 403


async def test_a_bearer_token_needs_no_csrf_token(tmp_path: Path) -> None:
    with coordinator(tmp_path) as there:
        there.tasks.create("sh-bj", SPEC)
        async with console(tmp_path, login=None) as web:
            await web.ready()
            right = {"Authorization": f"Bearer {ADMIN}"}
            assert (await web.put("/api/v1/tasks/sh-bj/pause", headers=right)).status_code == 202
            wrong = {"Authorization": "Bearer nonsense"}
            assert (await web.get("/api/v1/tasks", headers=wrong)).status_code == 401


async def test_wrong_tokens_are_refused_and_counted(tmp_path: Path) -> None:
    async with console(tmp_path, login=None) as web:
        for _ in range(TRIES):
            answer = await web.post("/api/v1/session", json={"token": "guess"})
            assert answer.status_code == 401 and "set-cookie" not in answer.headers
        late = await web.login()
        assert late.status_code == 429 and 0 < int(late.headers["retry-after"]) <= TRIES_S
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [line["action"] for line in lines] == ["login refused"] * TRIES
    assert "guess" not in (tmp_path / "audit.log").read_text()


def test_tries_are_counted_by_address_and_in_all_and_forgotten() -> None:
    tries = Tries()
    for at in range(TRIES):
        tries.wrong("a", float(at))
    assert tries.wait_s("a", 10.0) == pytest.approx(TRIES_S - 10) and tries.wait_s("b", 10.0) == 0
    assert tries.wait_s("a", TRIES_S + 0.1) == 0
    for number in range(50):
        tries.wrong(f"c{number}", 100.0)
    assert tries.wait_s("never seen", 100.0) > 0
    tries.wrong("z", 500.0)
    assert len(tries._by_address) == 1


def test_a_session_ends_by_time_by_logout_and_by_a_changed_cookie() -> None:
    auth = Auth((TokenConfig(name="ann", role="admin", sha256=digest(ADMIN)),))
    cookie, who = auth.session(Who("ann", "admin"), now=1000.0)
    assert auth.by_cookie(cookie, now=1000.0 + SESSION_S - 1) == who
    assert auth.by_cookie(cookie, now=1000.0 + SESSION_S) is None
    text, _, signature = cookie.partition(".")
    reader, _ = Auth(()).session(Who("ann", "admin"))
    forged = ("", ".", cookie[:-1], f"{text}.{'0' * 64}", f"{text[:-2]}.{signature}", f"x{cookie}", reader, "é.é")
    assert [auth.by_cookie(value, now=1001.0) for value in forged] == [None] * len(forged)
    auth.end(who)
    assert auth.by_cookie(cookie, now=1001.0) is None
    assert Auth((TokenConfig(name="a", sha256=digest("x")),)).by_token("y") is None


async def test_the_cookie_is_not_for_scripts_nor_other_sites(tmp_path: Path) -> None:
    async with console(tmp_path, login=None) as web:
        flags = (await web.login()).headers["set-cookie"].lower()
        assert "httponly" in flags and "samesite=strict" in flags and "secure" not in flags and "path=/" in flags
        assert (await web.get("/api/v1/session")).json()["name"] == "ann"
        assert (await web.delete("/api/v1/session", headers={"X-CSRF-Token": "0"})).status_code == 403
        cookies = dict(web.cookies)
        assert (await web.delete("/api/v1/session")).status_code == 200
        web.cookies.update(cookies)
        assert (await web.get("/api/v1/session")).json()["name"] == ""
        assert (await web.get("/api/v1/tasks")).status_code == 401


async def test_a_page_of_another_site_is_refused(tmp_path: Path) -> None:
    async with console(tmp_path) as web:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:9481", "", "http://[x", "127.0.0.1:9480"):
            answer = await web.put("/api/v1/tasks/x/stop", headers={"Origin": origin})
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "forbidden"
        assert (await web.put("/api/v1/tasks/x/stop", headers={"Origin": "http://127.0.0.1:9480"})).status_code != 403


async def test_without_tokens_only_loopback_names_are_answered_and_changes_need_a_session(tmp_path: Path) -> None:
    with coordinator(tmp_path) as there:
        there.tasks.create("sh-bj", SPEC)
        async with console(tmp_path, tokens=False, login=None) as web:
            rebound = await web.get("/api/v1/tasks", headers={"Host": "evil.example:9480"})
            assert rebound.status_code == 421
            assert (await web.get("/", headers={"Host": "127.0.0.1.evil.example"})).status_code == 421
            for odd in ("[x", "", "127.0.0.1:port", "127.0.0.1@evil.example", "[::1"):
                assert (await web.get("/api/v1/tasks", headers={"Host": odd})).status_code in (200, 421), odd
            for host in ("localhost:9480", "127.0.0.1", "[::1]:9480"):
                assert (await web.get("/api/v1/tasks", headers={"Host": host})).status_code == 200
            await web.ready()
            assert (await web.put("/api/v1/tasks/sh-bj/start")).json()["error"]["code"] == "csrf"
            bearer = {"Authorization": "Bearer x"}
            assert (await web.put("/api/v1/tasks/sh-bj/start", headers=bearer)).status_code == 401
            session = (await web.get("/api/v1/session")).json()
            assert (session["name"], session["role"], session["open"]) == ("local", "admin", True)
            with_token = {"X-CSRF-Token": session["csrf"]}
            assert (await web.put("/api/v1/tasks/sh-bj/start", headers=with_token)).status_code == 202


def test_off_loopback_a_token_is_needed() -> None:
    there = {"sh": {"coordination": {"embedded": {"path": "x"}}}}
    with pytest.raises(ValueError, match="at least one token is needed"):
        ConsoleConfig.model_validate({"listen": "0.0.0.0:1", "datacenters": there})


async def test_oversized_bodies_are_refused_whatever_the_header_says(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (MAX_BODY // 10)

    async with console(tmp_path) as web:
        path, kind = "/api/v1/tasks", {"Content-Type": "application/json"}
        assert (await web.post(path, content=b" " * (MAX_BODY + 1), headers=kind)).status_code == 413
        assert (await web.post(path, content=pieces(), headers=kind)).status_code == 413
        wrong = await web.post(path, content=b"{}", headers={**kind, "Content-Length": "many"})
        assert wrong.status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        *("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2e%2e%2f%2e%2e%2fcli/main.py"),
        *("/static//etc/passwd", "/static/%00", "/static/js/..%5c..%5capp.py", "/app.py", "/static/vendor"),
    ],
)
async def test_only_the_files_of_the_page_are_served(tmp_path: Path, path: str) -> None:
    async with console(tmp_path) as web:
        answer = await web.get(path)
        assert answer.status_code in (404, 405) and b"import" not in answer.content


async def test_task_names_are_no_paths(tmp_path: Path) -> None:
    with coordinator(tmp_path):
        async with console(tmp_path) as web:
            await web.ready()
            for name in ("..", "%2e%2e", "a%2fb", "a b", "%00", "x" * 64, "sh-bj%2f..%2f..%2fnodes", "%ff"):
                answer = await web.get(f"/api/v1/tasks/{name}")
                assert answer.status_code in (404, 405, 422), (name, answer.text)
                assert "error" in answer.json()


async def test_every_answer_has_the_security_headers(tmp_path: Path) -> None:
    async with console(tmp_path, login=None) as web:
        for path in ("/", "/static/app.css", "/api/v1/tasks", "/api/v1/openapi.json", "/nowhere"):
            headers = (await web.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
            assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
            assert headers["cache-control"] in ("no-store", "no-cache")


def test_the_page_holds_no_inline_script_or_style_and_nothing_foreign() -> None:
    static = Path(__file__).resolve().parents[2] / "console" / "web" / "static"
    page = (static / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)", page) and "<style" not in page and "style=" not in page
    own = [file for file in static.rglob("*") if file.is_file() and file.parent.name != "vendor"]
    assert len(own) > 8
    for file in own:
        text = file.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), file
        assert ".innerHTML" not in text and "outerHTML" not in text and "insertAdjacentHTML" not in text, file
