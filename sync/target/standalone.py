"""The writer of a standalone target: batches in, commits out, on one fenced connection.

A batch commits only after the one before it, since a batch that is refused (BUSY, OOM …) must not be overtaken by the
next one, whose tag would move the position past it. Two modes keep that:

- *gated*: the inside of the next transaction is sent ahead, its EXEC only after the reply to the one before.
- *guarded*: each batch is one script call that first compares position and epoch with those it builds on, and refuses
  otherwise; so any number of batches may be on their way. Batches that scripts cannot carry go gated, alone.

After any failure the connection is dropped and everything starts again from the checkpoint: what was applied is there.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import hiredis

from canal.errors import CanalError, Unreachable, Unready
from canal.resp import encode
from sync.batch import Batch
from sync.conditional import DELETE_HEAD, FIELDS_HEAD
from sync.effects import JUDGED, may_be_empty, nothing
from sync.render import EXEC, MULTI, RAW, Failures, Form, Rendered, render, script_form
from sync.sendwindow import SendWindow
from sync.tag import Tagger
from sync.target.connection import MAX_REPLY, Connection
from sync.target.errors import classify, is_of_keys, is_transient

_LONG: Final = 1 << 20
_TEXT: Final = 1000  # of an error that is passed on
_REFUSED_BYTES: Final = 1 << 20  # replies to a batch that is refused are hardly longer

_GUARD: Final = b"""\
redis.call('SELECT', 0)
local found = redis.call('HMGET', KEYS[1], 'pos', 'epoch', 'snap')
if (found[1] or '') ~= ARGV[1] or (found[2] or '0') ~= ARGV[2] or (found[3] or '0') ~= ARGV[3] then
  return redis.error_reply('MOVED_ON checkpoint is ' .. tostring(found[1]) .. ' epoch ' .. tostring(found[2]))
