"""Errors for figures and gradients that are not finite."""

import math

from cvae.errors import NotFinite

ADVICE = "Often a smaller optimizer.lr helps."


def in_training(figures: dict[str, float], epoch: int, step: int, learning_rate: float) -> NotFinite:
    """The error of training step `step` of epoch `epoch`, both counted from 1. figures: those that are not finite"""
    said = ", ".join(f"{name} is {value}" for name, value in figures.items())
    if {"rate", "distortion"} <= figures.keys() and step > 1:
        said += f" (all of them: a gradient of step {step - 1} was not finite, or the step too large)"
    return NotFinite(f"training, epoch {epoch}, step {step}, learning rate {learning_rate:g}: {said}. {ADVICE}")


def require_finite(means: dict[str, float], where: str) -> None:
    """Raise NotFinite, naming the figures, unless all are finite."""
    bad = [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]
    if bad:
        raise NotFinite(f"{where}: {', '.join(bad)}. {ADVICE}")
