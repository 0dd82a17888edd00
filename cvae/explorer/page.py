"""The page in the browser: NiceGUI's widgets around a Space. Its own state is only what is being looked at."""

from contextlib import suppress

import torch
from nicegui import app, events, run, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

from cvae.errors import UserError
from cvae.explorer import render
from cvae.explorer.choice import Choice
from cvae.explorer.codes import CodeSpace
from cvae.explorer.codes_page import CodesPage
from cvae.explorer.gate import Gate
from cvae.explorer.map import ZOOMS, Map
from cvae.explorer.overlay import PIXELS, Mark
from cvae.explorer.plane import Plane
from cvae.explorer.space import LARGEST_FILE, Space
from cvae.explorer.widgets import Groups, Latest, Picture, Sliders, chooser, complain, dress
from cvae.runtime.console import console

HOST = "127.0.0.1"
STEPS, COLUMNS = 12, 6  # images of the way from A to B, and of these in a row
SLIDERS = 64  # at most; further dimensions can be chosen for the plane
LOOK, A, B = "shows an original", "sets A", "sets B"  # what a click does
FAR, NEAR = 0.1, 0.02  # of the side, that an arrow moves the point with Shift and without
ARROWS = {"ArrowLeft": (-1, 0), "ArrowRight": (1, 0), "ArrowUp": (0, -1), "ArrowDown": (0, 1)}  # across, down


def serve(space: Space | CodeSpace, title: str, port: int, browser: bool) -> None:
    """Show the page at 127.0.0.1:`port` until Ctrl-C; with `browser`, open it there."""
    app.add_middleware(Gate)
    # A page of another site that calls itself by a name which leads here is refused.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    ready = f"http://{HOST}:{port} shows {title}. Ctrl-C ends it."
    app.on_startup(lambda: console.print(ready, soft_wrap=True, markup=False, highlight=False))
    with suppress(KeyboardInterrupt):  # the server may take Ctrl-C up and end, or hand it on
        ui.run(
            lambda: CodesPage(space, title) if isinstance(space, CodeSpace) else Page(space, title),
            host=HOST, port=port, title="cvae explore", favicon="🧭", show=browser,
            reload=False, show_welcome_message=False,
        )  # fmt: skip
    console.print("Stopped.")


