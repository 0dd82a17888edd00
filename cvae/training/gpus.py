"""Runs of a sweep at the same time: a GPU each."""

import itertools
import socket
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from cvae.runs.storage import lock


def devices(trainer: DictConfig) -> Any:
    """The trainer.devices for Lightning. A run of a sweep that wants one of several GPUs gets one of its own.

    If more runs than GPUs train at once, they share the GPUs evenly. Other values stay as they are.
    """
    of_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    if not of_sweep or not on_gpu or trainer.devices != 1 or (count := torch.cuda.device_count()) < 2:
        return trainer.devices
    return [claimed(Path(HydraConfig.get().sweep.dir) / ".gpus", count)]


def claimed(folder: Path, count: int) -> int:
    """Claim one of `count` GPUs, the one with the fewest processes, until this process ends; returns its number.

    A claim is a lock on a file in `folder`, which all these processes see.
    """
    folder.mkdir(exist_ok=True)
    free = (
        number
        for turn in itertools.count()
        for number in range(count)
        if lock(folder / f"{socket.gethostname()}_{number}_{turn}")
    )
    return next(free)
