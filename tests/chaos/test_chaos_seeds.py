"""Seeded chaos at a size that fits CI: one way, two ways, a mesh. The long form, and clusters: `scripts/chaos`.

What long runs find gets a test of its own beside the code at fault, and its seed is kept here where it is stable.
REDIS_CANAL_CHAOS_SECONDS: another time for all of them.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.chaos.harness.faults import KINDS
from tests.chaos.harness.model import CELLS, Cell, cells
from tests.chaos.harness.plan import make_plan
from tests.chaos.harness.run import Report, run
from tests.conftest import StartServer
from tests.support.wire import Wire

SECONDS = float(os.environ.get("REDIS_CANAL_CHAOS_SECONDS", "0"))

SEEDS: tuple[tuple[str, str, float, float], ...] = (  # seconds of faults, commands a second
    ("one-way", "1", 15, 250),  # a full disk while the link's own small state was written ended the task for good
    ("two-way", "D", 14, 250),  # late for a moment: whole keys were echoed over newer writes, connections stayed open
    ("two-way", "20261122/36", 15, 250),  # echoes of a home that was late, and the other side lost its history
    ("mesh", "D", 8, 80),
)


@pytest.mark.servers
@pytest.mark.zookeeper
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("topology", "seed", "seconds", "rate"), SEEDS)
def test_everything_ends_equal(topology: str, seed: str, seconds: float, rate: float) -> None:
    print(run(Report(topology, seed), SECONDS or seconds, rate=rate))


def test_a_plan_is_made_of_its_seed_alone() -> None:
    holds = {name: kind.hold_s for name, kind in KINDS.items()}
    plan = make_plan("7", holds, 120, 1.0)
    assert plan == make_plan("7", dict(reversed(holds.items())), 120, 1.0)
    assert plan != make_plan("8", holds, 120, 1.0)
    assert {planned.kind for planned in plan} == set(KINDS), "two minutes meet every kind"
    assert all(holds[planned.kind][0] <= planned.hold_s <= holds[planned.kind][1] for planned in plan)


@pytest.mark.servers
@pytest.mark.parametrize("kind", CELLS)
def test_a_model_notices_what_is_lost_doubled_or_half_done(kind: type[Cell], redis_server: StartServer) -> None:
    """The harness itself: each cell accepts what was written, and none of what a fault of the product would leave."""
    server = redis_server()
    chance = random.Random(1)

    def written(times: dict[int, int]) -> str:
        server.control.flushall()
        cell = kind("k")
        with Wire(server) as wire:
            for number in range(1, 41):
                cell.next()
                for _ in range(times.get(number, 1)):
                    wire.call(cell.commands(number, chance))
                cell.settle(number, "done")
            return cell.wrong(wire, False)

    assert written({}) == ""
    last = {38: 0, 39: 0, 40: 0}  # of whatever kind of write they are: gone
    assert written(last), f"{kind.__name__} does not notice lost writes"
    if kind.__name__ in ("ListCell", "TextCell", "StreamCell", "SumCell", "PairCell"):
        assert written({20: 2, 21: 2, 22: 2, 23: 2}), f"{kind.__name__} does not notice doubled writes"
    assert len(cells("x")) > len(CELLS)
