"""HTTPS of a node, of `run` and of the console: verified by default, by certificate of the client where asked for."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from canal.endpoint import TlsOptions, serving_context, tls_context
from canal.errors import ConfigError, Unreachable
from console.web.fetch import fetch_json
from node.config import load_console, load_node
from node.config.secrets import serving
from node.http import HttpServer, document, text
from tests.support.certificates import Certificates
from tests.support.nodes import NodeProcess, Site
from tests.support.process import ROOT, end, spawn, wait_until


def client(certificates: Certificates, *, with_certificate: bool = False) -> ssl.SSLContext:
    cert, key = (str(certificates.client_cert), str(certificates.client_key)) if with_certificate else (None, None)
    return tls_context(TlsOptions(ca=str(certificates.ca), cert=cert, key=key))


async def test_served_by_tls_alone_and_verified_by_default(certificates: Certificates) -> None:
    tls = serving_context(str(certificates.server_cert), str(certificates.server_key), None)
    server = HttpServer("127.0.0.1", 0, {"/a": lambda: document({"a": 1})}, tls)
    await server.start()
    try:
        at = f"https://127.0.0.1:{server.address[1]}"
        ask = asyncio.to_thread
        assert await ask(fetch_json, at, "/a", 20.0, client(certificates)) == {"a": 1}
        other = tls_context(TlsOptions(ca=str(certificates.other_ca)))
        for context in (None, other):  # the authorities of this machine, and one that signed nothing here
            with pytest.raises(Unreachable, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
                await ask(fetch_json, at, "/a", 20.0, context)
        with pytest.raises(Unreachable):  # no plain text on this port
            await ask(fetch_json, at.replace("https", "http"), "/a", 20.0)
    finally:
        await server.close()


async def test_a_client_without_a_certificate_is_turned_away(certificates: Certificates) -> None:
    ca = str(certificates.ca)
    tls = serving_context(str(certificates.server_cert), str(certificates.server_key), ca)
    server = HttpServer("127.0.0.1", 0, {"/a": lambda: text("secret")}, tls)
    await server.start()
    try:
        at = f"https://127.0.0.1:{server.address[1]}"
        with pytest.raises(Unreachable):
            await asyncio.to_thread(fetch_json, at, "/a", 20.0, client(certificates))
        with pytest.raises(Unreachable, match="Expecting value"):  # it got in: the answer is no JSON
            await asyncio.to_thread(fetch_json, at, "/a", 20.0, client(certificates, with_certificate=True))
    finally:
        await server.close()


def test_files_that_do_not_serve_are_named(certificates: Certificates, tmp_path: Path) -> None:
    cert, key, nowhere = str(certificates.server_cert), str(certificates.server_key), str(tmp_path / "none.pem")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no PEM\n")
    for wrong in ((nowhere, key, None), (cert, nowhere, None), (cert, key, nowhere)):
        with pytest.raises(ConfigError, match=r"none\.pem' does not exist"):
            serving_context(*wrong)
    for wrong in ((str(garbage), key, None), (cert, str(certificates.client_key), None), (cert, key, str(garbage))):
        with pytest.raises(ConfigError, match=r"cannot be used: .*; expected PEM"):
            serving_context(*wrong)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.close()


def test_a_node_and_how_the_console_asks_it(site: Site, certificates: Certificates, tmp_path: Path) -> None:
    node: NodeProcess = site.node("a")
    node.configure(
        http=f"{{listen: '127.0.0.1:{node.port.number}', tls: {{cert: {certificates.server_cert}, "
        f"key: {certificates.server_key}, client_ca: {certificates.ca}}}}}"
    )
    assert load_node(node.config).http_address == f"https://127.0.0.1:{node.port.number}"
    node.get = lambda path: _get(node, path, certificates)  # type: ignore[method-assign]
    node.start()
    console = tmp_path / "console.yaml"
    console.write_text(
        f"datacenters: {{sh: {{coordination: {{embedded: {{path: {tmp_path / 'coordination.db'}}}}}}}}}\n"
        f"node_credentials: nodes\ncredentials: {{nodes: {{ca: {certificates.ca}, cert: {certificates.client_cert}, "
        f"key: {certificates.client_key}}}}}\n"
        f"tls: {{cert: {certificates.server_cert}, key: {certificates.server_key}}}\n"
    )
    from console.web.sites import Sites

    config = load_console(console)
    sites = Sites(config)
    status = fetch_json(f"https://127.0.0.1:{node.port.number}", "/status", 20.0, sites.tls)
    assert status["node"] == "a"
    assert isinstance(serving(config.tls), ssl.SSLContext)


def test_the_console_serves_https(certificates: Certificates, tmp_path: Path) -> None:
    file = tmp_path / "console.yaml"
    file.write_text(
        f"listen: 127.0.0.1:0\ntls: {{cert: {certificates.server_cert}, key: {certificates.server_key}}}\n"
        f"datacenters: {{sh: {{coordination: {{embedded: {{path: {tmp_path / 'coordination.db'}}}}}}}}}\n"
    )
    said = tmp_path / "log"
    with said.open("wb") as log:
        process = spawn([sys.executable, "-m", "console.cli.main", "console", "-c", file], stderr=log, cwd=ROOT)
    try:
        at = wait_until(lambda: re.search(r"console: (https://\S+)/", said.read_text()), 30, "it says its address")[1]

        def asked(context: ssl.SSLContext) -> str:
            with urllib.request.urlopen(at, timeout=20, context=context) as answer:
                return str(answer.read().decode())

        assert "<html" in wait_until(lambda: asked(client(certificates)), 30, "the page")
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY"):
            asked(ssl.create_default_context())
    finally:
        end(process)


def _get(node: NodeProcess, path: str, certificates: Certificates) -> str:
    context = client(certificates, with_certificate=True)
    try:
        at = f"https://127.0.0.1:{node.port.number}{path}"
        with urllib.request.urlopen(at, timeout=5, context=context) as answer:
            return str(answer.read().decode())
    except OSError:
        return json.dumps({})
