"""The page in the browser: NiceGUI's widgets around a Space. Its own state is only what is being looked at."""

from contextlib import suppress

from nicegui import app, events, run, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware
from torch import Tensor

from cvae.errors import UserError
from cvae.explorer import render
from cvae.explorer.gate import Gate
from cvae.explorer.render import PIXELS, Mark
from cvae.explorer.space import LARGEST_FILE, Space, nearest
from cvae.runtime.console import console

HOST = "127.0.0.1"
STEPS, COLUMNS = 12, 6  # images of the way from A to B, and of these in a row
SLIDERS = 30  # at most; further dimensions can be chosen for the plane
LOOK, A, B = "shows an original", "sets A", "sets B"  # what a click does
CSS = """
body { background: #f8fafc; color: #0f172a; }
.page { width: fit-content; margin: auto; }
.head { width: 0; min-width: 100%; }
.plane { width: max(300px, min(100vw - 390px, 100vh - 180px)); border-radius: 14px; overflow: hidden; }
.plane { cursor: crosshair; }
.plane, .card { background: white; box-shadow: 0 1px 3px #0f172a2e; }
.card { border-radius: 14px; padding: 14px; width: 100%; }
.pixels { width: 100%; border-radius: 8px; overflow: hidden; background: #e2e8f0; }
.pixels img { image-rendering: pixelated; }
.dot { width: 11px; height: 11px; border-radius: 50%; }
.quiet { color: #64748b; font-size: 13px; overflow-wrap: anywhere; }
.numbers { font-variant-numeric: tabular-nums; white-space: pre; }
"""
DROPS = """<script>
for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => {
  event.preventDefault();
  if (name === "drop") getElement(UPLOAD).$refs.qRef.addFiles(event.dataTransfer.files);
});
</script>"""


def serve(space: Space, title: str, port: int, browser: bool) -> None:
    """Show the page at 127.0.0.1:`port` until Ctrl-C; with `browser`, open it there."""
    app.add_middleware(Gate)
    # A page of another site that calls itself by a name which leads here is refused.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    ready = f"http://{HOST}:{port} shows {title}. Ctrl-C ends it."
    app.on_startup(lambda: console.print(ready, soft_wrap=True, markup=False, highlight=False))
    with suppress(KeyboardInterrupt):  # the server may take Ctrl-C up and end, or hand it on
        ui.run(
            lambda: Page(space, title), host=HOST, port=port, title="cvae explore", favicon="🧭", show=browser,
            reload=False, show_welcome_message=False,
        )  # fmt: skip
    console.print("Stopped.")


