"""Which share of its cases a test does follows the profile."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.support.effort import examples, share, stride


@pytest.mark.parametrize(("profile", "rounds", "step"), [("full", 1500, 1), ("quick", 300, 5)])
def test_the_profile_decides(profile: str, rounds: int, step: int, request: pytest.FixtureRequest) -> None:
    now = settings.get_current_profile_name()
    request.addfinalizer(lambda: settings.load_profile(now))
    settings.load_profile(profile)
    assert share(1500) == examples(1500).max_examples == rounds
    assert share(1) == 1
    assert stride() == step
