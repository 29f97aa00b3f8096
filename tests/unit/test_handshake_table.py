"""Every reply of the handshake, in the state in which it comes, and what it must mean."""

from __future__ import annotations

import pytest

from canal.errors import AuthError, NotRedis, PeerError, ProtocolError, Unreachable, Unready
from canal.handshake import MAX_LINE, Continue, FullResync, Handshake, State
from canal.position import Position

ID = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
AT = Position(ID, 1000)

# One accepted reply per state, with which a handshake is led to the state under test.
USUAL = {
    State.PING: b"+PONG\r\n",
    State.AUTH: b"+OK\r\n",
    State.PORT: b"+OK\r\n",
    State.CAPA: b"+OK\r\n",
    State.VERSION: b"+OK\r\n",
}


def led_to(state: State, resume: Position | None = AT, password: str | None = "secret") -> Handshake:
    made = Handshake(resume, username="canal", password=password)
    made.start()
    for before, reply in USUAL.items():
        if made.state is state:
            break
        assert made.state is before
        made.receive(reply)
    assert made.state is state
    return made


def test_the_requests_in_order() -> None:
    made = Handshake(AT, username="canal", password="secret")
    sent = [made.start()]
    for reply in (b"+PONG\r\n", b"+OK\r\n", b"+OK\r\n", b"+OK\r\n", b"+OK\r\n"):
        step = made.receive(reply)
        assert (step.used, step.result) == (len(reply), None)
        sent.append(step.send)
    assert sent == [
        b"*1\r\n$4\r\nPING\r\n",
        b"*3\r\n$4\r\nAUTH\r\n$5\r\ncanal\r\n$6\r\nsecret\r\n",
        b"*3\r\n$8\r\nREPLCONF\r\n$14\r\nlistening-port\r\n$1\r\n0\r\n",
        b"*5\r\n$8\r\nREPLCONF\r\n$4\r\ncapa\r\n$3\r\neof\r\n$4\r\ncapa\r\n$6\r\npsync2\r\n",
        b"*3\r\n$8\r\nREPLCONF\r\n$7\r\nversion\r\n$5\r\n9.1.2\r\n",
        b"*3\r\n$5\r\nPSYNC\r\n$40\r\n" + ID.encode() + b"\r\n$4\r\n1001\r\n",
    ]


def test_without_password_and_position() -> None:
    made = Handshake(None)
    made.start()
    assert b"AUTH" not in made.receive(b"+PONG\r\n").send
    made.receive(b"+OK\r\n+OK\r\n")
    assert made.receive(b"+OK\r\n").send == b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"


def test_the_default_user_is_not_named() -> None:
    made = Handshake(None, password="pä")
    made.start()
    assert made.receive(b"+PONG\r\n").send == b"*2\r\n$4\r\nAUTH\r\n$3\r\np\xc3\xa4\r\n"


def test_an_empty_password_is_one() -> None:
    made = Handshake(None, username="u", password="")
    made.start()
    assert made.receive(b"+PONG\r\n").send == b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$0\r\n\r\n"


TOLERATED = [
    (State.PING, b"-NOAUTH Authentication required.", State.AUTH),
    (State.PING, b"-ERR operation not permitted", State.AUTH),
    (State.PING, b"-NOPERM this user has no permissions to run the 'ping' command", State.AUTH),
    (State.PING, b"+pong", State.AUTH),
    (State.PORT, b"-ERR Unrecognized REPLCONF option: listening-port", State.CAPA),
    (State.CAPA, b"-ERR Unrecognized REPLCONF option: capa", State.VERSION),
    (State.VERSION, b"-ERR Unrecognized REPLCONF option: version", State.PSYNC),
    (State.VERSION, b"-ERR Unrecognized version format", State.PSYNC),
]


@pytest.mark.parametrize(("state", "reply", "then"), TOLERATED)
def test_tolerated(state: State, reply: bytes, then: State) -> None:
    made = led_to(state)
    assert made.receive(reply + b"\r\n").result is None
    assert made.state is then


