"""The contract of posteriors of codes."""

from abc import abstractmethod

from torch import Tensor
from torch.distributions import Distribution

from cvae.distributions import Codes
from cvae.posteriors.posterior import Posterior


class CodePosterior(Posterior):
    """q(z|x) of M codes with `num_codes` values each, z the vectors that they are written as.

    Features (F,) and z (D,) are maps (F / M, M) and (width, M), flattened: each code has a column. A network that ends
    in a map (H', W') of features, flattened as torch does, has a code, or several, at each of its H' W' places.

    With several quantizers (`cvae.posteriors.VQ`) there are as many codes at each of the M places. Codes are then
    (quantizers M,) and z (quantizers width M,), those of one quantizer after those of the other.

    Args:
        latent_dim: M, how many codes, or places
    """

    num_codes: int
    vectors: Tensor  # (num_codes, width), what each code is written as

    def __init__(self, latent_dim: int, width: int, quantizers: int = 1) -> None:
        super().__init__()
        self.latent_dim, self.width, self.quantizers = latent_dim, width, quantizers
        self.num_features = latent_dim * width

    def write(self, codes: Tensor) -> Tensor:
        """Codes (..., M), integers from 0 to num_codes - 1 -> z (..., D)."""
        return self.vectors[codes].mT.flatten(-2)

    @abstractmethod
    def read(self, z: Tensor) -> Tensor:
        """z (..., D) -> codes (..., M), the inverse of `write`."""

    def p_z(self, p: Distribution) -> Distribution:
        """p(z) from a prior of the codes, event (M,)."""
        dims = self.quantizers * self.latent_dim * self.width
        return Codes(p, self.write, self.read, dims, self.num_codes)

    def columns(self, t: Tensor) -> Tensor:
        """(..., width M) -> (..., M, width): what belongs to each code."""
        return t.unflatten(-1, (self.width, self.latent_dim)).mT
