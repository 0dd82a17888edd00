"""The model: shapes, and what its methods compute."""

import re

import pytest
import torch
from conftest import config
from torch import nn
from torch.distributions import Normal
from toys import categorical_vae

from cvae.build import build_vae
from cvae.distributions import from_noise
from cvae.likelihoods import Bernoulli
from cvae.models.latent_paths import from_to
from cvae.models.vae import VAE
from cvae.posteriors import DiagonalGaussian
from cvae.priors import MixtureOfGaussians, StandardNormal, VampPrior


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


# By value, on a model of a few layers


def model(classes=0, dtype=torch.float32):
    """Images (1, 2, 3) and two latents: features and parameters are far from 0."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(6 * (1 + classes), 4))
    decoder = nn.Sequential(nn.Linear(2 + classes, 6), nn.Unflatten(1, (1, 2, 3)))
    prior = MixtureOfGaussians(2, components=2)
    return VAE(encoder, DiagonalGaussian(2), prior, decoder, Bernoulli((1, 2, 3)), classes).to(dtype)


IMAGES = torch.tensor([[1, 0, 1, 1, 0, 0], [0, 0, 1, 0, 1, 1], [1, 1, 0, 0, 0, 1.0]]).view(3, 1, 2, 3)
LABELS = torch.tensor([2, 0, 1])


def with_label(part, y, classes=4):
    """Rows (N, F) with the label one-hot behind them."""
    return torch.cat([part, torch.eye(classes)[y]], 1)


@pytest.mark.parametrize("classes", [0, 4])
@torch.no_grad()
def test_a_trace_by_hand(classes):
    vae, y = model(classes), LABELS if classes else None
    torch.manual_seed(5)
    trace = vae(IMAGES, y, 7)
    read = IMAGES.flatten(1)
    if classes:  # a plane of ones for the label, planes of zeros for the other classes
        read = torch.cat([read, torch.eye(4)[y].repeat_interleave(6, 1)], 1)
    mean, logvar = (read @ vae.encoder[1].weight.T + vae.encoder[1].bias).chunk(2, 1)
    torch.manual_seed(5)
    z = mean + (logvar / 2).exp() * torch.randn(7, 3, 2)
    (latent,) = trace.latents
    torch.testing.assert_close(latent.z, z)
    torch.testing.assert_close(latent.log_q, Normal(mean, (logvar / 2).exp()).log_prob(z).sum(-1))
    torch.testing.assert_close(latent.log_p, vae.prior(None).log_prob(z))
    torch.testing.assert_close(latent.q.mean, mean)
    torch.testing.assert_close(latent.p.mean, vae.prior(None).mean)
    assert trace.penalties == {}
    for k in range(7):
        given = with_label(z[k], y) if classes else z[k]
        logits = given @ vae.decoder[0].weight.T + vae.decoder[0].bias
        torch.testing.assert_close(trace.px.mean[k].flatten(1), logits.sigmoid())
    assert trace.px.batch_shape == (7, 3) and trace.px.event_shape == (1, 2, 3)
    assert vae(IMAGES, y).latents[0].z.shape == (1, 3, 2)  # one draw unless told


@pytest.mark.parametrize("classes", [0, 4])
def test_samples_and_reconstructions_by_hand(classes):
    """Means of p(x|z), at draws of z: not at the means of q or p."""
    vae, y = model(classes), LABELS if classes else None
    torch.manual_seed(5)
    sampled = vae.sample(3, y)
    torch.manual_seed(5)
    z = vae.p_z().sample((3,))
    torch.testing.assert_close(sampled, vae.decode(z, y).mean)
    torch.manual_seed(5)
    reconstructed = vae.reconstruct(IMAGES, y)
    torch.manual_seed(5)
    z = vae.encode(IMAGES, y).sample()
    torch.testing.assert_close(reconstructed, vae.decode(z, y).mean)
    assert not torch.allclose(reconstructed, vae.decode(vae.encode(IMAGES, y).mean, y).mean)
    assert not sampled.requires_grad and not reconstructed.requires_grad


def test_each_image_has_its_own_label():
    """Another label changes its own image alone, in the encoder, in the decoder and in every draw."""
    vae, other = model(4), torch.tensor([2, 3, 1])
    with torch.no_grad():
        a, b = vae.encode(IMAGES, LABELS).mean, vae.encode(IMAGES, other).mean
        z = torch.randn(5, 3, 2)
        c, d = vae.decode(z, LABELS).mean, vae.decode(z, other).mean
    assert torch.equal(a[[0, 2]], b[[0, 2]]) and not torch.allclose(a[1], b[1])
    assert torch.equal(c[:, [0, 2]], d[:, [0, 2]]) and not torch.isclose(c[:, 1], d[:, 1]).all(-1).any()


def test_labels_are_for_models_with_classes():
    assert model(4).labels(LABELS) is LABELS and model().labels(LABELS) is None
    needed = "this VAE is conditioned on the class label: give y (B,), the labels of the images"
    refused = "this VAE knows no classes (conditional=false): leave y out"
    for vae, y, message in ((model(4), None, needed), (model(), LABELS, refused)):
        for call in (
            lambda: vae(IMAGES, y),  # noqa: B023
            lambda: vae.encode(IMAGES, y),  # noqa: B023
            lambda: vae.decode(torch.zeros(3, 2), y),  # noqa: B023
            lambda: vae.sample(3, y),  # noqa: B023
            lambda: vae.reconstruct(IMAGES, y),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                call()


def test_images_out_of_range_are_refused():
    vae = model()
    vae.encode(IMAGES)  # both ends are in the range
    vae.encode(IMAGES * (1 + 1e-6) - 5e-7)  # a little of rounding
    advice = {1.25: "divide grey levels by 255", -0.25: "of [-1, 1] give (x + 1) / 2"}
    for value, told in ((-0.25, "-0.25 to 1"), (1.25, "0 to 1.25"), (torch.nan, "nan to nan")):
        x = IMAGES.clone()
        x[1, 0, 1, 1] = value
        where = "1 values of 1 images are not, the first in image 1"
        said = advice.get(value, "NaN and infinity are no levels")
        message = f"x must be in [0, 1], it goes from {told}: {said} ({where})"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            vae.encode(x)
        with pytest.raises(ValueError, match="x must be in .0, 1."):
            vae.reconstruct(x)
        vae(x)  # is not checked


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_densities_are_in_full_precision(low):
    """Features and parameters that a network computed with fewer digits; float64 stays what it is."""
    for dtype, expected in ((low, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)):
        vae = model(dtype=dtype)
        vae.decoder[0].double(), vae.decoder.append(Cast(dtype))
        q = vae.infer(IMAGES.to(dtype))
        assert q.mean.dtype == expected
        torch.testing.assert_close(q.mean, vae.encoder(IMAGES.to(dtype))[:, :2].to(expected))
        assert vae.decode(torch.zeros(3, 2, dtype=torch.float64)).mean.dtype == expected


class Cast(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, x):
        return x.to(self.dtype)


def test_the_prior_may_encode():
    """It gets what makes q(z|x) of images, with the planes of their labels where there are classes."""
    vae = model()
    vae.prior = VampPrior(2, (1, 2, 3), components=3)
    vae.prior.pseudo_inputs.data = IMAGES
    q = vae.encode(IMAGES)
    torch.testing.assert_close(vae.p_z().component_distribution.mean, q.mean)


def test_without_the_score_the_gradient_comes_through_the_draws_alone():
    vae = model(dtype=torch.float64)
    with_score, without = vae(IMAGES.double(), score=True).latents[0], vae(IMAGES.double(), None, 2, False).latents[0]
    for latent, through_draws in ((with_score, False), (without, True)):
        (gradient,) = torch.autograd.grad(latent.log_q.sum(), [vae.encoder[1].bias])
        mean = gradient[
            :2
        ]  # a shift of the mean moves the draws with it: log q is the same unless the score is left out
        assert (mean.abs().max() > 1e-3) == through_draws


def test_a_hook_on_a_draw_leaves_its_density_alone():
    """z is a tensor of its own: what multiplies its gradient does not reach log q."""
    vae = model(dtype=torch.float64)
    gradients = []
    for factor in (1, 0):
        torch.manual_seed(5)
        latent = vae(IMAGES.double(), score=False).latents[0]
        latent.z.register_hook(lambda gradient, factor=factor: gradient * factor)
        gradients.append(torch.autograd.grad(latent.log_q.sum(), [vae.encoder[1].bias])[0])
    assert gradients[0].abs().max() > 1e-3 and torch.equal(*gradients)


def test_codes_are_sampled_and_reconstructed():
    """Posteriors without rsample: each image is that of one code. A model has no classes unless told."""
    vae = categorical_vae()
    with torch.no_grad():
        pictures = vae.decode(torch.eye(4, dtype=torch.float64)).mean
    assert vae.num_classes == 0
    for drawn in (vae.sample(5), vae.reconstruct(torch.ones(5, 1, 2, 2, dtype=torch.float64))):
        assert all(any(torch.allclose(image, picture) for picture in pictures) for image in drawn)


# Ways through the latent space


@pytest.mark.parametrize("classes", [0, 4])
@torch.no_grad()
def test_an_interpolation_by_hand(classes):
    """The prior is a mixture, so the way is straight."""
    vae, y = model(classes), LABELS if classes else None
    a, b = (vae.encode(x, y).mean for x in (IMAGES, IMAGES.flip(0)))
    images = vae.interpolate(IMAGES, IMAGES.flip(0), y, steps=5)
    assert images.shape == (5, 3, 1, 2, 3) and not images.requires_grad
    for step, t in enumerate((0, 0.25, 0.5, 0.75, 1)):
        torch.testing.assert_close(images[step], vae.decode((1 - t) * a + t * b, y).mean)
    assert vae.interpolate(IMAGES, IMAGES, y).shape[0] == 10


@torch.no_grad()
def test_the_way_is_spherical_where_the_prior_is_normal():
    vae = model()
    vae.prior = StandardNormal(2)
    a, b = (vae.encode(x).mean for x in (IMAGES, IMAGES.flip(0)))
    arc = vae.decode(from_to(a, b, 5, spherical=True)).mean
    torch.testing.assert_close(vae.interpolate(IMAGES, IMAGES.flip(0), steps=5), arc)
    assert not torch.allclose(arc, vae.decode(from_to(a, b, 5, spherical=False)).mean)


@pytest.mark.parametrize("classes", [0, 4])
@torch.no_grad()
def test_a_traversal_by_hand(classes):
    vae, y = model(classes), LABELS if classes else None
    z = vae.encode(IMAGES, y).mean
    images = vae.traverse(IMAGES, y)
    assert images.shape == (2, 7, 3, 1, 2, 3) and not images.requires_grad
    for dim in (0, 1):
        for number, value in enumerate(range(-3, 4)):
            moved = z.clone()
            moved[:, dim] = value
            torch.testing.assert_close(images[dim, number], vae.decode(moved, y).mean)
    torch.testing.assert_close(vae.traverse(IMAGES, y, [1], torch.tensor([0.0, 3])), images[1:, [3, 6]])
    own = vae.traverse(IMAGES, y, [1, 0], torch.tensor([[0.0, 3], [1, 2]]))
    torch.testing.assert_close(own, torch.stack([images[1, [3, 6]], images[0, [4, 5]]]))


@torch.no_grad()
def test_a_temperature_scales_the_noise_of_the_prior():
    vae, y = model(4), LABELS
    torch.manual_seed(5)
    noise, choice = torch.randn(3, 2), torch.rand(3)
    for temperature in (0.0, 0.5, 2.0):
        torch.manual_seed(5)
        sampled = vae.sample(3, y, temperature)
        z = from_noise(vae.p_z(), temperature * noise, choice)
        torch.testing.assert_close(sampled, vae.decode(z, y).mean)


def test_wrong_input_is_told():
    plain, with_classes = model(), model(4)
    z = torch.zeros(3, 2)
    cases = [
        (lambda: plain.encode(IMAGES[0]), "x is (1, 2, 3): must be (B, C, H, W) = (B, 1, 2, 3)"),
        (lambda: plain.reconstruct(IMAGES.mT), "x is (3, 1, 3, 2): must be (B, C, H, W) = (B, 1, 2, 3)"),
        (lambda: plain.interpolate(IMAGES, IMAGES.mT), "x is (3, 1, 3, 2): must be (B, C, H, W) = (B, 1, 2, 3)"),
        (lambda: plain.decode(z[0]), "z is (2,): must be (..., B, D) with D = 2"),
        (lambda: plain.decode(torch.zeros(4, 3)), "z is (4, 3): must be (..., B, D) with D = 2"),
        (
            lambda: with_classes.encode(IMAGES, LABELS[:2]),
            "y is (2,), torch.int64, from 0 to 2: must be (3,), integers from 0 to 3",
        ),
        (
            lambda: with_classes.decode(z, LABELS + 2),
            "y is (3,), torch.int64, from 2 to 4: must be (3,), integers from 0 to 3",
        ),
        (
            lambda: with_classes.decode(z, LABELS - 1),
            "y is (3,), torch.int64, from -1 to 1: must be (3,), integers from 0 to 3",
        ),
        (
            lambda: with_classes.encode(IMAGES, LABELS.float()),
            "y is (3,), torch.float32, from 0 to 2: must be (3,), integers from 0 to 3",
        ),
        (lambda: with_classes.sample(3, LABELS[:0]), "y is empty: must be (3,), integers from 0 to 3"),
        (lambda: plain.sample(0), "num=0: must be a positive integer"),
        (lambda: plain.sample(1, temperature=-1), "temperature=-1: must be a finite number of at least 0"),
        (lambda: plain.interpolate(IMAGES, IMAGES, steps=0), "steps=0: must be a positive integer"),
        (lambda: plain.traverse(IMAGES, dims=[0, 2]), "dims=[0, 2]: must be from 0 to 1"),
        (lambda: plain.traverse(IMAGES, dims=[-1]), "dims=[-1]: must be from 0 to 1"),
        (
            lambda: plain.traverse(IMAGES, dims=[0], values=torch.zeros(2, 3)),
            "values is (2, 3): must be (S,) or (len(dims), S) = (1, S)",
        ),
        (
            lambda: plain.traverse(IMAGES, values=torch.zeros(())),
            "values is (): must be (S,) or (len(dims), S) = (2, S)",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            call()
    assert with_classes.decode(torch.zeros(5, 3, 2), LABELS).batch_shape == (5, 3)


def test_shapes_are_found_without_noise():
    for classes in (0, 4):
        vae, state = model(classes), torch.get_rng_state()
        assert vae.shapes == ((2,), (1, 2, 3)) and torch.equal(torch.get_rng_state(), state)
