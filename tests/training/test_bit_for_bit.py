"""A run that was stopped and resumed ends as one that never was: weights, figures, pictures and curves, bit for bit."""

import gc

import pytest
import torch
from same_run import last, points, require_equal, table
from tiny import tiny
from vgg import vgg_words

from cvae.errors import NotFinite
from cvae.training import engine
from cvae.training.module import VAEModule
from cvae.training.train import train

LONGER = ["data.source.train_size=22", "callbacks.checkpoint.every_n_steps=2", "trainer.max_epochs=3"]  # 6 steps each
PLAIN = "~callbacks.pictures"  # a third of the time
CHOICES = {
    "elbo": [],
    "plain": [PLAIN],
    "warm-up, cosine, a flow, drawn images": [
        "objective/beta=linear", "objective.beta.steps=15", "scheduler=cosine", "prior=flow",
        "data.validation_size=4", "data.source.train_size=26",
        "data.binarization=stochastic", "logger=[tensorboard,csv]", PLAIN,
    ],
    "rae": ["posterior=deterministic", "prior=none", "objective=rae", "objective.regularizer=gradient_penalty", PLAIN],
    "a sphere": ["posterior=power_spherical", "prior=uniform_sphere", "objective.kl=closed_form", PLAIN],
    "a disc": ["posterior=wrapped_normal", "prior=wrapped_normal", "model.latent_dim=2", PLAIN],
    "factor_vae": ["objective=factor_vae", "objective.hidden=8", PLAIN],
    "aae": ["objective=aae", "objective.hidden=8", PLAIN],
    "perceptual_gan": [
        "objective=perceptual_gan", *vgg_words(), "objective.start=4", "data.image_shape=[1,16,16]",
        "data.binarization=none", "likelihood=gaussian", PLAIN,
    ],
    "vae_gan": ["objective=vae_gan", "objective.width=2", "data.binarization=none", "likelihood=gaussian", PLAIN],
    "piwae": ["objective=piwae", "objective.estimates=2", "objective.samples=2", PLAIN],
    "iwae with dreg": ["objective=iwae", "objective.samples=3", "objective.gradient=dreg"],
    "beta_tcvae, a validation split": ["objective=beta_tcvae", "data.validation_size=4", "data.source.train_size=26"],
    "VampPrior, drawn images": ["prior=vamp", "prior.components=3", "data.binarization=stochastic"],
    "conditional, momentum": ["conditional=true", "optimizer=sgd", "optimizer.momentum=0.9"],
    "vq, a prior that learns": [
        "posterior=vq", "posterior.codes=5", "posterior.width=2", "prior=autoregressive",
        "prior.hidden=8", "prior.heads=2",
    ],
    "residual vq": ["posterior=vq", "posterior.codes=5", "posterior.quantizers=2", "prior=uniform", PLAIN],
    "categorical, its temperature falls": [
        "posterior=categorical", "posterior/temperature=linear", "posterior.temperature.steps=9",
        "prior=uniform", PLAIN,
    ],
    "a ladder": [
        "model=ladder", "model.groups=[4x1]", "model.width=4", "model.latent_dim=2", "objective.beta=[1,0.5]",
        "trainer.gradient_clip_val=1", PLAIN,
    ],
    "clipped, two batches a step": ["trainer.gradient_clip_val=1", "+trainer.accumulate_grad_batches=2"],
    "training images changed": ["data.augment=[flip,shift,rotate90]", "data.binarization=stochastic", PLAIN],
    "averages": ["averaging.decay=0.7", "callbacks.pictures.every_n_epochs=2"],
    "a long training": [
        "averaging.decay=0.7", "scheduler=one_cycle", "scheduler.warmup_steps=5", "trainer.skip_above=7",
        "callbacks.early_stopping.patience=2", "callbacks.checkpoint.keep_best=2", "callbacks.checkpoint.keep_every=2",
        "logger=[tensorboard,csv]", PLAIN,
    ],
    "evaluated within epochs": [
        "+trainer.val_check_interval=3", "callbacks.checkpoint.keep_best=2", "callbacks.early_stopping.patience=9",
        "logger=[tensorboard,csv]",
    ],
    "evaluated every other epoch": ["trainer.check_val_every_n_epoch=2", "logger=[tensorboard,csv]"],
}  # fmt: skip
FAST = ("elbo", "averages", "a long training", "warm-up, cosine, a flow, drawn images", "training images changed")


class Killed(BaseException):
    pass


def run(folder, *words, resume=False):
    return train(tiny(folder, *LONGER, "~callbacks.progress", *words), resume)


