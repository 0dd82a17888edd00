"""The same tests for every likelihood: a new one needs a line in CASES, and a textbook log_prob to compare with.

They run in float64 unless they say otherwise.
"""

import inspect
import io
import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT
from hydra.utils import instantiate
from omegaconf import OmegaConf

from cvae import likelihoods
from cvae.errors import ConfigError
from cvae.likelihoods.scale import bounded

CONF = ROOT / "conf" / "likelihood"


# log p(x|z) as textbooks write it, numerics aside: (params (B, P, H, W), x (B, C, H, W)) -> (B,)


def bernoulli(module, params, x):
    p = params.sigmoid()
    return (x * p.log() + (1 - x) * (1 - p).log()).sum((1, 2, 3))


def gaussian(module, params, x):
    if module.scale == "pixel":
        params, log_scale = params.split(x.shape[1], 1)
    else:
        log_scale = module.log_scale if module.scale == "global" else torch.tensor(module.scale).log()
    if module.scale in ("global", "pixel"):
        log_scale = 7 * torch.tanh(log_scale / 7)
    mean = params if module.mean == "linear" else 1 / (1 + torch.exp(-params))
    return torch.distributions.Normal(mean, log_scale.exp()).log_prob(x).sum((1, 2, 3))


def continuous_bernoulli(module, params, x):
    return torch.distributions.ContinuousBernoulli(logits=params).log_prob(x).sum((1, 2, 3))


def logistic_mass(level, mean, log_scale):
    """For pixels from -1 to 1: the CDF a half level above minus that a half level below, open at 0 and 255."""
    above, below = (
        ((level + half) / 127.5 - 1 - mean) / torch.exp(7 * torch.tanh(log_scale / 7)) for half in (0.5, -0.5)
    )
    above, below = above.where(level < 255, math.inf), below.where(level > 0, -math.inf)
    side = torch.where(above + below > 0, -1, 1)  # 1 - CDF on the right, whose digits the CDF has lost
    return ((side * above).sigmoid() - (side * below).sigmoid()).abs()


def discretized_logistic(module, params, x):
    mean, log_scale = params.split(x.shape[1], 1) if module.scale == "pixel" else (params, module.log_scale)
    return logistic_mass((x * 255).round(), mean, log_scale).log().sum((1, 2, 3))


def mixture_of_logistics(module, params, x):
    level, pixel = (x * 255).round(), 2 * x - 1
    channels = x.shape[1]
    weights, masses = [], []
    for of_component in params.chunk(module.components, 1):
        weights.append(of_component[:, 0].exp())
        means, log_scales = of_component[:, 1 : 1 + channels], of_component[:, 1 + channels : 1 + 2 * channels]
        c = of_component[:, 1 + 2 * channels :].tanh()
        mass = logistic_mass(level[:, 0], means[:, 0], log_scales[:, 0])
        if channels == 3:
            red, green = pixel[:, 0], pixel[:, 1]
            mass = mass * logistic_mass(level[:, 1], means[:, 1] + c[:, 0] * red, log_scales[:, 1])
            mass = mass * logistic_mass(level[:, 2], means[:, 2] + c[:, 1] * red + c[:, 2] * green, log_scales[:, 2])
        masses.append(mass)
    total = sum(w * mass for w, mass in zip(weights, masses, strict=True)) / sum(weights)
    return total.log().sum((1, 2))


class Case(NamedTuple):
    name: str  # of the class
    options: dict
    log_prob: object  # the plain reference
    channels: int = 1
    support: str = "levels"  # what a draw is: one of binary, levels, unit (the interval from 0 to 1), real
    mean_error: float = 0.0  # how far .mean may be from the mean of the draws, beyond their noise


HALF_LEVEL = 0.5 / 255
CASES = [
    Case("Bernoulli", {}, bernoulli, support="binary"),
    Case("Bernoulli", {"soft": True}, bernoulli, 3, support="binary"),
    Case("Gaussian", {}, gaussian, support="real"),
    Case("Gaussian", {"scale": 0.3, "mean": "sigmoid"}, gaussian, 3, support="real"),
    Case("Gaussian", {"scale": "global"}, gaussian, 3, support="real"),
    Case("Gaussian", {"scale": "pixel", "mean": "sigmoid"}, gaussian, 3, support="real"),
    Case("ContinuousBernoulli", {}, continuous_bernoulli, 3, support="unit"),
    Case("DiscretizedLogistic", {}, discretized_logistic, 3, mean_error=HALF_LEVEL),
    Case("DiscretizedLogistic", {"scale": "pixel"}, discretized_logistic, 1, mean_error=HALF_LEVEL),
    Case("MixtureOfLogistics", {}, mixture_of_logistics, 1, mean_error=HALF_LEVEL),
    Case("MixtureOfLogistics", {"components": 3}, mixture_of_logistics, 3, mean_error=0.03),  # see its docstring
]
every_case = pytest.mark.parametrize(
    "case", CASES, ids=lambda c: "-".join(map(str, [c.name, *c.options.values(), c.channels]))
)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(case: Case, size: int = 1, channels: int | None = None):
    """A likelihood of size x size images, its own parameters away from 0."""
    module = getattr(likelihoods, case.name)((channels or case.channels, size, size), **case.options)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def data(case: Case, *shape) -> torch.Tensor:
    """Random images of the first kind that the likelihood describes."""
    levels = torch.randint(0, 256, shape)
    levels[torch.rand(shape) < 0.2], levels[torch.rand(shape) < 0.2] = 0, 255
    return (levels > 127).double() if case.name == "Bernoulli" and not case.options else levels / 255


