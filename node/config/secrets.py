"""Resolves named credentials on the machine that uses them, and shows configuration without what is secret."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from canal.endpoint import serving_context, tls_context
from canal.errors import ConfigError
from canal.url import Endpoint, TlsOptions
from node.config.models import Credential, ServeTls, SideConfig

_SECRET_MAX = 64 * 1024
HIDDEN = "(hidden)"


def password(name: str, credential: Credential, environ: Mapping[str, str] | None = None) -> str | None:
    """The password of a credential, None when it names none.

    A relative ``password_file`` is looked for in ``$CREDENTIALS_DIRECTORY`` (systemd's LoadCredential) where that is
    set. Raises ConfigError that names credential and file or variable, never their content.
    """
    environ = os.environ if environ is None else environ
    if credential.password_env is not None:
        found = environ.get(credential.password_env)
        if not found:
            raise ConfigError(f"credential {name}: the environment variable {credential.password_env} is not set")
        return found
    if credential.password_file is None:
        return None
    path = placed(credential.password_file, environ)
    try:
        raw = path.read_bytes()[:_SECRET_MAX]
        text = raw.decode().split("\n", 1)[0].rstrip("\r")
    except OSError as error:
        raise ConfigError(f"credential {name}: cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"credential {name}: {path} is not UTF-8 text") from None
    if not text:
        raise ConfigError(f"credential {name}: the first line of {path} is empty; expected the password")
    return text


def serving(tls: ServeTls | None) -> ssl.SSLContext | None:
    """The context to serve HTTP with, None for plain text. Raises ConfigError that names a file that does not serve."""
    if tls is None:
        return None
    cert, key, client_ca = (
        None if path is None else str(placed(path, os.environ)) for path in (tls.cert, tls.key, tls.client_ca)
    )
    return serving_context(str(cert), key, client_ca)


def asking(name: str, credentials: Mapping[str, Credential]) -> ssl.SSLContext:
    """The context to ask HTTPS servers with, of a credential's TLS files. Raises ConfigError."""
    return tls_context(_tls(credentials[name]))


def placed(path: Path, environ: Mapping[str, str]) -> Path:
    """A file of a credential: relative names stand in systemd's credentials directory, where there is one."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) / path if directory and not path.is_absolute() else path


def resolve(side: str, config: SideConfig, credentials: Mapping[str, Credential]) -> Endpoint:
    """The endpoint of one side of a task with this machine's credentials. Raises ConfigError."""
    endpoint = _sentinels(side, config, config.endpoint, credentials)
    if config.credentials is None:
        return endpoint
    credential = _credential(side, config.credentials, credentials)
    if credential.has_tls and endpoint.tls is None:
        raise ConfigError(f"{side}: credential {config.credentials} has TLS options, but the URL is not rediss://")
    secret = password(config.credentials, credential)
    return replace(
        endpoint,
        username=credential.username,
        password=secret,
        tls=_tls(credential) if endpoint.tls is not None else None,
    )


def _credential(side: str, name: str, credentials: Mapping[str, Credential]) -> Credential:
    credential = credentials.get(name)
    if credential is None:
        listed = ", ".join(sorted(credentials)) or "none"
        raise ConfigError(
            f"{side}: credential {name!r} is not known on this node (known: {listed});"
            " add it under credentials: in node.yaml"
        )
    return credential


def _sentinels(side: str, config: SideConfig, endpoint: Endpoint, credentials: Mapping[str, Credential]) -> Endpoint:
    """How the Sentinels are logged in to: credentials of their own; TLS as with the data servers unless these say."""
    group = endpoint.group
    if group is None or group.kind != "sentinel":
        return endpoint
    if group.tls is not None and config.credentials is not None:
        group = replace(group, tls=_tls(_credential(side, config.credentials, credentials)))
    if config.sentinel_credentials is not None:
        name = config.sentinel_credentials
        own = _credential(side, name, credentials)
        group = replace(group, username=own.username, password=password(name, own))
        if own.has_tls:
            group = replace(group, tls=_tls(own))
    return replace(endpoint, group=group)


def _tls(credential: Credential) -> TlsOptions:
    def text(path: Path | None) -> str | None:
        return None if path is None else str(placed(path, os.environ))

    return TlsOptions(
        ca=text(credential.ca),
        cert=text(credential.cert),
        key=text(credential.key),
        verify=credential.verify,
        server_name=credential.server_name,
    )


def redacted(config: BaseModel) -> dict[str, Any]:
    """A configuration as it may be shown: plain values; token digests are hidden, passwords never were in it."""
    shown = config.model_dump(mode="json")

    def hide(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: HIDDEN if key == "sha256" else hide(item) for key, item in value.items()}
        return [hide(item) for item in value] if isinstance(value, list) else value

    cleaned = hide(shown)
    assert isinstance(cleaned, dict)
    return cleaned
