"""What Sentinels tell each other through a source never reaches a target; everything else that is published does."""

from __future__ import annotations

from pathlib import Path

import pytest

from canal.commands import ServerKind
from canal.resp import encode
from canal.url import parse_url
from sync.adjust import make_rules
from sync.config import LinkConfig
from sync.transform import Transform
from sync.unit import UnitReader

HELLO = [b"PUBLISH", b"__sentinel__:hello", b"127.0.0.1,26379,myid,1,mymaster,127.0.0.1,6379,0"]
NEWS = [b"PUBLISH", b"news", b"__sentinel__:hello"]


@pytest.mark.parametrize("two_way", [False, True])
@pytest.mark.parametrize("spelling", [b"PUBLISH", b"publish"])
def test_hello_stays_at_the_source(tmp_path: Path, two_way: bool, spelling: bytes) -> None:
    kind = ServerKind("redis", (7, 0))
    url = parse_url("redis://h")
    config = LinkConfig(task="t", source=url, target=url, state_dir=tmp_path, two_way=two_way)
    reader = UnitReader(0, 0, make_rules(config, kind, kind, Transform(config.transform)))
    hello, news = [spelling, *HELLO[1:]], [spelling, *NEWS[1:]]
    stream = b"".join(map(encode, (hello, news, [b"MULTI"], hello, news, [b"EXEC"])))
    units = reader.feed(0, stream, 0)
    assert b"".join(piece.raw for unit in units for piece in unit.pieces) == encode(news) * 2
    assert reader.counters.filtered == {"sentinel": 2}
    assert reader.position == len(stream)
    (unit,) = reader.feed(len(stream), encode(news) * 3, 0)
    assert unit.count == 3, "other channels are not looked at one by one"
