"""Vector quantization."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import number, positive_int, positive_number
from cvae.distributions import Point
from cvae.errors import ConfigError
from cvae.posteriors.codes import CodePosterior

DEAD = 0.1  # of its expected use, at most one use a minibatch: a code that is used less is replaced
MISSED = 10  # expected uses that a code must have missed before


class VQ(CodePosterior):
    """Vector quantization (van den Oord et al. 2017): z has the vectors of a codebook that are nearest to the features.

    The codebook follows the features by moving averages (the paper's appendix A.1). In each training step, with n_i the
    number of features that are nearest to e_i, and m_i their sum:

        N_i <- decay N_i + (1 - decay) n_i,  S_i <- decay S_i + (1 - decay) m_i,  e_i = S_i / N_i

    A code that is hardly used first moves to a feature of the minibatch, drawn at random (Dhariwal et al. 2020,
    Jukebox, section 3.1), as all do at the start. With r features to a code in a minibatch, hardly used means that N_i
    is at most 0.1 min(1, r) exp(-10 (1 - decay) / r); it becomes min(1, r). Without the last factor codes would be
    replaced for ever where r is small: the averages then forget a code between two of its uses.

    The codebook of a step is e as the averages had it before: a step moves N and S, and the next one e. So the figures
    of training are of a codebook that has not seen the minibatch yet. With several processes the averages are those of
    the first one.

    The gradient of z goes straight to the features, and the commitment, |features - z|^2, pulls them to their codes.

    With several quantizers the codes are residual (Lee et al. 2022, section 3.1): each quantizes what those before it
    have left, r_{d+1} = r_d - e^d with r_1 = features, and the decoder reads the sum of the vectors. Each has its own
    codebook, which learns from its r_d as above. z has the vectors of the first quantizer for all places, then those of
    the second, and so on; so do the codes. The commitment is the sum of |features - (e^1 + ... + e^d)|^2 over d (their
    eq. 7).

    Args:
        codes: how many vectors a codebook has
        width: how many numbers each of them has
        decay: of the moving averages, from 0 to below 1
        commitment: its weight, the paper's beta
        quantizers: how many codes describe each place, one after the other

    Raises:
        ConfigError: a value is not as above.
    """

    counts: Tensor  # (quantizers C,), N above, a codebook after the other
    sums: Tensor  # (quantizers C, width), S above

    def __init__(
        self,
        latent_dim: int,
        codes: int = 128,
        width: int = 16,
        decay: float = 0.99,
        commitment: float = 0.25,
        quantizers: int = 1,
    ) -> None:
        super().__init__(latent_dim, positive_int("width", width), positive_int("quantizers", quantizers))
        self.num_codes = positive_int("codes", codes)
        self.decay, self.commitment = number("decay", decay), positive_number("commitment", commitment)
        if decay >= 1:
            raise ConfigError("decay", decay, "at least 0 and below 1")
        rows = quantizers * codes
        self.register_buffer("vectors", torch.randn(rows, width))
        self.register_buffer("counts", torch.zeros(rows))
        self.register_buffer("sums", torch.zeros(rows, width))

    def forward(self, features: Tensor) -> Distribution:
        rest, near = self.columns(features), [features]
        codes: list[Tensor] = []
        for depth in range(self.quantizers):
            if depth:
                rest = (rest - self.codebook(self.vectors, depth - 1)[codes[-1]]).detach()
                near.append(rest.mT.flatten(-2))  # without a gradient: that of the sum reaches the features once
            learns = self.training and torch.is_grad_enabled()
            codes.append(self.learn(rest.detach(), depth) if learns else self.nearest(rest, depth))  # (B, M)
        return Point(self.write(torch.cat(codes, -1)), torch.cat(near, -1))

    def codebook(self, rows: Tensor, depth: int) -> Tensor:
        """Of the rows (quantizers C, ...) of all codebooks those of one quantizer (C, ...), as a view."""
        return rows[depth * self.num_codes : (depth + 1) * self.num_codes]

    @torch.no_grad()
    def learn(self, features: Tensor, depth: int = 0) -> Tensor:
        """Take a step of a codebook's moving averages; returns the codes (B, M) of the features (B, M, width)."""
        rows = features.flatten(0, 1)
        vectors, N, S = (self.codebook(part, depth) for part in (self.vectors, self.counts, self.sums))
        expected = len(rows) / self.num_codes  # uses of a code
        anew = min(1.0, expected)
        dead = N <= DEAD * anew * math.exp(-MISSED * (1 - self.decay) / expected)
        drawn = rows[torch.randint(len(rows), (self.num_codes,), device=rows.device)]
        counts = torch.where(dead, anew, N)
        sums = torch.where(dead[:, None], anew * drawn, S)
        # In place: what a CUDA graph replays must find them where they were.
        vectors.copy_(sums / counts[:, None])
        codes = self.nearest(features, depth)
        used = F.one_hot(codes.flatten(), self.num_codes).to(rows)  # (B M, C)
        with torch.autocast(rows.device.type, enabled=False):  # bfloat16 has too few digits for sums
            sums = sums.lerp(used.T @ rows, 1 - self.decay)
        N.copy_(counts.lerp(used.sum(0), 1 - self.decay))
        S.copy_(sums)
        return codes

    @torch.no_grad()
    def nearest(self, columns: Tensor, depth: int = 0) -> Tensor:
        """(..., width) -> the codes (...) of the nearest vectors of a codebook."""
        with torch.autocast(columns.device.type, enabled=False):  # bfloat16 would take neighbours for each other
            # Around the codebook's mean, since the expanded square loses digits far from 0.
            vectors = self.codebook(self.vectors, depth)
            mean = vectors.mean(0)
            rows, vectors = columns.reshape(-1, self.width) - mean, vectors - mean
            # |row - vector|^2 without |row|^2
            distances = torch.addmm(vectors.square().sum(-1), rows, vectors.T, alpha=-2)
            return distances.argmin(-1).view(columns.shape[:-1])

    def write(self, codes: Tensor) -> Tensor:
        parts = enumerate(codes.chunk(self.quantizers, -1))  # (..., M) each
        return torch.cat([self.codebook(self.vectors, depth)[part].mT.flatten(-2) for depth, part in parts], -1)

    def read(self, z: Tensor) -> Tensor:
        parts = enumerate(z.chunk(self.quantizers, -1))
        return torch.cat([self.nearest(self.columns(part), depth) for depth, part in parts], -1)

    def decoder_input(self, z: Tensor) -> Tensor:
        return z.unflatten(-1, (self.quantizers, -1)).sum(-2) if self.quantizers > 1 else z

    def penalties(self, q: Any) -> Mapping[str, Tensor]:
        """The commitment, without a unit: (B,)."""
        reached = q.z.unflatten(-1, (self.quantizers, -1)).cumsum(-2)  # (B, quantizers, width M)
        features = q.near[:, None, : reached.shape[-1]]
        return {"commitment": self.commitment * (features - reached).square().flatten(1).sum(-1)}
