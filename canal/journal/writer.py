"""The thread that writes the journal. It alone touches the files; the event loop only puts work into its queue.

When the disk refuses, the work stays where it is, `Hooks.full` is called with the reason, and the thread tries again
every second or when something was released. What had been half written is cut off, so that the journal always ends at a
whole chunk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final, Literal

from canal.journal.chunk import Chunk
from canal.journal.disk import free_bytes, is_no_room, reason_of
from canal.journal.retention import Limits, disposable, disposable_for_room
from canal.journal.store import Closing, SegmentStore
from canal.journal.syncer import Syncer
from canal.journal.work import GROUP_BYTES, Continue, Flush, Group, Mark, Reset, Truncate, WorkList

Fsync = Literal["always", "everysec", "no"]

_COALESCE_S: Final = 0.003
_COALESCE_BYTES: Final = 64 << 10
_RETRY_S: Final = 1.0
_SYNC_EVERY_S: Final = 1.0
_ROOM_EVERY_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread; what cannot be written now is given up."""


@dataclass(frozen=True, slots=True)
class Wake:
    """Look again: something was released."""


@dataclass(frozen=True, slots=True)
class Synced:
    """A round of `Syncer` is over."""

    seconds: float
    error: OSError | None


_CLOSING: Final[dict[str, Closing]] = {"always": "sync", "everysec": "later", "no": "never"}

Item = Chunk | Mark | Continue | Truncate | Reset | Flush | Stop | Wake | Synced


@dataclass(frozen=True, slots=True)
class Hooks:
    """Called in the writer's thread."""

    full: Callable[[str], None]
    room: Callable[[], None]
    written: Callable[[], None]
    failed: Callable[[BaseException], None]


@dataclass(frozen=True, slots=True)
class SyncFigures:
    """How often and for how many seconds the disk was waited for."""

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0


