"""Replies to transactions: where those to one end, and what they say. No I/O.

A transaction ends with an ECHO of our own, so that its replies need not be read one by one to find their end; they are
read only where there may be something to tell.
"""

from __future__ import annotations

import secrets
from typing import Any, Final

import hiredis

from canal.errors import CanalError, Unreachable, Unready
from canal.resp import encode
from sync.batch import Batch
from sync.effects import may_be_empty, nothing
from sync.render import Failures, Rendered
from sync.target.errors import classify, is_of_keys, is_transient

_REFUSED_BYTES: Final = 1 << 20  # replies to a batch that is refused are hardly longer


class BatchRefused(CanalError):
    """The target will not take a command of this batch; nothing of the batch was applied."""

    def __init__(self, batch: Batch, failures: Failures) -> None:
        super().__init__(f"the target refused a command: {failures[0][1] if failures else 'EXECABORT'}")
        self.batch = batch
        self.failures = failures


class Transactions:
    """What waits of one connection's replies; ``label``: of its target. ``mark`` is to be sent behind each EXEC."""

    def __init__(self, label: str) -> None:
        nonce = secrets.token_hex(8).encode()
        self.mark = encode([b"ECHO", nonce])
        self.mark_reply = b"$16\r\n" + nonce + b"\r\n"
        self._label = label
        self._buffer = bytearray()
        self._searched = 0
        self._suspect = False  # an error is among the replies that wait
        self._look_from = 0  # bytes of them before which another look for their end is not worth it

    def __len__(self) -> int:
        """Bytes that wait."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """More of the replies."""
        self._buffer += data

    def first(self) -> bytes | None:
        """The first line, which stays; None while it is not there."""
        end = self._buffer.find(b"\r\n")
        return None if end < 0 else bytes(self._buffer[:end])

    def take(self, count: int) -> bytes | None:
        """The replies to a transaction of ``count`` commands, less the one to its mark; None while more is to come.

        Raises Unreachable for what are no replies.
        """
        buffer = self._buffer
        index = buffer.find(self.mark_reply, self._searched)
        after = index + len(self.mark_reply)
        if index < 0:
            found = self._without_mark(count)
            if found is None:
                self._searched = max(0, len(buffer) - len(self.mark_reply))
                return None
            index, after = found
        reply = bytes(memoryview(buffer)[:index])
        del buffer[:after]
        self._searched = 0
        self._suspect = False
        self._look_from = 0
        return reply

    def _without_mark(self, count: int) -> tuple[int, int] | None:
        """Where a transaction's replies end, and the reply to our mark, when the mark itself was refused.

        A target that answers BUSY does so to ECHO too. None while there is no sign of that, or more is to come.
        """
        buffer = self._buffer
        self._suspect = self._suspect or buffer.startswith(b"-") or buffer.find(b"\r\n-", self._searched) >= 0
        if not self._suspect or len(buffer) < self._look_from or not buffer.endswith(b"\r\n"):
            return None  # all replies that are meant are there only where the last of them ends
        if len(buffer) > _REFUSED_BYTES:
            self._look_from = 2 * len(buffer)  # one without end is not gone through for each part of it
        replies = bytes(buffer)
        index = 0
        try:
            for _ in range(count + 2):
                index = skip_reply(replies, index)
                if index < 0:
                    return None
            after = skip_reply(replies, index)
        except ValueError:
            raise Unreachable(f"target {self._label} sent what is no reply") from None
        return None if after < 0 else (index, after)


def skip_reply(buf: bytes, at: int) -> int:
    """The index after the RESP2 reply at ``at``; -1 when it is not complete. ValueError for a length that is none."""
    left = 1
    while left:
        line = buf.find(b"\r\n", at)
        if line < 0:
            return -1
        kind, after = buf[at], line + 2
        left -= 1
        if kind in b"$*":
            size = int(buf[at + 1 : line])
            if kind == 42:  # '*'
                left += max(0, size)
            elif size >= 0:
                after += size + 2
        at = after
    return at if at <= len(buf) else -1


def outcome(batch: Batch, rendered: Rendered, reply: bytes, judging: bool) -> tuple[Failures, list[int]]:
    """What the replies to a transaction say, once it is committed: the failed commands of the batch, and, ``judging``,
    the numbers of replies that were 0 or nil.

    Raises what it means when it was not: `BatchRefused`, or what ends the connection.
    """
    count = rendered.replies
    good = b"+OK\r\n" + b"+QUEUED\r\n" * count + b"*%d\r\n" % count
    sound = reply.startswith(good) and reply.find(b"\r\n-", len(good) - 2) < 0
    if sound and not (judging and may_be_empty(reply, len(good) - 2)):
        return [], []
    reader = hiredis.Reader()
    reader.feed(reply)
    replies: list[Any] = []
    try:
        while (one := reader.gets()) is not False:
            replies.append(one)
    except hiredis.ProtocolError as error:
        raise Unreachable(f"target sent what is no reply: {error}") from None
    if len(replies) != count + 2:
        raise Unreachable(f"expected {count + 2} replies to a transaction, got {len(replies)}")
    result = replies[-1]
    if not isinstance(result, list) or len(result) != count:
        raise _aborted(batch, rendered, replies)
    bad = [(i, str(one)) for i, one in enumerate(result) if isinstance(one, hiredis.ReplyError)]
    for number, text in bad:
        if number in rendered.own:
            raise Unready(f"target: our own command in the transaction failed: {text}")
    empty = [i for i, one in enumerate(result) if nothing(one)] if judging else []
    return rendered.failures(batch, bad), empty


def _aborted(batch: Batch, rendered: Rendered, replies: list[Any]) -> CanalError:
    """EXECABORT: nothing was applied; the errors at queueing tell why."""
    texts = [(i - 1, str(one)) for i, one in enumerate(replies[:-1]) if isinstance(one, hiredis.ReplyError)]
    own = rendered.own
    ours = any(i < 0 or i in own for i, _ in texts)
    lasting = [(i, text) for i, text in texts if not is_transient(text) or (is_of_keys(text) and not ours)]
    if not lasting or lasting[0][0] < 0:
        reason = texts[0][1] if texts else str(replies[-1])
        return Unready(f"target refused a transaction: {reason}")
    refused = [(i, text) for i, text in lasting if i not in own]
    failures = rendered.failures(batch, refused)
    if not failures:
        return classify(lasting[0][1], "writing the checkpoint")
    return BatchRefused(batch, failures)
