"""A real console over a real node and real servers, looked at by headless Chromium.

Without chromium or Playwright these tests are skipped, and say what to install; in CI they fail. Screenshots of every
page go to screenshots/ (ignored by git).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.conftest import IN_CI
from tests.support.console import ADMIN, READER, digest
from tests.support.nodes import Site
from tests.support.process import ROOT, ReservedPort, end, spawn, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOTS = ROOT / "screenshots"
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
EXPECTED = re.compile(r"responded with a status of (401|409|422)\b")
GONE = re.compile(r"responded with a status of 404\b.* /api/v1/tasks/")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-default-apps", "--disable-extensions", "--disable-sync", "--no-first-run", "--mute-audio"),
    "--disable-dev-shm-usage",
)


def _missing(what: str) -> NoReturn:
    if IN_CI:
        pytest.fail(what, pytrace=False)
    pytest.skip(what)


def _chromium() -> str:
    found = os.environ.get("REDIS_CANAL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    return found or _missing("no chromium: apt-get install chromium, or name one by REDIS_CANAL_CHROMIUM")


@functools.cache
def axe_source() -> str:
    """The script of axe-core, as the Python package axe-playwright-python brings it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or not spec.submodule_search_locations:
        _missing("no axe: pip install axe-playwright-python")
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file of tests; no longer, because Playwright's event loop is in the way of async tests."""
    path = _chromium()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("no Playwright: pip install playwright (its own browsers are not needed)")
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield made
        made.close()


class Console:
    """`redis-canal console` as a process, over the coordinator of a site."""

    def __init__(self, site: Site, directory: Path, *, tokens: bool = True) -> None:
        self.port = ReservedPort()
        self.url = f"http://127.0.0.1:{self.port.number}"
        self.log_file = directory / "console.log"
        self.audit = directory / "audit.log"
        config = directory / "console.yaml"
        config.write_text(
            f"listen: 127.0.0.1:{self.port.number}\n"
            f"audit_log: {self.audit}\n"
            "datacenters:\n"
            f"  sh: {{coordination: {{{site.coordination}}}}}\n"
            f"  bj: {{coordination: {{{site.coordination}}}}}\n"
        )
        if tokens:
            with config.open("a") as file:
                file.write(
                    "tokens:\n"
                    f"  - {{name: ann, role: admin, sha256: '{digest(ADMIN)}'}}\n"
                    f"  - {{name: rob, role: read-only, sha256: '{digest(READER)}'}}\n"
                )
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "console.cli.main", "console", "-c", self.config]
        with self.log_file.open("ab") as log:
            self.process = spawn(command, stdout=log, stderr=log, cwd=ROOT)

        def answers() -> bool:
            assert self.process is not None and self.process.poll() is None, self.log_file.read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/api/v1/health", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        wait_until(answers, 20, "the console answers", every=0.05)

    def close(self) -> None:
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                end(self.process)
                raise AssertionError("the console did not end within 10 s of SIGTERM") from None
        self.port.release()
        assert "a fault of this program" not in self.log_file.read_text(), self.log_file.read_text()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def console(site: Site, tmp_path: Path) -> Iterator[Console]:
    made = Console(site, tmp_path)
    made.start()
    yield made
    made.close()


class Window:
    """A page, with everything that went wrong in it."""

    def __init__(self, browser: Browser, console: Console, **options: Any) -> None:
        options.setdefault("viewport", WIDE)
        self.context = browser.new_context(base_url=console.url, **options)
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(60_000)  # a safety net, like all waits of the tests
        self.errors: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._own_only)
        self._origin = console.url

    def _said(self, message: Any) -> None:
        """Chromium itself reports answers such as "your form is not valid": those are part of the game.

        So is "there is no such task", which a page that asks every two seconds can hear once before it is left.
        """
        if message.type != "error":
            return
        said = f"{message.text} {message.location.get('url', '').removeprefix(self._origin)}"
        if not EXPECTED.search(said) and not GONE.search(said):
            self.errors.append(said)

    def _own_only(self, request: Any) -> None:
        if not request.url.startswith((self._origin, "data:")):
            self.errors.append(f"asked for {request.url}")

    def login(self, token: str = ADMIN) -> None:
        self.page.goto("/")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Log in").click()
        self.page.get_by_text("live", exact=True).wait_for()

    def shoot(self, name: str) -> None:
        """Screenshots at both widths, light and dark; the page must not be wider than the window."""
        SCREENSHOTS.mkdir(exist_ok=True)
        for label, size in (("1280", WIDE), ("390", PHONE)):
            self.page.set_viewport_size(size)
            self.page.wait_for_timeout(150)  # charts follow the width in the next frame
            self.page.screenshot(path=SCREENSHOTS / f"{name}-{label}.png", full_page=True)
            width = self.page.evaluate("document.documentElement.scrollWidth")
            assert width <= size["width"], f"{name} is {width} px wide in a window of {label}"
            text = self.page.inner_text("body")
            for word in ("undefined", "NaN", "[object", "null"):
                assert word not in text, f"{name} says {word!r}"
        self._accessible(name)
        self.page.set_viewport_size(WIDE)
        self.page.emulate_media(color_scheme="dark")
        self.page.wait_for_timeout(150)
        self.page.screenshot(path=SCREENSHOTS / f"{name}-dark.png", full_page=True)
        self._accessible(f"{name}, dark")
        self.page.emulate_media(color_scheme="light")

    def _accessible(self, name: str) -> None:
        """axe finds nothing serious: names, roles, contrast, focus order."""
        self.page.evaluate(axe_source())
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        bad = [
            f"{one['id']} ({one['impact']}): {one['help']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]
        assert not bad, f"{name}: " + "\n".join(bad)


@pytest.fixture
def window(browser: Browser, console: Console) -> Iterator[Window]:
    made = Window(browser, console)
    yield made
    made.context.close()
    assert made.errors == []
