"""Which requests the page's server answers: those of its own pages, of few of them at a time."""

from nicegui import Client
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

PAGES = 20  # open at a time: tabs, and for a minute what has loaded the page and not opened its socket


class Gate:
    """An ASGI application around another, which it guards against what any page in the user's browser can send.

    A browser says whose page asks by `Origin`, and where it leaves that out, as for an image, by `Sec-Fetch-Site`. What
    sends neither is no page of a browser. The user may come from elsewhere by a link. The name of the host is checked
    by Starlette's TrustedHostMiddleware.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif foreign(Headers(scope=scope)):
            refusal = PlainTextResponse("A page of another site asks.", 403)
            await (WebSocketClose() if scope["type"] == "websocket" else refusal)(scope, receive, send)
        elif not scope["path"].startswith("/_nicegui") and len(Client.instances) >= PAGES:  # any other path has a page
            said = f"{PAGES} pages are open. Close one, or wait a minute."
            await PlainTextResponse(said, 503)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def foreign(headers: Headers) -> bool:
    """Whether a page of another site, or of another port of this computer, sends a request."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        return True
    followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed
