"""The proxy does what its page says; the servers behind it are plain TCP servers made here."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import StartServer
from tests.support.process import wait_until
from tests.support.proxy import Connection, Direction, Proxy
from tests.support.servers import Server

MakeProxy = Callable[[Server | tuple[str, int]], Proxy]


class Echo:
    """Sends everything back, and remembers what came over each connection and how it ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self.listener.getsockname()
        self.received: list[bytearray] = []
        self.reads: list[int] = []
        self.ends: list[str] = []
        self.links: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self.listener.accept()
            except OSError:
                return
            self.links.append(link)
            self.received.append(bytearray())
            threading.Thread(target=self._serve, args=(link, self.received[-1]), daemon=True).start()

    def _serve(self, link: socket.socket, received: bytearray) -> None:
        try:
            while data := link.recv(1 << 20):
                received += data
                self.reads.append(len(data))
                link.sendall(data)
            self.ends.append("fin")
        except ConnectionResetError:
            self.ends.append("rst")
        except OSError:
            pass
        link.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    echo = Echo()
    yield echo
    echo.listener.close()
    for link in echo.links:
        link.close()


class Link:
    """A client of the proxy."""

    def __init__(self, proxy: Proxy) -> None:
        self.socket = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, size: int) -> bytes:
        got = b""
        while len(got) < size and (part := self.socket.recv(size - len(got))):
            got += part
        return got


@pytest.fixture
def connect(proxy: MakeProxy, echo: Echo) -> Iterator[Callable[[], tuple[Proxy, Link]]]:
    links: list[Link] = []
    made: list[Proxy] = []

    def make() -> tuple[Proxy, Link]:
        if not made:
            made.append(proxy(echo.address))
        links.append(Link(made[0]))
        return made[0], links[-1]

    yield make
    for link in links:
        link.socket.close()


Connect = Callable[[], tuple[Proxy, Link]]


def test_bytes_pass_unchanged_both_ways(connect: Connect, echo: Echo) -> None:
    _, link = connect()
    data = bytes(range(256)) * 40_000
    threading.Thread(target=link.send, args=(data,)).start()
    assert link.receive(len(data)) == data
    assert echo.received[0] == data