class Page:
    """A view of a space in one tab of a browser."""

    def __init__(self, space: Space, title: str) -> None:
        self.space, self.plane = space, space.first_plane()
        self.z = space.means.median(0).values  # (D,), what is decoded
        self.label = 0  # the class that a model with classes decodes
        self.ends: dict[str, Tensor] = {}  # z of A and B, (D,)
        self.own: list[Tensor] = []  # z of the user's images
        self.index: int | None = None  # of the test image that is shown
        self.seen: dict[str, Tensor] = {}  # what is shown beside the plane, (C, H, W) each
        self.strip: Tensor | None = None  # (STEPS, C, H, W)
        self.sliders: dict[int, ui.slider] = {}
        self.busy = self.outdated = False
        ui.add_css(CSS)
        ui.colors(primary="#37474f")
        with ui.column().classes("page gap-3"):
            self.head(title)
            with ui.row(wrap=False).classes("gap-6 items-start"):
                with ui.column().classes("gap-2"):
                    self.picture = ui.interactive_image(
                        on_mouse=self.point, events=["mousemove", "click"], cross="#64748b"
                    ).classes("plane")
                    ui.label("Move to decode. Click for an original. The keys A and B set the ends of a way.").classes(
                        "quiet"
                    )
                with ui.column().classes("w-72 gap-3"):
                    self.side()
        ui.keyboard(self.key)
        self.change_plane()
        ui.timer(0, self.show, once=True)

    def head(self, title: str) -> None:
        """The controls: the image, the two dimensions, what a click does, and the legend."""
        with ui.row(wrap=False).classes("head items-center gap-4"):
            with ui.column().classes("gap-0 grow"):
                ui.label("Latent space").classes("text-2xl font-medium")
                ui.label(title).classes("quiet")
            ui.button("Save PNG", icon="download", on_click=self.save).props("unelevated no-caps")
        with ui.row().classes("head items-center gap-x-5 gap-y-2"):
            if self.space.dims > 2:
                names = {dim: f"z[{dim}]" for dim in self.space.order}
                self.right = ui.select(names, value=self.plane.right, label="to the right", on_change=self.choose_plane)
                self.up = ui.select(names, value=self.plane.up, label="upwards", on_change=self.choose_plane)
            if self.space.vae.num_classes:
                classes = {label: self.space.kind(label) for label in range(self.space.vae.num_classes)}
                self.classes = ui.select(classes, value=0, label="decode as class", on_change=self.choose_class)
                self.classes.classes("w-32")
            with ui.row().classes("items-center gap-2"):
                ui.label("A click").classes("quiet")
                self.click = ui.toggle([LOOK, A, B], value=LOOK)
                self.click.props("no-caps unelevated dense padding='4px 12px'")
            for label, colour in render.classes(self.space):
                with ui.row().classes("items-center gap-1"):
                    ui.element("span").classes("dot").style(f"background: {colour}")
                    ui.label(label).classes("numbers")

    def side(self) -> None:
        """The decoded image, an original with its reconstruction, the way from A to B, and the other dimensions."""
        with ui.column().classes("card gap-2"):
            self.decoded = ui.interactive_image().classes("pixels decoded")
            self.where = ui.label().classes("quiet numbers")
        self.others = ui.column().classes("card gap-0")
        with ui.column().classes("card gap-2"):
            with ui.row(wrap=False).classes("w-full gap-3") as self.pair:
                self.original, self.reconstruction = (
                    ui.interactive_image().classes(f"pixels {name}") for name in ("original", "reconstruction")
                )
            self.pair.set_visibility(False)
            self.what = ui.label("Click on a point: its original and its reconstruction.").classes("quiet")
            self.upload = ui.upload(
                on_upload=self.receive, auto_upload=True, multiple=True, max_file_size=LARGEST_FILE,
                on_rejected=lambda: complain(f"A file has at most {LARGEST_FILE // 10**6} MB"),
            ).classes("hidden")  # fmt: skip
            pick = f"() => getElement({self.upload.id}).$refs.qRef.pickFiles()"
            button = ui.button("Choose an image, or drop one").on("click", js_handler=pick)
            button.props("outline no-caps").classes("w-full")
            ui.add_body_html(DROPS.replace("UPLOAD", str(self.upload.id)))
        with ui.column().classes("card gap-2") as self.way:
            self.between = ui.interactive_image().classes("pixels strip")
            ui.label("From A to B, row by row").classes("quiet")
        self.way.set_visibility(False)

    # What the pointer does

    async def point(self, event: events.MouseEventArguments) -> None:
        across, down = event.image_x / PIXELS, event.image_y / PIXELS
        self.z = self.plane.move(self.z, across, down)
        if event.type == "click" and self.click.value == LOOK:
            self.index = nearest(self.space.places(self.plane), across, down)
            label = int(self.space.y[self.index])
            z = self.space.means[self.index]
            self.look_at(self.space.called(self.index), self.space.original(self.index), z, label)
        elif event.type == "click":
            self.set_end("A" if self.click.value == A else "B")
        await self.show()

    def key(self, event: events.KeyEventArguments) -> None:
        name = event.key.name.upper()
        if name in ("A", "B") and event.action.keydown and not event.modifiers.ctrl:
            self.set_end(name)

    async def show(self) -> None:
        """Decode where one looks. Of the places that the pointer passes meanwhile only the last is decoded."""
        self.outdated = True
        if self.busy:
            return
        self.busy = True
        try:
            while self.outdated:
                self.outdated = False
                z, label = self.z, self.label
                images = await run.io_bound(self.space.decode, z[None], label)
                if images is None:  # the server is stopping
                    return
                (image,) = images
                self.seen["decoded"] = image
                self.decoded.set_source(render.url(render.image_png(image)))
                dims = [dim for dim in (self.plane.right, self.plane.up) if dim is not None]
                self.where.set_text("    ".join(f"z[{dim}] = {z[dim]:.2f}" for dim in dims))
        finally:
            self.busy = False

    # What is shown of an image

    def look_at(self, name: str, x: Tensor, z: Tensor, label: int) -> None:
        """Show an image with its reconstruction, and stand at its place."""
        self.z = z
        if self.space.vae.num_classes:
            self.label = self.classes.value = label
        for dim, slider in self.sliders.items():
            slider.set_value(float(z[dim]))
        self.seen |= {"original": x, "reconstruction": self.space.decode(z[None], self.label)[0]}
        self.original.set_source(render.url(render.image_png(x)))
        self.reconstruction.set_source(render.url(render.image_png(self.seen["reconstruction"])))
        self.what.set_text(name)
        self.pair.set_visibility(True)
        self.draw_marks()

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
            self.strip = self.space.decode(way, self.label)
            self.between.set_source(render.url(render.strip_png(self.strip, COLUMNS)))
            self.way.set_visibility(True)
        self.draw_marks()

    def marks(self) -> list[Mark]:
        return [Mark(name, z) for name, z in self.ends.items()] + [
            Mark(str(number), z) for number, z in enumerate(self.own, 1)
        ]

    def draw_marks(self) -> None:
        way = self.space.between(self.ends["A"], self.ends["B"], STEPS) if len(self.ends) == 2 else None
        ring = None if self.index is None else self.space.places(self.plane)[self.index]
        self.picture.set_content(render.overlay(self.plane, self.marks(), way, ring))

    # What is chosen

    async def choose_class(self) -> None:
        self.label = self.classes.value
        self.draw_way()
        await self.show()

    async def choose_plane(self, event: events.ValueChangeEventArguments) -> None:
        if self.right.value == self.up.value:  # the two change places
            other = self.up if event.sender is self.right else self.right
            other.set_value(self.plane.up if other is self.right else self.plane.right)
            return  # the change of the other one comes here again
        self.plane = self.space.plane(self.right.value, self.up.value)
        self.change_plane()
        await self.show()

    def change_plane(self) -> None:
        """Draw the plane, and make sliders for the dimensions that are not on it."""
        self.picture.set_source(render.url(render.plane_png(self.space, self.plane)))
        self.draw_marks()
        self.others.clear()
        dims = [dim for dim in self.space.order if dim not in (self.plane.right, self.plane.up)]
        self.others.set_visibility(bool(dims))
        self.sliders = {}
        with self.others:
            ui.label(
                "Other dimensions" if len(dims) <= SLIDERS else f"The next {SLIDERS} of {len(dims)} other dimensions"
            ).classes("quiet")
            for dim in dims[:SLIDERS]:
                self.sliders[dim] = self.slider(dim)

    def slider(self, dim: int) -> ui.slider:
        async def turn(event: events.ValueChangeEventArguments) -> None:
            self.z = self.z.clone()
            self.z[dim] = event.value
            await self.show()

        with ui.row(wrap=False).classes("w-full items-center gap-4"):
            ui.label(f"z[{dim}]").classes("quiet numbers w-12")
            low, high = float(self.space.low[dim]), float(self.space.high[dim])
            return ui.slider(min=low, max=high, step=0.01, value=float(self.z[dim]), on_change=turn).props("label")

    def save(self) -> None:
        content = render.snapshot(self.space, self.plane, [*self.marks(), Mark("z", self.z)], self.seen, self.strip)
        ui.download.content(content, "latent_space.png")


def complain(message: str) -> None:
    ui.notify(message, type="negative", timeout=8000, multi_line=True)