ERRORS: list[tuple[State, bytes, type[PeerError], str]] = [
    (State.PING, b"-LOADING Redis is loading the dataset in memory", Unready, "loading its data"),
    (State.PING, b"-MASTERDOWN Link with MASTER is down", Unready, "no link to its own master"),
    (State.PING, b"-BUSY Redis is busy running a script.", Unready, "busy with a script"),
    (State.PING, b"-ERR max number of clients reached", Unready, "no free connection"),
    (State.PING, b"-ERR max number of clients + cluster connections reached", Unready, "no free connection"),
    (State.PING, b"-DENIED Redis is running in protected mode because", AuthError, "protected mode"),
    (State.PING, b"HTTP/1.1 400 Bad Request", NotRedis, "HTTP/1.1 400 Bad Request.*right port"),
    (State.PING, b"SSH-2.0-OpenSSH_9.2", NotRedis, "SSH-2.0"),
    (State.PING, b"ERROR", NotRedis, "expected \\+PONG"),
    (State.PING, b"+OK", NotRedis, "expected \\+PONG"),
    (State.PING, b"$4", NotRedis, "expected \\+PONG"),
    (State.PING, b"-ERR unknown command 'PING'", NotRedis, "unknown command"),
    (State.PING, b"\x15\x03\x03\x00\x02\x02\x46", NotRedis, "speaks TLS; use rediss://"),
    (
        State.AUTH,
        b"-WRONGPASS invalid username-password pair or user is disabled.",
        AuthError,
        "wrong user or password",
    ),
    (State.AUTH, b"-ERR invalid password", AuthError, "wrong user or password"),
    (State.AUTH, b"-ERR Client sent AUTH, but no password is set", AuthError, "none set; leave it out"),
    (
        State.AUTH,
        b"-ERR AUTH <password> called without any password configured for the default user. Are you sure?",
        AuthError,
        "none set; leave it out",
    ),
    (State.AUTH, b"-ERR wrong number of arguments for 'auth' command", AuthError, "knows no users"),
    (State.AUTH, b"-ERR something else", AuthError, "AUTH was refused: ERR something else"),
    (State.AUTH, b"-LOADING Redis is loading", Unready, "loading"),
    (State.AUTH, b"+QUEUED", ProtocolError, "expected a reply to AUTH, got '\\+QUEUED'"),
    (State.PORT, b"-NOAUTH Authentication required.", AuthError, "authenticated"),
    (State.PORT, b"-NOPERM no permissions to run the 'replconf' command", AuthError, "\\+psync \\+replconf \\+ping"),
    (State.PORT, b"-ERR unknown command 'REPLCONF'", NotRedis, "Sentinel, a proxy or a managed service"),
    (State.PORT, b"-ERR unknown command `REPLCONF`, with args", NotRedis, "offers no replication"),
    (State.CAPA, b"-NOPERM x", AuthError, "ACL needs"),
    (State.VERSION, b"-LOADING x", Unready, "loading"),
    (State.VERSION, b"-WEIRD x", Unready, "REPLCONF version was refused: WEIRD x"),
    (State.PSYNC, b"-NOMASTERLINK Can't SYNC while not connected with my master", Unready, "no link to its own master"),
    (State.PSYNC, b"-ERR Can't SYNC while not connected with my master", Unready, "no link to its own master"),
    (State.PSYNC, b"-NOPERM no permissions to run the 'psync' command", AuthError, "\\+psync"),
    (State.PSYNC, b"-NOAUTH Authentication required.", AuthError, "authenticated"),
    (State.PSYNC, b"-LOADING x", Unready, "loading"),
    (State.PSYNC, b"-ERR unknown command 'PSYNC'", NotRedis, "offers no replication"),
    (State.PSYNC, b"-ERR anything", Unready, "refused PSYNC: ERR anything"),
    (State.PSYNC, b"-SOMETHING new", Unready, "PSYNC was refused: SOMETHING new"),
    (State.PSYNC, b"+OK", ProtocolError, "expected a reply to PSYNC, got '\\+OK'"),
    (State.PSYNC, b"+RDBCHANNELSYNC 17", ProtocolError, "RDBCHANNELSYNC"),
    (State.PSYNC, b"+FULLRESYNC", ProtocolError, "expected \\+FULLRESYNC <40 hex digits> <offset>"),
    (State.PSYNC, b"+FULLRESYNC " + ID.encode(), ProtocolError, "expected \\+FULLRESYNC"),
    (State.PSYNC, b"+FULLRESYNC " + ID[:39].encode() + b" 1", ProtocolError, "expected \\+FULLRESYNC"),
    (State.PSYNC, b"+FULLRESYNC " + ID.encode() + b" -1", ProtocolError, "expected \\+FULLRESYNC"),
    (State.PSYNC, b"+FULLRESYNC " + ID.encode() + b" 9223372036854775808", ProtocolError, "expected \\+FULLRESYNC"),
    (State.PSYNC, b"+FULLRESYNC " + b"x" * 40 + b" 1", ProtocolError, "expected \\+FULLRESYNC"),
    (State.PSYNC, b"+CONTINUE abc", ProtocolError, "expected \\+CONTINUE"),
    (State.PSYNC, b"+CONTINUED", ProtocolError, "expected \\+CONTINUE"),
]


