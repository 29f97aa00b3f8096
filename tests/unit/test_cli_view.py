"""What ``run`` shows: rates, estimates, log lines, the live line."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time

import pytest
from rich.console import Console

from console.cli import logs
from console.cli.meter import Meter, Rates, snapshot_fraction, snapshot_seconds_left
from console.cli.view import Follower, PlainView, TerminalView, notes, render, summary
from sync.status import LinkStatus


@pytest.fixture
def status() -> LinkStatus:
    return LinkStatus("sh-bj", "0", "sh", "bj", source_connected=True, target_connected=True)


def text_of(status: LinkStatus, rates: Rates, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(render(status, rates))
    out = console.file
    assert isinstance(out, io.StringIO)
    return out.getvalue()


def test_rates_are_over_the_window(status: LinkStatus) -> None:
    meter = Meter()
    assert meter.rates(status, 100.0) == Rates()
    for second in range(1, 31):
        status.commands_applied = 1000 * second if second <= 20 else 20_000
        status.bytes_applied = status.commands_applied * 10
        rates = meter.rates(status, 100.0 + second)
        if 6 <= second <= 20:
            assert rates.commands == pytest.approx(1000)
            assert rates.bytes == pytest.approx(10_000)
    assert rates.commands == 0  # five seconds after the last command nothing is left of it


def test_a_new_snapshot_starts_the_rates_anew(status: LinkStatus) -> None:
    meter = Meter()
    status.snapshot.keys_done = 5000
    meter.rates(status, 0.0)
    status.snapshot.keys_done = 10
    assert meter.rates(status, 1.0).snapshot_keys == 0
    status.snapshot.keys_done = 30
    assert meter.rates(status, 2.0).snapshot_keys == 20


def test_fraction_and_estimate(status: LinkStatus) -> None:
    progress = status.snapshot
    rates = Rates(snapshot_keys=10, snapshot_bytes=100)
    assert snapshot_fraction(status) is None
    assert snapshot_seconds_left(status, rates) is None
    progress.keys_total, progress.keys_done = 100, 25
    assert snapshot_fraction(status) == 0.25
    assert snapshot_seconds_left(status, rates) == 7.5
    progress.bytes_total, progress.bytes_done = 1000, 500
    assert snapshot_fraction(status) == 0.5
    assert snapshot_seconds_left(status, rates) == 5
    assert snapshot_seconds_left(status, Rates()) is None
    progress.started, progress.finished = 1.0, 2.0
    assert snapshot_fraction(status) == 1.0


def test_summary_of_streaming(status: LinkStatus) -> None:
    status.state = "streaming"
    status.source_offset, status.applied_offset, status.commands_applied = 3000, 1976, 12_345
    status.applied_received_ms = int(time.time() * 1000) - 50_000
    line = summary(status, Rates(commands=1500, bytes=1 << 20))
    assert "streaming; 1.50k commands/s, 1 MiB/s" in line
    assert "lag 50" in line
    assert "(1 KiB), applied 12.3k, offset 1976" in line


def test_lag_is_unknown_without_the_source(status: LinkStatus) -> None:
    status.state, status.source_connected = "streaming", False
    line = summary(status, Rates())
    assert "lag - (0 B)" in line
    assert "source not connected" in line


def test_notes_name_what_is_wrong(status: LinkStatus) -> None:
    assert notes(status) == []
    status.state, status.target_connected = "streaming", False
    status.detail, status.journal_full, status.dead_letters = "waiting", "disk full", 3
    assert notes(status) == ["waiting", "target not connected", "journal full: disk full", "3 dead letters"]


def test_live_line_in_a_snapshot(status: LinkStatus) -> None:
    status.state = "snapshot"
    status.snapshot.keys_done, status.snapshot.keys_total = 1000, 4000
    status.snapshot.bytes_done, status.snapshot.bytes_total = 1 << 20, 1 << 22
    text = text_of(status, Rates(snapshot_bytes=1 << 20))
    assert "sh → bj snapshot" in text
    assert "1k of 4k keys, 1 MiB of 4 MiB, 25%, 3 s left" in text


@pytest.mark.parametrize("state", ["connecting", "streaming", "failed", "stopped"])
def test_live_line_in_other_states(status: LinkStatus, state: str) -> None:
    status.state = state  # type: ignore[assignment]
    status.detail = "[bold]as it is[/bold]"
    text = text_of(status, Rates())
    assert f"sh → bj {state}" in text
    assert "[bold]as it is[/bold]" in text


def test_plain_view_logs_changes_and_a_line_every_ten_seconds(
    status: LinkStatus, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    view = PlainView()
    for tenth in range(250):
        if tenth == 5:
            status.state = "streaming"
        view.update(status, tenth / 10)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "sh-bj/0: start -> connecting"
    assert lines[1].startswith("sh-bj/0: connecting -> streaming; 0 commands/s")
    assert len(lines) == 4  # and at 10.5 s and 20.5 s
    assert all(line.startswith("sh-bj/0: streaming; ") for line in lines[2:])


async def test_follower_shows_the_status_as_it_moves(status: LinkStatus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    status.state = "snapshot"
    shown = asyncio.Event()

    class Watched(PlainView):
        def update(self, status: LinkStatus, now: float) -> None:
            super().update(status, now)
            if len(caplog.records) == 1:
                status.state = "streaming"
            elif len(caplog.records) == 2:
                shown.set()

    task = asyncio.create_task(Follower(Watched(), status).run())
    async with asyncio.timeout(60):
        await shown.wait()
    task.cancel()
    assert "start -> snapshot" in caplog.records[0].getMessage()
    assert "snapshot -> streaming" in caplog.records[1].getMessage()


def test_terminal_view_leaves_the_last_line(status: LinkStatus) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    view = TerminalView(console)
    status.state = "streaming"
    view.update(status, 1.0)
    status.state = "stopped"
    view.close(status)
    out = console.file
    assert isinstance(out, io.StringIO)
    assert "stopped" in out.getvalue().splitlines()[-2]
    assert out.getvalue().endswith("\x1b[?25h")  # the cursor is back


@pytest.fixture
def restored_logging() -> object:
    root = logging.getLogger()
    rooms = [logging.getLogger(name) for name in ("", "canal", "sync", "node", "console")]
    saved = (list(root.handlers), [room.level for room in rooms])
    yield None
    root.handlers[:] = saved[0]
    for room, level in zip(rooms, saved[1], strict=True):
        room.setLevel(level)


@pytest.mark.usefixtures("restored_logging")
def test_json_logs_are_one_object_per_line() -> None:
    stream = io.StringIO()
    logs.setup(json_lines=True, handler=logging.StreamHandler(stream))
    logging.getLogger("sync.x").info("two\nlines %s", "é", extra={"task": "t"})
    logging.getLogger("sync.x").debug("not shown")
    logging.getLogger("kazoo").info("not shown either")
    try:
        raise ValueError("inner")
    except ValueError:
        logging.getLogger("sync.x").exception("failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["message"], first["level"], first["logger"], first["task"]) == ("two\nlines é", "info", "sync.x", "t")
    assert first["time"].endswith("+00:00")
    assert "ValueError: inner" in second["traceback"]


@pytest.mark.usefixtures("restored_logging")
def test_verbose_shows_debug_of_ours_then_of_all() -> None:
    stream = io.StringIO()
    logs.setup(1, handler=logging.StreamHandler(stream))
    logging.getLogger("sync.x").debug("ours")
    logging.getLogger("kazoo").debug("theirs")
    logs.setup(2, handler=logging.StreamHandler(stream))
    logging.getLogger("kazoo").debug("theirs too")
    lines = stream.getvalue().splitlines()
    assert [line.split(": ", 1)[1] for line in lines] == ["ours", "theirs too"]
