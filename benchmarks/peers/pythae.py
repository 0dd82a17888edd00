"""pythae 0.1.2: its VAE with the tutorial's networks, its training pipeline, its importance sampling."""

import sys
import tempfile

import numpy as np
import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.pipelines import TrainingPipeline
from pythae.trainers import BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor

from benchmarks.peers.usual import networks
from benchmarks.turns import Turns


class Encoder(BaseEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.layers = networks()[0]

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.layers(x).chunk(2, 1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self) -> None:
        super().__init__()
        self.layers = networks()[1]

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=self.layers(z).sigmoid())


class Pace(TrainingCallback):
    """One epoch a turn."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.turns = Turns(steps)

    def on_epoch_begin(self, training_config: BaseTrainerConfig, **_: object) -> None:
        self.turns.wait()


def train(vae: VAE, x: Tensor, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=100_000, learning_rate=1e-4,
            per_device_train_batch_size=batch_size, per_device_eval_batch_size=batch_size,
        )  # fmt: skip
        pace = Pace(-(-len(x) // batch_size))
        TrainingPipeline(vae, config)(BaseDataset(x, torch.zeros(len(x))), callbacks=[pace])


def measure(vae: VAE, x: Tensor) -> None:
    """-log p(x) of all images; a turn asks for so many samples, a multiple of 100."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae, x, turns = vae.to(device).eval(), x.to(device), Turns()
    while True:
        samples = int(turns.wait())
        with torch.no_grad():
            print("nll", -vae.get_nll(x, samples, 100))


def main(images: str, batch_size: str = "32", task: str = "train") -> None:
    x = torch.from_numpy(np.load(images))[:, None].div(255).gt(0.5).float()
    vae = VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=2, reconstruction_loss="bce"), Encoder(), Decoder())
    if task == "nll":
        measure(vae, x)
    train(vae, x, int(batch_size))


if __name__ == "__main__":
    main(*sys.argv[1:])
