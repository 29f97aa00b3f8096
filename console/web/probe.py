"""Tries a connection for the form that creates a task: is it Redis, which one, and what should change there first."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from canal.control import control
from canal.endpoint import connection_error
from canal.errors import CanalError
from console.web.answers import ApiError
from node.config.loader import explain
from node.config.models import Credential, SideConfig
from node.config.secrets import resolve

Json = dict[str, Any]
TIMEOUT_S: Final = 5.0
SMALL_BACKLOG: Final = 16 << 20


async def probe(body: Json, credentials: Mapping[str, Credential]) -> Json:
    """What stands at ``url``; ``ok`` false with the reason when it cannot be used. Raises `ApiError` for bad input.

    Credentials are those of console.yaml: nodes resolve names in their own files, which the console never sees.
    """
    try:
        side = SideConfig.model_validate({"datacenter": "any", **{k: body.get(k) for k in ("url", "credentials")}})
    except ValidationError as error:
        problems = [{"path": path, "message": said} for path, said in explain(error, SideConfig)]
        raise ApiError(422, "invalid", problems[0]["message"], problems=problems) from None
    if side.credentials is not None and side.credentials not in credentials:
        text = (
            f"console.yaml has no credential {side.credentials!r}, so it cannot be tried from here; nodes use their own"
        )
        return {"ok": None, "message": text, "warnings": []}
    endpoint = resolve("side", side, credentials)
    began = time.monotonic()
    try:
        async with control(endpoint, timeout_s=TIMEOUT_S, client_name="redis-canal-console") as client:
            await client.ping()
            ping_ms = round((time.monotonic() - began) * 1000, 1)
            info: Json = await client.info()
    except (AuthenticationError, NoPermissionError) as error:
        return _failed(f"{endpoint.label}: {error}")
    except RedisError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError | TimeoutError) else error
        return _failed(str(connection_error(endpoint, cause, TIMEOUT_S)))
    except (CanalError, OSError, TimeoutError) as error:
        return _failed(
            str(error) if isinstance(error, CanalError) else str(connection_error(endpoint, error, TIMEOUT_S))
        )
    return _found(info, ping_ms)


def _failed(message: str) -> Json:
    return {"ok": False, "message": message, "warnings": []}


def _found(info: Json, ping_ms: float) -> Json:
    valkey = info.get("valkey_version")
    version = f"Valkey {valkey}" if valkey else f"Redis {info.get('redis_version', 'of an unknown version')}"
    keys = sum(int(db.get("keys", 0)) for name, db in info.items() if name.startswith("db") and isinstance(db, dict))
    return {
        "ok": True,
        "message": f"{version}, {info.get('role', 'unknown role')}, {keys} keys, answered in {ping_ms} ms",
        "warnings": _warnings(info),
        "version": version,
        "role": info.get("role"),
        "keys": keys,
        "memory_bytes": info.get("used_memory"),
        "ping_ms": ping_ms,
    }


def _warnings(info: Json) -> list[str]:
    found = []
    if int(info.get("cluster_enabled") or 0):
        found.append("this is a node of a Redis Cluster")
    if info.get("role") == "slave":
        found.append("this is a replica: as a target it would refuse writes")
    policy = str(info.get("maxmemory_policy", ""))
    if int(info.get("maxmemory") or 0) and policy not in ("", "noeviction"):
        found.append(f"maxmemory-policy is {policy}: a target that evicts keys differs from its source")
    backlog = int(info.get("repl_backlog_size") or 0)
    if 0 < backlog < SMALL_BACKLOG:
        found.append(f"repl-backlog-size is {backlog >> 20} MiB: as a source, a short outage costs a full resync")
    return found
