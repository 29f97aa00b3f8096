"""The replica against peers that misbehave on purpose. The peers are scripts on a socket of this process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from canal.acks import GETACK
from canal.backoff import Backoff
from canal.endpoint import Endpoint
from canal.errors import AuthError, CanalError, ConfigError, NotRedis, ProtocolError, StateError, Unreachable, Unready
from canal.handshake import Handshake
from canal.intake import BUFFER_BYTES, Intake
from canal.position import Position
from canal.replica import Replica, Timing
from tests.support.process import eventually
from tests.support.recording import RecordingSink

ID = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
FULL = b"+FULLRESYNC " + ID.encode() + b" 1000\r\n"
EMPTY = FULL + b"$3\r\nRDB"
FAST = Timing(connect_s=0.5, timeout_s=0.8, ack_every_s=0.05)
PATIENT = Timing(connect_s=5, timeout_s=30, ack_every_s=0.02)

Script = Callable[["Talk"], Awaitable[None]]


class Talk:
    """One connection, seen from the peer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.psync: list[bytes] = []

    async def command(self) -> list[bytes]:
        """The next command; bare newlines before it are skipped."""
        while (line := await self.reader.readline()) == b"\n":
            pass
        if not line:
            raise ConnectionResetError
        argv = []
        for _ in range(int(line[1:])):
            size = int((await self.reader.readline())[1:])
            argv.append((await self.reader.readexactly(size + 2))[:-2])
        return argv

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def greet(self, answer: bytes) -> None:
        """The usual handshake, with `answer` to PSYNC."""
        while True:
            argv = await self.command()
            if argv[0] == b"PSYNC":
                self.psync = argv
                await self.send(answer)
                return
            await self.send(b"+PONG\r\n" if argv[0] == b"PING" else b"+OK\r\n")

    async def rest(self) -> None:
        """Until the replica hangs up."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 16):
                pass


class Peer:
    """Listens; each connection is handled by the next script, the last one again and again."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.talks: list[Talk] = []
        self.port = 0

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("redis", "127.0.0.1", self.port)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        talk = Talk(reader, writer)
        self.talks.append(talk)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await script(talk)
        writer.close()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Peer]:
        server = await asyncio.start_server(self.handle, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
        for talk in self.talks:
            talk.writer.close()


@contextlib.asynccontextmanager
async def following(
    peer: Peer, sink: RecordingSink, timing: Timing = FAST, **options: object
) -> AsyncIterator[tuple[Replica, asyncio.Task[None]]]:
    """A running replica, stopped at the end (and found stopped soon)."""
    replica = Replica(peer.endpoint, sink, timing=timing, backoff=Backoff(0.01, 0.05), **options)  # type: ignore[arg-type]
    task = asyncio.create_task(replica.run())
    try:
        yield replica, task
    finally:
        replica.stop()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(task, 20)
        assert task.done()


async def raised(peer: Peer, sink: RecordingSink | None = None, timing: Timing = FAST) -> BaseException:
    """What a replica with fail_fast raises at this peer."""
    async with peer.listening():
        replica = Replica(peer.endpoint, sink or RecordingSink(), fail_fast=True, timing=timing)
        with pytest.raises(Exception) as found:
            await asyncio.wait_for(replica.run(), 60)
    return found.value


def saying(*parts: bytes, then_close: bool = False) -> Script:
    """Waits for the first command, says this and keeps (or closes) the connection."""

    async def script(talk: Talk) -> None:
        await talk.command()
        for part in parts:
            await talk.send(part)
        if not then_close:
            await talk.rest()

    return script


def answering(answer: bytes, *, then_close: bool = False) -> Script:
    """The usual handshake, this answer to PSYNC, then keeps (or closes) the connection."""

    async def script(talk: Talk) -> None:
        await talk.greet(answer)
        if not then_close:
            await talk.rest()

    return script


# --- first contact ---


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        (saying(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n\r\n"), NotRedis, "HTTP/1.1 400"),
        (saying(b"\x16\x03\x01 half a line"), NotRedis, "half a line"),
        (saying(), Unreachable, "nothing heard for 0.5 s while a reply to PING was awaited"),
        (saying(then_close=True), Unreachable, "closed the connection without a word"),
        (saying(b"+PONG\r\n"), Unreachable, "nothing heard for 0.5 s while a reply to REPLCONF listening-port"),
        (saying(b"-NOAUTH Authentication required.\r\n"), AuthError, "a password and none was given"),
        (saying(b"+PONG\r\n+OK\r\n+OK\r\n+OK\r\n" + b"x" * 5000), ProtocolError, "more than 4096 bytes"),
        (answering(b"+FULLRESYNC x 1\r\n"), ProtocolError, "expected \\+FULLRESYNC <40 hex digits> <offset>"),
    ],
)
async def test_first_contact_fails_fast(script: Script, error: type[CanalError], words: str) -> None:
    found = await raised(Peer(script))
    assert type(found) is error
    assert str(found).startswith("redis://127.0.0.1:") and "\n" not in str(found)
    assert re.search(words, str(found)), str(found)


async def test_nobody_listens() -> None:
    peer = Peer(saying())
    async with peer.listening():
        pass
    with pytest.raises(Unreachable, match="connection refused; is the server running"):
        await Replica(peer.endpoint, RecordingSink(), fail_fast=True).run()


async def test_a_source_that_is_loading_is_waited_for() -> None:
    sink = RecordingSink()
    peer = Peer(saying(b"-LOADING Redis is loading the dataset in memory\r\n"), answering(EMPTY))
    async with peer.listening(), following(peer, sink, fail_fast=True):
        await eventually(lambda: sink.complete)
    assert [type(error) for error in sink.errors] == [Unready]


async def test_without_fail_fast_everything_is_retried() -> None:
    sink = RecordingSink()
    peer = Peer(saying(b"HTTP/1.1 400\r\n"), saying(b"-NOAUTH\r\n"), saying(then_close=True), answering(EMPTY))
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: sink.complete)
    assert [type(error) for error in sink.errors] == [NotRedis, AuthError, Unreachable]


