"""Every version to every version: what both can hold is equal after the snapshot, and again after the stream.

One source feeds all targets at once, so that its data is written once. The only thing of the data set that some targets
cannot hold are deadlines of hash fields: sources that have them run once for the targets that have them too, and once
without them for the others.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import StartServer
from tests.support.compare import differences
from tests.support.dataset import Features, features_of, fill, mutate
from tests.support.links import Link
from tests.support.servers import MAIN_VERSIONS, MORE_VERSIONS, Server, parse_version

pytestmark = [pytest.mark.servers, pytest.mark.slow]

VERSIONS = sorted((*MORE_VERSIONS, *MAIN_VERSIONS), key=parse_version)
DATABASES = (0, 5)


@dataclass(frozen=True)
class WithoutFieldDeadlines(Features):
    @property
    def field_deadlines(self) -> bool:
        return False


def has_field_deadlines(version: str) -> bool:
    return Features(*parse_version(version)).field_deadlines


def runs() -> list[tuple[str, bool]]:
    """(source, with deadlines of hash fields)."""
    return [(source, deadlines) for source in VERSIONS for deadlines in {False, has_field_deadlines(source)}]


def report(source: Server, targets: list[Server], stage: str) -> list[str]:
    """What differs, for all pairs: one failing pair should not hide another."""
    found = []
    # Up to 6.2 deadlines come relative through the stream and count from when they were received, which for seven links
    # in one process on a busy machine may be late; `test_link_data` looks at one link more closely.
    tolerance = 1 if source.at_least((7, 0)) or stage == "snapshot" else 4000
    for target in targets:
        pair = f"{source.version} → {target.version} after the {stage}"
        found += [f"{pair}: {line}" for line in differences(source, target, ttl_tolerance_ms=tolerance, limit=5)]
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("version", "deadlines"), runs())
def test_all_data_from_each_version_to_every_version(
    redis_server: StartServer, tmp_path: Path, version: str, deadlines: bool
) -> None:
    source = redis_server(version)
    features = features_of(source)
    if not deadlines:
        features = WithoutFieldDeadlines(*parse_version(version))
    alike = [other for other in VERSIONS if has_field_deadlines(other) == has_field_deadlines(version)]
    of = (
        VERSIONS
        if not has_field_deadlines(version)
        else alike
        if deadlines
        else [v for v in VERSIONS if v not in alike]
    )
    targets = [redis_server(other) for other in of]
    fill(source, features=features, databases=DATABASES)
    with ExitStack() as stack:
        links = [
            stack.enter_context(Link(source, target, tmp_path, task=f"to-{n}")) for n, target in enumerate(targets)
        ]
        for link in links:
            link.streaming(60)
        found = report(source, targets, "snapshot")
        fill(source, prefix=b"live:", features=features, databases=DATABASES)
        mutate(source, prefix=b"live:", features=features, databases=DATABASES)
        for link in links:
            link.in_step(source, 60)
        found += report(source, targets, "stream")
        letters = {target.version: link.status.dead_letters for link, target in zip(links, targets, strict=True)}
        assert (found, set(letters.values())) == ([], {0}), "\n".join([*found, str(letters)])
