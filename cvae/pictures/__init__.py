"""Pictures as uint8 arrays (H, W, 3), and as encoded files."""

from cvae.pictures.grids import gif, grid, headed, image_summary, named, pair, png, reduced, side_by_side, strips
from cvae.pictures.known_factors import factors
from cvae.pictures.latent import (
    code_colours,
    code_maps,
    decoded_map,
    disc_map,
    latent_manifold,
    plane,
    principal_directions,
    quantiles,
    require_plane,
    scatter,
    sphere_map,
)
from cvae.pictures.plots import as_it_is, curves, latent_map, manifold, neighbours, rates, to_pixels, traversal

__all__ = [
    "as_it_is",
    "code_colours",
    "code_maps",
    "curves",
    "decoded_map",
    "disc_map",
    "factors",
    "gif",
    "grid",
    "headed",
    "image_summary",
    "latent_manifold",
    "latent_map",
    "manifold",
    "named",
    "neighbours",
    "pair",
    "plane",
    "png",
    "principal_directions",
    "quantiles",
    "rates",
    "reduced",
    "require_plane",
    "scatter",
    "side_by_side",
    "sphere_map",
    "strips",
    "to_pixels",
    "traversal",
]
