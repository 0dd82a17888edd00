"""An autoregressive prior of codes."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution
from torch.types import _size

from cvae.checks import positive_int
from cvae.distributions.precision import full_precision
from cvae.errors import ConfigError
from cvae.priors.prior import Prior


class AutoregressiveCodes(Prior):
    """p(c) = prod_m p(c_m | c_1, …, c_{m-1}) over the codes, by a small transformer (Vaswani et al. 2017).

    Codes of a map are in the order of its rows. Position m reads the codes before it, each as a learned vector, and its
    own learned vector. It starts at the uniform prior. `log_prob` takes one network pass over all positions, a draw M
    passes over one position each, which keep their keys and values for the later ones.

    Trained together with the rest, it learns the codes as they are, and the encoder does not learn from it.

    Args:
        hidden: numbers of each vector
        layers: how many, each attention and two dense layers
        heads: of the attention

    Raises:
        ConfigError: one of them is not a positive integer, or `heads` does not divide `hidden`.
    """

    of_codes = True
    mask: Tensor  # (M, M), true where what comes later may not be read

    def __init__(
        self,
        latent_dim: int,
        image_shape: Sequence[int] | None,
        num_codes: int,
        hidden: int = 128,
        layers: int = 2,
        heads: int = 4,
    ):
        super().__init__()
        for key, value in {"hidden": hidden, "layers": layers, "heads": heads}.items():
            positive_int(key, value)
        if hidden % heads:
            raise ConfigError("heads", heads, f"a divisor of hidden, {hidden}")
        self.latent_dim, self.num_codes = latent_dim, num_codes
        self.embedding = nn.Embedding(num_codes + 1, hidden)  # the last one stands before the first code
        self.position = nn.Parameter(0.02 * torch.randn(latent_dim, hidden))
        layer = nn.TransformerEncoderLayer(hidden, heads, 4 * hidden, 0.0, "gelu", batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(hidden), enable_nested_tensor=False)
        self.out = nn.Linear(hidden, num_codes)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        mask = torch.ones(latent_dim, latent_dim, dtype=torch.bool).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, infer: Callable[[Tensor], Distribution] | None = None) -> Distribution:
        return Autoregressive(self.logits, self.next, self.latent_dim, self.mask.device)

    def logits(self, codes: Tensor) -> Tensor:
        """Codes (N, m) -> the logits (N, m + 1, C) of the first m + 1 codes, each given those before it; m < M."""
        start = codes.new_full((len(codes), 1), self.num_codes)
        read = self.embedding(torch.cat([start, codes], 1))  # (N, m + 1, hidden)
        count = read.shape[1]
        # Without is_causal torch would look at the mask, and wait for the device.
        seen = self.layers(read + self.position[:count], self.mask[:count, :count], is_causal=True)
        return full_precision(self.out(seen))

    def next(self, codes: Tensor, past: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Codes (N, m) -> the last of their `logits`, (N, C), and what the code after it will need as `past`.

        Args:
            codes: m < M
            past: each layer's keys and values at the places before, (2, N, heads, m, hidden / heads); None for m = 0
        """
        last = codes[:, -1] if past else codes.new_full((len(codes),), self.num_codes)
        x = (self.embedding(last) + self.position[codes.shape[1]])[:, None]  # (N, 1, hidden)
        kept = []
        for index, layer in enumerate(self.layers.layers):
            attention = layer.self_attn
            projected = F.linear(layer.norm1(x), attention.in_proj_weight, attention.in_proj_bias)
            query, *new = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
            seen = torch.stack(new)
            kept.append(torch.cat([past[index], seen], 3) if past else seen)
            x = x + attention.out_proj(F.scaled_dot_product_attention(query, *kept[-1]).transpose(1, 2).flatten(2))
            x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
        return full_precision(self.out(self.layers.norm(x))[:, 0]), kept  # type: ignore[misc] # torch: may be None


class Autoregressive(Distribution):
    """The distribution of M codes, batch (), event (M,).

    Args:
        logits: codes (N, m) -> (N, m + 1, C), of each code by those before it
        next: codes (N, m) and what it kept at the place before -> the last of these, (N, C), and what it keeps
    """

    arg_constraints = {}

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        next: Callable[[Tensor, list[Tensor] | None], tuple[Tensor, list[Tensor]]],
        codes: int,
        device: torch.device,
    ) -> None:
        super().__init__(event_shape=torch.Size([codes]), validate_args=False)
        self.logits, self.next, self.device = logits, next, device

    def log_prob(self, codes: Tensor) -> Tensor:
        """Codes (..., M), integers -> (...), in nats."""
        rows = codes.reshape(-1, codes.shape[-1])
        each = Categorical(logits=self.logits(rows[:, :-1]), validate_args=False)
        return each.log_prob(rows).sum(-1).reshape(codes.shape[:-1])

    @torch.no_grad()
    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draws (*sample_shape, M): code after code."""
        count = torch.Size(sample_shape).numel()
        codes, past = torch.zeros(count, 0, dtype=torch.long, device=self.device), None
        for _ in range(self.event_shape[0]):
            logits, past = self.next(codes, past)
            codes = torch.cat([codes, Categorical(logits=logits, validate_args=False).sample()[:, None]], 1)
        return codes.reshape(*sample_shape, -1)
