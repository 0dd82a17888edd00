"""The usual PyTorch script."""

import sys

import torch

from benchmarks.peers.usual import UsualVAE, loader
from benchmarks.turns import Turns


def main(images: str, batch_size: str = "32") -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batches = loader(images, int(batch_size))
    vae = UsualVAE().to(device)
    optimizer = torch.optim.Adam(vae.parameters(), 1e-4)
    turns = Turns(len(batches))
    while True:
        turns.wait()
        for x, _ in batches:
            loss = vae(x.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main(*sys.argv[1:])
