"""Distortion, a perceptual distance and a critic of patches: each part by value, and who learns from which."""

import pytest
import torch
import torch.nn.functional as F
from conftest import config
from linear_vaes import call, gradients
from torch import nn
from torchvision.models.vgg import cfgs, make_layers
from vgg import checksum, vgg_file, vgg_words

from cvae.build import make
from cvae.errors import ConfigError
from cvae.likelihoods import Gaussian
from cvae.models.vae import VAE
from cvae.objectives import ELBO, PerceptualGAN
from cvae.objectives.perceptual import Perceptual
from cvae.posteriors import DiagonalGaussian
from cvae.priors import StandardNormal
from cvae.runs.vgg import vgg16

SHAPE, D = (1, 16, 16), 3


def small(**values):
    options = {"width": 2, "layers": 2, "start": 5} | values
    return PerceptualGAN(SHAPE, vgg16(str(vgg_file())), **options)


def a_vae():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 2 * D))
    decoder = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, 256), nn.Unflatten(1, SHAPE))
    return VAE(encoder, DiagonalGaussian(D), StandardNormal(D), decoder, Gaussian(SHAPE))


def by_hand(objective, vae, x):
    """(perceptual, fooled, told apart) of the first draw."""
    torch.manual_seed(1)
    shown = vae(x).px.mean[0]
    layers = make_layers(cfgs["D"])
    layers.load_state_dict({name[9:]: part for name, part in torch.load(vgg_file()).items()})
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    a, b, distance = *((images.repeat(1, 3, 1, 1) - mean) / std for images in (x, shown)), 0
    for number, layer in enumerate(layers[:30]):
        a, b = layer(a.clone()), layer(b.clone())
        if number in (3, 8, 15, 22, 29):
            distance = distance + (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
    true, made = (objective.critic.layers(2 * images - 1).flatten(1) for images in (x, shown))
    return distance, -made.mean(1), (F.relu(1 - true) + F.relu(1 + made)).mean(1) / 2


def test_terms_by_hand():
    vae, x, objective = a_vae(), torch.rand(4, *SHAPE), small(perceptual=0.5, weight=0.7, beta=0.1)
    terms, elbo = call(objective, vae, x, step=5), call(ELBO(), vae, x)
    distance, fooled, told_apart = by_hand(objective, vae, x)
    torch.testing.assert_close(terms.parts["perceptual"], distance)
    torch.testing.assert_close(terms.parts["fooled"], fooled)
    torch.testing.assert_close(terms.parts["critic"], told_apart)
    described, last = elbo.distortion + 0.5 * 256 * distance, vae.decoder[2].weight
    pulls = [
        torch.autograd.grad(term.mean(), last, retain_graph=True)[0].norm()
        for term in (-elbo.elbo * 0 + described, fooled)
    ]
    torch.testing.assert_close(terms.parts["adaptive_weight"], (pulls[0] / (pulls[1] + 1e-4)).expand(4))
    adaptive = terms.parts["adaptive_weight"].detach()
    expected = described + 0.1 * elbo.rate + 0.7 * adaptive * fooled + told_apart
    torch.testing.assert_close(terms.loss, expected)
    torch.testing.assert_close(terms.elbo, elbo.elbo)
    before = call(objective, vae, x, step=torch.tensor(4))
    torch.testing.assert_close(before.loss, described + 0.1 * elbo.rate + told_apart)  # the critic learns alone
    with torch.no_grad():
        assert call(objective, vae, x, step=5).parts["adaptive_weight"].tolist() == [1] * 4


def test_the_adaptive_weight_has_an_end():
    vae, x, objective = a_vae(), torch.rand(4, *SHAPE), small()
    for part in objective.critic.parameters():
        part.data.zero_()  # it says the same of all images, so that nothing is pulled by it
    assert call(objective, vae, x, step=9).parts["adaptive_weight"].tolist() == [1e4] * 4


def test_the_layers_that_are_compared():
    """After the rectifiers 3, 8, 15, 22 and 29, each of which follows a convolution."""
    torch.manual_seed(0)
    layers = [nn.Identity() for _ in range(31)]
    for inputs, number in zip((3, 32, 32, 32, 32), (3, 8, 15, 22, 29), strict=True):
        layers[number - 1 : number + 1] = nn.Conv2d(inputs, 32, 1, bias=False), nn.ReLU(inplace=True)
        nn.init.orthogonal_(layers[number - 1].weight, 1.4)
    a, b = torch.rand(2, 4, 3, 5, 6)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, expected = (torch.cat([a, b]) - mean) / std, 0
    for number, layer in enumerate(layers[:30]):
        x = layer(x.clone())
        if number in (3, 8, 15, 22, 29):
            one, two = F.normalize(x, dim=1).chunk(2)
            expected = expected + (one - two).square().sum(1).mean((1, 2))
            assert (one - two).abs().max() > 0.1
    torch.testing.assert_close(Perceptual(nn.Sequential(*layers))(a, b), expected)


def test_model_and_critic_learn_apart():
    vae, x, objective = a_vae(), torch.rand(4, *SHAPE), small()
    parameters = list(vae.parameters())
    ours = gradients(vae, call(objective, vae, x, step=9).loss.mean(), parameters)
    of_critic = [p.grad.clone() for p in objective.parameters()]
    objective.requires_grad_(False)
    torch.testing.assert_close(ours, gradients(vae, call(objective, vae, x, step=9).loss.mean(), parameters))
    early = gradients(vae, call(objective, vae, x, step=4).loss.mean(), parameters)
    assert (ours[-1] - early[-1]).abs().max() > 1e-5
    objective.requires_grad_(True)
    term = call(objective, vae, x).parts["critic"].mean()
    of_model = torch.autograd.grad(term, parameters, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in of_model)  # the model learns nothing from the critic's term
    torch.testing.assert_close(of_critic, list(torch.autograd.grad(term, list(objective.parameters()))))


def test_vgg_does_not_learn_and_is_in_no_checkpoint():
    objective = small()
    assert all(name.startswith("critic.") for name in objective.state_dict())
    assert all(name.startswith("critic.") for name, _ in objective.named_parameters())
    distance, x = Perceptual(vgg16(str(vgg_file()))), torch.rand(2, 3, 20, 24)
    assert distance(x, x).tolist() == [0, 0] and (distance(x, 1 - x) > 0).all()


def test_the_words_of_a_config_make_it():
    objective = make(config("objective=perceptual_gan", *vgg_words(), "data.image_shape=[1,16,16]"), "objective")
    assert type(objective) is PerceptualGAN and objective.start == 10000
    with pytest.raises(ConfigError, match="^objective.features.weights=None: must be a file with the weights of tor"):
        make(config("objective=perceptual_gan"), "objective")


def test_the_weights_are_a_file_that_the_user_has(tmp_path):
    for weights in (None, str(tmp_path / "none.pth")):
        with pytest.raises(ConfigError, match=r"^weights=.*must be a file .*VGG16.*: none is fetched$"):
            vgg16(weights)
    (other := tmp_path / "other.pth").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=r"^weights=.*other.pth: must be a file"):
        vgg16(str(other))
    vgg16(str(vgg_file()), checksum()[:8])
    with pytest.raises(
        ConfigError, match=f"^sha256=397923af: must be what the SHA-256 of .* begins with, {checksum()[:8]}"
    ):
        vgg16(str(vgg_file()), "397923af")
    for key, value in (("beta", -1), ("perceptual", -1), ("weight", -1), ("start", -1), ("width", 0), ("layers", 3)):
        with pytest.raises(ConfigError, match=f"^{key}={value}: must be"):
            small(**{key: value})
    for shape in ([2, 16, 16], [1, 16, 15]):
        with pytest.raises(ConfigError, match="^image_shape=.*: must be 1 or 3 channels of at least 16 pixels"):
            PerceptualGAN(shape, nn.Identity())
