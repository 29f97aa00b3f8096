"""`scripts/chaos`: many runs, with a table of what happened at the end."""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
import time
from collections import Counter

from tests.chaos.harness.faults import KINDS
from tests.chaos.harness.run import Report, run
from tests.chaos.harness.world import TOPOLOGIES

RUN_S = 60.0


def main() -> int:
    faulthandler.register(signal.SIGUSR1)
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.0, help="start new runs for so long; without: one run")
    parser.add_argument("--seconds", type=float, default=RUN_S, help="of faults in each run")
    parser.add_argument("--seed", default="", help="of the first run; the next ones add /1, /2 …; default: the time")
    parser.add_argument("--topology", choices=TOPOLOGIES, action="append", help="several may be given")
    parser.add_argument(
        "--kind", choices=sorted(KINDS), action="append", default=[], metavar="FAULT", help="only these"
    )
    parser.add_argument("--every", type=float, default=1.2, metavar="SECONDS", help="between two faults, on average")
    parser.add_argument("--rate", type=float, default=250.0, help="modelled commands a second in each datacenter")
    parser.add_argument("--same-keys", action="store_true", help="two ways: both sides write some of the same keys")
    parser.add_argument("--keep-going", action="store_true", help="go on with other seeds after a failure")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell each fault")
    given = parser.parse_args()
    seed, deadline = given.seed or str(int(time.time())), time.monotonic() + given.minutes * 60
    topologies = given.topology or list(TOPOLOGIES)
    reports: list[Report] = []
    failures: list[str] = []
    while not reports or time.monotonic() < deadline:
        number = len(reports)
        topology = topologies[number % len(topologies)]
        report = Report(topology, f"{seed}/{number}" if number else seed)
        try:
            report = run(
                topology,
                report.seed,
                given.seconds,
                every_s=given.every,
                rate=given.rate,
                kinds=tuple(given.kind),
                same_keys=given.same_keys,
                say=(lambda _: None) if given.quiet else lambda text: print(text, flush=True),
            )
            print(report, flush=True)
        except AssertionError as error:
            failures.append(str(error))
            print(f"FAILED {error}", flush=True)
            if not given.keep_going:
                reports.append(report)
                break
        reports.append(report)
    print(table(reports, failures))
    return 1 if failures else 0


def table(reports: list[Report], failures: list[str]) -> str:
    """The sums over all runs."""
    faults: Counter[str] = sum((report.faults for report in reports), Counter())
    lines = [f"{count:6} {name}" for name, count in faults.most_common()]
    lines.append(
        f"{len(reports)} runs, {sum(report.commands for report in reports)} commands, {faults.total()} faults of"
        f" {len(faults)} kinds, {len(failures)} failures; peak memory of a process"
        f" {max(report.peak_mb for report in reports):.0f} MiB"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
