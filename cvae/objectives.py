"""Objectives: (vae, x, y, step) -> Bound, named per-example tensors (B,) in nats.

x (B, C, H, W) images, y (B,) class labels (read only by a conditional VAE), step: how many optimizer steps were made, for
schedules. The mean over the batch is taken by the caller.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, kl_divergence

from cvae.distributions import rsample_and_log_prob
from cvae.errors import ConfigError, is_int, number, one_of, positive_int, positive_number
from cvae.schedules import at, number_or_schedule
from cvae.vae import VAE


class Bound(NamedTuple):
    """What an objective says of each image of a batch; every field is a tensor (B,), in nats."""

    elbo: Tensor  # a lower bound on log p(x), higher is better
    rate: Tensor  # KL(q(z|x) || p(z)), or its Monte Carlo estimate
    distortion: Tensor  # -E_q log p(x|z), or its Monte Carlo estimate
    loss: Tensor  # what the optimizer minimizes


class ELBO:
    """E_q log p(x|z) - KL(q(z|x) || p(z)), the expectations by Monte Carlo (Kingma and Welling 2014, eq. 3 and 6).

    With the defaults this is the objective of TensorFlow's tutorial. `beta` and `free_bits` change the loss alone:

        loss = distortion + beta * sum_j max(free_bits, KL_j)

    where KL_j is the rate of latent dimension j, averaged over the batch (Kingma et al. 2016, eq. 15, a group for each
    dimension). A dimension below `free_bits` then costs that constant and its rate has no gradient. The average is over the
    batch at hand, so the loss (and nothing else) depends on the batch size where free_bits > 0.

    Args:
        samples: K, draws of z an image
        kl: monte_carlo, the mean of log q(z|x) - log p(z) at the K draws; closed_form, torch's `kl_divergence`
        beta: weight of the rate, a number or a schedule (Higgins et al. 2017, eq. 4)
        free_bits: lambda, nats for each latent dimension; 0 switches it off. Above 0 it needs the rate of each dimension, so
            a posterior and a prior that are independent over the dimensions.

    Raises:
        ConfigError: a value is not allowed; at the first call, the posterior and the prior lack what kl or free_bits need.
    """

    def __init__(self, samples: int = 1, kl: str = "monte_carlo", beta=1, free_bits: float = 0):
        self.samples = positive_int("samples", samples)
        self.kl = one_of("kl", kl, ("monte_carlo", "closed_form"))
        self.beta = number_or_schedule("beta", beta)
        self.free_bits = number("free_bits", free_bits)

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        q, p = vae.encode(x, y), vae.prior()
        if self.free_bits:
            q, p = self._factors(q), self._factors(p)  # one density for each dimension: their KLs have a last axis D
        if self.kl == "closed_form":
            z = q.rsample((self.samples,))
            kl = self._closed_form(q, p)  # (B,), or (B, D) with free bits
        else:
            z, log_q = rsample_and_log_prob(q, (self.samples,))  # (K, B, D), (K, B)
            kl = (log_q - p.log_prob(z)).mean(0)
        distortion = -vae.decode(z, y).log_prob(x).mean(0)
        rate = kl.sum(-1) if self.free_bits else kl
        elbo = -distortion - rate
        if self.free_bits:
            # Its mean over the batch is the sum of the maxima: a dimension counts as it is or as free_bits for all images.
            charged = torch.where(kl.mean(0) > self.free_bits, kl, self.free_bits).sum(-1)
        else:
            charged = rate
        return Bound(elbo, rate, distortion, loss=distortion + at(self.beta, step) * charged)

    def _closed_form(self, q: Distribution, p: Distribution) -> Tensor:
        try:
            return kl_divergence(q, p)
        except NotImplementedError:
            names = f"{type(q).__name__} and {type(p).__name__}"
            allowed = "monte_carlo for this posterior and prior (no closed form is known for"
            raise ConfigError("objective.kl", self.kl, f"{allowed} {names}), or choose two Gaussians") from None

    def _factors(self, distribution: Distribution) -> Distribution:
        if not factorizes(distribution):
            allowed = "0 unless posterior and prior are independent over the latent dimensions"
            example = "as posterior=diagonal_gaussian with prior=standard_normal is"
            raise ConfigError("objective.free_bits", self.free_bits, f"{allowed}, {example}")
        return distribution.base_dist


class IWAE:
    """The importance-weighted bound E log (1/K) sum_k w_k, w_k = p(x, z_k) / q(z_k|x) (Burda et al. 2016, eq. 8).

    loss = -bound, whatever `gradient` is; elbo, rate and distortion are those of one draw, averaged over the K draws. The
    decoder's and the prior's gradient is always sum_k v_k d log p(x, z_k), v_k = w_k / sum w. `gradient` is the encoder's:

    - plain: what differentiation gives. Its signal vanishes against its noise as K grows (Rainforth et al. 2018).
    - stl, sticking the landing (Roeder et al. 2017, eq. 8 and section 4.2): the score of q, d log q(z|x) at a fixed z, is left
      out. With K = 1 that has the same expectation; its variance is zero where q is the exact posterior. With K > 1 it is
      biased (Tucker et al. 2019, section 3).
    - dreg, doubly reparameterized (Tucker et al. 2019, eq. 8): unbiased, sum_k v_k^2 (d log w_k / dz_k) (dz_k / d encoder).
      With K = 1 it is stl.

    The score is left out by taking it away once it is there: log q at a detached z has the score as its only gradient. This
    asks nothing of q but a log_prob; for an inverse autoregressive flow that costs D passes, as it inverts the flow.
    A prior that is made by the encoder (VampPrior) is part of the model p: the encoder's gradient through the prior's density
    is always the plain one, and with it the estimators are as unbiased as they were.

    Raises:
        ConfigError: samples is not a positive integer, or gradient none of the three.
    """

    is_bound = True  # -loss is itself a bound on log p(x), and the one to choose a model by

    def __init__(self, samples: int = 50, gradient: str = "plain"):
        self.samples = positive_int("samples", samples)
        self.gradient = one_of("gradient", gradient, ("plain", "stl", "dreg"))

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        q = vae.encode(x, y)
        z, log_q = rsample_and_log_prob(q, (self.samples,))  # (K, B, D), (K, B)
        if self.gradient != "plain" and z.requires_grad:
            score = q.log_prob(z.detach())
            log_q = log_q - (score - score.detach())  # the same value
        z = z.view_as(z)  # what p sees: its gradient can be scaled without that of log q
        log_px, log_pz = vae.decode(z, y).log_prob(x), vae.prior().log_prob(z)
        log_w = log_px + log_pz - log_q
        bound = log_w.logsumexp(0) - math.log(self.samples)
        if self.gradient == "dreg" and z.requires_grad:
            # Known only now, hence hooks: backward meets v_k once in logsumexp, and once more on the way to the encoder.
            v = log_w.detach().softmax(0)
            z.register_hook(lambda gradient: gradient * v.unsqueeze(-1))
            log_q.register_hook(lambda gradient: gradient * v)
        distortion, rate = -log_px.mean(0), (log_q - log_pz).mean(0)
        return Bound(-distortion - rate, rate, distortion, loss=-bound)


class BetaTCVAE:
    """distortion + mutual information + beta * total correlation + dimension-wise KL (Chen et al. 2018, eq. 4).

    The three sum to the rate, image by image, so beta=1 is the ELBO. With q(z) the aggregate posterior over the training set:
    log q(z|x) - log q(z), log q(z) - sum_j log q(z_j) and sum_j log q(z_j) - log p(z), at one draw of z an image. For a prior
    that is not independent over the dimensions the last one is KL(prod_j q(z_j) || p(z)). q(z) is estimated from the batch,
    as sum_n W_n q(z|x_n), n = 0 the image that z was drawn for, N = dataset_size and B the batch size:

    - weighted: W_n = 1 / (N B), biased (Chen et al. 2018, section 3.1; what the paper used). N only shifts the loss.
    - stratified: W_0 = 1 / N, else (N - 1) / (N (B - 1)): an unbiased q(z) (appendix C.2, averaged over which image is last).

    The loss depends on the batch around an image; elbo, rate and distortion do not.

    Args:
        dataset_size: N, training images
        beta: weight of the total correlation, a number or a schedule
        sampling: weighted or stratified

    Raises:
        ConfigError: a value is not allowed; at the first call, the posterior is not independent over the dimensions.
    """

    def __init__(self, dataset_size: int, beta=6, sampling: str = "weighted"):
        if not is_int(dataset_size) or dataset_size < 2:
            raise ConfigError("dataset_size", dataset_size, "an integer of at least 2, the number of training images")
        self.dataset_size = dataset_size
        self.beta = number_or_schedule("beta", beta)
        self.sampling = one_of("sampling", sampling, ("weighted", "stratified"))

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        q = vae.encode(x, y)
        z = q.rsample()  # (B, D)
        distortion = -vae.decode(z, y).log_prob(x)
        information, correlation, dimensions = self.decompose(q, vae.prior(), z)
        rate = information + correlation + dimensions
        loss = distortion + information + at(self.beta, step) * correlation + dimensions
        return Bound(-distortion - rate, rate, distortion, loss)

    def decompose(self, q: Distribution, p: Distribution, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mutual information, total correlation and dimension-wise KL at z (B, D): three (B,), in nats."""
        if not factorizes(q):
            allowed = "another objective, or posterior=diagonal_gaussian: beta_tcvae needs independent dimensions of q(z|x)"
            raise ConfigError("objective", "beta_tcvae", allowed)
        log_weights = self._log_weights(z)  # (B, B)
        each = q.base_dist.log_prob(z.unsqueeze(1))  # (B, B, D): dimension d of draw i under the posterior of image n
        log_qz = (log_weights + each.sum(-1)).logsumexp(1)  # (B,)
        log_qz_product = (log_weights.unsqueeze(-1) + each).logsumexp(1).sum(-1)
        return q.log_prob(z) - log_qz, log_qz - log_qz_product, log_qz_product - p.log_prob(z)

    def _log_weights(self, z: Tensor) -> Tensor:
        """log W (B, B), a row for each draw."""
        images, batch = self.dataset_size, len(z)
        if self.sampling == "weighted":
            return z.new_full((batch, batch), -math.log(images * batch))
        own = torch.eye(batch, dtype=torch.bool, device=z.device)
        others = math.log((images - 1) / (images * max(batch - 1, 1)))
        return z.new_full((batch, batch), others).masked_fill(own, -math.log(images))


