"""Any choice goes with any other: every member of every group, and every valid pair, makes a training step."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from conftest import ROOT, config, with_values
from omegaconf import OmegaConf
from vgg import vgg_words

from cvae.build import build_vae, make
from cvae.errors import UserError
from cvae.training.compatible import require_objective
from cvae.training.rates import of_length, schedule
from cvae.training.train import train

# Only what makes a choice small and quick, or what it cannot do without.
SMALL = {
    "model=conv": ["model.filters=4", "model.base_channels=4"],
    "model=conv_keras_io": ["model.filters=4"],
    "model=conv_tfp": ["model.filters=4", "model.bottleneck=8"],
    "model=mlp": ["model.hidden=[16]"],
    "model=ladder": ["model.width=4", "model.channels=2", "model.groups=[1x1,4x2]"],
    "model=resnet": ["model.width=8", "model.depth=1"],
    "prior=vamp": ["prior.components=4"],
    "posterior=iaf": ["posterior.transforms=2", "posterior.hidden=8", "posterior.context=4"],
    "posterior=flow": ["posterior.transforms=2", "posterior.hidden=8", "posterior.context=4"],
    "prior=flow": ["prior.transforms=2", "prior.hidden=8"],
    "prior=autoregressive": ["prior.hidden=8", "prior.layers=1", "prior.heads=2"],
    "objective=iwae": ["objective.samples=3"],
    "objective=miwae": ["objective.estimates=2", "objective.samples=2"],
    "objective=piwae": ["objective.estimates=2", "objective.samples=2"],
    "objective=ciwae": ["objective.samples=3"],
    "objective=factor_vae": ["objective.hidden=8", "objective.layers=2"],
    "objective=aae": ["objective.hidden=8"],
    "objective=perceptual_gan": vgg_words(),
    "objective=vae_gan": ["objective.width=4"],
    "objective=renyi": ["objective.samples=3"],
    "posterior=categorical": ["posterior.classes=4"],
    "posterior=vq": ["posterior.codes=5", "posterior.width=2"],
}
OF_CODES = {
    "posterior": ["categorical", "fsq", "vq"],
    "prior": ["uniform", "autoregressive"],
}  # they go with each other alone
PARTNERS = {"posterior": "prior=uniform", "prior": "posterior=categorical"}
ON_SPHERE = {"posterior=power_spherical": "prior=uniform_sphere", "prior=uniform_sphere": "posterior=power_spherical"}
ON_BALL = {"prior=wrapped_normal": "posterior=wrapped_normal"}  # the posterior goes with other priors, too
AUTOENCODER = ["posterior=deterministic", "prior=standard_normal", "objective=wae"]  # these go with each other alone
ALONE = {"posterior=deterministic", "prior=none", "objective=autoencoder", "objective=rae", "objective=wae"}
GREY = ["data.binarization=none"]
LIKELIHOODS = {  # the data that each of them describes
    "bernoulli": [],
    "continuous_bernoulli": GREY,
    "gaussian": GREY,
    "discretized_logistic": GREY,
    "mixture_of_logistics": GREY,
}


def is_choice(word):
    return (ROOT / "conf" / word.partition("=")[0]).is_dir()


def members(group):
    return sorted(path.stem for path in (ROOT / "conf" / group).glob("[!_]*.yaml"))


def put_together(*choices, values=()):
    """The config of these choices: of each group what Hydra composes for its member alone."""
    cfg = config("data=synthetic")
    for choice in choices:
        group = choice.partition("=")[0]
        cfg[group] = config("data=synthetic", choice)[group]
    return with_values(cfg, values)


def test_what_is_put_together_is_what_hydra_composes():
    choices, values = (
        ["posterior=vq", "prior=uniform", "model=resnet", "objective=iwae"],
        ["model.latent_dim=3", "seed=2"],
    )
    ours, theirs = put_together(*choices, values=values), config("data=synthetic", *choices, *values)
    ours.experiment, theirs.experiment = None, None  # what each of them has left out of the experiment
    assert ours == theirs and ours.model.latent_dim == 3


def step(*choices, half=False):
    """One training step on synthetic images: every parameter's gradient and every figure is finite.

    half: with trainer.precision=bf16-mixed
    """
    small = [option for choice in choices for option in SMALL.get(choice, [])]
    if "model=ladder" in choices and "data.image_shape=[3,32,32]" not in choices:
        small += ["model.groups=[1x1,7x2]"]  # 28 pixels have no map of 4
    values = [choice for choice in choices if not is_choice(choice)]
    cfg = put_together(
        *filter(is_choice, choices), values=["data.source.train_size=6", "model.latent_dim=3", *values, *small]
    )
    vae, data, objective = build_vae(cfg), make(cfg, "data"), make(cfg, "objective")
    data.setup()
    optimizer = make(cfg, "optimizer")(vae.parameters())
    require_objective(cfg, vae, objective)
    objective.prepare(6)
    x, y = data.batch("train", range(6))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = objective(vae, x, vae.labels(y), step=1)
    if vae.posterior.deterministic:
        assert terms.bound is None and terms.rate is None and terms.elbo is None
    else:
        torch.testing.assert_close(terms.elbo, -terms.rate - terms.distortion)
    figures = [part for part in terms[:4] if part is not None]
    assert all(part.dtype == torch.float32 for part in figures)
    assert all(part.shape == (6,) and part.isfinite().all() for part in (*figures, *terms.parts.values()))
    terms.loss.mean().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in vae.parameters())
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.encoder.parameters())
    optimizer.step()


def test_the_table_is_complete():
    assert set(LIKELIHOODS) == set(members("likelihood"))


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={name}"
        for group in ("model", "posterior", "prior", "objective", "optimizer")
        for name in members(group)
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_every_member_with_the_defaults(choice, half):
    group, _, name = choice.partition("=")
    if choice in ALONE:
        return step(*AUTOENCODER, *(["objective=rae"] if name == "none" else []), choice, half=half)
    beside = (ON_SPHERE | ON_BALL).get(choice, PARTNERS[group] if name in OF_CODES.get(group, []) else None)
    step(choice, *([beside] if beside else []), half=half)


GROUPS = {path.parent.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*/*.yaml")}
GROUPS = sorted(group for group in GROUPS if not group.startswith("hydra"))


@pytest.mark.parametrize("choice", [f"{group}={name}" for group in GROUPS for name in members(group)])
def test_every_member_of_every_group_composes(choice):
    """Alone with the defaults: what it refers to is there, and nothing is left open."""
    cfg = config(choice, "run_dir=RUN", *(["posterior=categorical"] if choice.startswith("posterior/") else []))
    OmegaConf.resolve(cfg)
    assert not OmegaConf.missing_keys(cfg)


SCHEDULERS = {  # what 0.5 is in the second of 10 epochs
    "constant": 0.5, "cosine": 0.25 + 0.25 * math.cos(math.pi / 10), "exponential": 0.475, "step": 0.5,
    "one_cycle": 1e-4 / 25 + (1e-4 - 1e-4 / 25) * (1 - math.cos(math.pi / 2)) / 2,
}  # fmt: skip


@pytest.mark.parametrize("name", members("scheduler"))
def test_every_scheduler_takes_a_step(name):
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = of_length(schedule(config(f"scheduler={name}"))[0], optimizer, lambda: 10)
    optimizer.step(), scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(SCHEDULERS[name])


@pytest.mark.parametrize(("posterior", "prior"), list(itertools.product(members("posterior"), members("prior"))))
@pytest.mark.parametrize("half", [False, True])
def test_posterior_and_prior(posterior, prior, half):
    """Both of codes, or both of numbers; what does not fit is refused, naming both keys."""
    if (posterior in OF_CODES["posterior"]) != (prior in OF_CODES["prior"]):
        with pytest.raises(UserError, match=r"^posterior \(cvae.* and prior \(cvae.* do not fit"):
            step(f"posterior={posterior}", f"prior={prior}")
    elif (posterior == "power_spherical") != (prior == "uniform_sphere"):
        with pytest.raises(UserError, match="do not fit: posterior=power_spherical and prior=uniform_sphere go with"):
            step(f"posterior={posterior}", f"prior={prior}")
    elif prior == "wrapped_normal" and posterior != "wrapped_normal":
        with pytest.raises(UserError, match="do not fit: prior=wrapped_normal goes with posterior=wrapped_normal al"):
            step(f"posterior={posterior}", f"prior={prior}")
    elif posterior == "deterministic" and prior in ("none", "standard_normal"):
        step(f"posterior={posterior}", f"prior={prior}", "objective=rae", half=half)
    elif posterior == "deterministic":
        with pytest.raises(UserError, match="do not fit: nothing would train this prior. Choose prior=none"):
            step(f"posterior={posterior}", f"prior={prior}", "objective=rae")
    elif prior == "none":
        with pytest.raises(UserError, match="do not fit: prior=none goes with posterior=deterministic alone"):
            step(f"posterior={posterior}", f"prior={prior}")
    else:
        step(f"posterior={posterior}", f"prior={prior}", half=half)


@pytest.mark.parametrize("posterior", OF_CODES["posterior"])
@pytest.mark.parametrize("prior", OF_CODES["prior"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_codes_and_likelihood(posterior, prior, likelihood):
    step(f"posterior={posterior}", f"prior={prior}", f"likelihood={likelihood}", *LIKELIHOODS[likelihood])


@pytest.mark.parametrize("posterior", OF_CODES["posterior"])
@pytest.mark.parametrize("objective", ["elbo", "iwae"])
@pytest.mark.parametrize("model", members("model"))
def test_codes_objective_and_model(posterior, objective, model):
    choices = f"posterior={posterior}", f"objective={objective}", f"model={model}"
    step(*choices, "prior=uniform", "conditional=true")


@pytest.mark.parametrize(("objective", "likelihood"), list(itertools.product(members("objective"), LIKELIHOODS)))
def test_objective_and_likelihood(objective, likelihood):
    beside = AUTOENCODER[:2] if f"objective={objective}" in ALONE else []
    step(*beside, f"objective={objective}", f"likelihood={likelihood}", *LIKELIHOODS[likelihood])


@pytest.mark.parametrize(
    "objective", [name for name in members("objective") if f"objective={name}" not in ALONE and name != "aae"]
)
def test_codes_without_noise_have_objectives_of_their_own(objective):
    with pytest.raises(UserError, match=r"^posterior .* and objective .* do not fit: posterior=deterministic goes"):
        step("posterior=deterministic", f"objective={objective}")


@pytest.mark.parametrize("objective", ["autoencoder", "rae", "wae"])
def test_objectives_of_codes_without_noise_go_with_them_alone(objective):
    with pytest.raises(UserError, match=r"^posterior .* and objective .* do not fit: posterior=deterministic goes"):
        step(f"objective={objective}")
    step(*AUTOENCODER[:2], f"objective={objective}", "conditional=true")
    if objective == "wae":
        with pytest.raises(UserError, match="^objective=wae: must be autoencoder or rae with prior=none"):
            step("posterior=deterministic", "prior=none", "objective=wae")


def test_an_adversarial_autoencoder_goes_with_and_without_a_density():
    step("posterior=deterministic", "objective=aae", "conditional=true")
    step("posterior=full_gaussian", "objective=aae", "conditional=true")
    with pytest.raises(UserError, match=r"^objective \(cvae.* and prior \(cvae.* do not fit: nothing would train this"):
        step("objective=aae", "prior=mixture")
    with pytest.raises(UserError, match="^objective=aae: must be autoencoder or rae with prior=none"):
        step("posterior=deterministic", "prior=none", "objective=aae")


def test_the_gradient_penalty_takes_a_step():
    for half in (False, True):
        step(*AUTOENCODER[:2], "objective=rae", "objective.regularizer=gradient_penalty", half=half)


@pytest.mark.parametrize("shape", ["[1,28,28]", "[3,32,32]"])
@pytest.mark.parametrize(("likelihood", "model"), list(itertools.product(LIKELIHOODS, members("model"))))
def test_likelihood_model_and_image_shape(likelihood, model, shape):
    step(f"likelihood={likelihood}", f"model={model}", f"data.image_shape={shape}", *LIKELIHOODS[likelihood])


@pytest.mark.parametrize("model", members("model"))
@pytest.mark.parametrize("prior", ["standard_normal", "vamp"])
def test_conditioning_on_the_label(model, prior):
    step(f"model={model}", f"prior={prior}", "conditional=true")


NOT_FOR_SEVERAL_GROUPS = {  # objective -> options that make a step with one group of latents
    "beta_tcvae": ("objective=", []),
    "infovae": ("objective=", []),
    "piwae": ("objective=", []),
    "factor_vae": ("objective=", []),
    "aae": ("objective=", []),
    "vae_gan": ("objective=", []),
    "perceptual_gan": ("objective=", []),
    "dip_vae": ("objective=", []),
    "iwae": ("objective.gradient=", ["objective.gradient=dreg"]),
}


FOR_SEVERAL_GROUPS = {
    "objective=iwae": ["objective.gradient=stl"],
    "objective=elbo": ["objective.free_bits=0.5"],
}  # what else makes a step


@pytest.mark.parametrize("objective", ["miwae", "piwae", "ciwae", "renyi"])
def test_bounds_and_codes(objective):
    step("posterior=categorical", "prior=uniform", f"objective={objective}")


@pytest.mark.parametrize(
    "choice", [f"{group}={name}" for group in ("posterior", "prior", "objective") for name in members(group)]
)
def test_several_groups_of_latents_go_with_all_that_makes_sense(choice):
    """What does not is refused by the names of both keys."""
    group, _, name = choice.partition("=")
    if choice in ALONE:
        with pytest.raises(UserError, match="another model=: this one has 4 groups of latents"):
            step("model=ladder", *AUTOENCODER, *(["objective=rae"] if name == "none" else []), choice)
        return None
    if choice in ON_SPHERE | ON_BALL:
        return step("model=ladder", choice, (ON_SPHERE | ON_BALL)[choice])
    if name in OF_CODES.get(group, []):  # of the top group
        return step("model=ladder", choice, PARTNERS[group])
    if name not in NOT_FOR_SEVERAL_GROUPS or name == "iwae":
        step("model=ladder", choice)
        if options := FOR_SEVERAL_GROUPS.get(choice):
            step("model=ladder", choice, *options)
    if name in NOT_FOR_SEVERAL_GROUPS:
        key, options = NOT_FOR_SEVERAL_GROUPS[name]
        with pytest.raises(UserError, match=f"^{key}.*another model=: this one has 4 groups of latents"):
            step("model=ladder", choice, *options)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_likelihood_refuses_data_that_it_does_not_describe(likelihood, tmp_path):
    """Naming both keys."""
    binarization = "none" if LIKELIHOODS[likelihood] == [] else "static"
    choices = ["data=synthetic", f"likelihood={likelihood}", f"data.binarization={binarization}", "trainer=cpu"]
    with pytest.raises(UserError, match=f"likelihood .*data.binarization={binarization} do not fit"):
        train(config(*choices, f"run_dir={tmp_path}"))


# tf_tutorial_512 takes seconds a step, and its parts are those of tf_tutorial.
@pytest.mark.parametrize("name", sorted(set(members("experiment")) - {"tf_tutorial_512"}))
def test_every_experiment_takes_a_step(name):
    """Its own model at its own size, on synthetic images in place of its data."""
    cfg = config(f"experiment={name}")
    size = cfg.data.get("image_size")  # of a folder, which says its shape when it is read
    shape = str(list(cfg.data.image_shape or (3, size, size))).replace(" ", "")
    cfg = config(f"experiment={name}", "data=synthetic", f"data.image_shape={shape}", "data.source.train_size=4")
    comment = (Path(ROOT) / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()[1]
    assert comment.startswith("# ")  # which page or paper it follows
    vae, data = build_vae(cfg), make(cfg, "data")
    data.setup()
    objective = make(cfg, "objective")
    objective.prepare(4)
    terms = objective(vae, data.batch("train", [0, 1])[0])
    terms.loss.mean().backward()
    assert terms.loss.isfinite().all()
