"""What the plane on the page shows: two dimensions, the principal components, or the test images placed by UMAP."""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec

from nicegui import events, run, ui

from cvae.explorer.plane import Plane
from cvae.explorer.space import Space

PAIR, PRINCIPAL, UMAP = "two dimensions", "principal components", "UMAP"
COMPUTING = "UMAP places the test images: some seconds."
SAID = (
    "The pointer takes the z of the nearest image, of {}: between them there is nothing. Other marks stand at the "
    "image whose z is nearest."
)


class Choice:
    """The controls of a space with more than two dimensions, on one line also of a narrow screen.

    changed(plane): is called with each plane that is chosen
    """

    def __init__(self, space: Space, changed: Callable[[Plane], Awaitable[None]]) -> None:
        self.space, self.changed, self.pair = space, changed, space.first_plane()
        names = {dim: f"z[{dim}]" for dim in space.order}
        kinds = [PAIR, PRINCIPAL, UMAP] if find_spec("umap") else [PAIR, PRINCIPAL]  # the extra `maps`
        with ui.row(wrap=False).classes("gap-2"):
            self.kind = ui.select(kinds, value=PAIR, label="plane", on_change=self.choose_kind)
            self.right = ui.select(names, value=self.pair.right, label="to the right", on_change=self.choose_pair)
            self.up = ui.select(names, value=self.pair.up, label="upwards", on_change=self.choose_pair)
            self.kind.props("dense").classes("w-44")
            self.right.props("dense").classes("w-24"), self.up.props("dense").classes("w-24")
        self.note = ui.label().classes("quiet w-full").props("aria-live=polite")
        self.note.set_visibility(False)

    async def choose_kind(self) -> None:
        kind = self.kind.value
        for part, shown in ((self.right, kind == PAIR), (self.up, kind == PAIR), (self.note, kind == UMAP)):
            part.set_visibility(shown)
        if kind == UMAP:
            await self.choose_umap()
        else:
            await self.changed(self.pair if kind == PAIR else self.space.principal_plane())

    async def choose_umap(self) -> None:
        """The page stays as it is, and can be used, until the images are placed."""
        self.note.set_text(COMPUTING)
        try:
            plane = await run.io_bound(self.space.neighbour_plane)
        except Exception:
            self.kind.set_value(PAIR)
            raise
        if plane is not None and self.kind.value == UMAP:  # else the server is stopping, or the user has chosen again
            count, all_of_them = len(self.space.placed.z), len(self.space.means)
            self.note.set_text(SAID.format("all" if count == all_of_them else f"the first {count:,}"))
            await self.changed(plane)

    async def choose_pair(self, event: events.ValueChangeEventArguments) -> None:
        if self.right.value == self.up.value:  # the two change places
            other = self.up if event.sender is self.right else self.right
            other.set_value(self.pair.up if other is self.right else self.pair.right)
            return  # the change of the other one comes here again
        self.pair = self.space.plane(self.right.value, self.up.value)
        await self.changed(self.pair)
