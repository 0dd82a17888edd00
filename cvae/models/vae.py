"""The model: a network, a posterior, a prior and a likelihood, and nothing that knows of training."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from cvae.checks import number, positive_int
from cvae.distributions import from_noise, geodesic, is_discrete, is_standard_normal
from cvae.distributions.precision import full_precision
from cvae.errors import ConfigError
from cvae.likelihoods import Likelihood
from cvae.models import latent_paths
from cvae.models.trace import Trace, draw_latent
from cvae.posteriors import Posterior
from cvae.priors import Prior

ROUNDING = 1e-6  # how far a pixel may lie outside of [0, 1]


class VAE(nn.Module):
    """p(z) p(x|z) with an amortized q(z|x) (Kingma and Welling 2014; Rezende et al. 2014).

    With num_classes > 0 it is conditioned on a class label (Sohn et al. 2015): p(z) p(x|z, y) and q(z|x, y). The
    encoder then sees the label as num_classes more image channels, the decoder as num_classes more dimensions of z,
    one-hot.

    Args:
        encoder: x (B, C [+ num_classes], H, W) -> features (B, F)
        posterior: features (B, F) -> q(z|x), batch (B,), event (D,)
        prior: infer -> p(z), event (D,); `infer`, below, is for priors that are made of posteriors
        decoder: z (B, D [+ num_classes]) -> params (B, P, H, W)
        likelihood: params (..., P, H, W) -> p(x|z), event (C, H, W)
        num_classes: how many classes, 0 for a model without labels

    Attributes:
        groups: how many groups of latents there are; with several, `variations` shows what each decides
    """

    groups = 1

    def __init__(
        self,
        encoder: nn.Module,
        posterior: Posterior,
        prior: Prior,
        decoder: nn.Module,
        likelihood: Likelihood,
        num_classes: int = 0,
    ):
        super().__init__()
        self.encoder, self.posterior, self.prior = encoder, posterior, prior
        self.decoder, self.likelihood, self.num_classes = decoder, likelihood, num_classes

    def forward(self, x: Tensor, y: Tensor | None = None, samples: int = 1, score: bool = True) -> Trace:
        """Draws of z for images x (B, C, H, W) in [0, 1] with labels y (B,), and their log-densities under q and p.

        With score=False the gradient of log_q reaches the encoder through the draws alone (Roeder et al. 2017).

        Raises:
            ValueError: y is missing, or given to a model without classes. x is not checked: that would wait for the
                device.
        """
        self._check(y)
        latent = draw_latent(self.infer(self.labelled(x, y)), self.p_z(), (samples,), score)
        return Trace((latent,), self.likelihood_of(latent.z, y), self.posterior.penalties(latent.q))

    def infer(self, inputs: Tensor) -> Distribution:
        """q(z|x) for what the encoder reads, images with the planes of their labels: (B, C [+ num_classes], H, W).

        `encode` takes images and labels, and checks them.
        """
        return self.posterior(full_precision(self.encoder(inputs)))

    def likelihood_of(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z) for z (..., B, D) and labels y (B,): batch (..., B), event (C, H, W). `decode` checks them as well."""
        return self._p_x(self.decoder(self._rows(z, y)), z)

    def p_z(self) -> Distribution:
        """p(z): batch (), event (D,). Keep it if you need it twice: a VampPrior encodes its pseudo-inputs each time."""
        return self.posterior.p_z(self.prior(self.infer))

    @cached_property
    def shapes(self) -> tuple[torch.Size, torch.Size]:
        """The shapes of z, (D,), and of x, (C, H, W)."""
        shape = self.p_z().event_shape
        z = next(self.decoder.parameters()).new_zeros(1, *shape)
        y = torch.zeros(1, dtype=torch.long, device=z.device) if self.num_classes else None
        with torch.no_grad():
            return shape, self.likelihood_of(z, y).event_shape

    @property
    def latent_map(self) -> tuple[int, int] | None:
        """(H', W') of the map that the latents lie on, z = (n, H', W') flattened; None where they are a vector."""
        return getattr(self.decoder, "latent_map", None)

    def encode(self, x: Tensor, y: Tensor | None = None) -> Distribution:
        """q(z|x) for x (B, C, H, W) in [0, 1] and labels y (B,): batch (B,), event (D,).

        Raises:
            ValueError: x has another shape or is not in [0, 1], or y is missing, does not fit, or is given to a model
                without classes.
        """
        self._check_images(x, y)
        return self.infer(self.labelled(x, y))

    def decode(self, z: Tensor, y: Tensor | None = None) -> Distribution:
        """p(x|z) for z (..., B, D) and labels y (B,): batch (..., B), event (C, H, W).

        Raises:
            ValueError: z has another shape, or y is missing, does not fit, or is given to a model without classes.
        """
        if z.dim() < 2 or z.shape[-1:] != self.shapes[0]:
            raise ValueError(f"z is {tuple(z.shape)}: must be (..., B, D) with D = {self.shapes[0][0]}")
        self._check(y, z.shape[-2])
        return self.likelihood_of(z, y)

    @torch.no_grad()
    def sample(self, num: int, y: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Means of p(x|z) for `num` draws of z from the prior and labels y (num,): (num, C, H, W).

        temperature: a factor, of at least 0, for the noise that the draws are made of. Below 1 the images are more
            typical and less varied.

        Raises:
            ValueError: `num` or `temperature` is not as above (1 for a prior that is not made of normal distributions),
                or y is as for `decode`.
        """
        return self.decode(self._from_prior(num, temperature), y).mean

    @torch.no_grad()
    def reconstruct(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Means of p(x|z) for one draw of z from q(z|x) an image: (B, C, H, W). Raises as `encode` does."""
        self._check_images(x, y)
        return self(x, y).px.mean[0]

    @torch.no_grad()
    def interpolate(self, a: Tensor, b: Tensor, y: Tensor | None = None, steps: int = 10) -> Tensor:
        """Means of p(x|z) at `steps` points from the means of q(z|x) for a to those for b: (steps, B, C, H, W).

        a and b are images (B, C, H, W) in [0, 1], and have the same labels y (B,). The way is spherical if p(z) is
        N(0, I), on a sphere the great circle, in hyperbolic space the geodesic, else straight (see
        `cvae.models.latent_paths.from_to`). Raises as `encode` does.
        """
        self._require_numbers("interpolate")
        start, end = (latent_paths.posterior_mean(self.encode(x, y)) for x in (a, b))
        positive_int("steps", steps)
        if self.posterior.curvature:
            return self.decode(geodesic(start, end, steps, self.posterior.curvature), y).mean
        spherical = self.posterior.sphere or is_standard_normal(self.p_z())
        way = latent_paths.from_to(start, end, steps, spherical)
        return self.decode(F.normalize(way, dim=-1) if self.posterior.sphere else way, y).mean

    @torch.no_grad()
    def traverse(
        self, x: Tensor, y: Tensor | None = None, dims: list[int] | None = None, values: Tensor | None = None
    ) -> Tensor:
        """Means of p(x|z), z the mean of q(z|x) but for one dimension: (len(dims), S, B, C, H, W).

        Each of the dimensions `dims` (default: all D) takes one value after the other, of values (S,) or, for each its
        own, (len(dims), S); by default the integers from -3 to 3. x (B, C, H, W) in [0, 1], y (B,).

        Raises:
            ValueError: there is no such dimension, `values` has another shape, or x or y are as for `encode`.
        """
        self._require_numbers("traverse")
        (latent_dim,) = self.shapes[0]
        dims = list(range(latent_dim)) if dims is None else dims
        if any(not 0 <= dim < latent_dim for dim in dims):
            raise ValueError(f"dims={dims}: must be from 0 to {latent_dim - 1}")
        values = torch.arange(-3.0, 4) if values is None else values
        if values.dim() not in (1, 2) or (values.dim() == 2 and len(values) != len(dims)):
            raise ValueError(f"values is {tuple(values.shape)}: must be (S,) or (len(dims), S) = ({len(dims)}, S)")
        along = latent_paths.along_sphere if self.posterior.sphere else latent_paths.along
        z = along(latent_paths.posterior_mean(self.encode(x, y)), dims, values.expand(len(dims), values.shape[-1]))
        return self.decode(z, y).mean

    def labels(self, y: Tensor) -> Tensor | None:
        """The labels y of a batch if this model has classes, else None: what its methods take."""
        return y if self.num_classes else None

    def _require_numbers(self, what: str) -> None:
        """Raise ConfigError for codes, between which nothing lies."""
        if is_discrete(self.p_z()):
            allowed = f"one of numbers, as diagonal_gaussian, to {what}: between two codes there is nothing"
            raise ConfigError("posterior", type(self.posterior).__name__, allowed)

    def labelled(self, x: Tensor, y: Tensor | None) -> Tensor:
        if y is None:
            return x
        planes = F.one_hot(y, self.num_classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return torch.cat([x, planes], 1)  # (B, C + num_classes, H, W)

    def _from_prior(self, num: int, temperature: float) -> Tensor:
        """Draws z (num, D) of p(z), as `sample` makes them."""
        p, shape = self.p_z(), (positive_int("num", num), *self.shapes[0])
        if number("temperature", temperature) == 1:
            return p.sample((num,))
        if self.posterior.sphere:
            raise ConfigError("temperature", temperature, "1 with prior=uniform_sphere, which is as wide as can be")
        like = next(self.parameters())
        noise, choice = (torch.randn(shape), torch.rand(num))
        return from_noise(p, temperature * noise.to(like), choice.to(like))

    def _p_x(self, params: Tensor, z: Tensor) -> Distribution:
        """p(x|z) for z (*batch, D) from the decoder's parameters (prod(batch), P, H, W)."""
        return self.likelihood(full_precision(params).unflatten(0, z.shape[:-1]))

    def _rows(self, z: Tensor, y: Tensor | None) -> Tensor:
        """The decoder's input for z (*batch, D): (prod(batch), D [+ num_classes]), of residual codes the sums."""
        z = self.posterior.decoder_input(z)
        if y is not None:
            z = torch.cat([z, F.one_hot(y, self.num_classes).to(z.dtype).expand(*z.shape[:-1], -1)], -1)
        return z.reshape(-1, z.shape[-1])

    def _check_images(self, x: Tensor, y: Tensor | None) -> None:
        """Raise ValueError unless x and y are as `encode` wants them."""
        if x.dim() != 4 or x.shape[1:] != self.shapes[1]:
            raise ValueError(
                f"x is {tuple(x.shape)}: must be (B, C, H, W) = (B, {', '.join(map(str, self.shapes[1]))})"
            )
        self._check(y, len(x))
        outside = ~((x >= -ROUNDING) & (x <= 1 + ROUNDING)).flatten(1)  # NaN too
        if outside.any():
            images, (low, high) = outside.any(1).nonzero().flatten(), x.aminmax()
            where = f"{int(outside.sum()):,} values of {len(images):,} images are not, the first in image {images[0]}"
            advice = "divide grey levels by 255" if low >= 0 else "of [-1, 1] give (x + 1) / 2"
            advice = advice if x.isfinite().all() else "NaN and infinity are no levels"
            raise ValueError(f"x must be in [0, 1], it goes from {low:g} to {high:g}: {advice} ({where})")

    def _check(self, y: Tensor | None, num: int | None = None) -> None:
        """num: how many labels there must be; None checks only what needs no wait for the device."""
        if y is None and self.num_classes:
            raise ValueError("this VAE is conditioned on the class label: give y (B,), the labels of the images")
        if y is not None and not self.num_classes:
            raise ValueError("this VAE knows no classes (conditional=false): leave y out")
        if y is None or num is None:
            return
        if y.shape != (num,) or y.is_floating_point() or ((y < 0) | (y >= self.num_classes)).any():
            given = f"{tuple(y.shape)}, {y.dtype}, from {y.min():g} to {y.max():g}" if y.numel() else "empty"
            raise ValueError(f"y is {given}: must be ({num},), integers from 0 to {self.num_classes - 1}")
