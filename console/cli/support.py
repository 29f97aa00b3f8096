"""``redis-canal support-bundle``: what somebody who helps needs to see, in one file without a secret in it."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from canal.errors import CanalError, ConfigError

if TYPE_CHECKING:
    from node.config.models import NodeConfig

HIDDEN: Final = b"(hidden)"
_TAIL: Final = 512 * 1024
_MEMBER: Final = 8 << 20
_USERINFO = re.compile(rb"(?<=://)[^/\s@\"'<>]+(?=@)")
_ASSIGNED = re.compile(
    rb"(?i)((?:password|passwd|secret|token|requirepass|masterauth|sha256|authorization|api[_-]?key)"
    rb"[\"']?\s*(?:=|:)\s*(?:bearer\s+)?)(?!\(hidden\))(\"[^\"]*\"|'[^']*'|[^\s\"',}\]]+)"
)
_ARGUMENTS = re.compile(rb"(refused a command: \S+ ).*?( in database \d)")

Part = tuple[str, bytes]


@click.command(name="support-bundle", short_help="Collect status, redacted config and logs into one file.")
@click.option("-c", "--config", "config_file", metavar="FILE", help="node.yaml of this machine's node.")
@click.option("--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Of a `run` link, or of the node.")
@click.option("--http", "http", metavar="URL", help="HTTP of the node or link (default: from node.yaml).")
@click.option(
    "--log",
    "logs",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A log file whose end belongs in it; several times.",
)
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="The .tar.gz.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    config_file: str | None,
    state_dir: Path | None,
    http: str | None,
    logs: tuple[Path, ...],
    output: Path | None,
) -> int:
    """Collect versions, configuration, tasks, positions, metrics and log lines. Passwords, tokens and the content of
    keys stay out; names of keys stay out as well. Look through it before you send it.
    """
    file = config_file or (ctx.obj or {}).get("config")
    if file is None and state_dir is None:
        raise ConfigError("of what? Give -c node.yaml, or --state-dir of a `run` link")
    node = _node(ctx, file) if file else None
    http = http or (node.http_address if node is not None else None)
    output = output or Path(f"redis-canal-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    directory = state_dir or (node.state_dir if node is not None else None)
    scrub = scrubber(secrets_of(node, os.environ))
    parts = _parts(node, file, directory, http, logs)
    write_bundle(output, ((scrub(name.encode()).decode(), scrub(data)) for name, data in parts))
    click.echo(str(output))
    return 0


def _node(ctx: click.Context, file: str) -> NodeConfig:
    from console.cli.access import node_config

    return node_config(ctx, file, None)


def write_bundle(output: Path, parts: Iterable[Part]) -> None:
    """Write the members below one directory, readable by their owner only. Raises ConfigError for the output file."""
    top = output.name.removesuffix(".tar.gz")
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, data in parts:
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size, member.mtime, member.mode = len(data), int(time.time()), 0o600
            archive.addfile(member, io.BytesIO(data))


def secrets_of(node: NodeConfig | None, environ: Any) -> list[bytes]:
    """Every secret that this machine can resolve, so that it is found wherever it stands."""
    found = {value for name, value in environ.items() if re.search(r"(?i)password|secret|token", name) and value}
    if node is not None:
        from node.config.secrets import password

        for name, credential in node.credentials.items():
            try:
                found.add(password(name, credential) or "")
            except CanalError:
                continue
    return sorted((value.encode() for value in found if len(value) >= 4), key=len, reverse=True)


def scrubber(secrets: list[bytes]) -> Callable[[bytes], bytes]:
    """A function that hides these secrets, user information in URLs, whatever is assigned to a telling
    name, and the arguments of refused commands."""

    def scrub(data: bytes) -> bytes:
        for secret in secrets:
            data = data.replace(secret, HIDDEN)
        data = _USERINFO.sub(HIDDEN, data)
        data = _ARGUMENTS.sub(rb"\1(hidden)\2", data)
        return _ASSIGNED.sub(lambda match: match[1] + HIDDEN, data)

    return scrub


# --- what goes in ---


def _parts(
    node: NodeConfig | None, file: str | None, directory: Path | None, http: str | None, logs: tuple[Path, ...]
) -> Iterator[Part]:
    yield "machine.json", _json(_machine(directory))
    if node is not None:
        from node.config.secrets import redacted

        yield "node.json", _json(redacted(node))
        yield from _guarded("coordinator.json", lambda: _json(_coordinator(node)))
    if file is not None:
        yield from _guarded("node.yaml", lambda: Path(file).read_bytes())
    if http is not None:
        for page in ("status", "metrics", "logs", "readiness"):
            yield from _guarded(f"http/{page}", lambda page=page: _get(f"{http.rstrip('/')}/{page}"))  # type: ignore[misc]
    if directory is not None:
        for link in _links(directory):
            yield from _guarded(f"links/{link.parent.name}-{link.name}.json", lambda link=link: _json(_link(link)))  # type: ignore[misc]
    for log in logs:
        yield from _guarded(f"log/{log.name}", lambda log=log: _tail(log))  # type: ignore[misc]


def _guarded(name: str, make: Callable[[], bytes]) -> Iterator[Part]:
    """A member, or what kept it from being made: a bundle is asked for when things are broken."""
    try:
        yield name, make()[:_MEMBER]
    except (CanalError, OSError, ValueError) as error:
        yield f"{name}.failed", f"{type(error).__name__}: {error}\n".encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, default=str).encode() + b"\n"


def _machine(directory: Path | None) -> dict[str, Any]:
    from console.cli.about import version_text

    there = directory if directory is not None and directory.exists() else Path("/")
    disk = shutil.disk_usage(there)
    memory = Path("/proc/meminfo")
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": version_text(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "memory": memory.read_text().splitlines()[:3] if memory.exists() else [],
        "disk": {"path": str(there), "total": disk.total, "free": disk.free},
        "environment": sorted(name for name in os.environ if name.startswith("REDIS_CANAL")),
    }


def _coordinator(node: NodeConfig) -> dict[str, Any]:
    from dataclasses import asdict

    from node.connect import coordinator_of
    from node.jobs import JobQueue

    coordinator = coordinator_of(node)
    try:
        coordinator.store.start()
        tasks = coordinator.tasks
        return {
            "place": coordinator.store.place,
            "nodes": {name: asdict(record) for name, record in coordinator.nodes.living().items()},
            "draining": sorted(coordinator.nodes.draining()),
            "tasks": {name: asdict(record) for name, record in tasks.all().items()},
            "shards": {name: [asdict(view) for view in tasks.shards(name)] for name in tasks.all()},
            "events": {name: [asdict(event) for event in tasks.events(name)] for name in tasks.all()},
            "jobs": [asdict(job) for job in JobQueue(coordinator.store).all()],
        }
    finally:
        coordinator.store.close()


def _get(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bytes(answer.read(_MEMBER))
    except urllib.error.HTTPError as error:
        return f"{error.code}\n".encode() + error.read(_MEMBER)


def _links(directory: Path) -> list[Path]:
    found = [directory] if (directory / "link.json").exists() else []
    return found or sorted(
        path.parent for pattern in ("*/link.json", "tasks/*/*/link.json") for path in directory.glob(pattern)
    )


def _link(directory: Path) -> dict[str, Any]:
    """Positions, sizes and dead letters of a link's directory: no keys, no arguments."""
    from sync.letters import read_letters

    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        "directory": str(directory),
        "link": json.loads((directory / "link.json").read_text()),
        "files": [
            {"name": str(path.relative_to(directory)), "size": path.stat().st_size, "changed": path.stat().st_mtime}
            for path in files[-2000:]
        ],
        "dead_letters": [
            {
                "id": letter.id,
                "at": letter.at,
                "offset": letter.offset,
                "command": letter.argv[0].decode("utf-8", "replace") if letter.argv else "",
                "arguments": len(letter.argv),
                "error": letter.error[:300],
                "settled": letter.settled,
            }
            for letter in read_letters(directory)[-1000:]
        ],
    }


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read(_TAIL)