async def test_after_the_first_success_nothing_is_fatal() -> None:
    sink = RecordingSink()
    peer = Peer(
        answering(EMPTY, then_close=True), saying(b"garbage\r\n"), saying(b"-NOAUTH\r\n"), answering(b"+CONTINUE\r\n")
    )
    async with peer.listening(), following(peer, sink, fail_fast=True):
        await eventually(lambda: sink.named("continue"))
    assert [type(error) for error in sink.errors] == [Unreachable, NotRedis, AuthError]
    assert "the source closed the connection at offset 1000" in str(sink.errors[0])


# --- snapshot and stream ---


async def test_everything_in_one_read_and_byte_by_byte() -> None:
    async def bytewise(talk: Talk) -> None:
        await talk.greet(b"")
        for byte in b"\n" + EMPTY + b"*1\r\n$4\r\nPING\r\n":
            await talk.send(bytes([byte]))
        await talk.rest()

    for script in (answering(EMPTY + b"*1\r\n$4\r\nPING\r\n"), bytewise):
        sink = RecordingSink()
        peer = Peer(script)
        async with peer.listening(), following(peer, sink):
            await eventually(lambda sink=sink: len(sink.stream) == 14)
        assert sink.events[:2] == [("full", Position(ID, 1000), 3), ("rdb-end",)]
        assert (sink.rdb, sink.position) == (b"RDB", Position(ID, 1014))


async def test_the_next_connection_asks_for_the_next_byte() -> None:
    sink = RecordingSink()
    peer = Peer(
        answering(EMPTY + b"*1\r\n$4\r\nPI", then_close=True), answering(b"+CONTINUE " + OTHER.encode() + b"\r\nNG\r\n")
    )
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: len(sink.stream) == 14)
    assert [talk.psync[1:] for talk in peer.talks] == [[b"?", b"-1"], [ID.encode(), b"1011"]]
    assert sink.named("continue") == [("continue", Position(OTHER, 1010))]
    assert (bytes(sink.stream), sink.position) == (b"*1\r\n$4\r\nPING\r\n", Position(OTHER, 1014))


async def test_a_snapshot_that_breaks_is_started_over() -> None:
    sink = RecordingSink()
    peer = Peer(answering(FULL + b"$6\r\nREDI", then_close=True), answering(EMPTY))
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: sink.complete)
    assert [event[0] for event in sink.events] == ["full", "disconnect", "full", "rdb-end"]
    assert "after 4 of 6 bytes of the snapshot" in str(sink.errors[0])
    assert sink.rdb == b"RDB"


