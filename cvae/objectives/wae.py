"""The Wasserstein autoencoder."""

from torch import Tensor

from cvae.checks import one_of, positive_number
from cvae.distributions import Unknown
from cvae.errors import ConfigError
from cvae.models.vae import VAE
from cvae.objectives.infovae import KERNELS, draws, mmd
from cvae.objectives.terms import Objective, Terms, only_group, penalized


class WAE(Objective):
    """distortion + lambda MMD^2(q(z), p(z)): the WAE-MMD with a deterministic encoder (Tolstikhin et al. 2018).

    The squared maximum mean discrepancy compares the batch's codes with as many draws from the prior; a batch of one
    image goes without it. It has no unit and depends on the batch, so the loss does.

    Args:
        lambda_: weight of the discrepancy, above 0; useful if lambda MMD^2 is of the order of the distortion
        kernel: imq or rbf, see `mmd`
        bandwidth: above 0, see `mmd`

    Raises:
        ConfigError: a value is not allowed; at the first call, there is no prior, or there are several groups of
            latents.
    """

    deterministic = True

    def __init__(self, lambda_: float = 1000, kernel: str = "imq", bandwidth: float = 1) -> None:
        super().__init__()
        self.lambda_ = positive_number("lambda_", lambda_)
        self.kernel = one_of("kernel", kernel, tuple(KERNELS))
        self.bandwidth = positive_number("bandwidth", bandwidth)

    def forward(self, vae: VAE, x: Tensor, y: Tensor | None = None, step: int | Tensor = 0) -> Terms:
        trace = vae(x, y)
        latent = only_group(trace, "wae")
        if isinstance(latent.p, Unknown):
            allowed = "autoencoder or rae with prior=none: wae draws the codes to the prior"
            raise ConfigError("objective", "wae", allowed)
        z, distortion = latent.z[0], -trace.px.log_prob(x)[0]
        if len(z) > 1:
            discrepancy = mmd(z, draws(latent.p, len(z)), self.kernel, self.bandwidth)
        else:
            discrepancy = z.new_zeros(())
        parts = {"mmd": discrepancy.expand_as(distortion), **trace.penalties}
        return Terms(penalized(distortion + self.lambda_ * discrepancy, trace), None, None, distortion, parts)