def killed(folder, *words, at, place="before_step", resume=False):
    """A run that dies after so many calls of a method of the module: nothing is saved then."""
    method, calls = getattr(VAEModule, place), []

    def dies(self, *given):
        calls.append(1)
        if len(calls) > at:
            raise Killed
        return method(self, *given)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(VAEModule, place, dies)
        run(folder, *words, resume=resume)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never stopped, for each choice; kept."""
    made = {}

    def make(choice, minibatches):
        if (choice, minibatches) not in made:
            folder = tmp_path_factory.mktemp("whole")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine, "MINIBATCHES", minibatches)
                run(folder, *CHOICES[choice])
            made[choice, minibatches] = folder
        return made[choice, minibatches]

    return make


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("choice", "minibatches"),
    [slow("elbo", 1), *((choice, 2) if choice in FAST else slow(choice, 2) for choice in CHOICES)],
)
def test_a_run_that_was_stopped_twice_ends_as_one_that_never_was(choice, minibatches, whole, tmp_path, monkeypatch):
    expected = whole(choice, minibatches)
    monkeypatch.setattr(engine, "MINIBATCHES", minibatches)
    killed(tmp_path, *CHOICES[choice], at=5)  # within the first epoch, a batch after a checkpoint
    assert last(tmp_path)["global_step"] == (2 if "two batches" in choice else 4)
    killed(tmp_path, *CHOICES[choice], at=5, resume=True)
    assert last(tmp_path)["global_step"] >= 4
    run(tmp_path, *CHOICES[choice], resume=True)
    require_equal(tmp_path, expected)


@pytest.mark.parametrize("at", [1, 6, *map(slow, (0, 2, 5, 7, 12, 17))])
def test_stopped_at_any_step(at, whole, tmp_path, monkeypatch):
    """Before the first checkpoint, at it, and at the first and last steps of an epoch."""
    monkeypatch.setattr(engine, "MINIBATCHES", 2)
    killed(tmp_path, PLAIN, at=at)
    run(tmp_path, PLAIN, resume=True)
    require_equal(tmp_path, whole("plain", 2))


@pytest.mark.parametrize(
    ("place", "at"),
    [
        ("test_step", 1),
        ("test_step", 2),
        slow("validation_step", 4),
        slow("on_validation_epoch_end", 1),
        slow("on_train_epoch_end", 1),
        slow("on_save_checkpoint", 4),
    ],
)
def test_stopped_between_steps(place, at, whole, tmp_path, monkeypatch):
    """During an evaluation, at the end of an epoch, in the test at the end, while a checkpoint is made."""
    monkeypatch.setattr(engine, "MINIBATCHES", 2)
    choice = "averages" if at == 2 else "elbo"
    killed(tmp_path, *CHOICES[choice], at=at, place=place)
    run(tmp_path, *CHOICES[choice], resume=True)
    require_equal(tmp_path, whole(choice, 2))


@pytest.mark.parametrize("place", ["validation_step", "test_step"])
def test_an_evaluation_that_fails_gives_the_random_numbers_back_at_once(place, tmp_path):
    """Not when Python frees what is left of the run, which may be within a step of the next one of a sweep."""
    killed(tmp_path, PLAIN, at=1, place=place)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    gc.collect()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_longer_run_has_the_learning_rates_of_its_length(tmp_path, recwarn):
    """A cosine over 2 epochs is at 0 when it ends; over 4 epochs it goes on from the half."""
    words = [PLAIN, "scheduler=cosine", "optimizer.lr=0.04", "logger=csv"]
    run(tmp_path, *words, "trainer.max_epochs=2")
    run(tmp_path, *words, "trainer.max_epochs=4", resume=True)
    assert not [warning for warning in recwarn if "lr_scheduler.step" in str(warning.message)]
    rates = [float(row["train/lr"]) for row in table(tmp_path) if row["train/lr"]]
    assert rates == pytest.approx([0.04, 0.02, 0.02, 0.04 * (1 - 0.5**0.5) / 2])
    assert last(tmp_path)["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)
    whole = [part["last_epoch"] for part in last(tmp_path)["lr_schedulers"]]
    assert whole == [4]


def test_a_run_that_is_lengthened_has_the_pictures_of_one_that_was_as_long_from_the_start(tmp_path):
    """Its first end, which has pictures whatever its number, leaves none."""
    words = ["callbacks.pictures.every_n_epochs=2"]
    run(tmp_path / "whole", *words, "trainer.max_epochs=5")
    run(tmp_path / "twice", *words, "trainer.max_epochs=3")
    assert (tmp_path / "twice" / "images" / "sample_0003.png").exists()
    killed(tmp_path / "twice", *words, "trainer.max_epochs=5", at=8, resume=True)
    run(tmp_path / "twice", *words, "trainer.max_epochs=5", resume=True)
    names = {f"{name}_000{epoch}.png" for name in ("reconstruction", "sample") for epoch in (0, 2, 4, 5)}
    assert {file.name for file in (tmp_path / "twice" / "images").iterdir()} == names | {"original.png"}
    whole, twice = (
        [point for point in points(tmp_path / run) if "config" not in point[1]] for run in ("whole", "twice")
    )
    assert whole == twice  # the first config is that of the shorter one
    assert (tmp_path / "whole" / "cvae.gif").read_bytes() == (tmp_path / "twice" / "cvae.gif").read_bytes()


def test_what_is_not_finite_is_told_with_step_term_rate_and_checkpoint(tmp_path, monkeypatch):
    """The rate of step 9; the run can be resumed from before."""
    loss = VAEModule.loss

    def breaks(self, levels, y, step):
        mean, terms = loss(self, levels, y, step)
        return mean, terms._replace(rate=terms.rate + float("inf")) if step == 8 else terms

    monkeypatch.setattr(VAEModule, "loss", breaks)
    monkeypatch.setattr(engine, "MINIBATCHES", 2)
    with pytest.raises(NotFinite) as error:
        run(tmp_path, PLAIN, "trainer.log_every_n_steps=50", "callbacks.checkpoint.every_n_steps=4")
    assert str(error.value) == (
        "training, epoch 2, step 9, learning rate 0.01: elbo is -inf, rate is inf. Often a smaller optimizer.lr helps. "
        f"The last checkpoint, {tmp_path}/checkpoints/last.ckpt, is of step 8"
    )
