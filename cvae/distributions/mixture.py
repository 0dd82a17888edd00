"""Mixtures of many components, scored in bounded memory."""

import math

import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Normal
from torch.types import _size
from torch.utils.checkpoint import checkpoint

from cvae.distributions.precision import double


class Mixture(MixtureSameFamily):
    """torch's mixture, batch (), for many components and many z: it works through the z in chunks, to bound memory.

    The backward pass recomputes the chunks instead of keeping them. A batch of the usual size is a single chunk, unless
    one component needs more than D floats for the log-density of one z; its distribution then says how many by a
    function `scratch`. `diagonal_normal_log_prob` scores components that are diagonal Gaussians.
    """

    floats = 2**24  # of each intermediate result of a chunk: 64 MiB in float32

    @property
    def _diagonal(self) -> Normal | None:
        """The components (K, D) if they are diagonal Gaussians, else None."""
        components = self.component_distribution
        if not isinstance(components, Independent) or len(self.event_shape) != 1:
            return None
        return components.base_dist if isinstance(components.base_dist, Normal) else None

    def _chunk(self, drawn: bool = False) -> int:
        """The number of z to score, or draw, at once."""
        components, event = self.component_distribution, self.event_shape.numel()
        scored = 2 if self._diagonal else getattr(components, "scratch", lambda: event)()  # a float64 is two floats
        return max(1, self.floats // (components.batch_shape[-1] * (event if drawn else scored)))

    def _log_prob(self, z: Tensor) -> Tensor:
        """A chunk: z (N, D) -> (N,)."""
        normal = self._diagonal
        if normal is None:
            return super().log_prob(z)
        each = diagonal_normal_log_prob(z, normal.loc, normal.scale)  # (N, K)
        return (each + self.mixture_distribution.logits).logsumexp(-1).to(z.dtype)

    def log_prob(self, z: Tensor) -> Tensor:
        """z (..., D) -> (...), in nats."""
        rows = z.reshape(-1, z.shape[-1])
        if len(rows) <= self._chunk():
            return self._log_prob(rows).reshape(z.shape[:-1])
        chunks = rows.split(self._chunk())
        parts = [checkpoint(self._log_prob, part, use_reentrant=False, preserve_rng_state=False) for part in chunks]
        return torch.cat(parts).reshape(z.shape[:-1])

    def _sample(self, num: int) -> Tensor:
        """A chunk: (num, D). It draws from every component, then chooses, as torch does."""
        chosen, components = self.mixture_distribution.sample((num,)), self.component_distribution
        # Normal.sample would look whether all scales are positive, for which a GPU has to be waited for.
        each = components.rsample((num,)) if components.has_rsample else components.sample((num,))  # (num, K, D)
        return each.take_along_dim(chosen[:, None, None], 1).squeeze(1)

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws z (*sample_shape, D)."""
        num, chunk = torch.Size(sample_shape).numel(), self._chunk(drawn=True)
        parts = [self._sample(min(chunk, num - start)) for start in range(0, num, chunk)]
        return torch.cat(parts).reshape(*sample_shape, *self.event_shape)


def diagonal_normal_log_prob(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log N(z_n; loc_k, diag(scale_k^2)) of each z (N, D) under each loc and scale (K, D): (N, K), in nats.

    It uses products of matrices, since the plain formula writes and reads its N K D differences several times. The
    expanded square loses digits where z is close to a mean and the scale is small; hence float64 (except on MPS, which
    has none).
    """
    z, loc, scale = double(z), double(loc), double(scale)
    precision = scale.square().reciprocal()
    # sum_d ((z - loc) / scale)^2, without loc^2 / scale^2
    squares = z.square() @ precision.T - 2 * z @ (loc * precision).T
    constant = (loc.square() * precision + 2 * scale.log() + math.log(2 * math.pi)).sum(-1)
    return -(squares + constant) / 2
