"""PSNR and SSIM, by hand and against torchmetrics."""

import pytest
import torch

from cvae.evaluation.pixels import psnr, ssim


def images(count=5, channels=1, side=20, seed=0):
    return torch.rand(count, channels, side, side + 3, generator=torch.Generator().manual_seed(seed))


def test_psnr_of_a_known_error():
    x = torch.full((3, 2, 4, 4), 0.5)
    y = x + torch.tensor([0.1, 0.01, 0.0])[:, None, None, None]
    assert psnr(x, y).tolist() == pytest.approx([20, 40, 100], abs=1e-3)


def test_psnr_is_a_mean_over_all_values_of_an_image():
    x = torch.zeros(1, 3, 4, 4)
    y = x.clone()
    y[0, 1, 2, 3] = 1
    assert psnr(x, y).item() == pytest.approx(10 * torch.tensor(48.0).log10().item())


def test_psnr_is_that_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    x, y = images(), images(seed=1)
    for one, two, found in zip(x, y, psnr(x, y), strict=True):
        expected = functional.peak_signal_noise_ratio(two, one, data_range=1.0)
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_that_of_torchmetrics(channels):
    functional = pytest.importorskip("torchmetrics.functional.image")
    x = images(channels=channels)
    y = 0.7 * x + 0.3 * images(channels=channels, seed=1)
    options = {"gaussian_kernel": True, "sigma": 1.5, "data_range": 1.0, "reduction": "none"}
    _, everywhere = functional.structural_similarity_index_measure(y, x, return_full_image=True, **options)
    expected = everywhere[..., 5:-5, 5:-5].flatten(1).mean(1)  # its own mean has windows over the edges, mirrored
    assert torch.allclose(ssim(x, y), expected, atol=1e-5) and 0.1 < ssim(x, y).mean() < 0.95


def test_ssim_of_constant_images():
    """Without variance the means alone: (2ab + c) / (a² + b² + c)."""
    a, b, c = 0.8, 0.4, 0.01**2
    found = ssim(torch.full((2, 1, 12, 12), a), torch.full((2, 1, 12, 12), b))
    assert found.tolist() == pytest.approx([(2 * a * b + c) / (a**2 + b**2 + c)] * 2, rel=1e-4)


def test_ssim_of_equal_images_is_1_and_of_small_ones_none():
    x = images()
    assert torch.allclose(ssim(x, x), torch.ones(5))
    assert ssim(images(side=10), images(side=10)) is None and ssim(images(side=11), images(side=11)) is not None