end
--[[delete_if]]
-- names that are looked up for every command are made local: a third less of the target's CPU
local ARGV, unpack, pcall, type, tonumber = ARGV, unpack, redis.pcall, type, tonumber
local failed = {}
local judged = {--[[names]]}
local at, number, total = 4, 0, #ARGV
while at <= total do
  local argc = tonumber(ARGV[at])
  if number == 0 then
    redis.call(unpack(ARGV, at + 1, at + argc))
  else
    local reply
    if ARGV[at + 1] == 'EVAL' then  -- scripts cannot call scripts: the only ones that come here are sync.conditional's
      if ARGV[at + 5] == 'fields' then
        reply = fields_if(ARGV[at + 4], ARGV, at + 6, at + argc)
      else
        reply = delete_if(ARGV[at + 4], ARGV[at + 5], ARGV[at + 6], ARGV[at + 7])
      end
    else
      reply = pcall(unpack(ARGV, at + 1, at + argc))
    end
    if type(reply) == 'table' and reply.err then
      failed[#failed + 1] = number
      failed[#failed + 1] = reply.err
    --[[empty]]
    end
  end
  at = at + argc + 1
  number = number + 1
end
return failed
"""
_JUDGING: Final = b"""\
elseif (reply == 0 or reply == -1 or not reply or (type(reply) == 'table' and not reply.ok and #reply == 0))
      and judged[string.upper(ARGV[at + 1])] then
      failed[#failed + 1] = number
      failed[#failed + 1] = ''\
"""
GUARD: Final = _GUARD.replace(b"--[[delete_if]]\n", DELETE_HEAD + FIELDS_HEAD)
JUDGING_GUARD: Final = GUARD.replace(b"--[[empty]]", _JUDGING).replace(
    b"--[[names]]", b",".join(b"['%b']=1" % name for name in sorted(JUDGED))
)
"""As GUARD, two ways: commands that answered nothing are told too, with no text."""


def guard(judging: bool) -> tuple[bytes, bytes]:
    """The script that guards batches, and its SHA-1."""
    body = JUDGING_GUARD if judging else GUARD
    return body, hashlib.sha1(body).hexdigest().encode()


class BatchRefused(CanalError):
    """The target will not take a command of this batch; nothing of the batch was applied."""

    def __init__(self, batch: Batch, failures: Failures) -> None:
        super().__init__(f"the target refused a command: {failures[0][1] if failures else 'EXECABORT'}")
        self.batch = batch
        self.failures = failures


@dataclass(slots=True)
class _Flight:
    batch: Batch
    rendered: Rendered
    guarded: bool
    size: int
    written: int = 0  # bytes written to the connection when the last of its own were
    sent: bool = False  # its inside is at the target already, only EXEC is missing


class Writer:
    """Applies batches in order. ``on_commit(batch, failures)`` is called for each; ``error`` is set when it ended.

    ``wake`` is called whenever there may be room again, or an error. ``judge(batch, numbers)`` is told, before
    ``on_commit``, which of the user's commands were answered by 0 or nil.
    """

    def __init__(
        self,
        conn: Connection,
        tagger: Tagger,
        replid_at: Callable[[int], str],
        *,
        guarded: bool,
        epoch: int,
        stands: tuple[str, int],
        pipelined_multi: bool,
        on_commit: Callable[[Batch, Failures], None],
        wake: Callable[[], None],
        rtt_s: float = 0.0,
        form: Form = RAW,
        judge: Callable[[Batch, list[int]], None] | None = None,
    ) -> None:
        self._replid_at = replid_at
        self._judge = judge
        self._sha = guard(judge is not None)[1]
        self.guarded = guarded
        self.error: CanalError | None = None
        self.sent_to = 0  # end of the newest batch submitted
        self.skips_until = -1  # of clusters: nothing here is applied beyond the position
        self.in_flight: deque[_Flight] = deque()
        self._conn = conn
        self._tagger = tagger
        self._epoch = epoch
        self._stands = stands  # (pos, snap) that the next batch builds on, for the guard
        self._pipelined = pipelined_multi
        self._on_commit = on_commit
        self._wake = wake
        self._window = SendWindow(rtt_s)
        self._form = form
        self._ahead: _Flight | None = None  # gated: sent without its EXEC (or, for old servers, only its MULTI)
        self._db = 0
        self._bytes = 0
        self._buffer = bytearray()
        self._searched = 0
        self._suspect = False  # an error is among the replies that wait
        self._look_from = 0  # bytes of them before which another look for their end is not worth it
        self._received = 0  # bytes of replies
        self._written = 0  # bytes written to the connection
        self._moved = (-1, -1)  # received and taken bytes when work on its way was last seen to move
        self._moved_at = 0.0
        self._waiting_multi = False
        nonce = secrets.token_hex(8).encode()
        self._mark = encode([b"ECHO", nonce])
        self._mark_reply = b"$16\r\n" + nonce + b"\r\n"
        self._reader = hiredis.Reader()
        self._unread = 0  # bytes fed to it since it last gave a reply
        conn.stream(self._data, self._lost, wake)

    # what the link asks

    @property
    def room(self) -> bool:
        """True when a batch may be submitted now."""
        if self.error is not None or self._conn.paused or self._ahead is not None:
            return False
        if not self.in_flight:
            return True
        if not self.guarded:
            return True
        return self.in_flight[-1].guarded and self._window.admits(self._bytes)

    @property
    def idle(self) -> bool:
        """Nothing on its way."""
        return not self.in_flight and self._ahead is None

    def stuck_for(self, now: float) -> float:
        """Seconds (of the caller's monotonic clock) in which nothing of what is on its way has moved; 0 when idle.

        While the oldest batch is still being sent its bytes count as moving: a slow line is not taken for a dead one.
        """
        taken = self._written - self._conn.unsent
        if self.in_flight:
            taken = min(taken, self.in_flight[0].written)  # what was sent after it does not speak for it
        moved = (self._received, taken)
        if self.idle or moved != self._moved:
            self._moved, self._moved_at = moved, now
        return now - self._moved_at

    def submit(self, batch: Batch) -> None:
        """Send a batch; only when `room`."""
        self.sent_to = batch.end
        batch.sent = time.monotonic()
        if self.guarded and not batch.noscript and not batch.solo and self._submit_guarded(batch):
            return
        rendered = self._rendered(batch, self._db)
        self._db = rendered.db
        self._stands = self._after(batch)
        flight = _Flight(batch, rendered, False, sum(map(len, rendered.parts)))
        if self.in_flight:
            self._ahead = flight
            if self._pipelined and not self.in_flight[-1].guarded:
                flight.sent = True
                self._write(flight, MULTI, *rendered.parts)
            return
        self._start(flight)

    def close(self, error: CanalError | None = None) -> None:
        """Drop the connection; nothing more is sent. ``error`` becomes `error` unless there is one already."""
        self._fail(error or Unreachable("closed"))

    # sending

    def _write(self, flight: _Flight, *parts: bytes) -> None:
        size = sum(map(len, parts))
        self._written += size
        flight.written = self._written
        if size < _LONG:
            self._conn.write(b"".join(parts))
            return
        for long, group in groupby(parts, key=lambda part: len(part) >= _LONG):
            if long:  # a copy would cost memory
                for part in group:
                    self._conn.write(part)
            else:
                self._conn.write(b"".join(group))

    def _rendered(self, batch: Batch, db: int) -> Rendered:
        return render(batch, self._tagger, self._replid_at(batch.end), db, form=self._form)

    def _submit_guarded(self, batch: Batch) -> bool:
        rendered = self._rendered(batch, 0)
        arguments = script_form(rendered)
        if arguments is None:
            return False
        raw, number = arguments
        pos, snap = self._stands
        head = [b"EVALSHA", self._sha, b"1", self._tagger.key, pos.encode(), b"%d" % self._epoch, b"%d" % snap]
        parts = [b"*%d\r\n" % (len(head) + number)]
        parts += [b"$%d\r\n%b\r\n" % (len(word), word) for word in head]
        parts.append(raw)
        data = b"".join(parts)
        self._stands = self._after(batch)
        flight = _Flight(batch, rendered, True, len(data))
        self._bytes += flight.size
        self.in_flight.append(flight)
        self._write(flight, data)
        rendered.parts.clear()  # what is on its way is in memory once less
        return True

    def _after(self, batch: Batch) -> tuple[str, int]:
        snap = batch.progress if batch.snapshot else 0
        return f"{self._replid_at(batch.end)}:{batch.end}", snap

    def _start(self, flight: _Flight) -> None:
        """Send a gated batch that nothing is before."""
        self.in_flight.append(flight)
        if self._pipelined:
            self._write(flight, MULTI, *flight.rendered.parts, EXEC + self._mark)
        else:
            # MULTI itself can be refused here (BUSY, LOADING before Redis 6.2), and then what follows it would be
            # carried out one by one: wait for its +OK.
            self._waiting_multi = True
            self._write(flight, MULTI)

    def _release(self) -> None:
        """The batch before is committed: let the next one go."""
        flight = self._ahead
        if flight is None or self.in_flight:
            return
        self._ahead = None
        if flight.sent:
            self.in_flight.append(flight)
            self._write(flight, EXEC + self._mark)
        else:
            self._start(flight)

    # replies

    def _lost(self, error: CanalError) -> None:
        if self.error is None:
            self.error = error
        self._wake()

    def _fail(self, error: CanalError) -> None:
        if self.error is None:
            self.error = error
        self._conn.close(error)
        self._wake()

    def _data(self, data: bytes) -> None:
        if self.error is not None:
            return
        self._received += len(data)
        if not self.in_flight and self._ahead is None and not self._waiting_multi:
            self._unasked(len(data))
        elif self._waiting_multi:
            self._buffer += data
            self._multi_reply()
        elif self.in_flight and self.in_flight[0].guarded:
            self._guarded_replies(data)
        else:
            self._buffer += data
            self._gated_replies()

    def _unasked(self, size: int) -> None:
        """Replies have come out of step with requests: which of them was whose cannot be told any more."""
        label = self._conn.endpoint.label
        self._fail(Unreachable(f"target {label} sent {size} bytes that nothing had asked for; starting anew"))

    def _multi_reply(self) -> None:
        if b"\r\n" not in self._buffer:
            return
        line = bytes(self._buffer[: self._buffer.index(b"\r\n")])
        if line != b"+OK":
            self._fail(classify(line[1:].decode("utf-8", "replace"), "MULTI"))
            return
        self._waiting_multi = False
        self._write(self.in_flight[0], *self.in_flight[0].rendered.parts, EXEC + self._mark)
        self._gated_replies()

    def _gated_replies(self) -> None:
        buffer = self._buffer
        while self.in_flight and not self.in_flight[0].guarded:
            index = buffer.find(self._mark_reply, self._searched)
            after = index + len(self._mark_reply)
            if index < 0:
                found = self._without_mark(self.in_flight[0].rendered.replies)
                if found is None:
                    self._searched = max(0, len(buffer) - len(self._mark_reply))
                    if len(buffer) > MAX_REPLY:
                        self._fail(Unreachable(f"target {self._conn.endpoint.label} sends replies without end"))
                    return
                index, after = found
            reply = bytes(memoryview(buffer)[:index])
            del buffer[:after]
            self._searched = 0
            self._suspect = False
            self._look_from = 0
            flight = self.in_flight.popleft()
            failures = self._outcome(flight, reply)
            if failures is None:
                return
            self._on_commit(flight.batch, failures)
            if self.error is None:
                self._release()
            self._wake()
        if buffer and not self.in_flight and self._ahead is None and self.error is None:
            self._unasked(len(buffer))

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
            self._fail(Unreachable(f"target {self._conn.endpoint.label} sent what is no reply"))
            return None
        return None if after < 0 else (index, after)

    def _outcome(self, flight: _Flight, reply: bytes) -> Failures | None:
        """The failed commands of a committed transaction; None when it was not committed (the error is set)."""
        count = flight.rendered.replies
        good = b"+OK\r\n" + b"+QUEUED\r\n" * count + b"*%d\r\n" % count
        sound = reply.startswith(good) and reply.find(b"\r\n-", len(good) - 2) < 0
        if sound and (self._judge is None or not may_be_empty(reply, len(good) - 2)):
            return []
        reader = hiredis.Reader()
        reader.feed(reply)
        replies: list[Any] = []
        try:
            while (one := reader.gets()) is not False:
                replies.append(one)
        except hiredis.ProtocolError as error:
            self._fail(Unreachable(f"target sent what is no reply: {error}"))
            return None
        if len(replies) != count + 2:
            self._fail(Unreachable(f"expected {count + 2} replies to a transaction, got {len(replies)}"))
            return None
        result = replies[-1]
        if isinstance(result, list) and len(result) == count:
            own = flight.rendered.own
            bad = [(i, str(one)) for i, one in enumerate(result) if isinstance(one, hiredis.ReplyError)]
            for number, text in bad:
                if number in own:
                    self._fail(Unready(f"target: our own command in the transaction failed: {text}"))
                    return None
            if self._judge is not None:
                self._judged(flight, [i for i, one in enumerate(result) if nothing(one)])
            return flight.rendered.failures(flight.batch, bad)
        self._aborted(flight, replies)
        return None

    def _judged(self, flight: _Flight, numbers: list[int]) -> None:
        """Replies of these numbers were 0 or nil."""
        own = set(flight.rendered.own)
        theirs: Failures = [(number, "") for number in numbers if number not in own]
        if theirs and self._judge is not None:
            self._judge(flight.batch, [number for number, _ in flight.rendered.failures(flight.batch, theirs)])

    def _aborted(self, flight: _Flight, replies: list[Any]) -> None:
        """EXECABORT: nothing was applied; the errors at queueing tell why."""
        texts = [(i - 1, str(one)) for i, one in enumerate(replies[:-1]) if isinstance(one, hiredis.ReplyError)]
        own = flight.rendered.own
        ours = any(i < 0 or i in own for i, _ in texts)
        lasting = [(i, text) for i, text in texts if not is_transient(text) or (is_of_keys(text) and not ours)]
        if not lasting or lasting[0][0] < 0:
            reason = texts[0][1] if texts else str(replies[-1])
            self._fail(Unready(f"target refused a transaction: {reason}"))
            return
        refused = [(i, text) for i, text in lasting if i not in own]
        failures = flight.rendered.failures(flight.batch, refused)
        if not failures:
            self._fail(classify(lasting[0][1], "writing the checkpoint"))
            return
        self._fail(BatchRefused(flight.batch, failures))

    def _guarded_replies(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            self._unread += len(data)
            while self.in_flight and self.in_flight[0].guarded:
                reply = self._reader.gets()
                if reply is False:
                    if self._unread > MAX_REPLY:
                        self._fail(Unreachable(f"target {self._conn.endpoint.label} sends replies without end"))
                    return
                self._unread = 0
                if isinstance(reply, hiredis.ReplyError):
                    # the script's first write is the tag: an error reply means that nothing was applied
                    self._fail(self._verdict(str(reply)[:_TEXT]))
                    return
                if not isinstance(reply, list) or len(reply) % 2:
                    label, told = self._conn.endpoint.label, repr(reply)[:80]
                    self._fail(Unreachable(f"target {label}: expected what a batch's script returns, got {told}"))
                    return
                flight = self.in_flight.popleft()
                self._bytes -= flight.size
                now = time.monotonic()
                self._window.committed(now - flight.batch.sent, now)
                pairs = zip(reply[::2], reply[1::2], strict=True)
                answers = [(int(number), _text(text)) for number, text in pairs]
                if self._judge is not None:
                    self._judged(flight, [number for number, text in answers if not text])
                failures = flight.rendered.failures(flight.batch, [one for one in answers if one[1]])
                self._on_commit(flight.batch, failures)
                if self.error is None and not self.in_flight:
                    self._release()
                self._wake()
            if not self.in_flight and self._ahead is None and self._reader.gets() is not False:
                self._unasked(len(data))
        except hiredis.ProtocolError as error:
            self._fail(Unreachable(f"target sent what is no reply: {error}"))

    def _verdict(self, text: str) -> CanalError:
        if text.startswith("MOVED_ON"):
            return Unready(f"target: {text}: another writer was there, starting again from the checkpoint")
        if is_transient(text):
            return Unready(f"target refused a batch: {text}")
        return classify(text, "applying a batch by script")


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


def _text(error: Any) -> str:
    return error.decode("utf-8", "replace") if isinstance(error, bytes) else str(error)
