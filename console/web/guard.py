"""What stands before every request: its size, its host, who sends it, and whether it may; and the headers of answers.

Order: host name (a page of another site must not reach us by a name that it lets point here), body size, identity,
role, CSRF. Nothing below it needs to think of these again.
"""

from __future__ import annotations

import ipaddress
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.web.answers import ApiError, error_response
from console.web.auth import COOKIE, CSRF_HEADER, Auth, Who

MAX_BODY: Final = 256 * 1024
READS: Final = ("GET", "HEAD", "OPTIONS")
PUBLIC: Final = ("/api/v1/session", "/api/v1/openapi.json", "/api/v1/health")
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware. Puts ``who`` into the request's state."""

    def __init__(self, app: ASGIApp, auth: Auth) -> None:
        self._app = app
        self._auth = auth

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", "no-store" if path.startswith("/api/") else "no-cache")
            await send(message)

        try:
            who = self._check(scope, Headers(scope=scope), path)
        except ApiError as error:
            await error_response(error)(scope, receive, send_safely)
            return
        scope.setdefault("state", {})["who"] = who
        await self._app(scope, _bounded(receive), send_safely)

    def _check(self, scope: Scope, headers: Headers, path: str) -> Who | None:
        host = headers.get("host", "")
        if self._auth.open and not _is_loopback(host):
            raise ApiError(
                421, "wrong_host", f"this console has no tokens and answers on loopback only, not as {host!r}"
            )
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise ApiError(400, "bad_request", "Content-Length is not a number")
        if int(length) > MAX_BODY:
            raise ApiError(413, "too_large", f"a request body may have {MAX_BODY // 1024} KiB at most")
        if not path.startswith("/api/"):
            return self._who(headers) if path == "/" else None  # the page shows at once what its reader may see
        who = self._who(headers)
        method = scope["method"]
        if method not in READS:
            self._check_origin(headers, host)
        if path in PUBLIC:
            return who
        if who is None:
            raise ApiError(401, "unauthenticated", "log in first: a session cookie or a bearer token is needed")
        if method not in READS:
            self._check_write(who, headers)
        return who

    def _who(self, headers: Headers) -> Who | None:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._auth.by_token(token.strip())
        value = _cookie(headers.get("cookie", ""))
        who = self._auth.by_cookie(value) if value else None
        return who or (Who("local", "admin") if self._auth.open else None)

    def _check_origin(self, headers: Headers, host: str) -> None:
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(403, "forbidden", "the request comes from a page of another site")

    def _check_write(self, who: Who, headers: Headers) -> None:
        if who.role != "admin":
            raise ApiError(403, "read_only", f"{who.name} may look, not change")
        bearer = headers.get("authorization", "").lower().startswith("bearer ") and not self._auth.open
        if bearer:
            return  # no browser sends it by itself
        if not who.nonce or not self._auth.csrf_ok(who, headers.get(CSRF_HEADER, "")):
            raise ApiError(
                403, "csrf", "the X-CSRF-Token header is missing or not of this session; load the page again"
            )


def _bounded(receive: Receive) -> Receive:
    """``receive`` that refuses a body larger than allowed, whatever its headers say."""
    taken = 0

    async def bounded() -> Any:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:
                raise ApiError(413, "too_large", f"a request body may have {MAX_BODY // 1024} KiB at most")
        return message

    return bounded


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel is not None else ""


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
