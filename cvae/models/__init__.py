"""Models: the contract (Trace), the VAE, the one with several groups of latents, and ways through the latent space.

Examples:
    >>> import torch
    >>> from cvae.likelihoods import Bernoulli
    >>> from cvae.networks import mlp
    >>> from cvae.posteriors import DiagonalGaussian
    >>> from cvae.priors import StandardNormal
    >>> encoder, decoder = mlp((1, 8, 8), latent_dim=2, num_features=4, num_params=1)
    >>> vae = VAE(encoder, DiagonalGaussian(2), StandardNormal(2), decoder, Bernoulli((1, 8, 8)))
    >>> x = torch.rand(5, 1, 8, 8).round()
    >>> trace = vae(x, samples=3)  # 3 draws of z for each of 5 images
    >>> [latent.z.shape for latent in trace.latents], trace.px.log_prob(x).shape
    ([torch.Size([3, 5, 2])], torch.Size([3, 5]))
    >>> vae.encode(x).mean.shape, vae.sample(4).shape, vae.reconstruct(x).shape
    (torch.Size([5, 2]), torch.Size([4, 1, 8, 8]), torch.Size([5, 1, 8, 8]))
"""

from cvae.models.trace import Latent, Trace
from cvae.models.vae import VAE

__all__ = ["VAE", "Latent", "Trace"]
