"""URLs of Sentinels and clusters in tasks and flags: their own credentials, and addresses behind a map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from canal.errors import ConfigError
from canal.url import Endpoint
from console.cli.options import endpoint, side_options
from node.config.models import Credential, SideConfig
from node.config.secrets import resolve
from node.topology import server

SENTINELS = "redis+sentinel://a,b/m"


def side(**fields: Any) -> SideConfig:
    return SideConfig.model_validate({"datacenter": "x", **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"url": "redis://a", "sentinel_credentials": "c"}, "are for redis\\+sentinel"),
        ({"url": "redis+cluster://a", "sentinel_credentials": "c"}, "are for redis\\+sentinel"),
        ({"url": "redis://a", "address_map": {"a": "b"}}, "URLs of Sentinels and clusters"),
        ({"url": SENTINELS, "address_map": {"a:1": "b"}}, "give both with a port"),
        ({"url": "redis+sentinel://u:p@a/m"}, "do not belong in a URL"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        side(**fields)


def test_each_of_the_two_kinds_of_servers_has_its_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA", "d")
    monkeypatch.setenv("WATCH", "w")
    known = {"data": Credential(password_env="DATA"), "watch": Credential(username="u", password_env="WATCH")}
    found = resolve(
        "source",
        side(url=SENTINELS, credentials="data", sentinel_credentials="watch", address_map={"a:1": "b:2"}),
        known,
    )
    assert found.password == "d"
    assert found.group is not None
    assert (found.group.username, found.group.password) == ("u", "w")
    assert found.group.reached("a", 1) == ("b", 2)
    with pytest.raises(ConfigError, match="credential 'nobody' is not known"):
        resolve("source", side(url=SENTINELS, sentinel_credentials="nobody"), known)


def test_tls_with_sentinels_is_as_with_the_servers_unless_they_have_their_own() -> None:
    known = {"data": Credential(ca=Path("/data")), "watch": Credential(ca=Path("/watch")), "none": Credential()}
    url = "rediss+sentinel://a/m"

    def ca(**fields: Any) -> str | None:
        group = resolve("source", side(url=url, **fields), known).group
        assert group is not None and group.tls is not None
        return group.tls.ca

    assert ca() is None
    assert ca(credentials="data") == "/data"
    assert ca(credentials="data", sentinel_credentials="none") == "/data"
    assert ca(credentials="data", sentinel_credentials="watch") == "/watch"


def test_the_order_of_the_seeds_makes_no_other_server() -> None:
    assert server(side(url="redis+sentinel://a,b:7/m")) == server(side(url="redis+sentinel://b:7,a:26379/m"))
    assert server(side(url="redis+sentinel://a/m")) != server(side(url="redis+sentinel://a/n"))


def parsed(*arguments: str) -> Endpoint:
    made: list[Endpoint] = []

    @click.command()
    @click.option("--source")
    @side_options("source")
    def command(**given: Any) -> None:
        made.append(endpoint("source", given["source"], given))

    result = CliRunner().invoke(command, arguments)
    if result.exception is not None:
        raise result.exception
    return made[0]


def test_flags_for_sentinels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("w\n")
    monkeypatch.setenv("REDIS_CANAL_SOURCE_PASSWORD", "d")
    given = ("--source", SENTINELS, "--source-sentinel-username", "u", "--source-address-map", "a:1=b:2")
    found = parsed(*given, "--source-sentinel-password-file", str(secret))
    assert found.password == "d"
    assert found.group is not None
    assert (found.group.username, found.group.password) == ("u", "w")
    assert found.group.reached("a", 1) == ("b", 2)
    monkeypatch.setenv("REDIS_CANAL_SOURCE_SENTINEL_PASSWORD", "e")
    found = parsed(*given)
    assert found.group is not None and found.group.password == "e"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--source", "redis://a", "--source-address-map", "a=b"), "with the URL of one server"),
        (("--source", SENTINELS, "--source-sentinel-username", "u"), "without a password"),
        (("--source", SENTINELS, "--source-address-map", "a"), "expected ANNOUNCED=REACHED"),
    ],
)
def test_flags_that_do_not_fit_together(given: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parsed(*given)
