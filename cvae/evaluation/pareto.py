"""Pareto k-hat: the tail of the importance weights."""

import importlib.util

import numpy as np
import torch
from torch import Tensor

LEAST = 25  # samples: the tail that is fitted is then of 5
HIGH = 0.7  # k-hat, above which no estimate can be relied on, from however many samples


def can_fit() -> bool:
    """Whether the package that fits the tail is there: `pip install -e '.[psis]'`."""
    return importlib.util.find_spec("arviz_stats") is not None


def pareto_k(log_w: Tensor) -> Tensor:
    """Pareto k-hat of importance weights (Vehtari et al. 2024, "Pareto smoothed importance sampling").

    It is the shape of the generalized Pareto distribution that is fitted to an image's largest weights: the largest
    fifth of up to 225 samples S, else 3 sqrt(S) of them. Above 0.5 their variance is infinite; above `highest` their
    mean is no estimate to rely on.

    log_w: (K, B) float64 on the CPU, K samples for each of B images.

    Returns:
        (B,) float64; NaN without arviz-stats, for fewer than 25 samples, and where the largest weights are equal
    """
    k = torch.full(log_w.shape[1:], torch.nan, dtype=torch.float64)
    if len(log_w) < LEAST or not can_fit():
        return k
    from arviz_stats.base import array_stats

    with np.errstate(all="ignore"):  # nearly equal weights make it divide by 0
        for image, own in enumerate(log_w.T.numpy()):
            try:
                k[image] = float(array_stats.psislw(-own)[1])  # it takes the logarithm of 1/w
            except ValueError:  # all of the largest are the same
                continue
    return k


def highest(samples: Tensor) -> Tensor:
    """The Pareto k-hat up to which an estimate from so many samples can be relied on: min(1 - 1 / log10 S, 0.7).

    Source: Vehtari et al. 2024, section 3.2.4.
    """
    return (1 - 1 / samples.cpu().double().log10()).clamp(max=HIGH)
