"""The plane on the page: the test images as points, zoomed by wheel, fingers and keys, with marks on them."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nicegui import events, run, ui
from torch import Tensor

from cvae.explorer import render
from cvae.explorer.overlay import Mark, overlay, pointer
from cvae.explorer.plane import Plane, nearest
from cvae.explorer.space import Space
from cvae.explorer.widgets import Latest

CLOSE = 0.012  # of the plane's side: the name of an image that is so near to the pointer is shown
NORMAL = 700  # pixels of the screen, in which the writing on the plane is neither large nor small
PATIENCE = 20.0  # seconds in which a browser says how wide it is
FARTHEST, CLOSEST = 4.0, 1 / 500  # of the plane's first size
ZOOMS = {"+": 0.8, "=": 0.8, "-": 1.25, "_": 1.25, "0": None}
KEYS = """(event) => {
  if (!/^(Arrow|Enter$|[-+=_0]$)/.test(event.key) || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  emit({ key: event.key, shift: event.shiftKey });
}"""
HINT = "Move to decode. Click for an original. Wheel or two fingers zoom."
ON_KEYS = (
    "Keys: A and B set the ends of a way. On the plane arrows move (with Shift far), Enter clicks, + and - zoom, 0 "
    "shows all."
)


class Map:
    """A plane of a space as a picture.

    point: is called with what the mouse does; steer: with the keys on the plane, {"key": …, "shift": …}; changed: after
    each change of what is seen of the plane.
    """

    def __init__(self, space: Space, point: Callable, steer: Callable, changed: Callable[[], None]) -> None:
        self.space, self.changed = space, changed
        self.draw = Latest(self.draw_points)
        self.scale = 1.0  # of what is written on the plane: larger on a narrow screen
        self.picture = ui.interactive_image(on_mouse=point, events=["mousemove", "click"], cross="#64748b")
        self.picture.classes("plane zooms")
        self.picture.props(f'tabindex=0 role=application aria-label="The latent space. {HINT} {ON_KEYS}"')
        self.picture.on("keydown", steer, js_handler=KEYS)
        self.picture.on("zoom", self.zoom, js_handler="(event) => emit(event.detail)")
        self.picture.on("resized", lambda: self.fit(), js_handler="() => emit()")
        with ui.row(wrap=False).classes("head items-start gap-2"):
            with ui.column().classes("gap-0 grow"):
                ui.label(HINT).classes("quiet")
                ui.label(ON_KEYS).classes("quiet wide")
            for icon, name, factor in (
                ("zoom_in", "Zoom in", 0.7), ("zoom_out", "Zoom out", 1 / 0.7), ("fit_screen", "Show all images", None),
            ):  # fmt: skip
                button = ui.button(icon=icon, on_click=lambda factor=factor: self.zoom_by(0.5, 0.5, factor))
                button.props(f'flat dense aria-label="{name}"')
        self.show(space.first_plane())

    def show(self, plane: Plane) -> None:
        """Draw another plane."""
        self.at(plane, 1.0)
        self.draw.outdated = True  # what is drawn of another plane meanwhile
        self.picture.set_source(render.url(render.plane_png(self.space, plane, self.scale)))

    def at(self, plane: Plane, zoomed: float) -> None:
        self.plane, self.zoomed = plane, zoomed  # the latter: how long a side is, of its first length
        self.places = self.space.places(plane)  # (N, 2), of the test images

    async def fit(self) -> None:
        """Write larger while the screen is narrow."""
        width = None
        with suppress(TimeoutError):  # a browser that does not answer has a plane all the same
            width = await ui.run_javascript(f"getHtmlElement({self.picture.id}).clientWidth", timeout=PATIENCE)
        if not width:  # None: the page is gone
            return
        scale = min(NORMAL / width, 2.0)
        scale = scale if scale > 1.2 else 1.0
        if scale != self.scale:
            self.scale = scale
            self.changed()
            await self.draw()

    async def zoom(self, event: events.GenericEventArguments) -> None:
        """Of the wheel or two fingers."""
        told: Mapping[str, Any] = event.args
        await self.zoom_by(told["across"], told["down"], told["factor"])

    async def zoom_by(self, across: float, down: float, factor: float | None) -> None:
        """Make the sides `factor` times as long around a place; None: as they were at first."""
        if factor is None:
            self.at(self.space.around_images(self.plane), 1.0)
        else:
            zoomed = min(max(self.zoomed * factor, CLOSEST), FARTHEST)
            self.at(self.plane.zoomed(across, down, zoomed / self.zoomed), zoomed)
        self.changed()
        await self.draw()

    async def draw_points(self) -> None:
        png = await run.io_bound(render.plane_png, self.space, self.plane, self.scale)
        if png is not None:  # else the server is stopping
            self.picture.set_source(render.url(png))

    def nearest(self, across: float, down: float) -> int:
        """The test image that is nearest to a place."""
        return nearest(self.places, across, down)[0]

    def mark(self, marks: list[Mark], way: Tensor | None, index: int | None, z: Tensor) -> None:
        """Show marks, a path (K, D), a ring around a test image, a cross at z (D,) with the name of what is there."""
        ring = None if index is None or index >= len(self.places) else self.places[index]
        near, distance = nearest(self.places, *self.place(z))
        said = self.space.short(near) if distance < CLOSE else ""
        content = overlay(self.plane, marks, way, ring, self.scale) + pointer(self.plane, z, said, self.scale)
        self.picture.set_content(content)

    def place(self, z: Tensor) -> tuple[float, float]:
        """Where z (D,) is, (across, down)."""
        across, down = self.plane.places(z[None])[0].tolist()
        return across, down