class Page:
    """A view of a space in one tab of a browser."""

    def __init__(self, space: Space, title: str) -> None:
        self.space = space
        self.z = self.home = space.means.median(0).values  # (D,), what is decoded, and where Reset leads
        self.noise = self.noise_at_home = [torch.zeros(1, size) for size in space.groups]  # of the latents below z
        self.label = 0  # the class that a model with classes decodes
        self.ends: dict[str, Tensor] = {}  # z of A and B, (D,)
        self.own: list[Tensor] = []  # z of the user's images
        self.index: int | None = None  # of the test image that is shown
        self.seen: dict[str, Tensor] = {}  # what is shown beside the plane, (C, H, W) each
        self.strip: Tensor | None = None  # (STEPS, C, H, W)
        self.show = Latest(self.decode)
        dress()
        with ui.column().classes("page gap-3"):
            self.head(title)
            with ui.element("div").classes("body"):
                with ui.column().classes("left gap-2"):
                    self.map = Map(space, self.point, self.steer, self.draw_marks)
                self.images()
                with ui.column().classes("rest gap-3"):
                    self.rest()
        ui.keyboard(self.key)
        self.show_sliders()
        self.draw_marks()
        ui.timer(0, self.begin, once=True)

    def head(self, title: str) -> None:
        """The controls: the plane, the class, what a click does, and the legend."""
        with ui.row(wrap=False).classes("head items-center gap-4"):
            with ui.column().classes("gap-0 grow"):
                ui.label("Latent space").classes("text-2xl font-medium")
                ui.label(title).classes("quiet")
            ui.button("Save PNG", icon="download", on_click=self.save).props("unelevated no-caps")
        with ui.row().classes("head items-center gap-x-5 gap-y-2"):
            if self.space.dims > 2:
                self.choice = Choice(self.space, self.change_plane)
            if self.space.vae.num_classes:
                classes = {label: self.space.kind(label) for label in range(self.space.vae.num_classes)}
                self.classes = ui.select(classes, value=0, label="decode as class", on_change=self.choose_class)
                self.classes.props("dense").classes("w-36")
            with ui.row().classes("items-center gap-2"):
                ui.label("A click").classes("quiet")
                self.click = ui.toggle([LOOK, A, B], value=LOOK)
                self.click.props("no-caps unelevated dense padding='4px 12px' aria-label='A click'")
            with ui.row().classes("items-center gap-x-4 gap-y-1"):
                for label, colour in render.classes(self.space):
                    with ui.row(wrap=False).classes("items-center gap-1"):
                        ui.element("span").classes("dot").style(f"background: {colour}")
                        ui.label(label).classes("numbers")

    def images(self) -> None:
        """The decoded image, and an original with its reconstruction: what a click is for."""
        with ui.element("div").classes("card images"):
            shape = self.space.data.image_shape
            self.decoded = Picture("decoded", shape, "large")
            self.original, self.reconstruction = Picture("original", shape), Picture("reconstruction", shape)
            with ui.column().classes("what gap-0"):
                self.where = ui.label().classes("quiet numbers")
                self.what = ui.label("Click on a point: its original and its reconstruction.").classes("quiet")
                self.what.props("aria-live=polite")

    def rest(self) -> None:
        """The other dimensions, the groups below, the way from A to B, and the user's own images."""
        self.sliders = Sliders(self.space, self.turn, self.reset)
        if self.noise:
            Groups(self.space.groups, self.draw_group)
        with ui.column().classes("card gap-2") as self.way:
            self.between = ui.interactive_image().classes("pixels strip").props('role=img aria-label="From A to B"')
            ui.label("From A to B, row by row").classes("quiet")
        self.way.set_visibility(False)
        self.upload = chooser(self.receive)

    # What the pointer and the keys do

    async def point(self, event: events.MouseEventArguments) -> None:
        across, down = event.image_x / PIXELS, event.image_y / PIXELS
        self.z = self.map.plane.move(self.z, across, down)
        if event.type == "click":
            self.clicked(across, down)
        await self.show()

    def clicked(self, across: float, down: float) -> None:
        if self.click.value != LOOK:
            self.set_end("A" if self.click.value == A else "B")
            return
        self.index = self.map.nearest(across, down)
        label = int(self.space.y[self.index])
        z = self.space.means[self.index]
        self.look_at(self.space.called(self.index), self.space.original(self.index), z, label)

    def key(self, event: events.KeyEventArguments) -> None:
        name = event.key.name.upper()
        if name in ("A", "B") and event.action.keydown and not event.modifiers.ctrl:
            self.set_end(name)

    async def steer(self, event: events.GenericEventArguments) -> None:
        """A key on the plane."""
        key, far = event.args["key"], FAR if event.args["shift"] else NEAR
        if key in ARROWS:
            self.z = self.map.plane.step(self.z, *ARROWS[key], far)
            await self.show()
        elif key == "Enter":
            self.clicked(*self.map.place(self.z))
            await self.show()
        else:
            await self.map.zoom_by(*self.map.place(self.z), ZOOMS.get(key))

    async def begin(self) -> None:
        await self.show()
        await self.map.fit()

    async def decode(self) -> None:
        """Decode where one looks."""
        z, label = self.z, self.label
        images = await run.io_bound(self.space.decode, z[None], label, self.noise)
        if images is None:  # the server is stopping
            return
        (self.seen["decoded"],) = images
        self.decoded.show(self.seen["decoded"])
        plane = self.map.plane
        values = zip(plane.names, plane.coordinates(z).tolist(), strict=False)  # one of a single dimension
        self.where.set_text("    ".join(f"{name} = {value:.2f}" for name, value in values))
        self.draw_marks()
        if not plane.dims:  # it moves all dimensions
            self.sliders.move(self.z)

    # What is shown of an image

    def look_at(self, name: str, x: Tensor, z: Tensor, label: int) -> None:
        """Show an image with its reconstruction, and stand at its place."""
        self.z = self.home = z
        if self.space.vae.num_classes:
            self.label = self.classes.value = label
        self.noise = self.noise_at_home = self.space.noise_of(x, z, self.label)
        self.sliders.move(z)
        self.seen |= {"original": x, "reconstruction": self.space.decode(z[None], self.label, self.noise)[0]}
        self.original.show(x)
        self.reconstruction.show(self.seen["reconstruction"])
        self.what.set_text(name)
        self.draw_way()

    async def receive(self, event: events.UploadEventArguments) -> None:
        """An image that was dropped: encode it and show it, as a number on the plane."""
        self.upload.reset()
        try:
            if event.file.size() > LARGEST_FILE:
                raise UserError(f"at most {LARGEST_FILE:,} bytes are taken")
            x = await run.io_bound(self.space.read, await event.file.read())
        except UserError as error:
            complain(f"{event.file.name}: {error}")
            return
        if x is None:  # the server is about to end
            return
        z = self.space.encode(x, self.label)
        self.own.append(z)
        self.index = None
        self.look_at(f"{len(self.own)}: {event.file.name}", x, z, self.label)
        await self.show()

    # Marks, and the way from A to B

    def set_end(self, name: str) -> None:
        self.ends[name] = self.z
        self.draw_way()

    def draw_way(self) -> None:
        if len(self.ends) == 2:
            way = self.space.between(self.ends["A"], self.ends["B"], STEPS)
            self.strip = self.space.decode(way, self.label, self.noise)
            self.between.set_source(render.url(render.strip_png(self.strip, COLUMNS)))
            self.way.set_visibility(True)
        self.draw_marks()

    def marks(self) -> list[Mark]:
        return [Mark(name, z) for name, z in self.ends.items()] + [
            Mark(str(number), z) for number, z in enumerate(self.own, 1)
        ]

    def draw_marks(self) -> None:
        way = self.space.between(self.ends["A"], self.ends["B"], STEPS) if len(self.ends) == 2 else None
        self.map.mark(self.marks(), way, self.index, self.z)

    # What is chosen

    async def choose_class(self) -> None:
        self.label = self.classes.value
        self.draw_way()
        await self.show()

    async def change_plane(self, plane: Plane) -> None:
        self.map.show(plane)
        self.show_sliders()
        await self.show()

    def show_sliders(self) -> None:
        """Sliders for the dimensions that are not the plane's axes."""
        self.sliders.show([dim for dim in self.space.order if dim not in self.map.plane.dims], self.z, SLIDERS)

    async def turn(self, dim: int, value: float) -> None:
        self.z = self.z.clone()
        self.z[dim] = value
        await self.show()

    async def reset(self) -> None:
        """The sliders' dimensions, and the groups below, as the image has them that was shown last, or as at first."""
        z, dims = self.home.clone(), self.map.plane.dims
        z[dims] = self.z[dims]
        self.z, self.noise = z, self.noise_at_home
        self.sliders.move(z)
        self.draw_way()
        await self.show()

    async def draw_group(self, number: int, width: float = 1.0) -> None:
        """Draw a group of latents below z anew from p(z|above); with width=0 it is the mean of that."""
        self.noise = [width * torch.randn_like(own) if k == number else own for k, own in enumerate(self.noise)]
        self.draw_way()
        await self.show()

    def save(self) -> None:
        marks = [*self.marks(), Mark("z", self.z)]
        content = render.snapshot(self.space, self.map.plane, marks, self.seen, self.strip)
        ui.download.content(content, "latent_space.png")
