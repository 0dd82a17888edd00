"""What the tests of posteriors and priors share: integrals on a grid, moments of draws, parameters off their start."""

import torch


def shaken(module, amount=0.2):
    """The same module in float64, its parameters moved at random, so that a flow is far from the identity."""
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(amount * torch.randn_like(parameter))
    return module


def grid(dims, reach=12.0, points=241):
    """Points (N, dims) of an even grid over [-reach, reach]^dims, float64, and the volume of a cell."""
    axis = torch.linspace(-reach, reach, points, dtype=torch.float64)
    return torch.cartesian_prod(*[axis] * dims).reshape(-1, dims), (2 * reach / (points - 1)) ** dims


@torch.no_grad()
def integrals(log_prob, dims, **options):
    """The integral of exp(log_prob), its mean (D,) and covariance (D, D), for log_prob: z (N, D) -> (N,)."""
    z, volume = grid(dims, **options)
    mass = log_prob(z).exp() * volume
    mean = mass @ z
    return mass.sum(), mean, torch.einsum("n,ni,nj->ij", mass, z - mean, z - mean)


def assert_moments(z, mean, covariance):
    """Draws z (N, D) have this mean (D,) and covariance (D, D), each entry within five standard errors."""
    centred = z - mean
    products = torch.einsum("ni,nj->nij", centred, centred)
    for draws, expected in ((z, mean), (products, covariance)):
        error = (draws.mean(0) - expected).abs() / (draws.std(0) / len(z) ** 0.5)
        assert error.max() < 5, f"{draws.mean(0)} is {error.max():.1f} standard errors from {expected}"
