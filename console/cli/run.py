"""``redis-canal run``: one link in the foreground, without nodes or a coordinator."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from canal import formats
from canal.errors import ConfigError
from console.cli.options import Address, HostPort, Size, endpoint, side_options, state_home
from console.cli.shaping import shaping_options, transform

if TYPE_CHECKING:
    import ssl

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")  # of tasks and datacenters: they enter keys and paths


@click.command(name="run", short_help="Run one link in the foreground.")
@click.option(
    "--source",
    required=True,
    metavar="URL",
    help="What to follow: redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://.",
)
@click.option("--target", required=True, metavar="URL", help="What to write to, likewise.")
@click.option("--name", metavar="TASK", help="Name of the task (default: <source-dc>-<target-dc>).")
@click.option("--source-dc", metavar="DC", help="Datacenter of the source (default: source).")
@click.option("--target-dc", metavar="DC", help="Datacenter of the target (default: target).")
@click.option("--two-way", is_flag=True, help="Another link runs the other way: never send a write back to its origin.")
@click.option("--direct", multiple=True, metavar="DC", help="Origin that has a direct task of its own to the target.")
@click.option(
    "--snapshot",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Copy all of the source: where nothing else serves, at every start, or never (begin with new writes).",
)
@click.option(
    "--stale-keys",
    type=click.Choice(["delete", "keep"]),
    help="What happens to keys of the target that the source does not have.",
)
@click.option(
    "--confirm-resync", is_flag=True, help="Allow a later resync to remove much of the target; see the message."
)
@click.option(
    "--existing",
    type=click.Choice(["home", "source", "target"]),
    default="home",
    show_default=True,
    help="With --two-way: whose value stays where both sides have a key.",
)
@click.option(
    "--home",
    multiple=True,
    default=("hash",),
    show_default=True,
    metavar="WORD",
    help="With --two-way: whose state of a key wins when both sides wrote it: hash, a datacenter, or PATTERN=DC.",
)
@click.option(
    "--datacenter",
    "datacenters",
    multiple=True,
    metavar="DC",
    help="With --two-way: one more that writes, beside source, target and --direct; the same list for every link.",
)
@click.option(
    "--conflicts",
    type=click.Choice(["settle", "off"]),
    default="settle",
    show_default=True,
    help="With --two-way: off where no key is written in both datacenters at a time; clusters need it.",
)
@click.option(
    "--commutative", is_flag=True, help="With --two-way: INCR, SADD and their like on both sides are no conflict."
)
@click.option(
    "--flush",
    type=click.Choice(["replay", "drop", "stop"]),
    help="What becomes of FLUSHALL, FLUSHDB and SWAPDB (default: replay; with --two-way: stop).",
)
@click.option("--accept-evictions", is_flag=True, help="With --two-way: link servers that evict keys all the same.")
@click.option("--big-key-bytes", type=Size(), default="24m", show_default=True, help="Larger values go in pieces.")
@click.option(
    "--snapshot-rate", type=Size(), default=0, help="Snapshot bytes a second, such as 50m (default: no limit)."
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "continue"]),
    default="stop",
    show_default=True,
    help="When the target refuses a command for good; it is kept as a dead letter either way.",
)
@click.option(
    "--throttle-commands", type=click.FloatRange(0), default=0, metavar="N", help="Commands a second at most."
)
@click.option("--throttle-bytes", type=Size(), default=0, help="Bytes a second at most, such as 20m.")
@click.option(
    "--throttle-latency",
    type=click.FloatRange(0),
    default=0,
    metavar="MS",
    help="Slow down while the target takes longer than this for a transaction.",
)
@click.option(
    "--throttle-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="YAML with commands_per_second, bytes_per_second, latency_ms; read at the start and at each SIGHUP.",
)
@click.option(
    "--verify-rate", type=click.FloatRange(0), default=0, metavar="N", help="Compare N keys a second while it streams."
)
@click.option("--heartbeat", is_flag=True, help="Write a key at the source every second, for the true lag.")
@click.option(
    "--writer",
    type=click.Choice(["auto", "gated", "guarded"]),
    default="auto",
    show_default=True,
    help="How transactions are sent: each after the one before (gated), or by a script that checks (guarded).",
)
@click.option(
    "--compact", is_flag=True, help="Leave out writes that are overwritten or deleted later in their transaction."
)
@shaping_options
@side_options("source")
@side_options("target")
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(),
    help="Holds a directory per task: journal, spool, identity (default: the XDG state home).",
)
@click.option(
    "--fsync",
    type=click.Choice(["always", "everysec", "no"]),
    default="everysec",
    show_default=True,
    help="When the journal is forced to disk.",
)
@click.option(
    "--max-journal-bytes", type=Size(), default=0, help="Bound of the journal, such as 20g (default: the disk)."
)
@click.option("--http", type=HostPort(), help="Serve /metrics, /status, /liveness and /readiness there.")
@click.option("--http-cert", type=click.Path(), metavar="FILE", help="Serve them by HTTPS with this certificate.")
@click.option("--http-key", type=click.Path(), metavar="FILE", help="Its private key.")
@click.option(
    "--http-client-ca", type=click.Path(), metavar="FILE", help="Only for clients with a certificate of this authority."
)
@click.option("--format", type=int, metavar="N", help="Format of what is written (default: the release before's).")
@click.option(
    "--stop-timeout",
    type=click.FloatRange(0, 3600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="For applying what was received, at the first signal.",
)
@click.option("-v", "--verbose", count=True, help="Debug messages; twice for those of libraries too.")
@click.option("--json-logs", is_flag=True, help="One JSON object per log line, and no live display.")
def command(**given: Any) -> int:
    """Run one link, source to target, in the foreground, until SIGTERM or SIGINT.

    The first signal stops reading, applies what is journaled and exits 0; a second one stops at once. Passwords come
    from --source-password-file and --target-password-file or from REDIS_CANAL_SOURCE_PASSWORD and
    REDIS_CANAL_TARGET_PASSWORD.
    """
    config = build_config(given)
    formats.write(given["format"])
    from console.cli.foreground import run_foreground

    http: Address | None = given["http"]
    return run_foreground(
        config,
        http=None if http is None else (http.host, http.port),
        tls=_http_tls(given),
        verbose=given["verbose"],
        json_logs=given["json_logs"],
        stop_timeout_s=given["stop_timeout"],
        throttle=lambda: throttle(given),
    )


def build_config(given: dict[str, Any]) -> Any:
    """The LinkConfig of the options. Raises ConfigError for what does not fit together."""
    from sync.config import JournalOptions, LinkConfig, SnapshotOptions
    from sync.homes import Homes, refuse_clusters

    source_dc, target_dc = _datacenters(given)
    if given["two_way"] and given["compact"]:
        raise ConfigError("--compact is for one way only: two ways, the other link looks at every write")
    task = given["name"] or f"{source_dc}-{target_dc}"
    for flag, name in (("--name", task), *(("--direct", dc) for dc in given["direct"])):
        _check_name(flag, name)
    for name in given["datacenters"]:
        _check_name("--datacenter", name)
    if given["two_way"]:
        Homes(given["home"], {source_dc, target_dc, *given["direct"], *given["datacenters"]})  # says what is wrong
    source, target = (endpoint(side, given[side], given) for side in ("source", "target"))
    if given["two_way"]:
        words = given["conflicts"], given["home"], given["direct"], given["flush"] or "auto"
        refuse_clusters(source, target, *words, sorted({*given["datacenters"]} - {source_dc, target_dc}))
    return LinkConfig(
        task=task,
        source=source,
        target=target,
        state_dir=_state_dir(given["state_dir"], task),
        source_dc=source_dc,
        target_dc=target_dc,
        two_way=given["two_way"],
        flush=given["flush"] or "auto",
        accept_evictions=given["accept_evictions"],
        conflicts=given["conflicts"],
        home=given["home"],
        datacenters=given["datacenters"],
        commutative=given["commutative"],
        direct=given["direct"],
        on_error=given["on_error"],
        writer=given["writer"],
        compact=given["compact"],
        snapshot=SnapshotOptions(
            mode=given["snapshot"],
            stale_keys=given["stale_keys"],
            confirmed=given["confirm_resync"],
            existing=given["existing"],
            big_key_bytes=given["big_key_bytes"],
            max_bytes_per_second=given["snapshot_rate"],
        ),
        journal=JournalOptions(fsync=given["fsync"], max_bytes=given["max_journal_bytes"]),
        transform=transform(given),
        throttle=throttle(given),
        verify_rate=given["verify_rate"],
        heartbeat=given["heartbeat"],
    )


def _http_tls(given: dict[str, Any]) -> ssl.SSLContext | None:
    """The context of --http; raises ConfigError for flags that do not fit together and files that do not serve."""
    cert, key, client_ca = given["http_cert"], given["http_key"], given["http_client_ca"]
    if cert is None:
        if key is not None or client_ca is not None:
            raise ConfigError("--http-key and --http-client-ca need --http-cert: without it HTTP is plain text")
        return None
    if given["http"] is None:
        raise ConfigError("--http-cert needs --http: without it nothing is served")
    from canal.endpoint import serving_context

    return serving_context(cert, key, client_ca)


def throttle(given: dict[str, Any]) -> Any:
    """The ThrottleOptions of the flags, and of the file as it is now. Raises ConfigError."""
    from sync.throttle import ThrottleOptions

    flags = {
        "commands_per_second": given["throttle_commands"],
        "bytes_per_second": given["throttle_bytes"],
        "latency_ms": given["throttle_latency"],
    }
    file: Path | None = given["throttle_file"]
    if file is None:
        return ThrottleOptions.of(flags)
    import yaml

    try:
        found = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--throttle-file: {file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--throttle-file: {file}: expected keys and values, got {str(found)[:40]!r}")
    return ThrottleOptions.of({**flags, **found})


def _datacenters(given: dict[str, Any]) -> tuple[str, str]:
    source_dc, target_dc = given["source_dc"], given["target_dc"]
    if given["two_way"] and not (source_dc and target_dc):
        raise ConfigError(
            "--two-way needs --source-dc and --target-dc: writes are told apart by the datacenter they were made in; "
            "give both links the same two names, the other way round"
        )
    source_dc, target_dc = source_dc or "source", target_dc or "target"
    _check_name("--source-dc", source_dc)
    _check_name("--target-dc", target_dc)
    if source_dc == target_dc:
        raise ConfigError(f"--source-dc and --target-dc are both {source_dc!r}; give the datacenters different names")
    return source_dc, target_dc


def _check_name(flag: str, name: str) -> None:
    if _NAME.match(name) is None:
        raise ConfigError(
            f"{flag}: expected a name of letters, digits, '.', '_' and '-' (at most 63), starting with a letter or "
            f"digit, got {name!r}"
        )


def _state_dir(given: str | None, task: str) -> Path:
    """The directory of this link: one per task, so that several links may share a --state-dir."""
    return (Path(given).absolute() if given else state_home()) / task
