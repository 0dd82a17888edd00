"""The page for a model of codes: pick a place on the map of a test image's codes, change its code."""

import torch
from nicegui import events, run, ui
from torch import Tensor

from cvae.explorer import render
from cvae.explorer.codes import CodeSpace
from cvae.explorer.map import KEYS
from cvae.explorer.overlay import INK
from cvae.explorer.widgets import Latest, Picture, dress

ARROWS = {"ArrowLeft": (0, -1), "ArrowRight": (0, 1), "ArrowUp": (-1, 0), "ArrowDown": (1, 0)}  # rows, columns
STEPS = {"+": 1, "=": 1, "-": -1, "_": -1}
SAID = "Click on a place, then change its code. Keys on the map: arrows choose a place, + and - change its code."


class CodesPage:
    """A view of a model of codes in one tab of a browser."""

    def __init__(self, space: CodeSpace, title: str) -> None:
        self.space, self.place = space, (0, 0, 0)  # the map, the row, the column
        self.index, self.label = 0, 0  # of the test image, and its class
        self.own = self.codes = space.codes_of(0)  # (M,) of the image, and as changed
        self.decode = Latest(self.decode_codes)
        dress()
        with ui.column().classes("page gap-3"):
            self.head(title)
            with ui.element("div").classes("body"):
                with ui.column().classes("left gap-2"):
                    self.picture = ui.interactive_image(on_mouse=self.point, events=["click"]).classes("plane")
                    self.picture.props(f'tabindex=0 role=application aria-label="The map of codes. {SAID}"')
                    self.picture.on("keydown", self.steer, js_handler=KEYS)
                    ui.label(SAID).classes("quiet head")
                with ui.element("div").classes("card images"):
                    shape = space.data.image_shape
                    self.decoded = Picture("decoded", shape, "large")
                    self.original, self.reconstruction = Picture("original", shape), Picture("reconstruction", shape)
                    self.what = ui.label().classes("quiet what").props("aria-live=polite")
                with ui.column().classes("rest gap-3"):
                    self.rest()
        ui.timer(0, self.look_at, once=True)

    def head(self, title: str) -> None:
        """The controls: which test image, and which map of several."""
        with ui.column().classes("head gap-0"):
            ui.label("Codes").classes("text-2xl font-medium")
            ui.label(title).classes("quiet")
        with ui.row().classes("head items-center"):
            last = len(self.space.data.test) - 1
            self.image = ui.number("test image", value=0, min=0, max=last, precision=0, on_change=self.choose_image)
            self.image.props("dense").classes("w-32")
            if self.space.maps[0] > 1:
                names = {number: f"map {number + 1}" for number in range(self.space.maps[0])}
                self.map = ui.select(names, value=0, label="codes", on_change=self.choose_map)
                self.map.props("dense").classes("w-32")

    def rest(self) -> None:
        """The code of the place that is chosen, and the way back."""
        with ui.column().classes("card gap-1"):
            self.where = ui.label().classes("quiet numbers").props("aria-live=polite")
            with ui.row(wrap=False).classes("w-full items-center gap-4"):
                self.slider = ui.slider(min=0, max=self.space.num_codes - 1, step=1, value=0)
                self.slider.props('aria-label="code"')
                self.slider.on("update:model-value", lambda event: self.change(int(event.args)))
                ui.label().classes("quiet numbers w-10 text-right").bind_text_from(
                    self.slider, "value", "{:.0f}".format
                )
            with ui.row().classes("gap-2"):
                ui.button("Its own code", on_click=self.undo).props("flat dense no-caps size=sm")
                ui.button("Reset all", icon="restart_alt", on_click=self.reset).props("flat dense no-caps size=sm")

    async def choose_image(self) -> None:
        if self.image.value is not None:  # the field may be empty for a while
            self.index = min(max(int(self.image.value), 0), len(self.space.data.test) - 1)
            await self.look_at()

    async def look_at(self) -> None:
        """Show a test image, with its own codes."""
        x, self.label = self.space.original(self.index)
        self.own = self.codes = self.space.codes_of(self.index)
        self.original.show(x)
        self.reconstruction.show(self.space.decode(self.own, self.label))
        self.what.set_text(self.space.called(self.index))
        await self.show()

    async def choose_map(self) -> None:
        self.place = (self.map.value, *self.place[1:])
        await self.show()

    async def point(self, event: events.MouseEventArguments) -> None:
        """A click on the map: its place is chosen."""
        row, column = (int(at // self.space.pixels()) for at in (event.image_y, event.image_x))
        await self.choose(row, column)

    async def choose(self, row: int, column: int) -> None:
        _, height, width = self.space.maps
        self.place = (self.place[0], min(max(row, 0), height - 1), min(max(column, 0), width - 1))
        await self.show()

    async def steer(self, event: events.GenericEventArguments) -> None:
        """A key on the map."""
        key, (_, row, column) = event.args["key"], self.place
        if key in ARROWS:
            down, right = ARROWS[key]
            await self.choose(row + down, column + right)
        elif key in STEPS:
            await self.change(int(self.codes[self.space.number(self.place)]) + STEPS[key])

    async def change(self, code: int) -> None:
        """Give the place another code; behind the last one comes the first."""
        self.codes = self.codes.clone()
        self.codes[self.space.number(self.place)] = code % self.space.num_codes
        await self.show()

    async def undo(self) -> None:
        await self.change(int(self.own[self.space.number(self.place)]))

    async def reset(self) -> None:
        self.codes = self.own
        await self.show()

    async def show(self) -> None:
        """Draw the map and decode the codes."""
        number, row, column = self.place
        at = self.space.number(self.place)
        self.picture.set_source(render.url(self.space.map_png(self.codes, number)))
        codes, own = (part.view(self.space.maps)[number] for part in (self.codes, self.own))
        self.picture.set_content(frames(codes, own, (row, column), self.space.pixels()))
        self.slider.set_value(int(self.codes[at]))
        changed = int((self.codes != self.own).sum())
        code = f"code {self.codes[at]}, its own {self.own[at]}"
        self.where.set_text(f"Row {row + 1}, column {column + 1}: {code}. {changed} changed in all")
        await self.decode()

    async def decode_codes(self) -> None:
        image = await run.io_bound(self.space.decode, self.codes, self.label)
        if image is not None:  # else the server is stopping
            self.decoded.show(image)


def frames(codes: Tensor, own: Tensor, chosen: tuple[int, int], side: int) -> str:
    """An SVG to lay over a map (H', W') of codes: a frame around the place that is chosen, a dot where they changed."""
    row, column = chosen
    places = [((j + 0.5) * side, (i + 0.5) * side) for i, j in torch.nonzero(codes != own).tolist()]
    drawn = [f'<circle cx="{x:g}" cy="{y:g}" r="{side / 8:g}" fill="white" stroke="{INK}"/>' for x, y in places]
    width = max(side / 16, 2)
    left, top, inner = column * side + width / 2, row * side + width / 2, side - width
    where = f'x="{left:g}" y="{top:g}" width="{inner:g}" height="{inner:g}" fill="none"'
    drawn += [
        f'<rect {where} stroke="{colour}" stroke-width="{w:g}"/>' for colour, w in (("white", width), (INK, width / 2))
    ]
    return "".join(drawn)
