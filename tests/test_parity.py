"""Four reference systems, computed by TensorFlow, against ours built from the experiment configs of the same names."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, config

from cvae.build import build_vae, make
from cvae.data import Images
from cvae.data.mnist import MNIST

FIXTURES = Path(__file__).parent / "fixtures"
FOLDER = Path(os.environ.get("CVAE_PARITY_DIR", FIXTURES))


@dataclass(frozen=True)
class System:
    """How one system's names and units map to ours. `f` are its values on the first batch."""

    layers: str  # TensorFlow's names of the layers with weights, in our order; a+b: two that are one layer here
    distortion: Callable = lambda f: -f["logpx_z"]  # f -> nats, per image or their mean
    rate: Callable = lambda f: f["logqz_x"] - f["logpz"]
    loss: tuple[float, float] = (1.0, 0.0)  # theirs = loss[0] * ours + loss[1]
    trajectory: float = 1e-5  # relative tolerance of the losses while training with torch's Adam: see test_training_…
    rounding: float = 1e-5  # the same with Keras's Adam, where they differ by rounding alone


SYSTEMS = {
    "tf_tutorial": System("enc_conv1 enc_conv2 enc_dense dec_dense dec_deconv1 dec_deconv2 dec_deconv3"),
    "keras_io": System(
        "enc_conv1 enc_conv2 enc_dense enc_mean+enc_logvar dec_dense dec_deconv1 dec_deconv2 dec_deconv3",
        distortion=lambda f: f["reconstruction"],
        rate=lambda f: f["kl"],
        trajectory=3e-4,
    ),
    "tf_guide": System(  # squared error, a mean over 784 pixels, + KL, a mean over 32 latents
        "enc_dense enc_mean+enc_logvar dec_dense1 dec_dense2",
        distortion=lambda f: 784 / 2 * (f["mse"] + log(2 * pi)),
        rate=lambda f: 32 * f["kl"],
        loss=(2 / 784, -log(2 * pi)),
        trajectory=5e-3,
    ),
    "tfp_layers": System(
        "enc_conv1 enc_conv2 enc_conv3 enc_conv4 enc_conv5 enc_dense "
        "dec_deconv1 dec_deconv2 dec_deconv3 dec_deconv4 dec_deconv5 dec_deconv6 dec_conv",
        # Thirteen layers and a learning rate of 1e-3 amplify rounding: the losses differ by 1.2e-5 at the fifth step.
        trajectory=5e-5,
        rounding=5e-5,
    ),
}

VALUES = {  # fwd/NAME: ours, to an absolute 1e-5
    "params": lambda features, q, z, p: features,
    "mean": lambda features, q, z, p: q.mean,
    "logvar": lambda features, q, z, p: q.variance.log(),
    "scale_tril": lambda features, q, z, p: q.scale_tril,
    "z": lambda features, q, z, p: z,
    "logits": lambda features, q, z, p: p.base_dist.logits.movedim(-3, -1),
    "probs": lambda features, q, z, p: p.mean.movedim(-3, -1),
}
TERMS = {  # nats per image, to a relative 1e-5
    "logpx_z": lambda vae, q, z, p, x: p.log_prob(x),
    "logpz": lambda vae, q, z, p, x: vae.p_z().log_prob(z),
    "logqz_x": lambda vae, q, z, p, x: q.log_prob(z),
}
OF_THE_OBJECTIVE = {"reconstruction", "mse", "kl", "loss"}  # what `System` maps to distortion, rate and loss


@pytest.fixture(scope="module", params=SYSTEMS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def system(name):
    return SYSTEMS[name]


@pytest.fixture(scope="module")
def reference(name):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: value.astype(np.float32) if value.dtype == np.float16 else value for key, value in arrays.items()}


@pytest.fixture(scope="module")
def f(reference):
    return {key.removeprefix("fwd/"): value for key, value in reference.items() if key.startswith("fwd/")}


