"""The page with what it is to show first: a browser draws the overview without asking again.

A JSON block (data, which the policy lets stand in a page, not a script) holds the session and what the event stream
would send first. Nobody logged in, or nothing read yet: the page comes without it and asks.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from console.web.assets import Assets
from console.web.auth import Who
from console.web.hub import encode
from console.web.reads import give_cookie, session_document
from console.web.state import of

_BEFORE: Final = b'<script type="module"'
_LESS: Final = "\\u003c"  # so that nothing in it can end the block


async def page(request: Request, assets: Assets) -> Response:
    """``/``: the file itself, or the file with the block for whoever is logged in (never kept by caches)."""
    state = of(request)
    who: Who | None = request.state.who
    world = state.sites.hub.document()
    plain = assets.answer(request.scope, "index.html")
    if who is None or world is None:
        return plain
    cookie = ""
    if state.auth.open and not who.nonce:
        cookie, who = state.auth.session(who)
    known = f'{{"session":{encode(session_document(state, who))},"world":{world}}}'
    block = f'<script type="application/json" id="known">{known.replace("<", _LESS)}</script>\n  '
    head, mark, rest = assets.body("index.html").partition(_BEFORE)
    answer = Response(b"".join((head, block.encode(), mark, rest)), media_type="text/html")
    answer.headers["Cache-Control"] = "no-store"
    if cookie:
        give_cookie(request, answer, cookie)
    return answer
