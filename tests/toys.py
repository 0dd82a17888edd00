"""Models of other kinds, small enough that log p(x) is known: objectives and evaluation must be right for them."""

import torch
from torch import nn
from torch.distributions import MultivariateNormal, OneHotCategorical

from cvae.likelihoods import Bernoulli, Gaussian
from cvae.models.trace import Latent, Trace
from cvae.models.vae import VAE
from cvae.posteriors import Posterior

F64 = torch.float64


def parameter(*shape):
    return nn.Parameter(torch.randn(*shape, dtype=F64))


def eye(size):
    return torch.eye(size, dtype=F64)


class TwoGroups(nn.Module):
    """z2 ~ N(0, I), z1 ~ N(A z2, I/4), x ~ N(W z1, I/4) of shape (1, 2, 3).

    q is the exact posterior, or widened by a factor. The top group has 2 latents, the lower one 3.
    """

    num_classes = 0

    def __init__(self, widen=1.0):
        super().__init__()
        self.A, self.W, self.widen = parameter(3, 2), parameter(6, 3), widen
        self.shift = nn.Parameter(torch.zeros(2, dtype=F64))  # of q(z2|x): a parameter of the encoder's alone
        self.likelihood = Gaussian((1, 2, 3), 0.5)

    def labels(self, y):
        return None

    def q2(self, x, A, W, shift):
        """q(z2|x), batch (B,)"""
        of_x = torch.linalg.inv(W @ W.T / 4 + eye(6) / 4)  # the precision of x given z2
        covariance = torch.linalg.inv(eye(2) + A.T @ W.T @ of_x @ W @ A)
        return MultivariateNormal(x @ of_x @ W @ A @ covariance + shift, covariance * self.widen**2)

    def q1(self, x, z2, A, W):
        """q(z1|z2, x), batch (K, B)"""
        covariance = torch.linalg.inv(4 * eye(3) + 4 * W.T @ W)
        return MultivariateNormal((4 * z2 @ A.T + 4 * x @ W) @ covariance, covariance * self.widen**2)

    def forward(self, x, y=None, samples=1, score=True):
        A, W, shift, x = self.A, self.W, self.shift, x.flatten(1)
        q2 = self.q2(x, A, W, shift)
        z2 = q2.rsample((samples,))
        q1 = self.q1(x, z2, A, W)
        z1 = q1.rsample()
        p2, p1 = MultivariateNormal(torch.zeros(2, dtype=F64), eye(2)), MultivariateNormal(z2 @ A.T, eye(3) / 4)
        if score:
            log_q2, log_q1 = q2.log_prob(z2), q1.log_prob(z1)
        else:  # no gradient for what makes q, all of it for the draws, z2 on which q1 depends among them
            A, W, shift = A.detach(), W.detach(), shift.detach()
            log_q2, log_q1 = self.q2(x, A, W, shift).log_prob(z2), self.q1(x, z2, A, W).log_prob(z1)
        latents = (Latent(z2, log_q2, p2.log_prob(z2), q2, p2), Latent(z1, log_q1, p1.log_prob(z1), q1, p1))
        return Trace(latents, self.likelihood((z1 @ self.W.T).unflatten(-1, (1, 2, 3))), {})

    def log_evidence(self, x):
        """log p(x) (B,): x is N(0, W (A A^T + I/4) W^T + I/4)."""
        inner = self.A @ self.A.T + eye(3) / 4
        covariance = self.W @ inner @ self.W.T + eye(6) / 4
        return MultivariateNormal(torch.zeros(6, dtype=F64), covariance).log_prob(x.flatten(1))


class Codes(Posterior):
    """features (B, F) -> a one-hot code of F: a distribution without rsample."""

    def forward(self, features):
        return OneHotCategorical(logits=features)


class CodePrior(nn.Module):
    def __init__(self, codes):
        super().__init__()
        self.logits = parameter(codes)

    def forward(self, encode=None):
        return OneHotCategorical(logits=self.logits)


def categorical_vae(codes=4):
    """Binary images (1, 2, 2) from one of a few codes: the sums over all codes are known."""
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(4, codes))
    decoder = nn.Sequential(nn.Linear(codes, 4), nn.Unflatten(1, (1, 2, 2)))
    return VAE(encoder, Codes(), CodePrior(codes), decoder, Bernoulli((1, 2, 2))).double()


def joint(vae, x):
    """log p(x, z) (codes, B) of every code, and log q(z|x) (codes, B)."""
    codes = torch.eye(vae.prior.logits.numel(), dtype=F64)
    z = codes[:, None].expand(-1, len(x), -1)
    return vae.decode(z).log_prob(x) + vae.p_z().log_prob(z), vae.encode(x).log_prob(z)


class Committed(nn.Module):
    """A model whose posterior has a penalty, as a codebook's commitment is."""

    num_classes = 0

    def __init__(self, vae):
        super().__init__()
        self.vae, self.likelihood = vae, vae.likelihood

    def forward(self, x, y=None, samples=1, score=True):
        trace = self.vae(x, y, samples, score)
        return trace._replace(penalties={"commitment": self.vae.encoder(x).square().sum(-1)})
