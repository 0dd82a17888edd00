"""The aggregate posterior q(z) = 1/N sum_n q(z|x_n), of the top group of latents."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cvae.evaluation.batches import Batch
from cvae.models.vae import VAE

PAIRS = 4000  # of a draw and an image, scored at once: few enough for the memory that a flow takes for each


def log_aggregate(
    vae: VAE, blocks: list[Batch], z: Tensor, log_q: Tensor, advance: Callable[[str, int], None]
) -> Tensor:
    """log q(z) (N,) in nats, for one draw z (N, D) from each of the posteriors of the N images in `blocks`.

    The mean of log q(z|x) - log q(z) estimates I_q(x; z) without bias if the N images are the whole population (Hoffman
    and Johnson 2016, where x is an index). As an estimate for the distribution that the images come from, it is a lower
    bound in expectation, never above log N (van den Oord et al. 2018; Poole et al. 2019, eq. 12), and KL(q(z) || p(z))
    is too high by as much. If it comes near log N, take more images.

    log_q: (N,), the log-density of each draw under its own posterior.
    advance: called with ("pairs", n) after n pairs of a draw and an image.
    """
    log_qz = torch.full((len(z),), -torch.inf, dtype=torch.float64)
    start = 0
    for x, y in blocks:
        images = len(x)
        q = vae(x, y).latents[0].q
        draws = max(1, PAIRS // images)
        for i in range(0, len(z), draws):
            foreign = z[i : i + draws, None].expand(-1, images, -1)  # (Z, B, D)
            log_each = q.log_prob(foreign).cpu().double()  # (Z, B)
            # Take the log-density that came with the draw: going back from z to the noise loses digits.
            own = torch.arange(i, i + len(log_each))[:, None] == torch.arange(start, start + images)
            log_each = torch.where(own, log_q[i : i + draws, None], log_each)
            log_qz[i : i + draws] = torch.logaddexp(log_qz[i : i + draws], log_each.logsumexp(1))
            advance("pairs", log_each.numel())
        start += images
    return log_qz - math.log(len(z))
