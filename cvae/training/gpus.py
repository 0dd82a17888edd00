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
    """What trainer.devices is for Lightning: for a run of a sweep that is to have one of several GPUs, one of its own.

    Where there are more runs at once than GPUs, they share them evenly. Other values stay as they are.
    """
    of_sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    if not of_sweep or not on_gpu or trainer.devices != 1 or (count := torch.cuda.device_count()) < 2:
        return trainer.devices
    return [claimed(Path(HydraConfig.get().sweep.dir) / ".gpus", count)]


def claimed(folder: Path, count: int) -> int:
    """The number of a GPU that the fewest other processes have, of `count`; this process keeps it until it ends.

    The claims are locks on files in `folder`, which all these processes see.
    """
    folder.mkdir(exist_ok=True)
    free = (
        number
        for turn in itertools.count()
        for number in range(count)
        if lock(folder / f"{socket.gethostname()}_{number}_{turn}")
    )
    return next(free)
