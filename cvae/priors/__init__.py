"""Priors: infer -> p(z), a Distribution with batch () and event (D,). Most priors ignore `infer`: see `Prior`."""

from cvae.priors.autoregressive import AutoregressiveCodes
from cvae.priors.flow import FlowPrior
from cvae.priors.mixture import MixtureOfGaussians
from cvae.priors.none import NoPrior
from cvae.priors.prior import Prior
from cvae.priors.standard_normal import StandardNormal
from cvae.priors.standardized import Standardized
from cvae.priors.uniform import UniformCodes
from cvae.priors.uniform_sphere import UniformSpherePrior
from cvae.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveCodes",
    "FlowPrior",
    "MixtureOfGaussians",
    "NoPrior",
    "Prior",
    "StandardNormal",
    "Standardized",
    "UniformCodes",
    "UniformSpherePrior",
    "VampPrior",
]
