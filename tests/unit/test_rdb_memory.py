"""A value longer than memory allows is read, decoded and made into commands in a process that could not hold it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import resource, sys
from canal.rdb.commands import BigKey
from canal.rdb.events import End, KeyEnd, KeyStart, ValuePart
from canal.rdb.reader import RdbReader
from canal.rdb.target import Target
from tests.support.rdb_build import length, listpack, lp_text, string

kind, megabytes = int(sys.argv[1]), int(sys.argv[2])
text = string(b"x" * 1000)
element = {
    0: b"x" * 1003,
    1: text,
    4: string(b"field") + text,
    5: text + bytes(8),
    18: length(2) + string(listpack(*[lp_text(b"y" * 100)] * 10)),
}[kind]
count = megabytes * (1 << 20) // len(element)
head = length(count * len(element) if kind == 0 else count)
block = element * (65536 // len(element))

pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (48 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    bytearray(60 << 20)
except MemoryError:
    pass
else:
    raise SystemExit("the limit does not hold")

reader = RdbReader(stream_above=4 << 20)
target = Target.of("redis", "7.0.15")
made = 0

def look(events):
    global big, made
    for event in events:
        if isinstance(event, KeyStart):
            big = BigKey(event, target, b"tmp")
        elif isinstance(event, ValuePart):
            made += sum(sum(map(len, command[2:])) for command in big.part(event))
        elif isinstance(event, End):
            print("done", made)

look(reader.feed(b"REDIS0010" + bytes([kind]) + string(b"k") + head))
fed = 0
while fed + len(block) <= count * len(element):
    look(reader.feed(block))
    fed += len(block)
look(reader.feed(element * ((count * len(element) - fed) // len(element))))
look(reader.feed(b"\\xff" + bytes(8)))
reader.finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [0, 1, 4, 5, 18])
def test_a_long_value_needs_little_memory(kind: int) -> None:
    """200 MB of value in 48 MB more than the interpreter has at its start."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(kind), "200"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert run.returncode == 0, run.stderr[-2000:]
    word, made = run.stdout.split()
    assert word == "done"
    assert int(made) > 190 << 20