def test_the_end_of_one_side_reaches_the_other(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    link.send(b"last")
    link.socket.shutdown(socket.SHUT_WR)
    assert link.receive(100) == b"last"  # the other direction stays open until it ends by itself
    wait_until(lambda: echo.ends == ["fin"] and not proxy.connections, what="both ends are closed")


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_cut_reaches_both_sides(connect: Connect, echo: Echo, how: str) -> None:
    proxy, link = connect()
    link.send(b"x")
    assert link.receive(1) == b"x"
    assert proxy.cut("rst" if how == "rst" else "fin") == 1
    if how == "rst":
        with pytest.raises(ConnectionResetError):
            link.receive(1)
    else:
        assert link.receive(1) == b""
    wait_until(lambda: echo.ends == [how], what=f"the server sees {how}")
    assert proxy.connections == []


def test_cut_towards_the_client_only_leaves_the_server_alone(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    link.send(b"x")
    assert link.receive(1) == b"x"
    connection = proxy.connections[0]
    connection.cut("rst", "client")
    with pytest.raises(ConnectionResetError):
        link.receive(1)
    assert connection.server_open and not connection.open and proxy.connections == []
    echo.links[0].sendall(b"into the void" * 100_000)  # not held up by the missing reader
    assert echo.ends == []


def test_cut_towards_the_server_only_leaves_the_client_open(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    link.send(b"x")
    assert link.receive(1) == b"x"
    proxy.cut("rst", "server")
    wait_until(lambda: echo.ends == ["rst"], what="the server sees a reset")
    link.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        link.receive(1)


def test_cut_after_passes_exactly_so_many_bytes(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    wait_until(lambda: proxy.connections, what="connected")
    proxy.connections[0].cut_after(1000, "to_server", "fin")
    link.send(b"y" * 5000)
    wait_until(lambda: echo.ends == ["fin"], what="cut")
    assert len(echo.received[0]) == 1000


def test_refuse_and_accept(connect: Connect) -> None:
    proxy, link = connect()
    link.send(b"1")
    assert link.receive(1) == b"1"
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        connect()
    link.send(b"2")
    assert link.receive(1) == b"2"
    proxy.accept()
    _, other = connect()
    other.send(b"3")
    assert other.receive(1) == b"3" and proxy.accepted == 2


def test_a_target_that_is_gone_is_a_reset_and_can_be_changed(connect: Connect, echo: Echo) -> None:
    proxy, _ = connect()
    nobody = socket.socket()
    nobody.bind(("127.0.0.1", 0))
    proxy.target = nobody.getsockname()
    with pytest.raises(ConnectionResetError):  # at once, or when something is read
        connect()[1].receive(1)
    nobody.close()
    proxy.target = echo.address
    _, link = connect()
    link.send(b"x")
    assert link.receive(1) == b"x"


def test_delay_is_added_each_way_and_costs_no_throughput(connect: Connect) -> None:
    proxy, link = connect()
    proxy.delay(0.1, "to_server")
    proxy.delay(0.05, "to_client")
    started = time.monotonic()
    for part in range(200):
        link.send(bytes([part]) * 1000)
    assert link.receive(1000) == bytes(1000)
    assert time.monotonic() - started >= 0.15
    assert len(link.receive(199_000)) == 199_000
    assert time.monotonic() - started < 15  # one delay, not two hundred: those would be thirty seconds


def test_limit_is_never_exceeded(connect: Connect) -> None:
    proxy, link = connect()
    proxy.limit(1_000_000, "to_client")
    started = time.monotonic()
    link.send(b"z" * 500_000)
    link.receive(500_000)
    assert time.monotonic() - started > 0.45


def test_dribble_splits_what_was_sent_at_once(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    proxy.dribble(3, "to_server", gap_s=0.02)
    link.send(b"0123456789")
    assert link.receive(10) == b"0123456789"
    assert len(echo.reads) > 1 and set(echo.reads[:-1]) <= {3, 6, 9}


def test_stall_keeps_bytes_and_connection(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    proxy.stall("to_client")
    link.send(b"kept")
    wait_until(lambda: echo.received and echo.received[0] == b"kept", what="the way there is open")
    link.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        link.receive(1)
    proxy.flow()
    assert link.receive(4) == b"kept"


def test_faults_of_one_connection_leave_the_others(connect: Connect) -> None:
    proxy, first = connect()
    wait_until(lambda: len(proxy.connections) == 1, what="connected")
    _, second = connect()
    proxy.connections[0].stall()
    second.send(b"x")
    assert second.receive(1) == b"x"
    first.send(b"x")
    first.socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        first.receive(1)


def test_callbacks_see_everything_and_may_cut(connect: Connect, echo: Echo) -> None:
    proxy, first = connect()
    first.send(b"a")
    assert first.receive(1) == b"a"
    seen: list[tuple[int, Direction, bytes]] = []

    def watch(connection: Connection, direction: Direction, data: bytes) -> None:
        seen.append((connection.number, direction, data))
        if data == b"stop":
            connection.cut("rst")

    proxy.on_data = watch
    first.send(b"b")
    assert first.receive(1) == b"b"
    assert seen == [(1, "to_server", b"b"), (1, "to_client", b"b")]
    first.send(b"stop")
    with pytest.raises(ConnectionResetError):
        first.receive(1)
    wait_until(lambda: proxy.connections == [], what="cut from the callback")


def test_held_bytes_arrive_after_the_client_went_on_elsewhere(connect: Connect, echo: Echo) -> None:
    proxy, old = connect()
    held = proxy.hold(b"EXEC")
    old.send(b"MULTI;SET;")
    assert old.receive(10) == b"MULTI;SET;"
    old.send(b"INCR;EXEC;")
    held.wait()
    old.send(b"more;")
    wait_until(lambda: held.data == b"EXEC;more;", what="what follows is held too")
    held.cut_client()
    with pytest.raises(ConnectionResetError):
        old.receive(100)
    _, new = connect()
    new.send(b"EXEC;")  # nothing is held twice
    assert new.receive(5) == b"EXEC;"
    assert echo.received[0] == b"MULTI;SET;INCR;" and echo.ends == []
    held.deliver()
    wait_until(lambda: echo.received[0] == b"MULTI;SET;INCR;EXEC;more;", what="the late bytes are there")


def test_hold_finds_a_pattern_split_over_reads_and_can_skip(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    held = proxy.hold(b"EXEC", skip=1)
    link.send(b"..EXEC..EX")
    assert link.receive(10) == b"..EXEC..EX"
    link.send(b"EC!")
    held.wait()
    assert held.data == b"EC!"
    held.deliver()
    assert link.receive(3) == b"EC!"  # and the connection flows on
    link.send(b"after")
    assert link.receive(5) == b"after"


def test_delivering_to_a_server_that_has_hung_up_is_an_error(connect: Connect, echo: Echo) -> None:
    proxy, link = connect()
    held = proxy.hold(b"x")
    link.send(b"x")
    held.wait()
    wait_until(lambda: echo.links, what="connected")
    echo.links[0].shutdown(socket.SHUT_RDWR)
    wait_until(lambda: held.connection is not None and not held.connection.server_open, what="seen")
    with pytest.raises(ConnectionResetError):
        held.deliver()


@pytest.mark.servers
def test_redis_behind_it(redis_server: StartServer, proxy: MakeProxy) -> None:
    import redis

    server = redis_server()
    between = proxy(server)
    with redis.Redis.from_url(between.url) as client:
        assert client.set("k", "v")
        between.cut()
        assert client.get("k") == b"v"  # redis-py connects again by itself
    assert between.accepted == 2
