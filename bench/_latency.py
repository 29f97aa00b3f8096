"""How long one write takes to arrive while nothing else happens."""

from __future__ import annotations

import socket
import time

from bench import _common as common

PAUSE_S = 0.005


def idle_latency(source: common.Server, targets: dict[str, common.Server], samples: int) -> dict[str, dict[str, float]]:
    """p50 and p99 in ms of each target, taken in turns.

    The clock runs from before the SET is sent to the source until the target's keyspace notification of that key is
    here: the notification costs the same few microseconds on a native replica and on redis-canal's target.
    """
    return {
        name: common.percentiles([1000 * one for one in taken])
        for name, taken in _take(source, targets, samples).items()
    }


def _take(source: common.Server, targets: dict[str, common.Server], samples: int) -> dict[str, list[float]]:
    writer = _connect(source)
    readers = {name: _subscribe(server) for name, server in targets.items()}
    taken: dict[str, list[float]] = {name: [] for name in targets}
    try:
        for number in range(samples):
            for name, reader in readers.items():
                taken[name].append(_one(writer, reader, b"bench:latency:%s:%d" % (name.encode(), number)))
                time.sleep(PAUSE_S)
    finally:
        for one in (writer, *readers.values()):
            one.close()
    return taken


def _one(writer: socket.socket, reader: socket.socket, key: bytes) -> float:
    """Seconds until ``reader`` hears of ``key``. Notifications of other keys are passed over."""
    message = common.command(b"SET", key, b"x", b"EX", b"600")
    began = time.perf_counter()
    writer.sendall(message)
    got = b""
    while key + b"\r\n" not in got:
        got = got[-200:] + reader.recv(65536)
    seconds = time.perf_counter() - began
    writer.recv(64)
    return seconds


def _subscribe(server: common.Server) -> socket.socket:
    """A connection that hears of every SET."""
    server.client.config_set("notify-keyspace-events", "E$")
    made = _connect(server)
    made.sendall(common.command(b"SUBSCRIBE", b"__keyevent@0__:set"))
    made.recv(4096)
    return made


def _connect(server: common.Server) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made
