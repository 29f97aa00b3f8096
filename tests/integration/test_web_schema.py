"""The API does what its OpenAPI document says: schemathesis makes requests from it, valid and not, and none is a 500.

REDIS_CANAL_ROUNDS=200 for more of them (8 for each operation by default: about two hundred).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import CHECKS
from schemathesis.core.result import Ok

from tests.integration.test_web_console import AS_ADMIN, start, write_config
from tests.support.console import SPEC, coordinator
from tests.support.process import ReservedPort, end

ROUNDS = int(os.environ.get("REDIS_CANAL_ROUNDS", "8"))
LEFT_OUT = {
    "/api/v1/events": "never ends",
    "/api/v1/connections/test": "would ask the servers of any address that is made up",
}
pytestmark = [pytest.mark.timeout(120 + 10 * ROUNDS)]


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A console with one task whose servers nobody reaches."""
    port = ReservedPort()
    there = coordinator(tmp_path)
    there.tasks.create("sh-bj", SPEC, desired="stopped")
    process = start(write_config(tmp_path, f"127.0.0.1:{port.number}"), port.number)
    yield f"http://127.0.0.1:{port.number}"
    assert process.poll() is None, "the console has ended"
    end(process)
    there.store.close()
    port.release()


def test_no_request_that_the_document_allows_or_forbids_is_a_500(address: str) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json")
    no_fault = CHECKS.get_by_names(["not_a_server_error"])
    asked: dict[str, int] = {}
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.path in LEFT_OUT:
            continue

        @settings(
            max_examples=ROUNDS, deadline=None, database=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(headers=AS_ADMIN, timeout=30)
            asked[case.operation.label] = asked.get(case.operation.label, 0) + 1
            if answer.status_code != 503:  # a coordinator or server that cannot be reached: an answer like any other
                case.validate_response(answer, checks=no_fault)

        ask()
    assert len(asked) > 20, sorted(asked)
