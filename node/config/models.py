"""What may stand in node.yaml, task.yaml and console.yaml, and in the task specs that coordinators keep.

Unknown keys are refused everywhere. Nothing here holds a secret: passwords are named by ``password_file`` or
``password_env`` and read by `secrets` where they are used.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from canal import formats
from canal.errors import ConfigError
from canal.url import Endpoint, parse_address_map, parse_url
from node.coordination.records import check_name
from sync.filters import KeyPattern
from sync.homes import refuse_clusters
from sync.transform import Transform, TransformOptions

_SIZE = re.compile(r"(\d{1,18})\s*([kmgt]?)(?:i?b)?\Z", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def _size(value: Any) -> Any:
    """``64MiB``, ``512m``, ``2g`` or a number of bytes; powers of 1024."""
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if match is None:
            raise ValueError(f"expected a size such as 512m or 2GiB, got {value!r}")
        return int(match[1]) * _UNITS[match[2].lower()]
    return value


def _named(kind: str) -> AfterValidator:
    def check(value: str) -> str:
        try:
            return check_name(kind, value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or not host.strip("[]"):
        raise ValueError(f"expected HOST:PORT, for example 127.0.0.1:9477 or [::1]:9477, got {value!r}")
    return value


def _server_url(value: str) -> str:
    try:
        endpoint = parse_url(value)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if endpoint.password is not None or endpoint.username is not None:
        raise ValueError("user and password do not belong in a URL that others can read; name them by 'credentials'")
    return value


def _format(value: int | None) -> int | None:
    if value is not None and not formats.OLDEST <= value <= formats.NEWEST:
        raise ValueError(f"this redis-canal knows formats {formats.OLDEST} to {formats.NEWEST}, got {value}")
    return value


Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]
TaskName = Annotated[str, _named("task")]
NodeName = Annotated[str, _named("node")]
Datacenter = Annotated[str, _named("datacenter")]
Listen = Annotated[str, AfterValidator(_listen)]
ServerUrl = Annotated[str, AfterValidator(_server_url)]


class Strict(BaseModel):
    """No unknown keys, no changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=False)


class Credential(Strict):
    """How to log in somewhere, named so that tasks can refer to it. The files stay on this machine."""

    username: str | None = None
    password_env: str | None = Field(default=None, description="environment variable that holds the password")
    password_file: Path | None = Field(default=None, description="file whose first line is the password")
    ca: Path | None = Field(default=None, description="PEM file or directory of the authorities to trust")
    cert: Path | None = Field(default=None, description="client certificate")
    key: Path | None = Field(default=None, description="its private key")
    server_name: str | None = Field(default=None, description="name that the certificate must carry, default: the host")
    verify: bool = True

    @model_validator(mode="after")
    def _one_password(self) -> Credential:
        if self.password_env is not None and self.password_file is not None:
            raise ValueError("password_env and password_file are both given; give one")
        if self.username is not None and self.password_env is None and self.password_file is None:
            raise ValueError("a username without a password; give password_file or password_env")
        if self.key is not None and self.cert is None:
            raise ValueError("a key without its certificate; give cert too")
        return self

    @property
    def has_tls(self) -> bool:
        """True when anything here is about TLS."""
        return bool(self.ca or self.cert or self.server_name or not self.verify)


class ZooKeeperConfig(Strict):
    """An ensemble. ``credentials`` names a digest user, and certificates when ``tls`` is on."""

    hosts: Annotated[str, Field(min_length=1)]
    chroot: Annotated[str, Field(pattern=r"^(/[^/\s]+)+$")] = "/redis-canal"
    credentials: str | None = None
    tls: bool = False


class EmbeddedConfig(Strict):
    """A SQLite file on this machine, shared by its daemons and the command line."""

    path: Path


class Coordination(Strict):
    """Exactly one of the two; neither: a SQLite file in the state directory."""

    zookeeper: ZooKeeperConfig | None = None
    embedded: EmbeddedConfig | None = None

    @model_validator(mode="after")
    def _one(self) -> Coordination:
        if self.zookeeper is not None and self.embedded is not None:
            raise ValueError("zookeeper and embedded are both given; give one")
        return self


class ServeTls(Strict):
    """A certificate to serve with. ``client_ca``: who comes without a certificate of that authority is turned away."""

    cert: Path
    key: Path | None = Field(default=None, description="private key, where it is not in the file of the certificate")
    client_ca: Path | None = None


class HttpConfig(Strict):
    """Metrics and status of a node."""

    listen: Listen = "127.0.0.1:9477"
    advertise: str | None = Field(
        default=None, description="base URL under which others reach it, default http://<listen>"
    )
    tls: ServeTls | None = None


