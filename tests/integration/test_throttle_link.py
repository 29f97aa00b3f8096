"""The throttle on a running link: held to its limits, changed while running, and no write lost by it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from sync.throttle import ThrottleOptions
from tests.conftest import StartServer
from tests.support.links import Link

pytestmark = [pytest.mark.servers]


def write(source: object, count: int) -> None:
    pipe = source.client().pipeline(transaction=False)  # type: ignore[attr-defined]
    for number in range(count):
        pipe.incr(f"k{number % 50}")
    pipe.execute()


@pytest.mark.parametrize("writer", ["gated", "guarded"])
def test_commands_a_second_are_kept_and_changed_while_running(
    redis_server: StartServer, tmp_path: Path, writer: str
) -> None:
    source, target = redis_server(), redis_server()
    throttle = ThrottleOptions(commands_per_second=1000)
    with Link(source, target, tmp_path, writer=writer, throttle=throttle) as link:
        link.streaming()
        started = time.monotonic()
        write(source, 3000)
        link.until(lambda: link.status.commands_applied >= 1500, 30, "half is applied")
        took = time.monotonic() - started
        assert took > 1.2, "1500 commands at 1000/s, less a tenth of a second saved up"
        assert link.status.lag_bytes > 0 and link.status.throttled_seconds > 0.5
        link.call("throttle", ThrottleOptions())
        link.in_step(source, 10)
        assert link.status.throttle_commands_per_second == 0
    assert [source.client().get(f"k{n}") for n in range(50)] == [target.client().get(f"k{n}") for n in range(50)]


def test_bytes_a_second_are_kept(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, throttle=ThrottleOptions(bytes_per_second=400_000)) as link:
        link.streaming()
        started = time.monotonic()
        pipe = source.client().pipeline(transaction=False)
        for number in range(600):
            pipe.set(f"k{number}", "x" * 1000)
        pipe.execute()
        link.in_step(source, 30)
        assert time.monotonic() - started > 1.2, "about 620 kB at 400 kB/s"


def test_a_slow_target_is_given_less_and_recovers(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(), redis_server()
    with Link(source, target, tmp_path, throttle=ThrottleOptions(latency_ms=40)) as link:
        link.streaming()

        def slow_writes() -> bool:
            target.pause()
            write(source, 500)
            time.sleep(0.2)  # what is sent now commits that much later, well over the 40 ms
            target.resume()
            link.in_step(source)
            return link.status.throttle_commands_per_second > 0

        link.until(slow_writes, 30, "replay backs off")
        link.in_step(source)


def test_the_horizon_is_known_and_shrinks_while_the_source_is_away(redis_server: StartServer, tmp_path: Path) -> None:
    source, target = redis_server(repl_backlog_size="1mb"), redis_server()
    with Link(source, target, tmp_path) as link:
        link.streaming()

        def writing() -> bool:
            write(source, 200)
            return link.status.backlog_left_seconds is not None and link.status.journal_room_seconds is not None

        link.until(writing, 30, "both are known")
        assert link.status.backlog_bytes == 1 << 20
        before = link.status.backlog_left_seconds
        assert before is not None and before > 0
        source.kill()
        link.until(lambda: not link.status.source_connected, 10, "the source is gone")

        def less() -> bool:
            left = link.status.backlog_left_seconds
            return left is not None and left < before - 1

        link.until(less, 30, "less is left of the backlog")
