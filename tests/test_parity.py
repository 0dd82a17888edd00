"""The tutorial's own system, computed by TensorFlow, against ours built from its experiment config."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, config

from cvae.experiment import build_vae, make
from cvae.mnist import MNIST

FOLDER = Path(os.environ.get("CVAE_PARITY_DIR", Path(__file__).parent / "fixtures"))


@pytest.fixture(scope="module")
def reference():
    with np.load(FOLDER / "tf_tutorial.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def cfg():
    return config("experiment=tf_tutorial")


@pytest.fixture
def vae(cfg, reference):
    """Our model with TensorFlow's weights before the first step."""
    vae = build_vae(cfg)
    with torch.no_grad():
        for name, parameter in named_parameters(vae):
            parameter.copy_(to_torch(name, reference[f"w0/{name}"]))
    return vae


def named_parameters(vae):
    """(TensorFlow's name, our parameter): the layers with weights in their order."""
    names = ("enc_conv1", "enc_conv2", "enc_dense", "dec_dense", "dec_deconv1", "dec_deconv2", "dec_deconv3")
    layers = [layer for part in (vae.encoder, vae.decoder) for layer in part if hasattr(layer, "weight")]
    for name, layer in zip(names, layers, strict=True):
        yield f"{name}/kernel", layer.weight
        yield f"{name}/bias", layer.bias


def to_torch(name, array):
    """TensorFlow's layout to torch's: kernels (h, w, in, out) -> (out, in, h, w) or transposed alike; (in, out) -> (out, in)."""
    return torch.from_numpy(np.transpose(array, {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]).copy())


def images(array):
    return torch.from_numpy(array).permute(0, 3, 1, 2)


@pytest.fixture
def noise(monkeypatch):
    """Set the standard-normal numbers that the posterior's rsample draws next."""

    def give(eps):
        def standard_normal(shape, dtype, device):
            return torch.from_numpy(eps).reshape(shape).to(dtype)

        monkeypatch.setattr("torch.distributions.normal._standard_normal", standard_normal)

    return give


def close(ours, theirs, relative):
    """Every value within `relative` of TensorFlow's."""
    ours = ours.detach().numpy() if torch.is_tensor(ours) else ours
    np.testing.assert_allclose(ours, theirs, rtol=relative, atol=0)


def test_forward_terms(vae, reference, noise):
    x = images(reference["x0"])
    q = vae.encode(x)
    noise(reference["eps"][0])
    z = q.rsample()
    p = vae.decode(z)
    np.testing.assert_allclose(q.mean.detach(), reference["fwd/mean"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(q.variance.log().detach(), reference["fwd/logvar"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(z.detach(), reference["fwd/z"], atol=1e-5, rtol=0)
    logits = p.base_dist.logits.detach().permute(0, 2, 3, 1)
    np.testing.assert_allclose(logits, reference["fwd/logits"], atol=1e-5, rtol=0)
    close(p.log_prob(x), reference["fwd/logpx_z"], 1e-5)
    close(vae.prior().log_prob(z), reference["fwd/logpz"], 1e-5)
    close(q.log_prob(z), reference["fwd/logqz_x"], 1e-5)


def test_objective_and_gradients(cfg, vae, reference, noise):
    noise(reference["eps"][0])
    bound = make(cfg, "objective")(vae, images(reference["x0"]))
    close(bound.distortion, -reference["fwd/logpx_z"], 1e-5)
    np.testing.assert_allclose(bound.rate.detach(), reference["fwd/logqz_x"] - reference["fwd/logpz"], rtol=1e-5, atol=1e-5)
    loss = bound.loss.mean()
    close(loss, reference["fwd/loss"], 1e-5)
    loss.backward()
    for name, parameter in named_parameters(vae):
        expected = to_torch(name, reference[f"grad/{name}"])
        error = (parameter.grad - expected).norm() / expected.norm()
        assert error < 1e-4, f"gradient of {name} is off by {error:.1e} of its norm"


def test_training_follows_tensorflow(cfg, vae, reference, noise):
    """20 steps with the experiment's optimizer on TensorFlow's batches and noise."""
    optimizer, objective = make(cfg, "optimizer")(vae.parameters()), make(cfg, "objective")
    losses = []
    for batch, eps in zip(batches(reference), reference["eps"], strict=True):
        noise(eps)
        loss = objective(vae, batch).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    close(np.array(losses), reference["losses"], 1e-5)
    for name, parameter in named_parameters(vae):
        drift = (parameter - to_torch(name, reference[f"w20/{name}"])).norm() / parameter.norm()
        assert drift < 1e-3, f"{name} is off by {drift:.1e} of its norm after the last step"


def batches(reference):
    """The training images of each step, binarized; the fixture's own rows, or MNIST's if other rows are asked for."""
    with np.load(Path(__file__).parent / "fixtures" / "mnist_rows.npz") as fixture:
        rows = {int(row): image for row, image in zip(fixture["idx"], fixture["x"], strict=True)}
    if not set(reference["idx"].flat) <= rows.keys():
        rows = MNIST(os.environ.get("CVAE_DATA", ROOT / "data")).load()[0].x[:, 0].numpy()
    for idx in reference["idx"]:
        x = np.stack([rows[row] for row in idx])
        yield torch.from_numpy(x > 127).float()[:, None]


def test_first_batch_is_what_tensorflow_saw(reference):
    """Static binarization of the rows gives TensorFlow's first batch."""
    torch.testing.assert_close(next(batches(reference)), images(reference["x0"]))
