"""A connection that ends before it could be used is an outage like any other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from canal.endpoint import open_connection, parse_url
from canal.errors import Unreachable


class Gone:
    """A transport as uvloop hands it out when the peer has reset the connection meanwhile."""

    def __init__(self) -> None:
        self.aborted = False

    def get_extra_info(self, name: str) -> None:
        return None

    def abort(self) -> None:
        self.aborted = True


async def test_a_connection_that_is_reset_at_once_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Gone()

    async def create(*_: Any, **__: Any) -> tuple[Gone, asyncio.Protocol]:
        return gone, asyncio.Protocol()

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create)
    with pytest.raises(Unreachable, match="reset by peer"):
        await open_connection(parse_url("redis://127.0.0.1:1"), asyncio.Protocol, 5)
    assert gone.aborted
