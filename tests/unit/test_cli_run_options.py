"""``run``: from flags and environment to one LinkConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from canal.errors import ConfigError
from console.cli.options import Address, HostPort, Size, read_secret
from console.cli.run import build_config, command
from sync.config import LinkConfig, SnapshotOptions
from sync.filters import KeyPattern
from sync.transform import TransformOptions

BOTH = ("--source", "redis://a:1", "--target", "redis://b:2")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for side in ("SOURCE", "TARGET"):
        for what in ("USERNAME", "PASSWORD"):
            monkeypatch.delenv(f"REDIS_CANAL_{side}_{what}", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def config(*arguments: str) -> LinkConfig:
    """The config of a command line, without running it."""
    built: Any = build_config(command.make_context("run", list(arguments)).params)
    assert isinstance(built, LinkConfig)
    return built


def test_defaults(tmp_path: Path) -> None:
    made = config(*BOTH)
    assert (made.task, made.source_dc, made.target_dc) == ("source-target", "source", "target")
    assert made.state_dir == tmp_path / "state" / "redis-canal" / "source-target"
    assert (made.source.host, made.source.port, made.target.host, made.target.port) == ("a", 1, "b", 2)
    assert (made.on_error, made.writer, made.two_way, made.direct) == ("stop", "auto", False, ())
    assert made.snapshot == SnapshotOptions()
    assert (made.journal.fsync, made.journal.max_bytes) == ("everysec", 0)


def test_every_flag_arrives(tmp_path: Path) -> None:
    made = config(
        *BOTH, "--name", "t1", "--source-dc", "sh", "--target-dc", "bj", "--two-way", "--direct", "gz",
        "--direct", "cd", "--stale-keys", "keep", "--state-dir", str(tmp_path / "s"), "--on-error", "continue",
        "--confirm-resync", "--existing", "source", "--big-key-bytes", "1m", "--snapshot-rate", "50m",
        "--writer", "guarded", "--snapshot", "never", "--fsync", "always", "--max-journal-bytes", "20g",
    )  # fmt: skip
    assert (made.task, made.source_dc, made.target_dc, made.two_way) == ("t1", "sh", "bj", True)
    assert made.direct == ("gz", "cd")
    assert made.state_dir == tmp_path / "s" / "t1"
    assert (made.on_error, made.writer) == ("continue", "guarded")
    assert (made.snapshot.mode, made.snapshot.stale_keys) == ("never", "keep")
    assert (made.snapshot.confirmed, made.snapshot.existing) == (True, "source")
    assert (made.snapshot.big_key_bytes, made.snapshot.max_bytes_per_second) == (1 << 20, 50 << 20)
    assert (made.journal.fsync, made.journal.max_bytes) == ("always", 20 << 30)


def test_filters_reach_the_link() -> None:
    made = config(*BOTH, "--exclude-key", "tmp:*", "--db-map", "1:2", "--exclude-db", "2")
    assert made.transform.db_map == {1: 2}
    assert [str(pattern) for pattern in made.transform.exclude_keys] == ["glob:tmp:*"]


def test_the_name_follows_the_datacenters() -> None:
    assert config(*BOTH, "--source-dc", "sh", "--target-dc", "bj").task == "sh-bj"


def test_state_home_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config(*BOTH).state_dir == tmp_path / ".local/state/redis-canal/source-target"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    assert config(*BOTH).state_dir == tmp_path / ".local/state/redis-canal/source-target"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--two-way",), "--two-way needs --source-dc and --target-dc"),
        (("--two-way", "--source-dc", "sh"), "--two-way needs"),
        (("--source-dc", "sh", "--target-dc", "sh"), "both 'sh'"),
        (("--source-dc", "s h"), "--source-dc: expected a name"),
        (("--target-dc", "../etc"), "--target-dc: expected a name"),
        (("--name", "a/b"), "--name: expected a name"),
        (("--name", "x" * 64), "--name: expected a name"),
        (("--name", "x{y}"), "--name: expected a name"),
        (("--direct", "a,b"), "--direct: expected a name"),
    ],
)
def test_what_does_not_fit_together(more: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(*BOTH, *more)


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_bad_url_names_its_flag(side: str) -> None:
    urls = {"source": "redis://a:1", "target": "redis://b:2"} | {side: "http://x"}
    with pytest.raises(ConfigError, match=f"^--{side}: unknown URL scheme"):
        config("--source", urls["source"], "--target", urls["target"])


def test_passwords_from_file_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "pw"
    file.write_text("s3cret word\r\nsecond line\n")
    monkeypatch.setenv("REDIS_CANAL_TARGET_PASSWORD", "t4rget")
    monkeypatch.setenv("REDIS_CANAL_TARGET_USERNAME", "bob")
    made = config(*BOTH, "--source-username", "canal", "--source-password-file", str(file))
    assert (made.source.username, made.source.password) == ("canal", "s3cret word")
    assert (made.target.username, made.target.password) == ("bob", "t4rget")
    assert "s3cret" not in repr(made)
    assert "t4rget" not in repr(made)


def test_the_file_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("file")
    monkeypatch.setenv("REDIS_CANAL_SOURCE_PASSWORD", "environment")
    assert config(*BOTH, "--source-password-file", str(tmp_path / "pw")).source.password == "file"


def test_secret_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--x: cannot read .*/nowhere: No such file"):
        read_secret(str(tmp_path / "nowhere"), "--x")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00hunter2")
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        read_secret(str(tmp_path / "binary"), "--x")
    assert "hunter2" not in str(caught.value)


def test_tls_options_reach_their_side_only(tmp_path: Path) -> None:
    made = config(
        "--source", "rediss://a:1", "--target", "rediss://b:2", "--source-ca", "ca.pem", "--source-cert", "c.pem",
        "--source-key", "k.pem", "--target-insecure", "--target-server-name", "redis.example",
    )  # fmt: skip
    assert made.source.tls is not None
    assert made.target.tls is not None
    assert (made.source.tls.ca, made.source.tls.cert, made.source.tls.key) == ("ca.pem", "c.pem", "k.pem")
    assert made.source.tls.verify
    assert not made.target.tls.verify
    assert made.target.tls.server_name == "redis.example"
    assert made.target.tls.ca is None


def test_tls_options_without_tls_are_refused() -> None:
    with pytest.raises(ConfigError, match="--source: TLS options were given with a redis:// URL"):
        config(*BOTH, "--source-ca", "ca.pem")


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("65536", 65536), ("64k", 65536), ("512MiB", 512 << 20), ("2G", 2 << 30), ("1 tb", 1 << 40)],
)
def test_size(text: str, value: int) -> None:
    assert Size().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["", "k", "-1", "1.5g", "1x", "1kk", "9" * 30])
def test_size_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "value", "shown"),
    [
        ("127.0.0.1:9477", Address("127.0.0.1", 9477), "127.0.0.1:9477"),
        (":0", Address("127.0.0.1", 0), "127.0.0.1:0"),
        ("[::1]:80", Address("::1", 80), "[::1]:80"),
        ("host.example:1", Address("host.example", 1), "host.example:1"),
    ],
)
def test_host_port(text: str, value: Address, shown: str) -> None:
    made = HostPort().convert(text, None, None)
    assert made == value
    assert str(made) == shown


@pytest.mark.parametrize("text", ["", "9477", "host", "host:", "host:x", "host:65536", "::1:80", "host:-1", "h:٣"])
def test_host_port_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        HostPort().convert(text, None, None)


def test_what_a_link_carries() -> None:
    made = config(
        *BOTH, "--include-db", "0", "--include-db", "3", "--db-map", "3:4", "--exclude-key", "prefix:tmp:",
        "--exclude-type", "stream", "--exclude-command", "flushall", "--remove-prefix", "a:", "--add-prefix", "b:",
    ).transform  # fmt: skip
    assert made.include_databases == {0, 3}
    assert dict(made.db_map) == {3: 4}
    assert made.exclude_keys == (KeyPattern.parse("prefix:tmp:"),)
    assert (made.exclude_types, made.exclude_commands) == ({"stream"}, {"flushall"})
    assert (made.remove_prefix, made.add_prefix) == (b"a:", b"b:")
    assert config(*BOTH).transform == TransformOptions()


def test_shapes_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="db_map: two databases"):
        config(*BOTH, "--db-map", "1:5", "--db-map", "2:5")