class InfoVAE:
    """distortion + (1 - alpha) rate + (alpha + lambda - 1) MMD^2(q(z), p(z)) (Zhao et al. 2017, eq. 6; MMD-VAE is alpha=1).

    The squared maximum mean discrepancy compares the batch's draws of z, one an image, with as many draws from the prior.
    It has no unit and depends on the batch, so the loss does; elbo, rate and distortion do not. A prior that can be
    reparameterized (a flow) is trained by both terms, a mixture only by the rate: not at all where alpha = 1.

    Args:
        alpha: at most 1; above 0 the mutual information of x and z is rewarded
        lambda_: weight of the aggregate posterior's divergence from the prior, above 0 and at least 1 - alpha; of use where
            lambda MMD^2 is of the order of the distortion
        kernel: rbf or imq, see `mmd`
        bandwidth: above 0, see `mmd`

    Raises:
        ConfigError: a value is not allowed.
    """

    def __init__(self, alpha: float = 1, lambda_: float = 1000, kernel: str = "rbf", bandwidth: float = 1):
        self.alpha = number("alpha", alpha, -math.inf)
        if alpha > 1:
            raise ConfigError("alpha", alpha, "a number of at most 1")
        self.lambda_ = positive_number("lambda_", lambda_)
        if alpha + lambda_ < 1:
            raise ConfigError("lambda_", lambda_, f"at least 1 - alpha, {1 - alpha:g}: the MMD would be rewarded")
        self.kernel = one_of("kernel", kernel, tuple(KERNELS))
        self.bandwidth = positive_number("bandwidth", bandwidth)

    def __call__(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int = 0) -> Bound:
        z, log_q = rsample_and_log_prob(vae.encode(x, y))  # (B, D), (B,)
        p = vae.prior()
        distortion, rate = -vae.decode(z, y).log_prob(x), log_q - p.log_prob(z)
        drawn = p.rsample((len(z),)) if p.has_rsample else p.sample((len(z),))
        discrepancy = mmd(z, drawn, self.kernel, self.bandwidth)
        loss = distortion + (1 - self.alpha) * rate + (self.alpha + self.lambda_ - 1) * discrepancy
        return Bound(-distortion - rate, rate, distortion, loss)


