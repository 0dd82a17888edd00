"""Models: the contract (Trace), the VAE, the one with several groups of latents, and ways through the latent space."""

from cvae.models.trace import Latent, Trace
from cvae.models.vae import VAE

__all__ = ["VAE", "Latent", "Trace"]