class NodeConfig(Strict):
    """node.yaml"""

    node: NodeName = Field(default_factory=lambda: os.uname().nodename, validate_default=True)
    datacenter: Datacenter = "local"
    coordination: Coordination = Coordination()
    state_dir: Path = Path("/var/lib/redis-canal")
    http: HttpConfig = HttpConfig()
    max_shards: Annotated[int, Field(ge=0, le=100_000)] = 256
    lease_timeout_seconds: Annotated[float, Field(ge=1, le=600)] = 10.0
    publish_seconds: Annotated[float, Field(ge=0.5, le=300)] = 5.0
    allow_hooks: bool = Field(default=False, description="tasks may name Python functions that this node then runs")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    format: Annotated[int | None, AfterValidator(_format)] = Field(
        default=None, description="of what is written, see canal/formats.py; default: the release before's"
    )
    credentials: dict[str, Credential] = {}

    @model_validator(mode="after")
    def _known_credentials(self) -> NodeConfig:
        zookeeper = self.coordination.zookeeper
        if zookeeper is not None and zookeeper.credentials is not None:
            _known(zookeeper.credentials, self.credentials, "coordination.zookeeper")
        return self

    @property
    def http_address(self) -> str:
        """The base URL of this node's HTTP for others."""
        return self.http.advertise or f"http{'s' if self.http.tls else ''}://{self.http.listen}"


def _address_map(pairs: dict[str, str]) -> tuple[tuple[str, str], ...]:
    try:
        return parse_address_map(pairs)
    except ConfigError as error:
        raise ValueError(str(error)) from None


class SideConfig(Strict):
    """One side of a task."""

    datacenter: Datacenter
    url: ServerUrl
    credentials: str | None = None
    sentinel_credentials: str | None = Field(default=None, description="how to log in to the Sentinels")
    address_map: dict[str, str] = Field(default={}, description="announced address -> where it is reached from here")

    @model_validator(mode="after")
    def _group(self) -> SideConfig:
        group = self.endpoint.group
        if self.sentinel_credentials is not None and (group is None or group.kind != "sentinel"):
            raise ValueError("sentinel_credentials are for redis+sentinel:// URLs")
        if self.address_map and group is None:
            raise ValueError("address_map is for the URLs of Sentinels and clusters")
        return self

    @property
    def endpoint(self) -> Endpoint:
        """The server without its credentials."""
        endpoint = parse_url(self.url)
        if endpoint.group is None:
            return endpoint
        return replace(endpoint, group=replace(endpoint.group, address_map=_address_map(self.address_map)))


def _words(value: object) -> object:
    """One word may stand without a list."""
    return (value,) if isinstance(value, str) else value


def _off(value: object) -> object:
    """YAML reads the word as false."""
    return "off" if value is False else value


class TwoWayConfig(Strict):
    """The task in the other direction, and whose value wins where both sides wrote (``home``: see `sync.homes`).

    ``conflicts: off`` where no key is written in two datacenters at a time.
    ``datacenters``: those that write beside source, target and ``direct``; the same in every task.
    """

    peer: TaskName
    conflicts: Annotated[Literal["settle", "off"], BeforeValidator(_off)] = "settle"
    home: Annotated[tuple[str, ...], BeforeValidator(_words)] = ("hash",)
    datacenters: tuple[Datacenter, ...] = ()
    commutative: bool = False
    window_max_keys: Annotated[int, Field(ge=1000)] = 2_000_000
    echoes_per_second: Annotated[float, Field(gt=0)] = 1000.0
    flush: Literal["auto", "replay", "drop", "stop"] = "auto"
    accept_evictions: bool = False


class SnapshotConfig(Strict):
    """How a snapshot is applied."""

    mode: Literal["auto", "always", "never"] = "auto"
    stale_keys: Literal["delete", "keep"] | None = None
    existing: Literal["home", "source", "target"] = "home"
    big_key_bytes: Size = 24 << 20
    max_bytes_per_second: Size = 0


class JournalConfig(Strict):
    """Bounds of the durable journal."""

    segment_bytes: Annotated[Size, Field(ge=4096)] = 64 << 20
    fsync: Literal["always", "everysec", "no"] = "everysec"
    max_bytes: Size = 0
    retain_bytes: Size = 64 << 20
    retain_seconds: Annotated[float, Field(ge=0)] = 60.0
    tail_bytes: Annotated[Size, Field(ge=65536)] = 8 << 20


class ThrottleConfig(Strict):
    """Limits of replay, 0: none. Changed while the task runs, without a new start."""

    commands_per_second: Annotated[float, Field(ge=0)] = 0
    bytes_per_second: Size = 0
    latency_ms: Annotated[float, Field(ge=0)] = 0


class VerifyConfig(Strict):
    """Comparison while the task runs. ``rate``: keys a second; 0: none."""

    rate: Annotated[float, Field(ge=0, le=100_000)] = 0


class SelectionConfig(Strict):
    """What a filter names. Keys: ``prefix:TEXT``, ``regex:EXPRESSION`` or a glob."""

    databases: tuple[Annotated[int, Field(ge=0)], ...] = ()
    keys: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()


class FilterConfig(Strict):
    """What is carried (nothing included: everything), and what is left out of that."""

    include: SelectionConfig = SelectionConfig()
    exclude: SelectionConfig = SelectionConfig()


