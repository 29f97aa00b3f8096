"""A ZooKeeper that speaks TLS: verified, with and without a client certificate, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from canal.errors import ConfigError, Unreachable
from node.coordination.coordinator import Coordinator
from node.coordination.zookeeper import ZooKeeperOptions, ZooKeeperStore
from tests.support.certificates import Certificates
from tests.support.process import ReservedPort, spawn, wait_until
from tests.support.zookeeper import ZooKeeper, ZooKeeperMissing

pytestmark = [
    pytest.mark.zookeeper,
    # kazoo leaves its socket to the garbage collector when a handshake fails
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

_NETTY = ("common", "buffer", "codec", "resolver", "transport", "handler")
_CLASSES = ":".join(["/usr/share/java/zookeeper.jar", *(f"/usr/share/java/netty-{name}.jar" for name in _NETTY)])


class TlsZooKeeper(ZooKeeper):
    """A server with a second port that asks for client certificates."""

    def secure(self, certificates: Certificates) -> None:
        self.configure([])
        self.secure_port = ReservedPort()
        key_store = self.directory / "server.pem"
        key_store.write_bytes(certificates.server_key.read_bytes() + certificates.server_cert.read_bytes())
        with (self.directory / "zoo.cfg").open("a") as file:
            file.write(
                f"secureClientPort={self.secure_port.number}\nsecureClientPortAddress=127.0.0.1\n"
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n"
                f"ssl.keyStore.location={key_store}\nssl.keyStore.type=PEM\n"
                f"ssl.trustStore.location={certificates.ca}\nssl.trustStore.type=PEM\n"
                "ssl.clientAuth=need\nssl.hostnameVerification=false\n"
            )

    def run(self) -> None:
        command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{self.directory}:{_CLASSES}"]
        command += ["org.apache.zookeeper.server.quorum.QuorumPeerMain", str(self.directory / "zoo.cfg")]
        with (self.directory / "log").open("ab") as log:
            self.process = spawn(command, stdout=log, stderr=log, cwd=self.directory)

    def close(self) -> None:
        super().close()
        self.secure_port.release()


@pytest.fixture
def options(tmp_path: Path, certificates: Certificates) -> Iterator[ZooKeeperOptions]:
    try:
        server = TlsZooKeeper(tmp_path / "zk", owns_directory=False)
    except ZooKeeperMissing as missing:
        pytest.skip(str(missing))
    server.secure(certificates)
    server.run()
    try:
        wait_until(server.serving, 30, "ZooKeeper serves")
        yield ZooKeeperOptions(
            f"127.0.0.1:{server.secure_port.number}",
            timeout_s=30.0,
            tls=True,
            ca=str(certificates.ca),
            cert=str(certificates.client_cert),
            key=str(certificates.client_key),
        )
    finally:
        server.close()


def test_tls_with_a_client_certificate_and_a_digest_user(options: ZooKeeperOptions) -> None:
    with Coordinator(ZooKeeperStore(replace(options, username="canal", password="right"))) as one:
        one.tasks.create("sh-bj", {})
        assert list(one.tasks.all()) == ["sh-bj"]


def test_what_does_not_fit_is_unreachable_and_nothing_is_sent_in_clear(
    options: ZooKeeperOptions, certificates: Certificates
) -> None:
    for wrong in ({"ca": str(certificates.other_ca)}, {"tls": False}, {"cert": None, "key": None}):
        with pytest.raises((Unreachable, ConfigError)) as caught:
            ZooKeeperStore(replace(options, **wrong)).start()  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_a_missing_certificate_file_is_named(options: ZooKeeperOptions) -> None:
    for name in ("ca", "cert", "key"):
        with pytest.raises(ConfigError, match=r"/nowhere\.pem"):
            ZooKeeperStore(replace(options, **{name: "/nowhere.pem"})).start()  # type: ignore[arg-type]
