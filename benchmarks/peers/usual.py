"""The tutorial's model as one writes it in PyTorch: modules, torchvision transforms, a DataLoader. Needs no cvae."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms


class Digits(Dataset):
    """As torchvision.datasets.MNIST gives images: one at a time, by way of PIL, through a transform."""

    def __init__(self, file: str) -> None:
        self.images = np.load(file)
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Lambda(binarized)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), 0


def binarized(x: Tensor) -> Tensor:
    return (x > 0.5).float()


def loader(file: str, batch_size: int) -> DataLoader:
    return DataLoader(Digits(file), batch_size, shuffle=True)


def networks(latent_dim: int = 2, first: int = 32, second: int = 64) -> tuple[nn.Module, nn.Module]:
    """x (B, 1, 28, 28) -> mean and log-variance (B, 2 D); z (B, D) -> logits (B, 1, 28, 28)."""
    encoder = nn.Sequential(
        nn.Conv2d(1, first, 3, stride=2), nn.ReLU(),
        nn.Conv2d(first, second, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 6 * second, 2 * latent_dim),
    )  # fmt: skip
    decoder = nn.Sequential(
        nn.Linear(latent_dim, 7 * 7 * 32), nn.ReLU(), nn.Unflatten(1, (32, 7, 7)),
        nn.ConvTranspose2d(32, second, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(second, first, 3, stride=2, padding=1, output_padding=1), nn.ReLU(),
        nn.ConvTranspose2d(first, 1, 3, padding=1),
    )  # fmt: skip
    return encoder, decoder


class UsualVAE(nn.Module):
    """x (B, 1, 28, 28) -> the loss, a mean over images in nats, with the KL in closed form."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        self.encoder, self.decoder = networks(**sizes)

    def forward(self, x: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, 1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        distortion = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        rate = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        return (distortion + rate) / len(x)
