"""The explorer's pages visited by NiceGUI's simulated user, without a browser."""

import asyncio
import base64
import gc

import imageio.v3 as imageio
import numpy as np
from nicegui import ElementFilter, app, ui
from nicegui.testing.user_simulation import user_simulation

from cvae.explorer import render

LIMIT = 120  # seconds of a visit, which takes a few


def visiting(make, tmp_path, monkeypatch, act):
    """Run `act(page)` on the page that make() builds; return what the page has notified the user of.

    What fails is raised, also if it is the page's own task in the background, and what never ends says where it waits.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ui, "timer", lambda *_, **__: None)  # decodes at its own time
    monkeypatch.setattr(gc, "collect", lambda: 0)  # NiceGUI's simulation calls it twice, a second each
    said = asyncio.run(visit(make, act))
    assert list(tmp_path.iterdir()) == []
    return said


async def visit(make, act):
    pages, failed = [], asyncio.get_running_loop().create_future()

    async def acted():
        await user.open("/")
        with user.client:
            await act(pages[0])

    async with user_simulation(lambda: pages.append(make())) as user:
        app.on_exception(lambda error: failed.done() or failed.set_exception(error))
        acting = asyncio.ensure_future(acted())
        done, _ = await asyncio.wait({acting, failed}, timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        place = waits(acting.get_coro())
        while not acting.done():
            acting.cancel()  # again and again: NiceGUI's io_bound swallows it
            await asyncio.wait({acting}, timeout=0.1)
    # Raised only here: NiceGUI ends its own tasks only if its simulation is left without an error. Left with one,
    # asyncio.run has to cancel them, which Python 3.11's wait_for can swallow, so that it waits for ever.
    assert done, f"not within {LIMIT} s: {place}"
    for found in (failed, acting):  # the first is the cause of the second
        if found in done:
            found.result()
    return user.notify.messages


def waits(coroutine):
    """Where a coroutine waits, from the outermost call to the innermost."""
    places = []
    while frame := getattr(coroutine, "cr_frame", None):
        places.append(f"{frame.f_code.co_filename}:{frame.f_lineno}")
        coroutine = coroutine.cr_await
    return ", ".join(places)


async def settled(latest):
    """All is done that was asked for: a widget whose value is set calls its handler at its own time."""
    while latest.busy or latest.outdated:
        await asyncio.sleep(0.005)


def emit(element, kind, args=None):
    """An event of an element, as the browser sends it: what waits is handled at NiceGUI's own time."""
    listeners = [own for own in element._event_listeners.values() if own.type == kind]
    assert listeners, f"nobody listens to {kind}"
    for own in listeners:
        element._handle_event({"listener_id": own.id, "args": args})


async def until(true):
    for _ in range(2000):
        if true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("not in time")


def button(name):
    """The button with this aria-label or text."""
    (found,) = [own for own in ElementFilter(kind=ui.button) if name in (own.props.get("aria-label"), own.text)]
    return found


def pixels(widget):
    return imageio.imread(base64.b64decode(widget.source.partition(",")[2]))


def shows(widget, image):
    np.testing.assert_array_equal(pixels(widget), imageio.imread(render.image_png(image)))
