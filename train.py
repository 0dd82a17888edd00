"""Train a VAE: python train.py [GROUP=NAME] [KEY=VALUE] … (python train.py --help lists them)."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from cvae.cli.hydra_callbacks import save_config
from cvae.cli.messages import find_own_parts, readable_errors
from cvae.cli.resume import resume, run_to_resume, words_of_sweep
from cvae.runs.directory import Run

CONF = Path(__file__).parent / "conf"


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    find_own_parts()
    run = Run(cfg.run_dir)
    save_config(run, cfg)
    if (result := run.result()) is not None:  # a member of a sweep that goes on
        return result
    from cvae.training.train import train  # torch takes seconds to import: not for --help or a misspelt key

    return train(cfg, resume=run.began())


if __name__ == "__main__":
    with readable_errors():
        sys.argv[1:] = words_of_sweep(sys.argv[1:])
        if stopped := run_to_resume(sys.argv[1:]):
            resume(*stopped, CONF)
        else:
            main()