class MapConfig(Strict):
    """What keys become at the target. ``hook``: ``MODULE:FUNCTION``, only where a node's allow_hooks permits it."""

    databases: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = {}
    remove_prefix: str = ""
    add_prefix: str = ""
    hook: Annotated[str, Field(pattern=r"^$|^[\w.]+:\w+$")] = ""


class TaskSpec(Strict):
    """task.yaml, and the spec in a coordinator: one direction. ``direct`` is worked out when the task is created."""

    task: TaskName
    source: SideConfig
    target: SideConfig
    two_way: TwoWayConfig | None = None
    direct: tuple[Datacenter, ...] = ()
    filter: FilterConfig = FilterConfig()
    map: MapConfig = MapConfig()
    snapshot: SnapshotConfig = SnapshotConfig()
    journal: JournalConfig = JournalConfig()
    throttle: ThrottleConfig = ThrottleConfig()
    verify: VerifyConfig = VerifyConfig()
    heartbeat: bool = Field(default=False, description="write a key at the source every second, for the true lag")
    on_error: Literal["stop", "continue"] = "stop"
    writer: Literal["auto", "gated", "guarded"] = "auto"
    compact: bool = False
    batch_bytes: Annotated[Size, Field(ge=1024)] = 256 * 1024
    batch_commands: Annotated[int, Field(ge=1, le=100_000)] = 1000

    @model_validator(mode="after")
    def _two_sides(self) -> TaskSpec:
        if self.source.datacenter == self.target.datacenter:
            raise ValueError("source and target have the same datacenter; give each its own name")
        if self.source.endpoint.address == self.target.endpoint.address:
            raise ValueError(f"source and target are the same server ({self.source.endpoint.address})")
        if self.two_way is not None and self.two_way.peer == self.task:
            raise ValueError("two_way.peer names this task itself; name the task of the other direction")
        if self.two_way is not None and self.compact:
            raise ValueError("compact is for one way only: two ways, the other link looks at every write")
        try:
            if self.two_way is not None:
                two = self.two_way
                words = two.conflicts, two.home, self.direct, two.flush
                others = sorted({*two.datacenters} - {self.source.datacenter, self.target.datacenter})
                refuse_clusters(self.source.endpoint, self.target.endpoint, *words, others)
            Transform(self.transform)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def transform(self) -> TransformOptions:
        """Filter and map as a link wants them. Raises ConfigError for a pattern that is none."""
        include, exclude = self.filter.include, self.filter.exclude
        return TransformOptions(
            include_databases=frozenset(include.databases),
            exclude_databases=frozenset(exclude.databases),
            include_keys=tuple(KeyPattern.parse(word) for word in include.keys),
            exclude_keys=tuple(KeyPattern.parse(word) for word in exclude.keys),
            include_types=frozenset(include.types),
            exclude_types=frozenset(exclude.types),
            include_commands=frozenset(include.commands),
            exclude_commands=frozenset(exclude.commands),
            db_map=dict(self.map.databases),
            add_prefix=self.map.add_prefix.encode(),
            remove_prefix=self.map.remove_prefix.encode(),
            hook="",
        )


class DatacenterConfig(Strict):
    """One datacenter as the console reaches it."""

    coordination: Coordination
    nodes: dict[str, str] = Field(
        default={}, description="node name -> base URL, where the registered one cannot be used"
    )


class TokenConfig(Strict):
    """Who may use the console. ``sha256``: hex digest of the token, as printed by `redis-canal console token`."""

    name: str
    role: Literal["admin", "read-only"] = "read-only"
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ConsoleConfig(Strict):
    """console.yaml"""

    listen: Listen = "127.0.0.1:9480"
    tls: ServeTls | None = None
    node_credentials: str | None = Field(
        default=None, description="credential with the authority, and perhaps a certificate, for nodes that serve HTTPS"
    )
    datacenters: Annotated[dict[Datacenter, DatacenterConfig], Field(min_length=1)]
    tokens: tuple[TokenConfig, ...] = ()
    credentials: dict[str, Credential] = {}
    audit_log: Path | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ConsoleConfig:
        for name, datacenter in self.datacenters.items():
            zookeeper = datacenter.coordination.zookeeper
            if zookeeper is None and datacenter.coordination.embedded is None:
                raise ValueError(f"datacenters.{name}.coordination: give zookeeper or embedded")
            if zookeeper is not None and zookeeper.credentials is not None:
                _known(zookeeper.credentials, self.credentials, f"datacenters.{name}.coordination.zookeeper")
        if self.node_credentials is not None:
            _known(self.node_credentials, self.credentials, "node_credentials")
        loopback = self.listen.rpartition(":")[0].strip("[]") in ("127.0.0.1", "::1", "localhost")
        if not loopback and not self.tokens:
            raise ValueError(f"listen: {self.listen} is not loopback, so at least one token is needed (tokens:)")
        return self


def _known(name: str, credentials: dict[str, Credential], where: str) -> None:
    if name not in credentials:
        listed = ", ".join(sorted(credentials)) or "there are none"
        raise ValueError(f"{where}.credentials: {name!r} is not among the credentials of this file ({listed})")
