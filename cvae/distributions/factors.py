"""Questions about a distribution of latents: is it independent over its dimensions? Standard normal?"""

from typing import TypeGuard

from torch.distributions import Distribution, Independent, Normal


def factorizes(distribution: Distribution) -> TypeGuard[Independent]:
    """Whether it is written as a product over the dimensions of z: Independent, of densities of one number each."""
    return isinstance(distribution, Independent) and distribution.base_dist.event_shape == ()


def is_standard_normal(p: Distribution) -> bool:
    """Whether p is N(0, I)."""
    base = p.base_dist if isinstance(p, Independent) else None
    return isinstance(base, Normal) and not base.loc.any() and bool((base.scale == 1).all())
