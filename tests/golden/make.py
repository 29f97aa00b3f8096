"""Makes the golden dumps: small RDB files cut from snapshots of real servers, with what the server itself said of them.

    python tests/golden/make.py server 7.0          # a server of tests.support.servers, filled with
    tests.support.dataset python tests/golden/make.py cut NAME FULL.rdb FULL.state.json    # a snapshot kept with its
    server's report

Each directory gets one file per encoding, `<type>-<encoding>.rdb`: the head of the snapshot (magic, fields, functions,
templates), a few keys of that encoding, the end mark and a checksum, all bytes as the server wrote them but the
checksum; and `expected.json`: what clients were told of these keys. Nothing in expected.json comes from the reader
under test, which only says where a key's bytes begin and end; tests load each file into a server, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import anycrc

from canal.rdb.events import Key, SelectDb
from canal.rdb.reader import RdbReader
from canal.rdb.types import encoding_name, type_name
from canal.rdb.wire import write_length
from tests.support import dataset
from tests.support.compare import Side
from tests.support.content import Content, read_contents
from tests.support.servers import Server

HERE = Path(__file__).parent
FAR_MS = 4_102_444_800_000  # 2100: nothing in a golden dump may expire while it is tested
SMALL = 3000  # bytes of a value that may go into a golden file
LONG = 200  # texts longer than this are kept as length and hash

Expected = dict[str, Any]


def coded(data: bytes) -> Any:
    """Bytes in JSON: text where printable, base64 otherwise, length and SHA-256 where long."""
    if len(data) > LONG:
        return {"len": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    if all(32 <= byte < 127 for byte in data):
        return data.decode()
    return {"b64": base64.b64encode(data).decode()}


def cut(name: str, data: bytes, expected: dict[tuple[int, bytes], Expected]) -> None:
    """Write the golden files of one snapshot."""
    reader = RdbReader()
    events = reader.feed(data)
    keys = [event for event in events if isinstance(event, Key) and (event.db, event.key) in expected]
    first = min(event.offset for event in events if isinstance(event, Key))
    head = data[: data.rindex(b"\xfe", 0, first)] if any(isinstance(e, SelectDb) for e in events) else data[:first]
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    told: dict[str, list[Expected]] = {}
    for encoding, members in _by_encoding(keys).items():
        body, db = head, -1
        for key in sorted(members, key=lambda key: key.offset):
            if key.db != db:
                db = key.db
                body += b"\xfe" + write_length(db)
            body += data[key.offset : key.end]
        body += b"\xff"
        crc = anycrc.Model("CRC64-REDIS").calc(body)
        (directory / f"{encoding}.rdb").write_bytes(body + crc.to_bytes(8, "little"))
        told[f"{encoding}.rdb"] = [
            {"db": key.db, "key": coded(key.key), **expected[key.db, key.key]}
            for key in sorted(members, key=lambda key: key.offset)
        ]
    (directory / "expected.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")


def _by_encoding(keys: list[Key]) -> dict[str, list[Key]]:
    """Up to five keys of each encoding: the smallest, the largest that is small, those with deadlines, and some
    between.
    """
    found: dict[str, list[Key]] = defaultdict(list)
    for key in keys:
        found[f"{type_name(key.type)}-{encoding_name(key.type)}{_form(key)}"].append(key)
    chosen = {}
    for encoding, members in found.items():
        members.sort(key=lambda key: (len(key.value), key.key))
        small = [key for key in members if len(key.value) <= SMALL] or members[:1]
        some = small if len(small) <= 4 else [small[0], small[len(small) // 2], small[-2], small[-1]]
        timed = [key for key in small if key.expire_ms is not None][:1]
        chosen[encoding] = list(dict.fromkeys(some + timed))
    return chosen


def _form(key: Key) -> str:
    """How a string is written: a part of the file's name, as each form needs its own."""
    if key.type != 0:
        return ""
    first = key.value[0]
    forms = {0xC0: "-int8", 0xC1: "-int16", 0xC2: "-int32", 0xC3: "-lzf"}
    return forms.get(first, "-6bit" if first < 0x40 else "-14bit" if first < 0x80 else "-32bit")


def from_server(version: str) -> None:
    dataset._days_ahead = lambda days: FAR_MS + days * dataset.DAY_MS + 321
    with Server.start(version) as server:
        dataset.fill(server)
        server.client().save()
        expected = {}
        with Side(server) as side:
            for db in sorted(side.databases()):
                keys = sorted(side.keys(db))
                deadlines = side.deadlines(side.wire.call(list(side.ask_deadlines(keys))))
                for key, content, until in zip(keys, read_contents(side, keys), deadlines, strict=True):
                    if until is None or until[0] > FAR_MS:
                        expected[db, key] = told(content, until)
        cut(_name(server), (server.directory / "dump.rdb").read_bytes(), expected)


