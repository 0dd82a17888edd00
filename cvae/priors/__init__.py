"""Priors: infer -> p(z), a Distribution with batch () and event (D,). Most priors ignore `infer`: see `Prior`.

Examples:
    >>> p = MixtureOfGaussians(latent_dim=2, components=3)()
    >>> p.batch_shape, p.event_shape
    (torch.Size([]), torch.Size([2]))
    >>> z = p.sample((8,))
    >>> p.log_prob(z).shape  # in nats
    torch.Size([8])
"""

from cvae.priors.autoregressive import AutoregressiveCodes
from cvae.priors.flow import FlowPrior
from cvae.priors.mixture import MixtureOfGaussians
from cvae.priors.none import NoPrior
from cvae.priors.prior import Prior
from cvae.priors.standard_normal import StandardNormal
from cvae.priors.standardized import Standardized
from cvae.priors.two_stage import TwoStage
from cvae.priors.uniform import UniformCodes
from cvae.priors.uniform_sphere import UniformSpherePrior
from cvae.priors.vamp import VampPrior
from cvae.priors.wrapped_normal import WrappedNormalPrior

__all__ = [
    "AutoregressiveCodes",
    "FlowPrior",
    "MixtureOfGaussians",
    "NoPrior",
    "Prior",
    "StandardNormal",
    "Standardized",
    "TwoStage",
    "UniformCodes",
    "UniformSpherePrior",
    "VampPrior",
    "WrappedNormalPrior",
]
