"""The console as a person uses it: a real node, real servers, headless Chromium."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import StartServer
from tests.e2e.conftest import Console, Window
from tests.support.compare import wait_equal
from tests.support.console import READER
from tests.support.nodes import Site
from tests.support.process import wait_until
from tests.support.workload import COUNTING, Workload

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]


def test_from_login_to_drain(site: Site, console: Console, window: Window, redis_server: StartServer) -> None:
    source, target = redis_server(), redis_server()
    for number in range(200):
        source.control.set(f"k{number}", number)
    page = window.page
    page.goto("/")
    page.get_by_label("Token").wait_for()
    window.shoot("login")
    window.login()
    page.get_by_text("There are no tasks yet.").wait_for()
    window.shoot("overview-empty")
    page.get_by_role("link", name="Nodes").click()
    page.get_by_text("No node is alive.").wait_for()
    window.shoot("nodes-empty")
    node = site.node("a").start()
    page.get_by_role("row", name="a sh").get_by_text("ready").wait_for()

    # a form with mistakes, then without
    page.get_by_role("link", name="New task").click()
    page.get_by_label("Name").fill("sh/bj")
    page.get_by_role("button", name="Review").click()
    page.get_by_text("cannot name a task").wait_for()
    assert page.evaluate("document.activeElement.id") == "f-task"
    window.shoot("new-problems")
    page.get_by_label("Name").fill("sh-bj")
    for side, datacenter, server in (("Source", "sh", source), ("Target", "bj", target)):
        group = page.get_by_role("group", name=side, exact=True)
        group.get_by_label("Datacenter").fill(datacenter)
        group.get_by_label("Server").fill(server.url)
        group.get_by_role("button", name="Test connection").click()
        group.get_by_text("answered in").wait_for()
    page.get_by_role("button", name="Review").click()
    page.get_by_text("This is what will be created").wait_for()
    assert f"url: {source.url}" in page.get_by_label("Task as YAML").inner_text()
    window.shoot("new-review")
    page.get_by_role("button", name="Create and start").click()

    # the task's page, live
    page.get_by_role("heading", name="sh-bj", exact=True).wait_for()
    page.locator(".title .badge", has_text="streaming").wait_for()
    wait_equal(source, target)
    [worker] = node.workers()
    with Workload(source, rate=300, commands=COUNTING) as load:
        load.wait(600)
        page.locator(".tile", has_text="Throughput").get_by_text("/s", exact=False).first.wait_for()
        os.kill(worker, signal.SIGSTOP)
        load.wait(300)
        os.kill(worker, signal.SIGCONT)
        page.get_by_role("button", name="Pause").click()
        page.get_by_role("dialog").get_by_role("button", name="Pause").click()
        page.locator(".title .badge", has_text="paused").wait_for()
        behind = page.locator(".tile", has_text="Behind").locator(".num")
        wait_until(lambda: behind.inner_text()[0] in "123456789", 15, "the paused task falls behind")
        window.shoot("task-paused")
        page.get_by_role("button", name="Resume").click()
        page.locator(".title .badge", has_text="streaming").wait_for()
    wait_equal(source, target)
    wait_until(lambda: behind.inner_text().startswith("0"), 15, "all is applied")
    window.shoot("task")
    page.get_by_role("link", name="Overview").first.click()
    page.get_by_role("row", name="sh-bj").get_by_text("streaming").wait_for()
    window.shoot("overview")

    # nodes: another one takes over while this one drains
    site.node("b").start()
    page.get_by_role("link", name="Nodes").click()
    row = page.get_by_role("row", name="a sh")
    page.get_by_role("row", name="b sh").get_by_text("ready").wait_for()
    holder, other = ("a", "b") if site.shard("sh-bj")["node"] == "a" else ("b", "a")
    row = page.get_by_role("row", name=f"{holder} sh")
    row.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    row.get_by_text("draining").wait_for()
    wait_until(lambda: site.shard("sh-bj")["node"] == other, 20, "the shard has moved", every=0.2)
    window.shoot("nodes")
    row.get_by_role("button", name="Undo drain").click()
    row.get_by_text("ready").wait_for()

    # stop and delete
    page.goto("/#/tasks/sh-bj")
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop").click()
    page.locator(".title .badge", has_text="stopped").wait_for()
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    assert dialog.get_by_role("button", name="Delete").is_disabled()
    dialog.get_by_label("Type sh-bj to go on").fill("sh-bj")
    window.shoot("task-delete")
    dialog.get_by_role("button", name="Delete").click()
    page.get_by_text("There are no tasks yet.").wait_for()
    who = {(line["who"], line["action"]) for line in map(json.loads, console.audit.read_text().splitlines())}
    assert {("ann", "create task"), ("ann", "pause task"), ("ann", "drain node"), ("ann", "delete task")} <= who


def test_a_failed_task_says_why_and_a_changed_one_goes_on(
    site: Site, window: Window, redis_server: StartServer
) -> None:
    source, target = redis_server(), redis_server()
    target.control.set("precious", 1)
    site.node("a").start()
    site.create("sh-bj", source, target, wait=False)
    page = window.page
    window.login()
    page.get_by_role("row", name="sh-bj").get_by_text("failed").wait_for()
    window.shoot("overview-failed")
    page.get_by_role("link", name="sh-bj").click()
    page.get_by_role("alert").get_by_text("holds 1 keys and no checkpoint").wait_for()
    window.shoot("task-failed")
    page.get_by_role("link", name="Edit").click()
    area = page.get_by_label("Specification", exact=True)  # not the one of the page before, which shows it too
    text = area.input_value()
    area.fill(text + "snapshot: {stale_keys: shred}\n")
    page.get_by_role("button", name="Check and save").click()
    page.get_by_text("task.yaml:").wait_for()
    window.shoot("edit-problems")
    area.fill(text + "snapshot: {stale_keys: delete}\n")
    page.get_by_role("button", name="Check and save").click()
    page.get_by_role("dialog").get_by_role("button", name="Change").click()
    page.locator(".title .badge", has_text="streaming").wait_for()
    wait_equal(source, target)


def test_a_dead_letter_is_seen_with_its_reason_and_dealt_with(
    site: Site, window: Window, redis_server: StartServer
) -> None:
    source, target = redis_server(), redis_server()
    site.node("a").start()
    site.create("sh-bj", source, target, "on_error: continue\n")
    target.control.set("queue", "not a list")
    source.control.lpush("queue", "secret")
    window.login()
    page = window.page
    page.get_by_role("link", name="sh-bj").click()
    letters = page.get_by_role("region", name="Dead letters")
    letters.get_by_text("LPUSH queue", exact=True).wait_for()
    letters.get_by_text("WRONGTYPE").wait_for()
    page.locator(".tile", has_text="Dead letters").locator(".num", has_text="1").wait_for()
    assert "secret" not in page.inner_text("body")
    assert letters.get_by_role("button", name="Send again").count() == 0, "not beside a link at work"
    window.shoot("task-dead-letter")
    letters.get_by_role("button", name="Fetch the key").click()
    page.get_by_text("its key is fetched from the source").wait_for()
    letters.get_by_text("There are none.").wait_for()
    wait_equal(source, target)


def test_a_task_is_limited_compared_and_turned_round(site: Site, window: Window, redis_server: StartServer) -> None:
    source, target = redis_server(), redis_server()
    source.control.mset({f"k{number}": number for number in range(50)})
    site.node("a").start()
    site.create("sh-bj", source, target)
    window.login()
    page = window.page
    page.get_by_role("link", name="sh-bj").click()
    page.locator(".title .badge", has_text="streaming").wait_for()
    dialog = page.get_by_role("dialog")

    page.get_by_role("button", name="Throttle").click()
    dialog.get_by_label("Commands a second").fill("5000")
    window.shoot("task-throttle")
    dialog.get_by_role("button", name="Set limits").click()
    page.get_by_text("sh-bj has other limits").wait_for()
    page.get_by_label("Specification as YAML").get_by_text("commands_per_second: 5000").wait_for()

    target.control.set("k7", "somebody wrote here")
    page.get_by_role("button", name="Compare", exact=True).click()
    compared = page.get_by_role("region", name="Comparisons")
    compared.get_by_text("1 differ").wait_for(timeout=60_000)
    window.shoot("task-compared")
    page.get_by_role("button", name="Promote").click()
    dialog.get_by_role("button", name="Promote").click()
    turn = page.get_by_role("region", name="Turn")
    turn.get_by_text("the two sides differ in 1 keys").wait_for(timeout=60_000)
    window.shoot("task-promote-refused")
    target.control.set("k7", 7)

    page.get_by_role("button", name="Reverse").click()
    dialog.get_by_label("Hold writes at the source").check()
    window.shoot("task-reverse")
    dialog.get_by_role("button", name="Reverse").click()
    turn.get_by_text("task bj-sh created").wait_for(timeout=60_000)
    source.client().execute_command("CLIENT", "UNPAUSE")  # the writers have moved; the way back writes here, too
    turn.get_by_text("bj-sh is streaming, without a snapshot").wait_for(timeout=60_000)
    page.locator(".title .badge", has_text="stopped").wait_for()
    window.shoot("task-reversed")
    page.get_by_role("link", name="Overview").first.click()
    page.get_by_role("row", name="bj-sh").get_by_text("streaming").wait_for()
    target.control.incr("after")
    wait_equal(target, source)


def test_conflicts_of_a_two_way_pair_are_listed(site: Site, window: Window, redis_server: StartServer) -> None:
    here, there = redis_server(), redis_server()
    site.node("a").start()
    site.create("sh-bj", here, there, "two_way: {peer: bj-sh}\n")
    back = site.write_task("bj-sh", there, here, "two_way: {peer: sh-bj}\n")
    turned = {"sh": "bj", "bj": "sh"}
    back.write_text(re.sub(r"(?<=datacenter: )(sh|bj)", lambda found: turned[found[0]], back.read_text()))
    site.cli("task", "create", "-f", str(back), "--start", "--wait", "--timeout", "60")
    window.login()
    page = window.page
    page.get_by_role("link", name="sh-bj").click()
    page.get_by_text("No conflict is recorded.").wait_for()
    conflicts = page.get_by_role("region", name="Conflicts")

    def contend() -> bool:
        for number in range(20):
            here.control.set(f"cart:{number}", "from sh")
            there.control.set(f"cart:{number}", "from bj")
        return conflicts.locator("li").count() > 0

    wait_until(contend, 60, "both sides wrote at once", every=0.5)
    conflicts.get_by_text(" stays").first.wait_for()
    conflicts.get_by_text(re.compile(r"db 0, (sh and bj|bj and sh)")).first.wait_for()
    window.shoot("task-conflicts")
    page.get_by_role("link", name="Overview").first.click()
    page.get_by_role("row", name="bj-sh").get_by_text("streaming").first.wait_for()  # each row names its peer, too
    window.shoot("overview-two-way")
    wait_equal(here, there)


def test_filters_and_names_are_entered_and_checked(site: Site, window: Window) -> None:
    site.node("a").start()
    window.login()
    page = window.page
    page.goto("/#/new")
    page.get_by_label("Name", exact=True).fill("sh-bj")
    for side, datacenter, port in (("Source", "sh", 1), ("Target", "bj", 2)):
        group = page.get_by_role("group", name=side, exact=True)
        group.get_by_label("Datacenter").fill(datacenter)
        group.get_by_label("Server").fill(f"redis://127.0.0.1:{port}")
    page.get_by_label("Two-way", exact=False).check()
    page.get_by_label("Task of the other direction").fill("bj-sh")
    page.get_by_label("FLUSHALL and FLUSHDB").select_option("drop")
    page.get_by_label("Keys that both sides have").select_option("target")
    page.get_by_text("Filters: what is carried").click()
    include = page.get_by_role("group", name="Carry only")
    include.get_by_label("Keys").fill("user:*, prefix:cart:")
    include.get_by_label("Types").fill("string hash")
    include.get_by_label("Databases").fill("0, one")
    page.get_by_text("Names at the target").click()
    page.get_by_label("Put this before keys").fill("new:")
    page.get_by_role("button", name="Review").click()
    include.get_by_label("Databases").and_(page.locator("[aria-invalid]")).wait_for()
    window.shoot("new-filters-problem")
    include.get_by_label("Databases").fill("0, 1")
    page.get_by_role("button", name="Review").click()
    yaml = page.get_by_label("Task as YAML")
    yaml.wait_for()
    for line in (
        "- user:*",
        "- 'prefix:cart:'",
        "- string",
        "add_prefix: 'new:'",
        "flush: drop",
        "peer: bj-sh",
        "existing: target",
    ):
        assert line in yaml.inner_text(), line
    window.shoot("new-filters")


def test_a_reader_sees_and_cannot_change(site: Site, window: Window, redis_server: StartServer) -> None:
    source, target = redis_server(), redis_server()
    node = site.node("a").start()
    site.create("sh-bj", source, target)
    page = window.page
    window.login(READER)
    page.get_by_text("(read-only)").wait_for()
    assert page.get_by_role("link", name="New task").count() == 0
    page.get_by_role("link", name="sh-bj").click()
    page.get_by_text("You may look, not change.").wait_for()
    assert page.get_by_role("button", name="Stop").count() == 0
    assert node.shards() == ["sh-bj"]
    page.get_by_role("button", name="Log out").click()
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    page.get_by_text("this token is not known").wait_for()
    page.goto("/#/nodes")
    page.reload()
    page.get_by_label("Token").wait_for()


def test_a_lost_console_is_said_and_found_again(window: Window, console: Console) -> None:
    window.login()
    assert console.process is not None
    console.process.terminate()
    console.process.wait(10)
    window.page.get_by_text("connection lost, trying again").wait_for()
    console.start()
    window.page.get_by_label("Token").wait_for(timeout=20_000)  # its sessions ended with it
    window.errors = [e for e in window.errors if "ERR_CONNECTION" not in e and "ERR_INCOMPLETE" not in e]


def test_without_tokens_a_page_outlives_a_restart_of_the_console(site: Site, browser: Browser, tmp_path: Path) -> None:
    site.node("a").start()
    console = Console(site, tmp_path, tokens=False)
    console.start()
    window = Window(browser, console)
    try:
        page = window.page
        page.goto("/#/nodes")
        page.get_by_text("live", exact=True).wait_for()
        assert console.process is not None
        console.process.terminate()
        console.process.wait(10)
        page.get_by_text("connection lost, trying again").wait_for()
        console.start()
        page.get_by_text("live", exact=True).wait_for()
        page.get_by_role("button", name="Drain").click()
        page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        page.get_by_role("row", name="a sh").get_by_text("draining").wait_for()
    finally:
        window.context.close()
        console.close()