@every_case
def test_it_is_a_distribution(case):
    """Masses sum to 1 over the support of a pixel, densities integrate to 1."""
    module = make(case, channels=1)
    p = module(2 * torch.randn(32, module.num_params, 1, 1))
    if case.support == "binary":
        points, weights = torch.tensor([0.0, 1.0]), torch.ones(2)
    elif case.support == "levels":
        points, weights = torch.arange(256) / 255, torch.ones(256)
    elif case.support == "unit":
        points, weights = (torch.from_numpy(part) / 2 for part in np.polynomial.legendre.leggauss(60))
        points = points + 0.5
    else:  # the trapezoid rule, exact to every digit for a Gaussian
        points, weights = (
            p.mean + p.stddev * torch.linspace(-9, 9, 200).reshape(-1, 1, 1, 1, 1),
            p.stddev.flatten() * 18 / 199,
        )
        total = (p.log_prob(points).exp() * weights).sum(0)
        return torch.testing.assert_close(total, torch.ones(32), rtol=1e-11, atol=0)
    total = weights @ p.log_prob(points.reshape(-1, 1, 1, 1, 1)).exp()  # (S) @ (S, B)
    torch.testing.assert_close(total, torch.ones(32), rtol=1e-11, atol=0)


@every_case
def test_log_prob_is_the_textbook_formula(case):
    """Summed over pixels and channels; rows of K leading draws are scored against the same images."""
    module, x = make(case, 4), data(case, 5, case.channels, 4, 4)
    params = 1.5 * torch.randn(3, 5, module.num_params, 4, 4)
    p = module(params)
    assert (p.batch_shape, p.event_shape) == ((3, 5), x.shape[1:])
    expected = torch.stack([case.log_prob(module, part, x) for part in params])
    tolerance = 1e-6 if case.name == "ContinuousBernoulli" else 1e-9  # torch's own is a series around 0
    torch.testing.assert_close(p.log_prob(x), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(module(params[1]).log_prob(x), expected[1], rtol=tolerance, atol=tolerance)  # without K


@every_case
def test_memory_layout_does_not_matter(case):
    module, x = make(case, 4), data(case, 5, case.channels, 4, 4)
    params = torch.randn(5, module.num_params, 4, 4)
    scattered, other = params.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(module(scattered).log_prob(other), module(params).log_prob(x))


@every_case
def test_draws_are_in_the_support_and_have_the_mean(case):
    module = make(case, 2)
    params = 0.5 * torch.randn(3, 2, module.num_params, 2, 2)
    p = module(params)
    draws = p.sample((4000,))
    assert draws.shape == (4000, 3, 2, case.channels, 2, 2) and p.sample().shape == p.mean.shape == draws.shape[1:]
    if case.support == "binary":
        assert set(draws.unique().tolist()) == {0, 1}
    elif case.support == "levels":
        assert torch.equal(draws, (draws * 255).round() / 255)
    if case.support != "real":
        assert draws.min() >= 0 and draws.max() <= 1
        assert p.mean.min() >= 0 and p.mean.max() <= 1
    noise = draws.std(0) / math.sqrt(len(draws))
    assert ((draws.mean(0) - p.mean).abs() <= 4.5 * noise + case.mean_error).all()


@every_case
def test_draws_follow_log_prob(case):
    """The score, the gradient of log p(x) with respect to the parameters, has mean 0 over x from p, and only from p."""
    module = make(case)
    params = torch.randn(1, module.num_params, 1, 1).repeat(20_000, 1, 1, 1).requires_grad_()
    p = module(params)
    p.log_prob(p.sample()).sum().backward()
    score = params.grad.flatten(1)
    noise = score.std(0) / math.sqrt(len(score))
    assert (noise > 0).all()
    assert (score.mean(0).abs() <= 4.5 * noise).all()


@every_case
def test_every_parameter_gets_a_gradient(case):
    module, x = make(case, 4), data(case, 5, case.channels, 4, 4)
    params = torch.randn(5, module.num_params, 4, 4, requires_grad=True)
    module(params).log_prob(x).sum().backward()
    for gradient in (params.grad, *(parameter.grad for parameter in module.parameters())):
        assert gradient.isfinite().all() and (gradient != 0).all()


EXTREMES = (-1e4, -50.0, 0.0, 50.0, 1e4)


@every_case
def test_float32_is_finite_and_precise_at_the_extremes(case):
    """Saturated logits, scales of exp(±50), black and white: the values are those of float64, the gradients finite."""
    x = data(case, 300, case.channels, 1, 1)
    for log_scale in EXTREMES:
        module = make(case)
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, log_scale)
        params = torch.tensor(EXTREMES)[torch.randint(len(EXTREMES), (300, module.num_params, 1, 1))]
        precise = module(params).log_prob(x)
        module, params = module.float(), params.float().requires_grad_()
        p = module(params)
        log_prob = p.log_prob(x.float())
        torch.testing.assert_close(log_prob.double(), precise, rtol=1e-4, atol=1e-3)
        log_prob.sum().backward()
        for gradient in (params.grad, *(parameter.grad for parameter in module.parameters())):
            assert gradient.isfinite().all()
        assert p.mean.isfinite().all() and p.sample().isfinite().all()


