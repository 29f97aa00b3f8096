"""How commands find their coordinator: -c FILE (node.yaml or console.yaml), REDIS_CANAL_CONFIG, or --state-dir."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from canal.errors import CanalError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from node.config.models import Coordination, Credential, NodeConfig
    from node.coordination.coordinator import Coordinator

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class WaitedTooLong(CanalError):
    """What --wait waited for did not happen in time."""


def where_options(function: F) -> F:
    """The options that name a coordinator."""
    options = (
        click.option("-c", "--config", "config_file", metavar="FILE", help="node.yaml or console.yaml."),
        click.option(
            "--state-dir", metavar="DIR", help="State directory of a node with the embedded coordinator, instead of -c."
        ),
        click.option("--dc", metavar="NAME", help="Datacenter, where console.yaml has several."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def wait_options(function: F) -> F:
    """--wait and --timeout."""
    function = click.option(
        "--timeout", type=click.FloatRange(0.1), default=300.0, show_default=True, metavar="SECONDS", help="Of --wait."
    )(function)
    return click.option("--wait", is_flag=True, help="Return when it is done, not when it is asked for.")(function)


@dataclass(frozen=True, slots=True)
class Access:
    """An open coordinator, and the credentials of the file that named it."""

    coordinator: Coordinator
    credentials: Mapping[str, Credential]
    others: tuple[Coordinator, ...] = ()  # of the further datacenters of console.yaml


def node_config(ctx: click.Context, config_file: str | None, state_dir: str | None) -> NodeConfig:
    """The node.yaml that the options name; defaults with ``--state-dir`` alone. Raises ConfigProblems."""
    from node.config import load_node
    from node.config.loader import parse
    from node.config.models import NodeConfig

    file = config_file or (ctx.obj or {}).get("config")
    if file:
        config = load_node(Path(file))
        return config.model_copy(update={"state_dir": Path(state_dir).absolute()}) if state_dir else config
    if not state_dir:
        raise ConfigError("which node? Give -c FILE (node.yaml), set REDIS_CANAL_CONFIG, or name a --state-dir")
    return parse(NodeConfig, "", "environment", os.environ).model_copy(update={"state_dir": Path(state_dir).absolute()})


@contextmanager
def opened(given: dict[str, Any], *, everywhere: bool = False) -> Iterator[Access]:
    """Open the coordinator that ``where_options`` name; ``everywhere``: those of the other datacenters too."""
    ctx = click.get_current_context()
    config_file, state_dir, dc = given.pop("config_file"), given.pop("state_dir"), given.pop("dc")
    file = config_file or (ctx.obj or {}).get("config")
    opened_ones: list[Coordinator] = []
    try:
        if file and not state_dir and _is_console(Path(file)):
            access = _of_console(Path(file), dc, everywhere, opened_ones)
        else:
            access = _of_node(node_config(ctx, config_file, state_dir), opened_ones)
        yield access
    finally:
        for coordinator in opened_ones:
            coordinator.store.close()


def _is_console(file: Path) -> bool:
    from console.cli.config import _guess

    return _guess(file) == "console"


def _of_node(config: NodeConfig, opened_ones: list[Coordinator]) -> Access:
    from node.connect import coordinator_of, embedded_path

    embedded = embedded_path(config)
    if embedded is not None and not embedded.exists():
        raise ConfigError(f"there is no coordinator at {embedded}: start a node first (redis-canal node start)")
    coordinator = coordinator_of(config)
    opened_ones.append(coordinator)
    coordinator.store.start()
    return Access(coordinator, config.credentials)


def _of_console(file: Path, dc: str | None, everywhere: bool, opened_ones: list[Coordinator]) -> Access:
    from node.config import load_console
    from node.connect import open_coordinator

    config = load_console(file)
    names = sorted(config.datacenters)
    if dc is None and len(names) > 1:
        raise ConfigError(f"{file} has several datacenters; name one with --dc ({', '.join(names)})")
    if dc is not None and dc not in config.datacenters:
        raise ConfigError(f"{file} has no datacenter {dc!r}; it has {', '.join(names)}")
    chosen = dc or names[0]

    def start(coordination: Coordination) -> Coordinator:
        coordinator = open_coordinator(coordination, config.credentials, 10.0)
        opened_ones.append(coordinator)
        coordinator.store.start()
        return coordinator

    first = start(config.datacenters[chosen].coordination)
    others = [start(config.datacenters[name].coordination) for name in names if everywhere and name != chosen]
    return Access(first, config.credentials, tuple(others))


def wait_until(done: Callable[[], T | None], timeout_s: float, what: Callable[[], str]) -> T:
    """Ask again until ``done`` gives something; raises `WaitedTooLong` that says how it stands."""
    deadline = time.monotonic() + timeout_s
    while (found := done()) is None:
        if time.monotonic() > deadline:
            raise WaitedTooLong(f"not within {timeout_s:g} s: {what()}")
        time.sleep(0.1)
    return found


def who() -> str:
    """Who asks, for the history of a task."""
    try:
        return f"{getpass.getuser()}@{os.uname().nodename}"
    except (KeyError, OSError):
        return os.uname().nodename