@pytest.fixture(scope="module")
def cfg(name):
    return config(f"experiment={name}")


@pytest.fixture
def vae(cfg, system, reference):
    """Our model with TensorFlow's weights before the first step."""
    vae = build_vae(cfg)
    with torch.no_grad():
        for names, kind, parameter in named_parameters(vae, system):
            parameter.copy_(to_torch([reference[f"w0/{name}/{kind}"] for name in names]))
    return vae


def named_parameters(vae, system):
    """(TensorFlow's layers, "kernel" or "bias", our parameter)."""
    layers = [layer for part in (vae.encoder, vae.decoder) for layer in part if hasattr(layer, "weight")]
    for names, layer in zip(system.layers.split(), layers, strict=True):
        yield names.split("+"), "kernel", layer.weight
        yield names.split("+"), "bias", layer.bias


def to_torch(arrays):
    """Arrays of one layer, or of several side by side, from TensorFlow's layout to torch's.

    Kernels (h, w, in, out) -> (out, in, h, w), and transposed ones alike; dense ones (in, out) -> (out, in).
    """
    array = np.concatenate(arrays, -1)
    return torch.from_numpy(np.transpose(array, {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]).copy())


@pytest.fixture
def noise(monkeypatch):
    """Set the standard-normal numbers that the posterior's rsample draws next."""

    def give(eps):
        def standard_normal(shape, dtype, device):
            return torch.from_numpy(eps).reshape(shape).to(dtype)

        for module in ("normal", "multivariate_normal"):
            monkeypatch.setattr(f"torch.distributions.{module}._standard_normal", standard_normal)

    return give


class Rows:
    """A source of data with the rows `idx` of MNIST's training images, from the fixture, or else from MNIST."""

    def __init__(self, idx):
        with np.load(FIXTURES / "mnist_rows.npz") as fixture:
            rows = {int(row): image for row, image in zip(fixture["idx"], fixture["x"], strict=True)}
        if not set(idx.flat) <= rows.keys():
            rows = MNIST(os.environ.get("CVAE_DATA", ROOT / "data")).load()[0].x[:, 0].numpy()
        x = torch.from_numpy(np.stack([rows[row] for row in idx.flat]))[:, None]
        self.images = Images(x, torch.zeros(len(x), dtype=torch.long))

    def load(self):
        return self.images, Images(self.images.x[:1], self.images.y[:1])


def batches_of_data(cfg, reference):
    """The training images of each step, binarized or not, as the experiment's data config has it."""
    idx = reference["idx"]
    data = make(cfg, "data", source=lambda root: Rows(idx))
    data.setup()
    for step in range(len(idx)):
        rows = range(step * idx.shape[1], (step + 1) * idx.shape[1])
        yield data.as_seen(data.train.__getitems__(list(rows)))[0]


def batches(cfg, reference):
    """The batches to train on: TensorFlow's own where it drew them at random."""
    if "x" in reference:
        return [torch.from_numpy(x).float().movedim(-1, -3) for x in reference["x"]]
    return list(batches_of_data(cfg, reference))


def close(ours, theirs, relative=0.0, absolute=0.0, what=""):
    ours = ours.detach().numpy() if torch.is_tensor(ours) else ours
    np.testing.assert_allclose(ours, theirs, rtol=relative, atol=absolute, err_msg=what)


def test_data_are_what_tensorflow_saw(cfg, reference):
    ours = next(batches_of_data(cfg, reference))
    if "x0" in reference:
        close(ours.flatten(), reference["x0"].ravel(), absolute=1e-7)
    else:  # binarized at random: alike where the grey level leaves no choice, drawn anew elsewhere, and about as light
        theirs, grey = batches(cfg, reference)[0], Rows(reference["idx"][0]).images.x
        certain = (grey == 0) | (grey == 255)
        assert torch.equal(ours[certain], theirs[certain])
        again = next(batches_of_data(cfg, reference))
        assert torch.equal(ours[certain], again[certain]) and not torch.equal(ours, again)
        assert ours.unique().tolist() == [0, 1]
        assert abs(ours[~certain].mean() - theirs[~certain].mean()) < 0.1


