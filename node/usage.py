"""What the processes of a node use, from Linux's /proc: time of their CPUs and memory that is theirs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since their start and resident bytes, shared pages counted once in each process."""

    cpu_seconds: float
    memory_bytes: int
    processes: int


def usage(pid: int | None = None) -> Usage | None:
    """Of a process (default: this one) and all its descendants; None where there is no /proc.

    A process that ends meanwhile is left out, so CPU seconds may go down.
    """
    found = [_one(process) for process in _family(pid or os.getpid())]
    known = [one for one in found if one is not None]
    if not known:
        return None
    return Usage(sum(cpu for cpu, _ in known), sum(memory for _, memory in known), len(known))


def _family(pid: int) -> list[int]:
    found = [pid]
    for process in found:
        for task in _tasks(process):
            try:
                found += [int(child) for child in (task / "children").read_text().split()]
            except OSError:
                continue
    return found


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _one(pid: int) -> tuple[float, int] | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # proc(5): the name may hold blanks; field 3 (state) comes first here
    return (int(fields[11]) + int(fields[12])) / _TICK, int(fields[21]) * _PAGE