async def test_offsets_that_jump_back_are_a_new_start() -> None:
    sink = RecordingSink()
    back = b"+FULLRESYNC " + OTHER.encode() + b" 7\r\n$3\r\nNEW"
    peer = Peer(answering(EMPTY, then_close=True), answering(back))
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: sink.rdb == b"NEW" and sink.complete)
    assert sink.position == Position(OTHER, 7)


async def test_a_length_that_lies_ends_in_a_timeout_and_takes_no_memory() -> None:
    sink = RecordingSink()
    peer = Peer(answering(FULL + b"$281474976710656\r\nREDIS0011"))
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: sink.errors)
    assert "nothing heard for 0.8 s after 9 of 281474976710656 bytes of the snapshot" in str(sink.errors[0])


async def test_a_silent_stream_is_left() -> None:
    sink = RecordingSink()
    peer = Peer(answering(EMPTY), answering(b"+CONTINUE\r\n"))
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: sink.named("continue"))
    assert "nothing heard for 0.8 s at offset 1000" in str(sink.errors[0])


async def test_keepalives_of_a_slow_source_are_life() -> None:
    async def slow(talk: Talk) -> None:
        await talk.greet(b"")
        for piece in (b"", FULL, b"$3\r\nRDB"):
            for _ in range(6):
                await talk.send(b"\n")
                await asyncio.sleep(0.1)
            await talk.send(piece)
            if piece.startswith(b"$"):
                break
        await talk.rest()

    sink = RecordingSink()
    peer = Peer(slow)
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: sink.complete)
        assert not sink.errors


