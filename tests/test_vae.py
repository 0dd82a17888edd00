"""The model: shapes, and what its methods compute."""

import pytest
import torch
from conftest import config

from cvae.build import build_vae


@pytest.mark.parametrize(
    ("shape", "filters", "latent_dim"), [((1, 28, 28), 8, 2), ((3, 32, 32), "[4,6]", 7), ((1, 8, 12), 4, 1)]
)
def test_shapes(shape, filters, latent_dim):
    image_shape = str(list(shape)).replace(" ", "")
    vae = build_vae(
        config(f"data.image_shape={image_shape}", f"model.filters={filters}", f"model.latent_dim={latent_dim}")
    )
    x = torch.rand(5, *shape).round()
    q = vae.encode(x)
    z = q.rsample((3,))
    assert (q.batch_shape, q.event_shape) == ((5,), (latent_dim,)) and z.shape == (3, 5, latent_dim)
    p = vae.decode(z)
    assert (p.batch_shape, p.event_shape) == ((3, 5), shape) and p.log_prob(x).shape == (3, 5)
    assert vae.decode(z[0]).batch_shape == (5,)
    assert vae.reconstruct(x).shape == (5, *shape) and vae.sample(4).shape == (4, *shape)
    assert vae.p_z().event_shape == (latent_dim,)


def test_samples_of_z_do_not_mix():
    """Folding K into B and back keeps each z with its own image."""
    vae = build_vae(config())
    z = torch.randn(3, 5, 2)
    together = vae.decode(z).mean
    torch.testing.assert_close(together[1, 4], vae.decode(z[1, 4][None]).mean[0], rtol=1e-4, atol=1e-6)


def test_the_tutorials_parameters():
    """Counted by hand, layer by layer."""
    count = {
        name: sum(p.numel() for p in getattr(build_vae(config()), name).parameters()) for name in ("encoder", "decoder")
    }
    conv = lambda inputs, outputs: 9 * inputs * outputs + outputs
    assert count["encoder"] == conv(1, 32) + conv(32, 64) + 2304 * 4 + 4
    assert count["decoder"] == 2 * 1568 + 1568 + conv(32, 64) + conv(64, 32) + conv(32, 1)
