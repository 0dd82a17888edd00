"""beta-TCVAE."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from cvae.checks import one_of, positive_int
from cvae.distributions import factorizes
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.terms import Objective, Terms, only_group, penalized
from cvae.schedules import at, number_or_schedule


class BetaTCVAE(Objective):
    """distortion + mutual information + beta * total correlation + dimension-wise KL (Chen et al. 2018, eq. 4).

    With q(z) the aggregate posterior over the training set, the three are log q(z|x) - log q(z),
    log q(z) - sum_j log q(z_j) and sum_j log q(z_j) - log p(z), at one draw of z an image. They sum to the rate, image
    by image, so beta=1 is the ELBO. For a prior that is not independent over the dimensions the last one is
    sum_j log q(z_j) - log p(z), whose mean over q(z) is no KL and can be below 0.

    The batch estimates q(z) as sum_n W_n q(z|x_n). Here n = 0 is the image that z was drawn for, N the number of
    training images (`prepare`) and B the batch size:

    - weighted: W_n = 1 / (N B), biased (Chen et al. 2018, section 3.1; what the paper used). N only shifts the loss.
    - stratified: W_0 = 1 / N, else (N - 1) / (N (B - 1)): an unbiased q(z) (appendix C.2, averaged over which image is
      last).

    The loss depends on the batch around an image; rate and distortion do not.

    Args:
        beta: weight of the total correlation, a number or a schedule
        sampling: weighted or stratified

    Raises:
        ConfigError: a value is not allowed; at the first call, the posterior is not independent over the dimensions, or
            there are several groups of latents.
    """

    def __init__(self, beta: float | Callable = 6, sampling: str = "weighted") -> None:
        super().__init__()
        self.beta = number_or_schedule("beta", beta)
        self.sampling = one_of("sampling", sampling, ("weighted", "stratified"))
        self.num_images: int | None = None

    def prepare(self, num_images: int) -> None:
        self.num_images = positive_int("num_images", num_images)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        latent = only_group(trace, "beta_tcvae")
        distortion = -trace.px.log_prob(x)[0]
        information, correlation, dimensions = self.decompose(latent.q, latent.p, latent.z[0])
        rate = information + correlation + dimensions
        loss = penalized(distortion + information + at(self.beta, step) * correlation + dimensions, trace)
        parts = {
            "mutual_information": information,
            "total_correlation": correlation,
            "dimension_kl": dimensions,
            **trace.penalties,
        }
        return Terms(loss, -distortion - rate, rate, distortion, parts)

    def decompose(self, q: Distribution, p: Distribution, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mutual information, total correlation and dimension-wise KL at z (B, D): three (B,), in nats."""
        if not factorizes(q):
            allowed = (
                "another objective, or posterior=diagonal_gaussian: beta_tcvae needs independent dimensions of q(z|x)"
            )
            raise ConfigError("objective", "beta_tcvae", allowed)
        log_weights = self._log_weights(z)  # (B, B)
        each = q.base_dist.log_prob(z.unsqueeze(1))  # (B, B, D): dimension d of draw i under the posterior of image n
        log_qz = (log_weights + each.sum(-1)).logsumexp(1)  # (B,)
        log_qz_product = (log_weights.unsqueeze(-1) + each).logsumexp(1).sum(-1)
        return q.log_prob(z) - log_qz, log_qz - log_qz_product, log_qz_product - p.log_prob(z)

    def _log_weights(self, z: Tensor) -> Tensor:
        """log W (B, B), a row for each draw."""
        if self.num_images is None:
            raise RuntimeError("call prepare(num_images) first, the number of training images")
        images, batch = self.num_images, len(z)
        if self.sampling == "weighted":
            return z.new_full((batch, batch), -math.log(images * batch))
        own = torch.eye(batch, dtype=torch.bool, device=z.device)
        weight = (images - 1) / (images * max(batch - 1, 1))  # 0 where there is one image in all
        others = math.log(weight) if weight > 0 else -math.inf
        return z.new_full((batch, batch), others).masked_fill(own, -math.log(images))