KERNELS = {
    "rbf": lambda squared, scale: torch.exp(-squared / scale),
    "imq": lambda squared, scale: scale / (scale + squared),
}


def mmd(a: Tensor, b: Tensor, kernel: str, bandwidth: float) -> Tensor:
    """The unbiased estimate of MMD^2 between two samples a (N, D), b (M, D): () (Gretton et al. 2012, eq. 3).

    Kernels of r = |z - z'|, with c = 2 D bandwidth^2: rbf exp(-r^2 / c), and imq c / (c + r^2), whose long tails still pull at
    draws far from the prior (Tolstikhin et al. 2018, section 4). bandwidth=1 fits a standard normal: c is then the mean r^2
    between two of its draws. Unbiased, it can be below 0 where the samples are much alike.
    """
    scale = 2 * a.shape[-1] * bandwidth**2
    k = lambda a, b: KERNELS[kernel]((a.unsqueeze(1) - b).square().sum(-1), scale)
    within = lambda a: (k(a, a).sum() - len(a)) / max(len(a) * (len(a) - 1), 1)  # without the N pairs (z, z), where k = 1
    return within(a) + within(b) - 2 * k(a, b).mean()


def factorizes(distribution: Distribution) -> bool:
    """Whether it is written as a product over the dimensions of z: Independent, of densities of one number each."""
    return isinstance(distribution, Independent) and distribution.base_dist.event_shape == ()