class Writer:
    """See the module's text. ``published`` is (generation, end of what is written) and replaced as a whole."""

    def __init__(self, store: SegmentStore, limits: Limits, fsync: Fsync, hooks: Hooks) -> None:
        self.store = store
        self.limits = limits
        self.fsync: Fsync = fsync
        self.published: tuple[int, int] = (0, store.end)
        self.applied = -1  # set by the event loop; -1: nothing may be deleted
        self.syncs = SyncFigures()
        self.full_reason: str | None = None
        self._hooks = hooks
        self._queue: SimpleQueue[Item] = SimpleQueue()
        self._work = WorkList()
        self._syncer = Syncer(lambda seconds, error: self.put(Synced(seconds, error)))
        store.settle = self._syncer.wait
        self._sync_error: OSError | None = None
        self._dirty = False
        self._synced_at = time.monotonic()
        self._until_room_check = 0
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self.put = self._queue.put

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float | None) -> bool:
        """Write what is queued, and end. False when that takes longer than ``timeout_s``."""
        self.put(Stop())
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._wait()
                self._step()
            self._finish()
        except BaseException as error:  # a fault of ours must be heard of, not die with its thread
            self._hooks.failed(error)

    def _wait(self) -> None:
        """Block until there is work or something is due, then take all there is."""
        try:
            item = self._queue.get(timeout=self._patience())
        except Empty:
            return
        self._take(item)
        if isinstance(item, Chunk) and self.fsync != "always" and len(item.data) < _COALESCE_BYTES:
            time.sleep(_COALESCE_S)  # let what arrives together become one write; the reader has it from memory
        for _ in range(self._queue.qsize()):
            self._take(self._queue.get_nowait())

    def _patience(self) -> float | None:
        """How long to wait for work, in seconds; None for ever."""
        if self.full_reason is not None:
            return _RETRY_S
        if self._dirty and self.fsync == "everysec":
            due = self._synced_at + _SYNC_EVERY_S - time.monotonic()
            return None if due <= 0 and self._syncer.busy else max(0.0, due)  # its end wakes us
        return None

    def _take(self, item: Item) -> None:
        if isinstance(item, Stop):
            self._stopping = True
        elif isinstance(item, Synced):
            self._sync_error = self._sync_error or item.error
            self._count_sync(item.seconds)
        elif not isinstance(item, Wake):
            self._work.add(item)

    def _step(self) -> None:
        """Do what can be done now."""
        before = self.published
        try:
            self.store.drop_oldest(disposable(self.store.segments, self.applied, int(time.time() * 1000), self.limits))
            blocked = self._do_work()
            if self._sync_error is not None:
                error, self._sync_error, self._dirty = self._sync_error, None, True
                raise error
            if self._dirty and self._sync_due():
                self._sync_beside()
            if not blocked and self.full_reason is not None:
                self.full_reason = None
                self._hooks.room()
        except OSError as error:
            self._refused(error)
        if self.published != before:
            self._hooks.written()

    def _do_work(self) -> bool:
        """Do all work; True when it stopped before a group for which there is no room."""
        work_list = self._work
        blocked = False
        while work_list:
            work = work_list.first
            if isinstance(work, Group):
                if not self._has_room(work.end - work.offset):
                    blocked = True
                    break
                self.store.append(work.data(), work.received_ms, _CLOSING[self.fsync])
                self._dirty = True
                if self.fsync != "always":
                    self.published = (self.published[0], work.end)
            elif isinstance(work, Mark):
                self.store.mark(work.boundary, work.db)
            elif isinstance(work, Continue):
                self.store.continue_as(work.replid, work.offset)
            elif isinstance(work, Flush):
                self._sync()
                work.done.set()
            else:
                self._cut(work)
            work_list.done()
        if self._dirty and self.fsync == "always":
            self._sync()
        return blocked

    def _cut(self, work: Truncate | Reset) -> None:
        if isinstance(work, Reset):
            self.applied = -1
            self.store.reset(work.position)
        else:
            self.applied = min(self.applied, work.offset)
            self.store.truncate(work.offset)
        self._until_room_check = 0
        self.published = (work.generation, self.store.end)

    def _sync_due(self) -> bool:
        if self.fsync == "no":
            return False
        return self.full_reason is not None or time.monotonic() - self._synced_at >= _SYNC_EVERY_S

    def _sync(self) -> None:
        """Bring everything to the disk before anything else is done."""
        self._syncer.wait()
        started = time.monotonic()
        self.store.sync()
        self._synced_at = time.monotonic()
        self._count_sync(self._synced_at - started)
        self._dirty = False
        self.published = (self.published[0], self.store.end)

    def _sync_beside(self) -> None:
        """Have everything brought to the disk while writing goes on; a disk that refuses is asked and waited for."""
        if self.full_reason is not None:
            self._sync()
        elif not self._syncer.busy:
            self._syncer.begin(self.store.handles())
            self._synced_at = time.monotonic()
            self._dirty = False

    def _count_sync(self, took: float) -> None:
        self.syncs = SyncFigures(self.syncs.count + 1, self.syncs.seconds + took, max(self.syncs.longest, took))

    def _has_room(self, size: int) -> bool:
        """Whether ``size`` bytes may be written: within ``max_bytes``, and leaving the reserve free."""
        limits = self.limits
        directory = self.store.directory
        if limits.max_bytes:
            over = self.store.size + size - limits.max_bytes
            if over > 0 and self._give_up_margin(over) < over:
                self._say_full(
                    f"the journal in {directory} has reached max_bytes ({limits.max_bytes}): "
                    "it shrinks, and capture resumes by itself, as the target applies what is journaled"
                )
                return False
        self._until_room_check -= size
        if self._until_room_check <= 0 or self.full_reason is not None:
            reserve = limits.reserve_bytes * (2 if self.full_reason else 1)  # so that it does not flutter
            missing = reserve + size - free_bytes(directory)
            if missing > 0 and self._give_up_margin(missing) < missing:
                self._say_full(
                    f"no space left on the file system of {directory} beyond the reserve of "
                    f"{limits.reserve_bytes} bytes: free some, capture resumes by itself"
                )
                return False
            self._until_room_check = _ROOM_EVERY_BYTES
        return True

    def _give_up_margin(self, wanted: int) -> int:
        """Delete applied segments that were only kept as a margin; returns the bytes gained."""
        count = disposable_for_room(self.store.segments, self.applied, wanted)
        return self.store.drop_oldest(count)

    def _refused(self, error: OSError) -> None:
        """The disk refused: give back what was half written, make room if that can help, else say so."""
        self.store.give_back()
        if is_no_room(error) and self.full_reason is None and self._give_up_margin(GROUP_BYTES):
            self.put(Wake())
            return
        self._say_full(reason_of(error, self.store.directory))

    def _say_full(self, reason: str) -> None:
        changed = reason != self.full_reason
        self.full_reason = reason
        if changed:
            self._hooks.full(reason)

    def _finish(self) -> None:
        """Leave the files as durable as the policy promises."""
        self._syncer.stop()
        try:
            if self._dirty and self.fsync != "no":
                self._sync()
        except OSError as error:
            self._say_full(reason_of(error, self.store.directory))
        self.store.close()
        while self._work:
            work = self._work.first
            if isinstance(work, Flush):
                work.done.set()
            self._work.done()
