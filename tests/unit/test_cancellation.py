"""No room waits with `asyncio.wait_for`: before Python 3.12 it forgets that it was cancelled when what it waits for
comes at the same moment, and a task that was told to end goes on for ever.
"""

from __future__ import annotations

import re

from tests.support.process import ROOT


def test_waiting_never_forgets_that_it_was_cancelled() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for room in ("canal", "sync", "node", "console/web", "console/demo", "tests/support")
        for path in sorted((ROOT / room).rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"await asyncio\.wait_for\(", line)
    ]
    assert found == [], "use `async with asyncio.timeout(…)`"
