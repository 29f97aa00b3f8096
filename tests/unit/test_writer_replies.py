"""The writer against scripted replies: what counts as committed, refused, failed, or lost; cut at every byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from canal.endpoint import parse_url
from canal.errors import AuthError, CanalError, ReplayError, Unreachable, Unready
from canal.position import Position
from canal.resp import encode
from sync.batch import Batch
from sync.render import EXEC, MULTI, Failures
from sync.tag import Checkpoint, Tagger, checkpoint_key
from sync.target.errors import classify, is_transient
from sync.target.standalone import Writer
from sync.target.transaction import BatchRefused, skip_reply
from sync.unit import Piece, Unit

REPLID = "f" * 40


class Line:
    """Stands in for a connection: keeps what was written, gives what the test says."""

    def __init__(self) -> None:
        self.endpoint = parse_url("redis://target")
        self.paused = False
        self.unsent = 0
        self.sent: list[bytes] = []
        self.closed: CanalError | None = None
        self.data: Callable[[bytes], None] = lambda _: None

    def stream(self, on_data: Callable[[bytes], None], on_lost: Any, on_writable: Any) -> None:
        self.data = on_data

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self, error: CanalError | None = None) -> None:
        self.closed = error


class Bench:
    """A writer on such a line."""

    def __init__(self, *, guarded: bool = False, pipelined: bool = True) -> None:
        self.line = Line()
        self.commits: list[tuple[int, Failures]] = []
        stored = Checkpoint(uid="u", position=Position(REPLID, 0))
        self.writer = Writer(
            self.line,  # type: ignore[arg-type]
            Tagger(checkpoint_key("t", "0"), "u", "a", stored),
            lambda _: REPLID,
            guarded=guarded,
            epoch=1,
            stands=(f"{REPLID}:0", 0),
            pipelined_multi=pipelined,
            on_commit=lambda batch, failures: self.commits.append((batch.end, failures)),
            wake=lambda: None,
        )

    def submit(self, end: int, commands: int = 2) -> None:
        raw = encode([b"INCR", b"n"]) * commands
        self.writer.submit(Batch(end, 0, [Unit(end, 0, [Piece(0, raw, commands)], 0)], commands, len(raw)))

    def give(self, *replies: bytes) -> None:
        self.line.data(b"".join(replies))

    @property
    def mark(self) -> bytes:
        return self.writer._transactions.mark_reply


def good(commands: int, *results: bytes) -> bytes:
    """The replies to a transaction of a tag and so many commands."""
    every = results or (b":1\r\n",) * commands
    return b"+OK\r\n" + b"+QUEUED\r\n" * (commands + 1) + b"*%d\r\n:2\r\n" % (commands + 1) + b"".join(every)


# --- gated


def test_a_batch_goes_out_whole_and_its_reply_commits_it() -> None:
    bench = Bench()
    bench.submit(10)
    (sent,) = bench.line.sent
    assert sent.startswith(MULTI)
    assert EXEC in sent
    bench.give(good(2), bench.mark)
    assert bench.commits == [(10, [])]
    assert bench.writer.idle


def test_the_next_batch_goes_ahead_without_its_exec() -> None:
    bench = Bench()
    bench.submit(10)
    bench.submit(20)
    assert bench.line.sent[1].startswith(MULTI)
    assert EXEC not in bench.line.sent[1]
    assert not bench.writer.room
    bench.give(good(2), bench.mark, b"+OK\r\n+QUEUED\r\n+QUEUED\r\n")
    assert bench.line.sent[2].startswith(EXEC)
    assert bench.commits == [(10, [])]
    bench.give(b"+QUEUED\r\n*3\r\n:2\r\n:1\r\n:1\r\n", bench.mark)
    assert bench.commits == [(10, []), (20, [])]


def test_replies_cut_at_every_byte_are_the_same() -> None:
    whole = good(2, b":1\r\n", b"-WRONGTYPE Operation against a key\r\n")
    for cut in range(1, len(whole)):
        bench = Bench()
        bench.submit(10)
        bench.give(whole[:cut])
        bench.give(whole[cut:])
        assert bench.commits == []
        bench.give(bench.mark)
        assert bench.commits == [(10, [(1, "WRONGTYPE Operation against a key")])], cut


def test_an_error_text_within_a_value_is_no_failure() -> None:
    bench = Bench()
    bench.submit(10)
    bench.give(good(2, b"$7\r\na\r\n-ERR\r\n", b":1\r\n"), bench.mark)
    assert bench.commits == [(10, [])]


BUSY = b"-BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.\r\n"


def busy(commands: int) -> bytes:
    return b"+OK\r\n" + BUSY * (commands + 1) + b"-EXECABORT Transaction discarded.\r\n" + BUSY


def test_a_busy_target_refuses_the_mark_too_and_that_is_understood_at_every_cut() -> None:
    whole = busy(2)
    for cut in range(1, len(whole) + 1):
        bench = Bench()
        bench.submit(10)
        bench.give(whole[:cut])
        assert (bench.writer.error is None) == (cut < len(whole)), cut
        bench.give(whole[cut:])
        assert isinstance(bench.writer.error, Unready), cut
        assert bench.commits == []


def test_busy_after_the_commit_is_still_a_commit() -> None:
    bench = Bench()
    bench.submit(10)
    bench.give(good(2), BUSY)
    assert bench.commits == [(10, [])]
    assert bench.writer.error is None


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        (b"+OK\r\n" + b"-OOM command not allowed\r\n" * 3 + b"-EXECABORT x\r\n", Unready),
        (b"+OK\r\n" + b"+QUEUED\r\n" * 3 + b"-EXECABORT Transaction discarded because of: NOREPLICAS x\r\n", Unready),
        (b"+OK\r\n" + b"-READONLY You can't write\r\n" * 3 + b"-EXECABORT x\r\n", Unready),
        (b"-NOAUTH Authentication required.\r\n" * 5, Unready),
        (b"-LOADING Redis is loading\r\n" * 5, Unready),
        (b"+OK\r\n-NOPERM no HSET\r\n" + b"+QUEUED\r\n" * 2 + b"-EXECABORT x\r\n", Unready),
        (b"+OK\r\n-ERR unknown command HSET\r\n" + b"+QUEUED\r\n" * 2 + b"-EXECABORT x\r\n", ReplayError),
        (b"+OK\r\n" + b"+QUEUED\r\n" * 2 + b"*2\r\n:1\r\n:1\r\n", Unreachable),
        (b"+OK\r\n" + b"+QUEUED\r\n" * 3 + b"*-1\r\n", Unready),
    ],
)
def test_what_was_not_applied_is_no_commit(replies: bytes, kind: type[CanalError]) -> None:
    bench = Bench()
    bench.submit(10)
    bench.give(replies, bench.mark)
    assert bench.commits == []
    assert isinstance(bench.writer.error, kind)
    assert bench.line.closed is bench.writer.error


def test_a_command_refused_at_queueing_is_named_by_its_number() -> None:
    bench = Bench()
    bench.submit(10, 3)
    bench.give(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n-ERR unknown command `NEW`\r\n+QUEUED\r\n-EXECABORT x\r\n", bench.mark)
    assert bench.commits == []
    assert isinstance(bench.writer.error, BatchRefused)
    assert bench.writer.error.failures == [(1, "ERR unknown command `NEW`")]


def test_a_failed_tag_within_the_transaction_ends_the_session() -> None:
    bench = Bench()
    bench.submit(10, 1)
    bench.give(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n-WRONGTYPE x\r\n:1\r\n", bench.mark)
    assert bench.commits == []
    assert isinstance(bench.writer.error, Unready)


def test_old_servers_get_the_rest_only_after_multi_was_taken() -> None:
    bench = Bench(pipelined=False)
    bench.submit(10)
    assert bench.line.sent == [MULTI]
    bench.give(b"+O")
    assert len(bench.line.sent) == 1
    bench.give(b"K\r\n")
    assert EXEC in bench.line.sent[1]
    bench.give(b"+QUEUED\r\n" * 3 + b"*3\r\n:1\r\n:1\r\n:1\r\n", bench.mark)
    assert bench.commits == [(10, [])]
    refused = Bench(pipelined=False)
    refused.submit(10)
    refused.give(b"-LOADING x\r\n")
    assert isinstance(refused.writer.error, Unready)
    assert refused.line.sent == [MULTI]


# --- guarded


def test_guarded_batches_are_pipelined_and_committed_in_order() -> None:
    bench = Bench(guarded=True)
    for end in (10, 20, 30):
        assert bench.writer.room
        bench.submit(end)
    assert len(bench.line.sent) == 3
    assert f"{REPLID}:10".encode() in bench.line.sent[1]  # each names the position that it builds on
    bench.give(b"*0\r\n*2\r\n:2\r\n$")
    bench.give(b"14\r\nWRONGTYPE oops\r\n")
    assert bench.commits == [(10, []), (20, [(1, "WRONGTYPE oops")])]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"-MOVED_ON checkpoint is x epoch 2\r\n", Unready),
        (b"-NOSCRIPT No matching script.\r\n", Unready),
        (BUSY, Unready),
        (b"-OOM command not allowed when used memory > 'maxmemory'. script: x, on @user_script:10.\r\n", Unready),
        (
            b"-ERR Error running script (call to f_1): @user_script:11: @user_script: 11: -READONLY You can't\r\n",
            Unready,
        ),
        (b"-ERR Error running script (call to f_1): @user_script:11: @user_script: 11: -NOREPLICAS no\r\n", Unready),
        (b"-NOPERM this user has no permissions\r\n", Unready),
        (b"-ERR Error running script (call to f_1): @user_script:11: -WRONGTYPE x\r\n", ReplayError),
        (b"+OK\r\n", Unreachable),  # no error, and nothing that the script returns: replies are out of step
        (b"*-1\r\n", Unreachable),
        (b"*1\r\n:1\r\n", Unreachable),
    ],
)
def test_a_refused_script_commits_nothing(reply: bytes, kind: type[CanalError]) -> None:
    bench = Bench(guarded=True)
    bench.submit(10)
    bench.submit(20)
    bench.give(reply)
    assert bench.commits == []
    assert isinstance(bench.writer.error, kind), bench.writer.error
    assert not bench.writer.room


def test_nothing_is_sent_or_committed_after_the_end() -> None:
    bench = Bench()
    bench.submit(10)
    bench.writer.close()
    bench.give(good(2), bench.mark)
    assert bench.commits == []
    assert not bench.writer.room


# --- time


def test_only_what_moves_for_the_oldest_batch_counts_as_moving() -> None:
    bench = Bench(guarded=True)
    assert bench.writer.stuck_for(100.0) == 0
    bench.submit(10)
    assert bench.writer.stuck_for(101.0) == 0
    assert bench.writer.stuck_for(105.0) == 4
    bench.submit(20)  # sent and taken, which says nothing of the first
    assert bench.writer.stuck_for(106.0) == 5
    bench.give(b"*0\r\n")
    assert bench.writer.stuck_for(107.0) == 0
    bench.line.unsent = 50  # the second is still being sent …
    assert bench.writer.stuck_for(108.0) == 0
    bench.line.unsent = 20
    assert bench.writer.stuck_for(110.0) == 0
    assert bench.writer.stuck_for(113.0) == 3
    bench.give(b"*0\r\n")
    assert bench.writer.stuck_for(200.0) == 0


# --- errors


def test_which_errors_are_worth_waiting_for() -> None:
    refused = "EXECABORT Transaction discarded because of: "  # found by chaos: a busy server failed the task for good
    for text in (
        *("LOADING x", "BUSY Redis", "READONLY x", "MISCONF x", "OOM x", "MASTERDOWN x", "NOREPLICAS x"),
        refused + "BUSY Redis is busy running a script.",
    ):
        assert is_transient(text)
        assert isinstance(classify(text, "x"), Unready)
    for text in (
        "BUSYKEY x",
        "BUSYGROUP x",
        "WRONGTYPE x",
        "ERR x",
        "ERR Error running script: -ERR x",
        refused + "ERR x",
    ):
        assert not is_transient(text)
        assert isinstance(classify(text, "x"), ReplayError)
    assert isinstance(classify("NOPERM x", "x"), AuthError)


@pytest.mark.parametrize(
    "reply",
    [
        *(b"+OK\r\n", b":5\r\n", b"-ERR x\r\n", b"$-1\r\n", b"*-1\r\n", b"*0\r\n"),
        *(b"$0\r\n\r\n", b"$5\r\na\r\n-b\r\n", b"*2\r\n*1\r\n$1\r\na\r\n:1\r\n"),
    ],
)
def test_a_reply_is_skipped_only_when_it_is_all_there(reply: bytes) -> None:
    assert skip_reply(b"xx" + reply + b"+next\r\n", 2) == 2 + len(reply)
    for cut in range(len(reply)):
        assert skip_reply(reply[:cut], 0) == -1


# --- a target that lies: replies out of step, and replies without end


@pytest.mark.parametrize("guarded", [False, True])
def test_a_reply_that_nobody_asked_for_ends_the_connection(guarded: bool) -> None:
    bench = Bench(guarded=guarded)
    bench.give(b"*0\r\n")
    assert isinstance(bench.writer.error, Unreachable) and "nothing had asked for" in str(bench.writer.error)
    assert bench.commits == []


@pytest.mark.parametrize("guarded", [False, True])
def test_one_reply_too_many_ends_the_connection_before_it_counts_for_another_batch(guarded: bool) -> None:
    bench = Bench(guarded=guarded)
    bench.submit(10)
    reply = b"*0\r\n" if guarded else good(2) + bench.mark
    bench.give(reply, reply)
    assert bench.commits == [(10, [])]
    assert isinstance(bench.writer.error, Unreachable) and "nothing had asked for" in str(bench.writer.error)
    assert not bench.writer.room


@pytest.mark.parametrize("guarded", [False, True])
def test_a_reply_without_end_is_given_up(guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.target.standalone.MAX_REPLY", 10_000)
    bench = Bench(guarded=guarded)
    bench.submit(10)
    for _ in range(100):
        bench.give(b"+" + b"x" * 1000)
        if bench.writer.error is not None:
            break
    assert isinstance(bench.writer.error, Unreachable) and "replies without end" in str(bench.writer.error)
    assert bench.commits == []


def test_an_error_without_end_is_not_gone_through_for_each_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part made the link read all of what had come before: 64 MB kept it from everything else for minutes."""
    looked: list[int] = []

    def skip(replies: bytes, at: int) -> int:
        looked.append(len(replies))
        return skip_reply(replies, at)

    monkeypatch.setattr("sync.target.transaction.skip_reply", skip)
    bench = Bench()
    bench.submit(10)
    bench.give(b"-ERR ")
    for _ in range(500):
        bench.give(b"x" * 10_000)
    assert looked == []
    bench.give(b"\r\n" + b"*1000000000\r\n")
    for _ in range(500):
        bench.give(b"$-1\r\n" * 2000)
    assert len(looked) < 20 and bench.writer.error is None


def test_a_length_that_is_no_number_among_refusals_ends_the_connection() -> None:
    bench = Bench()
    bench.submit(10)
    bench.give(b"-ERR x\r\n*abc\r\n")
    assert isinstance(bench.writer.error, Unreachable) and "no reply" in str(bench.writer.error)
    assert bench.commits == []
