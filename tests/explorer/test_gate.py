"""Who is answered by the server of the explorer's page: by headers as browsers send them."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("nicegui", reason="needs NiceGUI: pip install -e '.[explore]'")

from starlette.datastructures import Headers

from cvae.explorer import gate

OWN = {"host": "127.0.0.1:8080"}
IMAGE = {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
LINK = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
FRAME = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ({}, False),  # no browser
        ({"origin": "http://127.0.0.1:8080"}, False),
        ({"origin": "http://localhost:9000", "host": "localhost:9000"}, False),  # a forwarded port
        ({"origin": "http://evil.example"}, True),
        ({"origin": "http://127.0.0.1:9000"}, True),
        ({"origin": "http://127.0.0.1"}, True),
        ({"origin": "null"}, True),
        ({"origin": ""}, True),
        ({"sec-fetch-site": "none", **LINK}, False),  # typed
        ({"sec-fetch-site": "same-origin", **IMAGE}, False),
        ({"sec-fetch-site": "cross-site", **IMAGE}, True),
        ({"sec-fetch-site": "same-site", **IMAGE}, True),  # another port
        ({"sec-fetch-site": "cross-site", **FRAME}, True),
        ({"sec-fetch-site": "cross-site", **LINK}, False),  # a link that was followed
        ({"sec-fetch-site": "cross-site", "origin": "http://evil.example", **LINK}, True),  # a form
    ],
)
def test_pages_of_other_sites_are_known_by_what_browsers_say(headers, foreign):
    assert gate.foreign(Headers(OWN | headers)) is foreign


def asked(kind, path="/", **headers):
    """What a request gets: the status, "closed" for a socket, or "passed" where it reaches the page's own server."""
    sent = []

    async def passed(scope, receive, send):
        sent.append("passed")

    async def send(message):
        sent.append("closed" if message["type"] == "websocket.close" else message.get("status"))

    raw = [(name.encode(), value.encode()) for name, value in (OWN | headers).items()]
    scope = {"type": kind, "path": path, "headers": raw, "method": "GET"}
    asyncio.run(gate.Gate(passed)(scope, None, send))
    return sent[0]


def test_they_reach_neither_pages_nor_sockets():
    assert asked("http") == asked("websocket") == asked("lifespan") == "passed"
    assert asked("http", origin="http://evil.example") == 403
    assert asked("websocket", origin="http://evil.example") == "closed"


def test_so_many_pages_are_open_at_a_time(monkeypatch):
    """What an open page asks for is still answered."""
    for count, answer in ((gate.PAGES - 1, "passed"), (gate.PAGES, 503)):
        monkeypatch.setattr(gate, "Client", SimpleNamespace(instances=dict.fromkeys(range(count))))
        assert asked("http") == asked("http", "/any/path") == answer
        assert asked("http", "/_nicegui/client/1/upload/2") == asked("websocket", "/_nicegui_ws/socket.io/") == "passed"