@every_case
def test_no_value_is_checked(case):
    """A check would wait for the device at every step; the training module sees that the loss is not finite."""
    module = make(case, 2)
    p = module(torch.full((3, module.num_params, 2, 2), math.nan))
    assert p.log_prob(torch.full((3, case.channels, 2, 2), math.nan)).isnan().all()


@every_case
def test_reload_is_identical(case):
    module, x = make(case, 4), data(case, 5, case.channels, 4, 4)
    params = torch.randn(5, module.num_params, 4, 4)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = make(case, 4)  # with other random parameters
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(params).log_prob(x), module(params).log_prob(x))


@every_case
def test_kinds_of_data(case):
    """Bits per dim are for masses over the data that it describes; draws of a mass are such data."""
    module = make(case)
    assert set(module.describes) <= {"binary", "levels"}
    assert not module.is_mass or module.describes == (case.support,)
    assert module.is_mass == (case.support in ("binary", "levels") and not case.options.get("soft"))


def test_every_config_has_a_case():
    """conf/likelihood/*.yaml and CASES name the same classes, and a config has every option of its class."""
    configs = [OmegaConf.load(path) for path in CONF.glob("*.yaml")]
    assert {config._target_ for config in configs} == {f"cvae.likelihoods.{case.name}" for case in CASES}
    for config in configs:
        module = instantiate(config, image_shape=(1, 4, 4))
        assert module(torch.zeros(2, module.num_params, 4, 4)).mean.shape == (2, 1, 4, 4)
        options = set().union(*(case.options for case in CASES if config._target_.endswith("." + case.name)))
        assert options == config.keys() - {"_target_"}
        parameters = inspect.signature(type(module)).parameters
        assert {key: parameters[key].default for key in options} == {key: config[key] for key in options}


def test_a_learned_scale_is_bounded_but_never_stuck():
    log_scale = torch.tensor([-50.0, -1.0, 0.0, 1.0, 50.0], dtype=torch.float32, requires_grad=True)
    scale = bounded(log_scale)
    torch.testing.assert_close(scale[1:4], log_scale[1:4], atol=0.01, rtol=0)
    assert scale.abs().max() <= 7
    torch.testing.assert_close(scale, 7 * torch.tanh(log_scale / 7))
    scale.sum().backward()
    assert (log_scale.grad > 0).all()


def test_a_learned_scale_starts_at_one():
    """For pixels in [0, 1] (Gaussian) and from -1 to 1 (logistic)."""
    for name in ("Gaussian", "DiscretizedLogistic"):
        module = getattr(likelihoods, name)((1, 2, 2), scale="global")
        assert {key: value.item() for key, value in module.named_parameters()} == {"log_scale": 0}
        assert not list(getattr(likelihoods, name)((1, 2, 2), scale="pixel").parameters())
    assert not list(likelihoods.Gaussian((1, 2, 2)).parameters())


@every_case
def test_a_likelihood_says_what_it_is(case):
    module = make(case)
    assert isinstance(module, likelihoods.Likelihood)
    assert isinstance(module.num_params, int) and isinstance(module.describes, tuple)


def test_a_likelihood_without_forward_cannot_be_made():
    with pytest.raises(TypeError, match="forward"):
        type("Unfinished", (likelihoods.Likelihood,), {})()


@pytest.mark.parametrize(
    "name, options, num_params",
    [
        ("Bernoulli", {}, 3),
        ("ContinuousBernoulli", {}, 3),
        ("Gaussian", {}, 3),
        ("Gaussian", {"scale": "global"}, 3),
        ("Gaussian", {"scale": "pixel"}, 6),
        ("DiscretizedLogistic", {}, 3),
        ("DiscretizedLogistic", {"scale": "pixel"}, 6),
        ("MixtureOfLogistics", {}, 100),
        ("MixtureOfLogistics", {"components": 4}, 40),
    ],
)
def test_numbers_of_maps_for_three_channels(name, options, num_params):
    assert getattr(likelihoods, name)((3, 4, 4), **options).num_params == num_params


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("Bernoulli", "soft", "yes"),
        ("Gaussian", "scale", 0),
        ("Gaussian", "scale", "everywhere"),
        ("Gaussian", "scale", None),
        ("Gaussian", "mean", "tanh"),
        ("DiscretizedLogistic", "scale", 1.0),
        ("MixtureOfLogistics", "components", 0),
    ],
)
def test_wrong_options_name_their_key(name, key, value):
    with pytest.raises(ConfigError, match=f"{key}={value}"):
        getattr(likelihoods, name)((1, 4, 4), **{key: value})
