"""How near reconstructions are to their images, pixel by pixel and in structure."""

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 11, 1.5  # pixels
K1, K2 = 0.01, 0.03
EXACT = 1e-10  # a mean squared error below counts as this, 100 dB: an exact copy would have infinitely many


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """The peak signal-to-noise ratio of images y to x, both (N, C, H, W) in [0, 1]: (N,) in dB, at most 100.

    10 log10(1 / MSE), the mean over all colour values of an image.
    """
    return -10 * (x - y).square().flatten(1).mean(1).clamp(min=EXACT).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor | None:
    """The structural similarity of images, both (N, C, H, W) in [0, 1]: (N,), 1 for equal ones (Wang et al. 2004).

    Means, variances and the covariance are taken in windows of 11x11 that lie within the image, weighted by a Gaussian
    of standard deviation 1.5; then the mean over windows and channels. None for images that are smaller than a window.
    """
    if min(x.shape[2:]) < WINDOW:
        return None
    offsets = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = (-(offsets**2) / (2 * SIGMA**2)).exp()
    weights = weights / weights.sum()

    def local(values: Tensor) -> Tensor:
        rows = F.conv2d(values.flatten(0, 1)[:, None], weights[None, None, :, None])
        return F.conv2d(rows, weights[None, None, None]).unflatten(0, x.shape[:2])  # (N, C, 1, H - 10, W - 10)

    mean_x, mean_y = local(x), local(y)
    var_x, var_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    covariance = local(x * y) - mean_x * mean_y
    c1, c2 = K1**2, K2**2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similar / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).flatten(1).mean(1)
