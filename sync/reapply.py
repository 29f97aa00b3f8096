"""Send a dead letter to the target again, in place of the link and never beside it.

The state directory's lock keeps the link of this machine away, and a link elsewhere is looked for among the target's
connections. What closes the rest of the gap is the target itself: the transaction watches the link's checkpoint, so it
does not happen if any owner has written or raised the epoch since, and it carries the checkpoint's tag, so that a
link in the other direction does not send it back.

At most once: the same transaction notes the letter in a reserved set. A letter whose answer was lost is found there and
not sent again; a person looks at the key and acknowledges it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import hiredis

from canal.endpoint import Endpoint
from canal.errors import Refused, ReplayError
from canal.journal.lock import StateLock
from sync.deadletter import describe
from sync.letters import Letter, settle
from sync.linkstate import LinkState
from sync.tag import INDEX, PREFIX, RESERVED, Checkpoint, Tagger
from sync.target.connection import Connection, connect
from sync.target.fence import read_checkpoint

_NAMES: Final = b"redis-canal:"


async def reapply(target: Endpoint, directory: Path, letters: list[Letter], by: str) -> int:
    """Apply letters in order and settle them; how many. Raises `ReplayError` at the first that the target refuses
    again, `Refused` when a link is at work or it is not known whether an earlier attempt arrived.
    """
    with StateLock(directory):
        uid = LinkState.load(directory).uid
        conn = await connect(target)
        try:
            key = await _checkpoint_of(conn, uid)
            await _refuse_living(conn, key)
            for letter in letters:
                await _one(conn, key, uid, letter)
                settle(directory, [letter.id], "retried", by)
                await conn.call(b"SREM", _sent(key), letter.id.encode())
        finally:
            conn.close()
    return len(letters)


async def _checkpoint_of(conn: Connection, uid: str) -> bytes:
    for key in await conn.call(b"SMEMBERS", INDEX):
        if key.startswith(PREFIX) and await conn.call(b"HGET", key, b"uid") == uid.encode():
            return bytes(key)
    raise Refused(
        f"target {conn.endpoint.label} has no checkpoint of this state directory's task (uid {uid}): is it the right "
        "target?"
    )


async def _refuse_living(conn: Connection, key: bytes) -> None:
    """Raise `Refused` when a link of this shard is connected. A user who may not ask relies on the watch alone."""
    (reply,) = await conn.calls([[b"CLIENT", b"LIST"]])
    if isinstance(reply, hiredis.ReplyError):
        return
    name = b" name=" + _NAMES + key[len(PREFIX) :] + b":"
    if any(name in line for line in reply.splitlines()):
        raise Refused(
            f"a link of {key[len(PREFIX) :].decode()} is connected to target {conn.endpoint.label}: stop it first, or "
            "let it fetch the key (dead-letters refetch)"
        )


def _sent(key: bytes) -> bytes:
    return RESERVED + b"retried:" + key[len(PREFIX) :]


async def _one(conn: Connection, key: bytes, uid: str, letter: Letter) -> None:
    name = letter.id.encode()
    await conn.call(b"SELECT", b"0")
    await conn.call(b"WATCH", key)
    checkpoint = await read_checkpoint(conn, key)
    if await conn.call(b"SISMEMBER", _sent(key), name):
        raise Refused(
            f"letter {letter.id} was sent before and its answer was lost: look at the key, then acknowledge the letter "
            f"(dead-letters ack {letter.id}) or fetch the key (dead-letters refetch {letter.id})"
        )
    replies = await conn.calls(
        [
            [b"MULTI"],
            _tag(key, uid, checkpoint),
            [b"SELECT", b"%d" % letter.db],
            list(letter.argv),
            [b"SELECT", b"0"],
            [b"SADD", _sent(key), name],
            [b"SADD", INDEX, _sent(key)],
            [b"EXEC"],
        ]
    )
    _judge(letter, replies)
    failed = replies[-1][2]
    if isinstance(failed, hiredis.ReplyError):
        await conn.call(b"SREM", _sent(key), name)
        raise ReplayError(f"letter {letter.id}: {describe(list(letter.argv))}: the target refuses it again: {failed}")


def _tag(key: bytes, uid: str, checkpoint: Checkpoint) -> list[bytes]:
    if checkpoint.position is None or checkpoint.snapshot:
        raise Refused(f"{key.decode()} stands within a snapshot: start the link, and retry when it is streaming")
    return Tagger(key, uid, checkpoint.origin, checkpoint).make(checkpoint.position, checkpoint.db)


def _judge(letter: Letter, replies: list[Any]) -> None:
    """Raise when the transaction did not happen."""
    for reply in replies:
        if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith("EXECABORT"):
            raise ReplayError(f"letter {letter.id}: {describe(list(letter.argv))}: the target refuses it: {reply}")
    if replies[-1] is None:
        raise Refused(f"letter {letter.id} was not sent: a link wrote its checkpoint meanwhile; stop it first")
