"""Draws as a function of noise: what scales the noise scales the draws, and an exported sampler has no generator."""

import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily, MultivariateNormal, Normal
from zuko.distributions import NormalizingFlow

from cvae.distributions.points import Unknown
from cvae.distributions.sphere import UniformSphere
from cvae.errors import ConfigError


def from_noise(p: Distribution, noise: Tensor, choice: Tensor) -> Tensor:
    """Draws z (..., D) of p, made of noise (..., D) that is normal and, for mixtures, choice (...) uniform in [0, 1).

    On a sphere the direction of the noise counts alone. With noise of a standard deviation below 1 (a temperature:
    Kingma and Dhariwal 2018, section 6) the draws are nearer to the mean, of a mixture to that of the component that is
    chosen.

    Raises:
        ConfigError: p is not made of normal distributions (a prior of codes is not).
    """
    if isinstance(p, Independent) and isinstance(p.base_dist, Normal):
        return p.base_dist.loc + p.base_dist.scale * noise
    if isinstance(p, MultivariateNormal):
        return p.loc + (p.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
    if isinstance(p, NormalizingFlow):
        return p.transform.inv(from_noise(p.base, noise, choice))
    if isinstance(p, MixtureSameFamily):
        below = p.mixture_distribution.probs.cumsum(-1)[:-1]  # without the last, which may round to less than 1
        chosen = (choice[..., None] >= below).sum(-1)  # (...)
        if (one := component(p.component_distribution, chosen)) is not None:
            return from_noise(one, noise, choice)
        of_each = from_noise(p.component_distribution, noise[..., None, :], choice[..., None])  # (..., K, D)
        index = chosen[..., None, None].expand(*noise.shape[:-1], 1, noise.shape[-1])
        return of_each.gather(-2, index).squeeze(-2)
    if isinstance(p, UniformSphere):
        return F.normalize(noise, dim=-1)
    if isinstance(p, Unknown):
        return p.sample()
    raise ConfigError(
        "prior", type(p).__name__, "made of normal distributions, so that its draws are a function of noise"
    )


def component(components: Distribution, chosen: Tensor) -> Distribution | None:
    """The components at `chosen` (...), with that batch, of components (K,); None if they are not plain normals."""
    if isinstance(components, Independent) and isinstance(base := components.base_dist, Normal):
        one = Normal(base.loc[chosen], base.scale[chosen], validate_args=False)
        return Independent(one, 1, validate_args=False)
    if isinstance(components, MultivariateNormal):
        scale_tril = components.scale_tril[chosen]
        return MultivariateNormal(components.loc[chosen], scale_tril=scale_tril, validate_args=False)
    return None
