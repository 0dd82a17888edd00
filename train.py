"""Train a VAE: python train.py [GROUP=NAME] [KEY=VALUE] … (python train.py --help lists them)."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from cvae.cli import find_own_parts, readable_errors
from cvae.resume import resume, run_to_resume

CONF = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    find_own_parts()
    from cvae.training.train import train  # torch takes seconds to import: not for --help or a misspelt key

    return train(cfg)


if __name__ == "__main__":
    with readable_errors():
        if stopped := run_to_resume(sys.argv[1:]):
            resume(*stopped, CONF)
        else:
            main()
