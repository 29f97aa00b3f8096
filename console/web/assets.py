"""The page's files, held in memory: a page of twenty small modules is there as fast as the loop can write them."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


@dataclass(frozen=True, slots=True)
class _Asset:
    body: bytes
    kind: str
    etag: str


class Assets:
    """ASGI application that answers GET and HEAD for the files that stood below ``directory`` when it was made.

    Raises HTTPException: 404 for any other path, 405 for any other method. Browsers ask each time whether they have the
    newest (ETag), so that an upgraded console is never half old.
    """

    def __init__(self, directory: Path) -> None:
        self._found = {str(path.relative_to(directory)): _read(path) for path in directory.rglob("*") if path.is_file()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.answer(scope, str(scope["path"]).removeprefix(f"{scope.get('root_path', '')}/"))(
            scope, receive, send
        )

    def answer(self, scope: Scope, name: str) -> Response:
        """The response with the file ``name``."""
        asset = self._found.get(name)
        if asset is None:
            raise HTTPException(404)
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405)
        headers = {"ETag": asset.etag}
        if asset.etag in Headers(scope=scope).get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers=headers, media_type=asset.kind)

    def body(self, name: str) -> bytes:
        """What stands in the file ``name``, which there must be."""
        return self._found[name].body


def _read(path: Path) -> _Asset:
    body = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return _Asset(body, kind, f'"{hashlib.sha256(body).hexdigest()[:32]}"')