@pytest.mark.parametrize(("state", "reply", "error", "words"), ERRORS)
def test_errors(state: State, reply: bytes, error: type[PeerError], words: str) -> None:
    with pytest.raises(error, match=words) as raised:
        led_to(state).receive(reply + b"\r\n")
    assert type(raised.value) is error
    assert "\n" not in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_password_that_is_missing() -> None:
    made = Handshake(None)
    made.start()
    with pytest.raises(AuthError, match="wants a password and none was given"):
        made.receive(b"-NOAUTH Authentication required.\r\n")


def test_a_default_user_that_may_not_ping() -> None:
    made = Handshake(None)
    made.start()
    with pytest.raises(AuthError, match="\\+psync \\+replconf \\+ping"):
        made.receive(b"-NOPERM this user has no permissions to run the 'ping' command\r\n")


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        (b"+FULLRESYNC " + ID.encode() + b" 0", FullResync(Position(ID, 0))),
        (b"+FULLRESYNC " + ID.upper().encode() + b" 9223372036854775807", FullResync(Position(ID, (1 << 63) - 1))),
        (b"+CONTINUE", Continue(AT)),
        (b"+CONTINUE ", Continue(AT)),
        (b"+CONTINUE " + ID.encode(), Continue(AT)),
        (b"+CONTINUE " + OTHER.upper().encode(), Continue(Position(OTHER, AT.offset))),
    ],
)
def test_results(reply: bytes, result: FullResync | Continue) -> None:
    made = led_to(State.PSYNC)
    step = made.receive(b"\n\n" + reply + b"\r\n$182\r\nREDIS")
    assert step.result == result
    assert (step.send, step.used) == (b"", 2 + len(reply) + 2)
    assert made.state is State.DONE


def test_continue_is_no_answer_to_a_request_for_everything() -> None:
    with pytest.raises(ProtocolError, match="nothing was asked to go on"):
        led_to(State.PSYNC, resume=None).receive(b"+CONTINUE\r\n")


@pytest.mark.parametrize("state", [*USUAL, State.PSYNC])
def test_keepalives_are_no_replies(state: State) -> None:
    made = led_to(state)
    for _ in range(3):
        step = made.receive(b"\n")
        assert (step.send, step.used, step.result) == (b"", 1, None)
    assert made.state is state


def test_replies_that_come_together() -> None:
    made = Handshake(AT)
    made.start()
    step = made.receive(b"+PONG\r\n+OK\r\n-ERR x\r\n+OK\r\n\n+CONTINUE\r\n*1\r\n")
    assert step.result == Continue(AT)
    assert step.send.count(b"REPLCONF") == 3 and step.send.endswith(b"1001\r\n")


@pytest.mark.parametrize(("state", "error"), [(State.PING, NotRedis), (State.PSYNC, ProtocolError)])
def test_an_endless_line_is_bounded(state: State, error: type[PeerError]) -> None:
    made = led_to(state)
    with pytest.raises(error, match=f"more than {MAX_LINE} bytes"):
        for _ in range(MAX_LINE + 1):
            made.receive(b"x")
    with pytest.raises(error, match=f"more than {MAX_LINE} bytes"):
        led_to(state).receive(b"x" * 1_000_000)


def test_a_servers_words_are_bounded_and_printable() -> None:
    with pytest.raises(Unready) as raised:
        led_to(State.PSYNC).receive(b"-ERR \x1b[31m\x00{0}{server}\xff" + b"y" * 3000 + b"\r\n")
    text = str(raised.value)
    assert text.isprintable() and len(text) < 300 and "{0}{server}" in text


def test_what_a_closed_connection_means() -> None:
    made = led_to(State.PING)
    assert isinstance(made.closed(), Unreachable) and "rediss://" in str(made.closed())
    made.receive(b"\x05\x00")
    assert isinstance(made.closed(), NotRedis) and made.unfinished
    later = led_to(State.CAPA)
    assert isinstance(later.closed(), Unreachable) and "REPLCONF capa" in str(later.closed())
    later.receive(b"+O")
    assert isinstance(later.closed(), ProtocolError)
