"""URLs → endpoints; what is wrong is named, passwords never shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from canal.endpoint import Endpoint, TlsOptions, parse_url
from canal.errors import ConfigError
from canal.url import Group, parse_address_map

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://localhost", Endpoint("redis", "localhost", 6379)),
        ("redis://localhost:7001/", Endpoint("redis", "localhost", 7001)),
        ("redis://10.0.0.1:7001/0", Endpoint("redis", "10.0.0.1", 7001)),
        ("REDIS://Db.example:1", Endpoint("redis", "Db.example", 1)),
        ("  redis://localhost  ", Endpoint("redis", "localhost", 6379)),
        ("redis://[::1]:7001", Endpoint("redis", "::1", 7001)),
        ("redis://[fe80::1%25eth0]", Endpoint("redis", "fe80::1%eth0", 6379)),
        ("redis://:pw@h", Endpoint("redis", "h", 6379, password="pw")),
        ("redis://u:pw@h", Endpoint("redis", "h", 6379, username="u", password="pw")),
        ("redis://u:@h", Endpoint("redis", "h", 6379, username="u", password="")),
        ("redis://u%40x:p%3A%2F%25%20%C3%A9@h", Endpoint("redis", "h", 6379, username="u@x", password="p:/% é")),
        ("redis://:a@b:c@h:1", Endpoint("redis", "h", 1, password="a@b:c")),
        ("rediss://h", Endpoint("rediss", "h", 6379, tls=TlsOptions())),
        ("unix:///run/redis.sock", Endpoint("unix", path="/run/redis.sock")),
        ("unix://u:pw@/run/a%20b.sock", Endpoint("unix", path="/run/a b.sock", username="u", password="pw")),
    ],
)
def test_what_is_understood(url: str, expected: Endpoint) -> None:
    assert parse_url(url) == expected


def test_user_password_and_tls_may_come_separately() -> None:
    tls = TlsOptions(ca="/ca.pem", server_name="db")
    made = parse_url("rediss://h", username="u", password="p", tls=tls)
    assert made == Endpoint("rediss", "h", 6379, username="u", password="p", tls=tls)
    assert parse_url("redis://u@h", password="p") == Endpoint("redis", "h", 6379, username="u", password="p")
    assert parse_url("redis://:p@h", username="u") == Endpoint("redis", "h", 6379, username="u", password="p")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "expected a URL such as redis://HOST:PORT"),
        ("localhost:6379", "expected a URL such as redis://HOST:PORT"),
        ("http://h", "unknown URL scheme 'http'"),
        ("redis+sentinel://a,b", "HOST:PORT,…/MASTER, the master's name"),
        ("redis+sentinel://a,b/", "HOST:PORT,…/MASTER, the master's name"),
        ("redis+sentinel://a/m/0", "HOST:PORT,…/MASTER, the master's name"),
        ("redis+sentinel://a/m?x=1", "nothing is expected after \\?"),
        ("redis+sentinel://a,,b/m", "the host is missing"),
        ("redis+sentinel://a,a:26379/m", "the same server is given twice"),
        ("redis+cluster://a:1,b:x", "a port from 1 to 65535"),
        ("redis+cluster://a/5", "database /5 was given"),
        ("rediss+cluster://", "the host is missing"),
        ("redis://", "the host is missing"),
        ("redis://:6379", "the host is missing"),
        ("redis://@:6379", "the host is missing"),
        ("redis:///0", "the host is missing"),
        ("redis://h:", "a port from 1 to 65535"),
        ("redis://h:0", "a port from 1 to 65535.*'0'"),
        ("redis://h:65536", "a port from 1 to 65535.*'65536'"),
        ("redis://h:٣", "a port from 1 to 65535"),
        ("redis://h:12x", "a port from 1 to 65535"),
        ("redis://h/1", "database /1 was given, but whole servers are replicated"),
        ("redis://h/mydb", "nothing is expected after host and port, got '/mydb'"),
        ("redis://h?db=1", "options after \\? cannot be used"),
        ("redis://h#x", "a fragment after # cannot be used"),
        ("redis://::1:6379", "IPv6 addresses stand in \\[ \\]"),
        ("redis://[::1", "expected \\[IPv6\\]:PORT"),
        ("redis://[::1]6379", "expected \\[IPv6\\]:PORT"),
        ("redis://[nope]:1", "'nope' is not an IPv6 address"),
        ("redis://a,b:1", "expected one HOST:PORT, got a list"),
        ("redis://a b", "holds a space or control character"),
        ("redis://a\x00b", "holds a space or control character"),
        ("redis://a%zz", "is not a host name"),
        ("redis://:%zz@h", "a % that starts no %XX escape"),
        ("redis://:%ff@h", "not UTF-8"),
        ("redis://u@h", "a user without a password"),
        ("unix://run/redis.sock", "expected unix:///absolute/path"),
        ("unix:///run/", "expected unix:///absolute/path"),
        ("unix:///" + "x" * 200, "longer than the 107 bytes"),
        ("unix:///a?db=1", "expected only a path"),
        ("unix:///a%00", "expected only a path"),
    ],
)
def test_what_is_wrong_is_named(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        parse_url(url)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}@h/7",
        f"redis://:{SECRET}@h?x",
        f"redis://:{SECRET}/x@h",
        f"redis://:{SECRET}#x@h",
        f"redis://u:{SECRET}@",
        f"redis://u:{SECRET}",  # @host forgotten
        f"redis://:{SECRET}",
        f"redis://:{SECRET}%zz@h",
        f"{SECRET}@h",
        f"foo{SECRET}@x://h",
        f"unix://:{SECRET}@tmp/x",
        f"redis://{SECRET}@h",
        f"redis://:{SECRET}@h:{SECRET}x",
    ],
)
def test_errors_do_not_show_what_may_be_a_password(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_url(url)
    assert SECRET not in str(raised.value)


def test_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="password is given in the URL and separately"):
        parse_url("redis://:a@h", password="b")
    with pytest.raises(ConfigError, match="user is given in the URL and separately"):
        parse_url("redis://u:a@h", username="v")


def test_tls_options_need_rediss() -> None:
    with pytest.raises(ConfigError, match="write rediss:// to use TLS"):
        parse_url("redis://h", tls=TlsOptions(ca="x"))


@pytest.mark.parametrize(
    ("url", "label", "address"),
    [
        (f"redis://:{SECRET}@h:1", "redis://h:1", "h:1"),
        (f"redis://u:{SECRET}@h:1", "redis://u@h:1", "h:1"),
        (f"rediss://u%40:{SECRET}@[::1]", "rediss://u%40@[::1]:6379", "[::1]:6379"),
        (f"unix://u:{SECRET}@/run/x", "unix://u@/run/x", "/run/x"),
        (
            f"redis+sentinel://u:{SECRET}@a,[::1]:7/m%20x",
            "redis+sentinel://u@a:26379,[::1]:7/m%20x",
            "[::1]:7,a:26379/m%20x",
        ),
        (f"rediss+cluster://:{SECRET}@a,b:7", "rediss+cluster://a:6379,b:7", "a:6379,b:7"),
    ],
)
def test_label_and_repr_hide_the_password(url: str, label: str, address: str) -> None:
    made = parse_url(url)
    assert made.label == label
    assert made.address == address
    assert SECRET not in repr(made)
    assert made.password == SECRET


def test_a_group_of_sentinels() -> None:
    made = parse_url("rediss+sentinel://u:p@a,b:7/my%2Fmaster", tls=TlsOptions(ca="x"))
    assert made.group is not None
    assert (made.group.kind, made.group.name) == ("sentinel", "my/master")
    assert made.group.seeds == (("a", 26379), ("b", 7))
    assert made.group.username is None and made.group.password is None  # Sentinels' own come separately
    assert made.group.tls == made.tls
    member = made.member("10.0.0.1", 6380)
    assert (member.scheme, member.host, member.port, member.group) == ("rediss", "10.0.0.1", 6380, None)
    assert (member.username, member.password, member.tls) == ("u", "p", made.tls)


def test_a_group_of_cluster_nodes() -> None:
    made = parse_url("redis+cluster://a,[::1]:7/")
    assert made.group is not None
    assert made.group.kind == "cluster"
    assert made.group.seeds == (("a", 6379), ("::1", 7))
    assert made.label == "redis+cluster://a:6379,[::1]:7"


def test_a_mapped_server_may_show_the_name_that_it_announces() -> None:
    """Those of the URL too, where the map has them; without TLS nobody is asked for a name."""
    pairs = parse_address_map({"n1.example:6379": "gate:7001", "n2.example": "10.0.0.2"})
    for scheme in ("redis", "rediss"):
        endpoint = parse_url(f"{scheme}+cluster://gate:7001,n3.example")
        assert endpoint.group is not None
        endpoint = replace(endpoint, group=replace(endpoint.group, address_map=pairs))
        found = [
            endpoint.member("n1.example", 6379),
            endpoint.seed("gate", 7001),
            endpoint.member("n2.example", 6380),
            endpoint.seed("10.0.0.2", 6380),
            endpoint.member("n3.example", 6379),
            endpoint.seed("n3.example", 6379),
        ]
        assert found[::2] == found[1::2], "a server that the URL names is known again"
        assert [one.address for one in found[::2]] == ["gate:7001", "10.0.0.2:6380", "n3.example:6379"]
        announced = ["n1.example", "n2.example", None] if scheme == "rediss" else [None] * 3
        assert [one.tls and one.tls.announced for one in found[::2]] == announced


def test_an_address_map_replaces_whole_addresses_first() -> None:
    pairs = parse_address_map({"10.0.0.1:6379": "gate:7001", "10.0.0.1": "other", "::1": "v6.example"})
    group = Group("sentinel", (("a", 1),), "m", address_map=pairs)
    assert group.reached("10.0.0.1", 6379) == ("gate", 7001)
    assert group.reached("10.0.0.1", 6380) == ("other", 6380)
    assert group.reached("::1", 6380) == ("v6.example", 6380)
    assert group.reached("elsewhere", 1) == ("elsewhere", 1)


@pytest.mark.parametrize("pair", [("a:1", "b"), ("a", "b:1"), ("a:x", "b:1"), ("", "b"), ("a,b", "c")])
def test_an_address_map_that_is_none(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        parse_address_map(dict([pair]))
