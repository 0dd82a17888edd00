"""Parts of the explorer's pages: images with their names, sliders in a scrolling panel, groups of latents."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from nicegui import app, events, ui
from torch import Tensor

from cvae.explorer import render
from cvae.explorer.space import LARGEST_FILE, Space

Changed = Callable[[], Awaitable[None]]


def dress() -> None:
    """The style and the script of a page, and what it says of a fault."""
    folder = files("cvae.explorer")
    style, script = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    ui.add_css(style)
    ui.add_body_html(f"<script>{script}</script>")
    ui.colors(primary="#37474f")
    ui.on_exception(lambda error: complain(f"{type(error).__name__}: {error}"))


class Latest:
    """Work that is called more often than it can be done: of the calls that come meanwhile only the last is done."""

    def __init__(self, work: Changed) -> None:
        self.work, self.busy, self.outdated = work, False, False

    async def __call__(self) -> None:
        self.outdated = True
        if self.busy:
            return
        self.busy = True
        try:
            while self.outdated:
                self.outdated = False
                try:
                    await self.work()
                except Exception as error:
                    if not self.outdated:
                        raise
                    app.handle_exception(error)  # and go on: who called meanwhile has gone
        finally:
            self.busy = False


class Picture:
    """An image (C, H, W) with its name below it."""

    def __init__(self, name: str, shape: tuple[int, int, int], kind: str = "") -> None:
        _, height, width = shape
        with ui.column().classes(f"gap-0 {kind}"):
            self.shown = ui.interactive_image().classes(f"pixels {name}").style(f"aspect-ratio: {width} / {height}")
            self.shown.props(f'role=img aria-label="{name}"')
            ui.label(name).classes("quiet")

    def show(self, image: Tensor) -> None:
        self.shown.set_source(render.url(render.image_png(image)))


class Sliders:
    """Latent dimensions with a slider each, in a panel that scrolls: that of the highest rate first.

    turned(dim, value) is called when a slider is moved, reset() by the button.
    """

    def __init__(self, space: Space, turned: Callable[[int, float], Awaitable[None]], reset: Changed) -> None:
        self.space, self.turned = space, turned
        self.of: dict[int, ui.slider] = {}
        with ui.column().classes("card gap-1") as self.card:
            with ui.row(wrap=False).classes("w-full items-center justify-between"):
                self.title = ui.label().classes("quiet")
                ui.button("Reset", icon="restart_alt", on_click=reset).props("flat dense no-caps size=sm")
            self.panel = ui.column().classes("scroll gap-0").props('tabindex=-1 role=group aria-label="Dimensions"')

    def show(self, dims: list[int], z: Tensor, most: int) -> None:
        """Sliders for the first `most` of these dimensions, at the values of z (D,)."""
        self.panel.clear()
        self.card.set_visibility(bool(dims))
        shown = dims[:most]
        title = "Dimensions, by rate" if len(dims) == self.space.dims else "Other dimensions, by rate"
        self.title.set_text(title if len(shown) == len(dims) else f"{title}: {most} of {len(dims)}")
        with self.panel:
            self.of = {dim: self.slider(dim, float(z[dim])) for dim in shown}

    def slider(self, dim: int, value: float) -> ui.slider:
        with ui.row(wrap=False).classes("w-full items-center gap-3"):
            ui.label(f"z[{dim}]").classes("quiet numbers w-12")
            low, high = float(self.space.low[dim]), float(self.space.high[dim])
            slider = ui.slider(min=low, max=high, step=0.01, value=value)
            # Of the user alone: when the page moves a slider, z is there already.
            slider.on("update:model-value", lambda event: self.turned(dim, float(event.args)))
            rate = f"{self.space.rate[dim]:.2f}{self.space.unit}"
            slider.props(f'aria-label="z[{dim}], {rate}"').tooltip(f"z[{dim}]: {rate}")
            ui.label().classes("quiet numbers w-12 text-right").bind_text_from(slider, "value", "{:.2f}".format)
        return slider

    def move(self, z: Tensor) -> None:
        """Show z (D,)."""
        for dim, slider in self.of.items():
            slider.set_value(float(z[dim]))


class Groups:
    """The groups of latents below the top one, each with a button that draws it anew, and one for its mean.

    draw(number, width): the former with width 1, the latter with 0; numbers from 0
    """

    def __init__(self, sizes: list[int], draw: Callable[[int, float], Awaitable[None]]) -> None:
        with ui.column().classes("card gap-1"):
            ui.label("Groups of latents below z").classes("quiet")
            with ui.column().classes("scroll gap-0"):
                for number, size in enumerate(sizes):
                    with ui.row(wrap=False).classes("w-full items-center gap-2"):
                        ui.label(f"group {number + 2}: {size}").classes("quiet numbers grow")
                        for name, width in (("Redraw", 1.0), ("Mean", 0.0)):
                            button = ui.button(name, on_click=lambda n=number, width=width: draw(n, width))
                            button.props(f'flat dense no-caps size=sm aria-label="{name}, group {number + 2}"')


def chooser(receive: Callable[[events.UploadEventArguments], Awaitable[None]]) -> ui.upload:
    """A button for a user's own images, which can also be dropped anywhere on the page."""
    upload = ui.upload(
        on_upload=receive, auto_upload=True, multiple=True, max_file_size=LARGEST_FILE,
        on_rejected=lambda: complain(f"A file has at most {LARGEST_FILE // 10**6} MB"),
    ).classes("hidden files")  # fmt: skip
    pick = f"() => getElement({upload.id}).$refs.qRef.pickFiles()"
    ui.button("Choose an image, or drop one").on("click", js_handler=pick).props("outline no-caps").classes("w-full")
    return upload


def complain(message: str) -> None:
    ui.notify(message, type="negative", timeout=8000, multi_line=True)