def test_forward_values_and_terms(cfg, vae, reference, f, noise):
    assert f.keys() <= VALUES.keys() | TERMS.keys() | OF_THE_OBJECTIVE
    x = batches(cfg, reference)[0]
    features = vae.encoder(x)
    q = vae.encode(x)
    noise(reference["eps"][0])
    z = q.rsample()
    p = vae.decode(z)
    for key in VALUES.keys() & f.keys():
        close(VALUES[key](features, q, z, p).reshape(f[key].shape), f[key], absolute=1e-5, what=key)
    for key in TERMS.keys() & f.keys():
        close(TERMS[key](vae, q, z, p, x), f[key], relative=1e-5, what=key)


def test_objective_and_gradients(cfg, vae, system, reference, f, noise):
    noise(reference["eps"][0])
    bound = make(cfg, "objective")(vae, batches(cfg, reference)[0])
    for ours, theirs in ((bound.distortion, system.distortion(f)), (bound.rate, system.rate(f))):
        close(ours if theirs.ndim else ours.mean(), theirs, relative=1e-5, absolute=1e-5)
    scale, shift = system.loss
    loss = scale * bound.loss.mean() + shift
    close(loss, f["loss"], relative=1e-5)
    loss.backward()
    for names, kind, parameter in named_parameters(vae, system):
        grad = parameter.grad
        if f"grad/{names[0]}/{kind}" in reference:
            expected = to_torch([reference[f"grad/{name}/{kind}"] for name in names])
            error = (grad - expected).norm() / expected.norm()
        else:
            expected = sqrt(sum(reference[f"gradnorm/{name}/{kind}"] ** 2 for name in names))
            error = abs(grad.norm() / expected - 1)
        assert error < 1e-4, f"gradient of {kind} of {names} is off by {error:.1e} of its norm"


@pytest.mark.parametrize("adam", ["torch", "keras"])
def test_training_follows_tensorflow(cfg, vae, system, reference, noise, adam):
    """The experiment's optimizer on TensorFlow's batches and noise.

    Keras leaves Adam's epsilon out of the bias correction (Kingma and Ba's epsilon-hat), torch does not. With its
    epsilon put there, our losses and weights are TensorFlow's up to rounding. With torch's own they part where
    gradients are tiny: by 2e-4 in keras_io, by 4e-3 in tf_guide.
    """
    optimizer, objective = make(cfg, "optimizer")(vae.parameters()), make(cfg, "objective")
    (group,), epsilon = optimizer.param_groups, cfg.optimizer.eps
    losses = []
    for step, (x, eps) in enumerate(zip(batches(cfg, reference), reference["eps"], strict=True), start=1):
        noise(eps)
        loss = objective(vae, x).loss.mean()
        optimizer.zero_grad()
        loss.backward()
        if adam == "keras":
            group["eps"] = epsilon / sqrt(1 - group["betas"][1] ** step)
        optimizer.step()
        losses.append(system.loss[0] * loss.item() + system.loss[1])
    close(np.array(losses), reference["losses"], relative=system.rounding if adam == "keras" else system.trajectory)
    if adam == "torch":
        return
    for names, kind, parameter in named_parameters(vae, system):
        if f"w20/{names[0]}/{kind}" in reference:
            drift = (
                parameter - to_torch([reference[f"w20/{name}/{kind}"] for name in names])
            ).norm() / parameter.norm()
        else:
            drift = abs(parameter.norm() / sqrt(sum(reference[f"wend_norm/{name}/{kind}"] ** 2 for name in names)) - 1)
        assert drift < 1e-3, f"{kind} of {names} is off by {drift:.1e} of its norm after the last step"