async def test_more_than_the_buffer_holds() -> None:
    body = bytes(range(256)) * (BUFFER_BYTES // 64)
    sink = RecordingSink()
    peer = Peer(answering(FULL + b"$%d\r\n" % len(body) + body + body))
    async with peer.listening(), following(peer, sink, PATIENT):
        await eventually(lambda: len(sink.stream) == len(body))
    assert sink.rdb == body and sink.stream == body


# --- what the source hears ---


async def test_newlines_while_the_snapshot_comes_then_acknowledgements_behind() -> None:
    heard = bytearray()

    async def script(talk: Talk) -> None:
        await talk.greet(FULL + b"$3\r\n")
        while heard.count(b"\n") < 3:
            heard.extend(await talk.reader.read(1))
        await talk.send(b"RDB" + b"x" * 100)
        offsets = []
        while len(offsets) < 5:
            argv = await talk.command()
            assert argv[:2] == [b"REPLCONF", b"ACK"]
            offsets.append(int(argv[2]))
        assert offsets[-1] == 1100 - 64 and offsets == sorted(offsets)
        await talk.send(b"done")

    sink = RecordingSink()
    peer = Peer(script)
    async with peer.listening(), following(peer, sink, PATIENT):
        await eventually(lambda: sink.stream.endswith(b"done"))
    assert heard == b"\n\n\n"


class Full(asyncio.Transport):
    """A transport whose peer reads nothing: as many bytes as `waiting` are in its buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = 0
        self.written: list[bytes] = []

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def abort(self) -> None:
        pass


async def test_acknowledgements_that_are_not_read_do_not_pile_up() -> None:
    sink, transport = RecordingSink(), Full()
    intake = Intake(sink, Handshake(None), Timing(ack_every_s=0.001))
    intake.connection_made(transport)
    buffer = intake.get_buffer(-1)
    talk = b"+PONG\r\n+OK\r\n+OK\r\n+OK\r\n" + EMPTY
    buffer[: len(talk)] = talk
    intake.buffer_updated(len(talk))
    await eventually(lambda: len(transport.written) > 10)
    transport.waiting = 1 << 20
    before = len(transport.written)
    await asyncio.sleep(0.05)
    assert len(transport.written) == before
    intake.close()


async def test_a_source_that_asks_in_silence_is_answered_after_a_second() -> None:
    took: list[float] = []

    async def script(talk: Talk) -> None:
        await talk.greet(b"+CONTINUE\r\n" + b"x" * 100)
        began = time.monotonic()
        await talk.send(GETACK)
        while (await talk.command())[2] != b"%d" % (1100 + len(GETACK)):
            pass
        took.append(time.monotonic() - began)

    peer = Peer(script)
    async with peer.listening(), following(peer, RecordingSink(Position(ID, 1000)), Timing(5, 30, 3.0)):
        await eventually(lambda: took)
    assert 1.0 <= took[0] < 2.5, "with the tick it would take three seconds"


# --- what the sink may do ---


@pytest.mark.parametrize("fault", [StateError("disk full"), ValueError("a bug")])
@pytest.mark.parametrize("event", ["full", "rdb", "rdb-end", "stream", "continue", "disconnect"])
async def test_a_sink_that_fails_ends_the_replica(event: str, fault: Exception) -> None:
    def fail(name: str, *_: object) -> None:
        if name == event:
            raise fault

    sink = RecordingSink()
    sink.on_event = fail
    peer = Peer(answering(EMPTY + b"x", then_close=True), answering(b"+CONTINUE\r\n"))
    async with peer.listening(), following(peer, sink) as (_, task):
        with pytest.raises(type(fault), match=str(fault)):
            await asyncio.wait_for(task, 20)


async def test_a_sink_that_blames_the_peer_makes_it_come_back() -> None:
    faults = [ProtocolError("no command", 5), Unreachable("enough")]

    def fail(name: str, *_: object) -> None:
        if name == "stream" and faults:
            raise faults.pop(0)

    sink = RecordingSink()
    sink.on_event = fail
    peer = Peer(answering(EMPTY + b"x"), answering(b"+CONTINUE\r\ny"))
    async with peer.listening(), following(peer, sink):
        await eventually(lambda: len(sink.named("continue")) == 2)
    assert "no command (at offset 5)" in str(sink.errors[0]) and isinstance(sink.errors[1], Unreachable)


async def test_hold_and_release() -> None:
    sink = RecordingSink()
    total = 20 * BUFFER_BYTES
    peer = Peer(answering(EMPTY + b"x" * total))
    async with peer.listening(), following(peer, sink) as (replica, _):
        sink.on_event = lambda name, *_: replica.hold() if name == "stream" else None
        await eventually(lambda: sink.stream)
        await asyncio.sleep(1.0)  # longer than timeout_s: what is not read is no silence
        assert len(sink.stream) <= BUFFER_BYTES and not sink.errors
        sink.on_event = lambda *_: None
        replica.release()
        await eventually(lambda: len(sink.stream) == total)


async def test_held_before_the_connection_stands() -> None:
    sink = RecordingSink()
    peer = Peer(answering(EMPTY))
    async with peer.listening(), following(peer, sink) as (replica, _):
        replica.hold()
        await eventually(lambda: peer.talks)
        await asyncio.sleep(0.1)
        assert not sink.events
        replica.release()
        await eventually(lambda: sink.complete)


async def test_pause_leaves_the_source_and_resume_comes_back() -> None:
    sink = RecordingSink()
    peer = Peer(answering(EMPTY + b"abc"), answering(b"+CONTINUE\r\ndef"))
    async with peer.listening(), following(peer, sink) as (replica, _):
        sink.on_event = lambda name, *_: replica.pause("journal full") if name == "rdb-end" else None
        await eventually(lambda: sink.errors)
        assert (str(sink.errors[0]), sink.events[-1][2], type(sink.errors[0])) == ("journal full", math.inf, StateError)
        assert not sink.stream and not replica.connected  # even what stood in the same read
        await asyncio.sleep(0.1)
        assert len(peer.talks) == 1
        sink.on_event = lambda *_: None
        replica.resume()
        await eventually(lambda: sink.stream == b"def")
        assert peer.talks[1].psync[1:] == [ID.encode(), b"1001"]


async def test_resumed_at_once_it_asks_anew() -> None:
    sink = RecordingSink()
    peer = Peer(answering(EMPTY), answering(b"+CONTINUE\r\n"))
    async with peer.listening(), following(peer, sink) as (replica, _):
        await eventually(lambda: sink.complete)
        sink.position = Position(OTHER, 5)
        replica.pause("another question")
        replica.resume()
        await eventually(lambda: sink.named("continue"))
    assert [event[2] for event in sink.named("disconnect")] == [0.0]
    assert peer.talks[1].psync[1:] == [OTHER.encode(), b"6"]


async def test_pause_while_waiting_for_the_next_attempt() -> None:
    sink = RecordingSink()
    peer = Peer(saying(then_close=True))
    async with peer.listening():
        replica = Replica(peer.endpoint, sink, timing=FAST, backoff=Backoff(60, 60))
        task = asyncio.create_task(replica.run())
        await eventually(lambda: sink.errors)
        replica.pause("full")
        await eventually(lambda: len(sink.errors) == 2)
        replica.resume()
        await eventually(lambda: len(peer.talks) == 2)
        replica.stop()
        await asyncio.wait_for(task, 20)


@pytest.mark.parametrize(
    "script", [saying(), answering(b""), answering(FULL), answering(EMPTY), saying(then_close=True)]
)
@pytest.mark.parametrize("how", ["stop", "cancel"])
async def test_it_stops_wherever_it_is(script: Script, how: str) -> None:
    sink = RecordingSink()
    peer = Peer(script)
    async with peer.listening():
        replica = Replica(peer.endpoint, sink, timing=PATIENT, backoff=Backoff(60, 60))
        task = asyncio.create_task(replica.run())
        await eventually(lambda: peer.talks)
        await asyncio.sleep(0.05)
        before, began = len(sink.events), time.monotonic()
        if how == "stop":
            replica.stop()
            await asyncio.wait_for(task, 20)
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 20)
        assert time.monotonic() - began < 20
        assert len(sink.events) == before and not replica.connected


async def test_cancelled_right_after_a_pause() -> None:
    peer = Peer(answering(EMPTY))
    async with peer.listening():
        replica = Replica(peer.endpoint, RecordingSink(), timing=PATIENT)
        task = asyncio.create_task(replica.run())
        await eventually(lambda: replica.connected)
        replica.pause("full")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 20)


async def test_stop_from_within_a_callback() -> None:
    sink = RecordingSink()
    peer = Peer(answering(EMPTY + b"abc"))
    async with peer.listening(), following(peer, sink) as (replica, task):
        sink.on_event = lambda name, *_: replica.stop() if name == "rdb-end" else None
        await asyncio.wait_for(task, 20)
    assert not sink.stream and not sink.errors


# --- locate ---


async def test_locate_is_asked_before_each_attempt() -> None:
    sink = RecordingSink()
    first, second = Peer(answering(EMPTY, then_close=True)), Peer(answering(b"+CONTINUE\r\n"))
    async with first.listening(), second.listening():
        answers: list[Endpoint | CanalError] = [Unreachable("no master yet"), first.endpoint, second.endpoint]

        async def locate() -> Endpoint:
            answer = answers.pop(0)
            if isinstance(answer, CanalError):
                raise answer
            return answer

        async with following(first, sink, locate=locate) as (replica, _):
            await eventually(lambda: sink.named("continue"))
            assert replica.endpoint == second.endpoint
    assert str(sink.errors[0]) == "no master yet"


async def test_a_config_error_is_fatal_at_first_and_an_outage_later() -> None:
    async def wrong() -> Endpoint:
        raise ConfigError("no such file")

    peer = Peer(answering(EMPTY, then_close=True))
    async with peer.listening():
        with pytest.raises(ConfigError, match="no such file"):
            await Replica(peer.endpoint, RecordingSink(), fail_fast=True, locate=wrong).run()
        sink = RecordingSink()
        replies = [peer.endpoint]

        async def later() -> Endpoint:
            return replies.pop() if replies else await wrong()

        async with following(peer, sink, fail_fast=True, locate=later):
            await eventually(lambda: len(sink.errors) == 3)
    assert [type(error) for error in sink.errors[:3]] == [Unreachable, ConfigError, ConfigError]


# --- how often it comes back ---


async def test_a_source_that_cuts_after_each_snapshot_is_asked_less_and_less_often() -> None:
    sink = RecordingSink()
    peer = Peer(answering(EMPTY, then_close=True))
    sink.on_event = lambda name, *_: setattr(sink, "position", None) if name == "disconnect" else None
    async with peer.listening():
        replica = Replica(peer.endpoint, sink, timing=FAST, backoff=Backoff(0.01, 10, rng=lambda: 1.0))
        task = asyncio.create_task(replica.run())
        await eventually(lambda: len(sink.errors) == 4)
        replica.stop()
        await task
    assert [event[2] for event in sink.named("disconnect")][:4] == [0.01, 0.02, 0.04, 0.08]


async def test_one_that_cuts_a_stream_is_asked_again_soon() -> None:
    sink = RecordingSink(Position(ID, 1000))
    peer = Peer(answering(b"+CONTINUE\r\n", then_close=True))
    async with peer.listening():
        replica = Replica(peer.endpoint, sink, timing=FAST, backoff=Backoff(0.01, 10, rng=lambda: 1.0))
        task = asyncio.create_task(replica.run())
        await eventually(lambda: len(sink.errors) == 4)
        replica.stop()
        await task
    assert [event[2] for event in sink.named("disconnect")][:4] == [0.01] * 4
