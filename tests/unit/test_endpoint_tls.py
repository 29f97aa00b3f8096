"""TLS files that are missing or cannot be used are named; nothing ever asks for a passphrase on the terminal."""

from __future__ import annotations

import ssl
import subprocess
from pathlib import Path

import pytest

from canal.endpoint import TlsOptions, connection_error, parse_url, tls_context
from canal.errors import ConfigError, TlsError, Unreachable
from tests.support.certificates import Certificates


def test_verification_is_on_unless_switched_off(certificates: Certificates) -> None:
    for options in (TlsOptions(), TlsOptions(ca=str(certificates.ca)), TlsOptions(ca=str(certificates.ca.parent))):
        context = tls_context(options)
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
        assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    insecure = tls_context(TlsOptions(verify=False))
    assert (insecure.verify_mode, insecure.check_hostname) == (ssl.CERT_NONE, False)


def test_a_client_certificate_is_loaded(certificates: Certificates, tmp_path: Path) -> None:
    tls_context(TlsOptions(cert=str(certificates.client_cert), key=str(certificates.client_key)))
    both = tmp_path / "both.pem"
    both.write_bytes(certificates.client_cert.read_bytes() + certificates.client_key.read_bytes())
    tls_context(TlsOptions(cert=str(both)))


@pytest.mark.parametrize(("name", "words"), [("ca", "CA file"), ("cert", "certificate file"), ("key", "key file")])
def test_files_that_do_not_exist(name: str, words: str, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    with pytest.raises(ConfigError, match=f"TLS {words} '{missing}' does not exist"):
        tls_context(TlsOptions(**{name: missing}))  # type: ignore[arg-type]


def test_files_that_cannot_be_used(certificates: Certificates, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n")
    cert, key = str(certificates.client_cert), str(certificates.client_key)
    for options, words in [
        (TlsOptions(ca=str(text)), "CA file .* cannot be used: .*; expected PEM"),
        (TlsOptions(cert=str(text), key=key), "certificate .*text.* cannot be used"),
        (TlsOptions(cert=cert, key=str(text)), "key .*text.* cannot be used"),
        (TlsOptions(cert=cert, key=str(certificates.server_key)), "key values mismatch"),
        (TlsOptions(cert=cert), "cannot be used"),
        (TlsOptions(key=key), "a TLS key was given without its certificate"),
    ]:
        with pytest.raises(ConfigError, match=words) as raised:
            tls_context(options)
        assert "\n" not in str(raised.value)


def test_an_encrypted_key_is_refused_without_asking(certificates: Certificates, tmp_path: Path) -> None:
    key = tmp_path / "encrypted.pem"
    command = ["openssl", "pkey", "-in", certificates.client_key, "-aes256", "-passout", "pass:secret", "-out", key]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError, match="the key without passphrase"):
        tls_context(TlsOptions(cert=str(certificates.client_cert), key=str(key)))


def alert(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason.lower())
    error.reason = reason
    return error


ENDPOINT = parse_url("rediss://:secret@db.example:1")


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionAbortedError("SSL handshake is taking longer"), TlsError, "no TLS handshake within 3 s"),
        (TimeoutError(), Unreachable, "no connection within 3 s"),
        (TimeoutError(110, "Connection timed out"), Unreachable, "Connection timed out"),
        (OSError(113, "No route to host"), Unreachable, "No route to host"),
        (OSError("Multiple exceptions: a, b"), Unreachable, "Multiple exceptions: a, b"),
        (ssl.SSLError(1, "[SSL: UNSUPPORTED_PROTOCOL] unsupported protocol (_ssl.c:1)"), TlsError, "TLS failed"),
        (alert("TLSV1_ALERT_UNKNOWN_CA"), TlsError, "does not accept the client certificate: unknown ca"),
        (alert("SSLV3_ALERT_CERTIFICATE_EXPIRED"), TlsError, "does not accept the client certificate: certificate exp"),
        (alert("TLSV13_ALERT_CERTIFICATE_REQUIRED"), TlsError, "wants a client certificate"),
    ],
)
def test_what_a_failed_connection_means(error: OSError, kind: type[Exception], words: str) -> None:
    explained = connection_error(ENDPOINT, error, 3.0)
    assert type(explained) is kind and words in str(explained)
    assert str(explained).startswith("rediss://db.example:1: ") and "secret" not in str(explained)