def _name(server: Server) -> str:
    info = server.info("server")
    return f"{server.flavor}-{info['valkey_version' if server.flavor == 'valkey' else 'redis_version']}"


def told(content: Content, until: tuple[int, int] | None) -> Expected:
    value = content.value
    said: Expected = {"type": content.type, "expire_ms": None if until is None else until[0]}
    match content.type:
        case "string":
            said["value"] = coded(value)
        case "list":
            said["value"] = [coded(item) for item in value]
        case "set":
            said["value"] = [coded(item) for item in sorted(value)]
        case "zset":
            said["value"] = [[coded(member), repr(score)] for member, score in sorted(value.items())]
        case "hash":
            said["value"] = [[coded(field), coded(text)] for field, text in sorted(value.items())]
            if content.field_deadlines:
                said["deadlines"] = [[coded(f), until] for f, until in sorted(content.field_deadlines.items())]
        case "stream":
            said["value"] = _stream(value)
    return said


def _stream(value: dict[bytes, Any]) -> Expected:
    groups = {}
    for name, group in value[b"groups"].items():
        groups[name.decode("latin-1")] = {
            "last_id": group[b"last-delivered-id"].decode(),
            "consumers": [coded(name) for name in sorted(group[b"consumers"])],
            "pending": [[i.decode(), coded(rest[0]), rest[-1]] for i, rest in group[b"pending"].items()],
        }
    told = {
        "entries": [[i.decode(), [coded(part) for part in fields]] for i, fields in value[b"entries"].items()],
        "last_id": value[b"last-generated-id"].decode(),
        "groups": groups,
    }
    if b"entries-added" in value:
        told["entries_added"] = value[b"entries-added"]
        told["max_deleted_id"] = value[b"max-deleted-entry-id"].decode()
    return told


def from_state(name: str, rdb: Path, state: Path) -> None:
    """From a snapshot whose server's report has the form of full.state.json."""
    expected = {}
    for db, keys in json.loads(state.read_text()).items():
        if db == "functions":
            continue
        for shown, entry in keys.items():
            told = _reported(entry)
            if told is not None:
                expected[int(db), _bytes(shown)] = told
    cut(name, rdb.read_bytes(), expected)


def _bytes(shown: Any) -> bytes:
    if isinstance(shown, str) and shown.startswith('{"b64"'):
        shown = json.loads(shown)
    return shown.encode() if isinstance(shown, str) else base64.b64decode(shown["b64"])


def _recoded(shown: Any) -> Any:
    """Texts in the report's coding to this module's: it keeps long ones whole up to another bound."""
    return shown if isinstance(shown, dict) and "sha256" in shown else coded(_bytes(shown))


def _reported(entry: dict[str, Any]) -> Expected | None:
    told: Expected = {"type": entry["type"], "expire_ms": entry.get("pexpireat")}
    value = entry.get("value")
    if entry["type"] in ("array", "vectorset"):
        return {**told, **({"len": entry["len"]} if "len" in entry else {})}
    if value is None:
        return None
    match entry["type"]:
        case "string":
            told["value"] = _recoded(value)
        case "list":
            told["value"] = [_recoded(item) for item in value]
        case "set":
            told["value"] = [coded(item) for item in sorted(_bytes(item) for item in value)]
        case "zset":
            scored = sorted((_bytes(member), float(score)) for member, score in value)
            told["value"] = [[coded(member), repr(score)] for member, score in scored]
        case "hash":
            if any(isinstance(text, dict) and "sha256" in text for _, text in value):
                return None
            told["value"] = [[coded(f), coded(t)] for f, t in sorted((_bytes(f), _bytes(t)) for f, t in value)]
            if "field_pexpireat" in entry:
                pairs = sorted((_bytes(field), until) for field, until in entry["field_pexpireat"].items())
                told["deadlines"] = [[coded(field), until] for field, until in pairs]
        case "stream":
            told["value"] = _reported_stream(entry)
    return told


def _reported_stream(entry: dict[str, Any]) -> Expected:
    info = entry["info"]
    groups = {}
    for group in entry["groups"]:
        groups[_bytes(group["name"]).decode("latin-1")] = {
            "last_id": group["last-delivered-id"],
            "consumers": [coded(name) for name in sorted(_bytes(c["name"]) for c in group["consumers"])],
            "pending": [[i, coded(_bytes(owner)), count] for i, owner, count in group["pel"]],
        }
    told = {
        "entries": [[i, [_recoded(part) for part in fields]] for i, fields in entry["value"]],
        "last_id": info["last-generated-id"],
        "groups": groups,
    }
    if "entries-added" in info:
        told["entries_added"] = info["entries-added"]
        told["max_deleted_id"] = info["max-deleted-entry-id"]
    return told


if __name__ == "__main__":
    if sys.argv[1] == "server":
        from_server(sys.argv[2])
    else:
        from_state(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
