"""Exact means over images."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cvae.evaluation.units import code_sums, figures_of_codes
from cvae.models.trace import Trace
from cvae.models.vae import VAE
from cvae.objectives import Terms

SELECTION = "selection/bound"  # what the best checkpoint and a sweeper are chosen by
MINUS_LOSS = "selection/minus_loss"  # the same, of objectives that have no bound
CHOOSING = {"bound": SELECTION, "minus_loss": MINUS_LOSS}  # no curves: they are the ELBO's, or the loss's
SHOWN = ("elbo", "rate", "distortion")  # the figures on a log line and on the progress bar


class Totals:
    """Sums over the images of each batch, and the count of images, on the device: exact means for any batches.

    Batches are added up when a mean is asked for. So a step adds nothing, and the batch that made a figure infinite
    or NaN is known.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.names: tuple[str, ...] = ()
        self.sums: list[Tensor] = []  # (figures,) a batch
        self.count = 0  # images

    def add(self, terms: Terms) -> None:
        """Count the images of a batch; waits for nothing."""
        self.add_sums(*summed(terms), len(terms.loss))

    def add_sums(self, names: tuple[str, ...], sums: Tensor, images: int) -> None:
        """The same, for sums (figures,) over so many images."""
        self.names, self.count = names, self.count + images
        self.sums.append(sums)

    def merge(self, other: "Totals") -> None:
        if other.sums:
            self.add_sums(other.names, other.total(), other.count)

    def total(self) -> Tensor:
        """The sums over all images (figures,)."""
        return torch.stack(self.sums).sum(0)

    def not_finite(self) -> tuple[int, dict[str, float]] | None:
        """The first batch with figures that are not finite, from 0, and those figures; None if all are. Waits.

        The batches after it say nothing: their weights are no longer finite.
        """
        for number, sums in enumerate(torch.stack(self.sums).tolist() if self.sums else []):
            if bad := {name: value for name, value in zip(self.names, sums, strict=True) if not isfinite(value)}:
                return number, bad
        return None

    def means(self) -> dict[str, float]:
        """{"elbo": nats per image, …} of this process; waits for the device."""
        return dict(zip(self.names, (self.total() / self.count).tolist(), strict=True))

    def means_of_all_processes(self) -> dict[str, float]:
        """The means over the images of all processes; every process must call it."""
        if dist.is_available() and dist.is_initialized():
            sums = self.total()
            both = torch.cat([sums, sums.new_tensor([self.count])])
            dist.all_reduce(both)
            self.sums, self.count = [both[:-1]], int(both[-1].item())
        return self.means()

    def state_dict(self) -> dict:
        """All that was counted, in main memory: a process that got it on a GPU would take some of that GPU's."""
        return {"names": list(self.names), "sums": [sums.cpu() for sums in self.sums], "count": self.count}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        self.names, self.count = tuple(state["names"]), state["count"]
        self.sums = [sums.to(device, precise(device)) for sums in state["sums"]]


class CodeCounts:
    """A forward hook that counts how the codes of the top group are used."""

    def __init__(self) -> None:
        self.sums: Any = None  # over the images, a tensor (see `code_sums`) once the model was called

    def __call__(self, vae: VAE, inputs: tuple, trace: Trace) -> None:
        sums = code_sums(trace.latents[0])
        self.sums = sums if self.sums is None else self.sums + sums

    def figures_of_all_processes(self) -> dict[str, float]:
        """`figures_of_codes` over the images of all processes; every process must call it."""
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(self.sums)
        return figures_of_codes(self.sums)


@contextmanager
def counted_codes(vae: VAE) -> Iterator[CodeCounts | None]:
    """The codes that a model uses inside, as they are counted; None of a model without."""
    if vae.posterior.num_codes is None:
        yield None
        return
    codes = CodeCounts()
    hook = vae.register_forward_hook(codes)
    try:
        yield codes
    finally:
        hook.remove()


def summed(terms: Terms) -> tuple[tuple[str, ...], Tensor]:
    """The names of a batch's figures, and their sums over its images in float64 (figures,)."""
    known = {"elbo": terms.elbo, "rate": terms.rate, "distortion": terms.distortion, "loss": terms.loss}
    known |= {"minus_loss": -terms.loss} if terms.bound is None else {"bound": terms.bound}
    figures = {name: figure for name, figure in (known | dict(terms.parts)).items() if figure is not None}
    per_image = torch.stack(list(figures.values())).detach()  # (figures, B)
    return tuple(figures), per_image.sum(1, dtype=precise(per_image.device))


def named(split: str, means: Mapping[str, float]) -> dict[str, float]:
    """Figures by the names of their curves. The bound has none: it is the ELBO, or for IWAE the negative loss."""
    return {f"{split}/{name}": value for name, value in means.items() if name not in CHOOSING}


def of_training(means: dict[str, float], vae: VAE) -> dict[str, float]:
    """Means over training images; of relaxed draws, whose ELBO can lie above log p(x), by other names."""
    if not vae.posterior.relaxed:
        return means
    return {name if name == "loss" else f"relaxed_{name}": mean for name, mean in means.items() if name != "bound"}


def selection(means: Mapping[str, float]) -> dict[str, float]:
    """The figure that models are chosen by, under its name: the bound, or minus the loss if there is none."""
    return {CHOOSING[name]: value for name, value in means.items() if name in CHOOSING}


def precise(device: torch.device) -> torch.dtype:
    """The type of the sums: float64, or float32 on MPS, which has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def of_all_processes(own: Any) -> list[Any]:
    """One object of each process, in the order of the processes. Every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
