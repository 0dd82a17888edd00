"""Train a VAE: python train.py [GROUP=NAME] [KEY=VALUE] … (python train.py --help lists them)."""

import sys

from cvae.cli.train import main

if __name__ == "__main__":
    main(sys.argv[1:])
