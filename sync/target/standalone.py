"""The writer of a standalone target: batches in, commits out, on one fenced connection.

A batch commits only after the one before it, since a batch that is refused (BUSY, OOM …) must not be overtaken by the
next one, whose tag would move the position past it. Two modes keep that:

- *gated*: the inside of the next transaction is sent ahead, its EXEC only after the reply to the one before.
- *guarded*: each batch is one script call that first compares position and epoch with those it builds on, and refuses
  otherwise; so any number of batches may be on their way. Batches that scripts cannot carry go gated, alone.

After any failure the connection is dropped and everything starts again from the checkpoint: what was applied is there.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import hiredis

from canal.errors import CanalError, Unreachable
from sync.batch import Batch
from sync.render import EXEC, MULTI, RAW, Failures, Form, Rendered, render, script_form
from sync.sendwindow import SendWindow
from sync.tag import Tagger
from sync.target.connection import MAX_REPLY, Connection
from sync.target.errors import classify
from sync.target.script import answers, call, guard, verdict
from sync.target.transaction import Transactions, outcome

_LONG: Final = 1 << 20
_TEXT: Final = 1000  # of an error that is passed on


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
        self._received = 0  # bytes of replies
        self._written = 0  # bytes written to the connection
        self._moved = (-1, -1)  # received and taken bytes when work on its way was last seen to move
        self._moved_at = 0.0
        self._waiting_multi = False
        self._transactions = Transactions(conn.endpoint.label)
        self._exec = EXEC + self._transactions.mark
        self._reader = hiredis.Reader()  # of replies to calls of the script
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
        data = call(self._sha, self._tagger.key, self._stands, self._epoch, raw, number)
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
            self._write(flight, MULTI, *flight.rendered.parts, self._exec)
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
            self._write(flight, self._exec)
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
            self._transactions.feed(data)
            self._multi_reply()
        elif self.in_flight and self.in_flight[0].guarded:
            self._guarded_replies(data)
        else:
            self._transactions.feed(data)
            self._gated_replies()

    def _unasked(self, size: int) -> None:
        """Replies have come out of step with requests: which of them was whose cannot be told any more."""
        label = self._conn.endpoint.label
        self._fail(Unreachable(f"target {label} sent {size} bytes that nothing had asked for; starting anew"))

    def _endless(self) -> None:
        self._fail(Unreachable(f"target {self._conn.endpoint.label} sends replies without end"))

    def _multi_reply(self) -> None:
        line = self._transactions.first()
        if line is None:
            return
        if line != b"+OK":
            self._fail(classify(line[1:].decode("utf-8", "replace"), "MULTI"))
            return
        self._waiting_multi = False
        self._write(self.in_flight[0], *self.in_flight[0].rendered.parts, self._exec)
        self._gated_replies()

    def _gated_replies(self) -> None:
        transactions, judging = self._transactions, self._judge is not None
        while self.in_flight and not self.in_flight[0].guarded:
            flight = self.in_flight[0]
            batch, rendered = flight.batch, flight.rendered
            try:
                reply = transactions.take(rendered.replies)
                if reply is None:
                    if len(transactions) > MAX_REPLY:
                        self._endless()
                    return
                self.in_flight.popleft()
                failures, empty = outcome(batch, rendered, reply, judging)
            except CanalError as error:
                self._fail(error)
                return
            if empty:
                self._judged(flight, empty)
            self._on_commit(batch, failures)
            if self.error is None:
                self._release()
            self._wake()
        if transactions and not self.in_flight and self._ahead is None and self.error is None:
            self._unasked(len(transactions))

    def _judged(self, flight: _Flight, numbers: list[int]) -> None:
        """Replies of these numbers were 0 or nil."""
        own = set(flight.rendered.own)
        theirs: Failures = [(number, "") for number in numbers if number not in own]
        if theirs and self._judge is not None:
            self._judge(flight.batch, [number for number, _ in flight.rendered.failures(flight.batch, theirs)])

    def _guarded_replies(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            self._unread += len(data)
            while self.in_flight and self.in_flight[0].guarded:
                reply = self._reader.gets()
                if reply is False:
                    if self._unread > MAX_REPLY:
                        self._endless()
                    return
                self._unread = 0
                if isinstance(reply, hiredis.ReplyError):
                    self._fail(verdict(str(reply)[:_TEXT]))
                    return
                if not isinstance(reply, list) or len(reply) % 2:
                    label, told = self._conn.endpoint.label, repr(reply)[:80]
                    self._fail(Unreachable(f"target {label}: expected what a batch's script returns, got {told}"))
                    return
                flight = self.in_flight.popleft()
                self._bytes -= flight.size
                now = time.monotonic()
                self._window.committed(now - flight.batch.sent, now)
                answered = answers(reply)
                if self._judge is not None:
                    self._judged(flight, [number for number, text in answered if not text])
                failures = flight.rendered.failures(flight.batch, [one for one in answered if one[1]])
                self._on_commit(flight.batch, failures)
                if self.error is None and not self.in_flight:
                    self._release()
                self._wake()
            if not self.in_flight and self._ahead is None and self._reader.gets() is not False:
                self._unasked(len(data))
        except hiredis.ProtocolError as error:
            self._fail(Unreachable(f"target sent what is no reply: {error}"))
