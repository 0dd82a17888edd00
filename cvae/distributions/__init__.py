"""Distributions and helpers that torch and zuko lack.

Examples:
    >>> import torch
    >>> q = PowerSpherical(loc=torch.tensor([[1.0, 0.0, 0.0]]), concentration=torch.tensor([5.0]))
    >>> z, log_q = rsample_and_log_prob(q, (4,))
    >>> z.shape, z.norm(dim=-1).allclose(torch.ones(4, 1))  # on the unit sphere
    (torch.Size([4, 1, 3]), True)
    >>> has_density(q), has_density(Dirac(z))  # the code of an autoencoder has none
    (True, False)
"""

from cvae.distributions.ball import ExpMap, geodesic, to_ball
from cvae.distributions.codes import Codes, OneHots, Point, is_discrete
from cvae.distributions.continuous_bernoulli import ContinuousBernoulli
from cvae.distributions.discretized import DiscretizedLogistic, MixtureOfLogistics
from cvae.distributions.factors import factorizes, is_standard_normal
from cvae.distributions.flow import Flow, Located, scratch, stable
from cvae.distributions.from_noise import from_noise
from cvae.distributions.mixture import Mixture
from cvae.distributions.points import Dirac, Unknown, has_density
from cvae.distributions.sampling import rsample_and_log_prob
from cvae.distributions.sphere import PowerSpherical, UniformSphere
from cvae.distributions.triangular_normal import TriangularNormal

__all__ = [
    "Codes",
    "ContinuousBernoulli",
    "Dirac",
    "DiscretizedLogistic",
    "ExpMap",
    "Flow",
    "Located",
    "Mixture",
    "MixtureOfLogistics",
    "OneHots",
    "Point",
    "PowerSpherical",
    "TriangularNormal",
    "UniformSphere",
    "Unknown",
    "factorizes",
    "from_noise",
    "geodesic",
    "has_density",
    "is_discrete",
    "is_standard_normal",
    "rsample_and_log_prob",
    "scratch",
    "stable",
    "to_ball",
]
