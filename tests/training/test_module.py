"""The glue between Lightning and the maths.

Which images, labels, step and noise reach the objective? What becomes of its terms?
"""

import itertools
import math

import pytest
import pytorch_lightning as L
import torch
from conftest import config
from pytorch_lightning.loggers.logger import DummyLogger
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR

from cvae.build import build_vae, make
from cvae.errors import NotFinite
from cvae.objectives import ELBO, Objective, Terms
from cvae.runtime.noise import seed_step
from cvae.training.means import SELECTION, named
from cvae.training.module import VAEModule, require_finite

SMALL = [
    "data=synthetic",
    "data.source.train_size=10",
    "data.source.test_size=7",
    "data.batch_size=4",
    "data.eval_batch_size=3",
]
SMALL += ["model=mlp", "model.hidden=[]", "model.latent_dim=2"]


class Recorder(Objective):
    """Notes what it is given; its terms are known numbers that depend on the weights."""

    def __init__(self, bad=None):
        super().__init__()
        self.calls, self.bad = [], bad

    def forward(self, vae, x, y=None, step=0):
        self.calls.append((torch.is_grad_enabled(), x.clone(), y, step, torch.rand(()).item()))
        value = torch.arange(1.0, len(x) + 1)
        loss = value * (1 + vae.decoder[0].weight.sum())
        bound = -7 * value if step != self.bad else value * math.nan
        return Terms(loss, bound, 2 * value, 3 * value, {"part": 4 * value})


class Log(DummyLogger):
    def __init__(self):
        super().__init__()
        self.points, self.calls = [], 0

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        self.points += [(name, step, float(value)) for name, value in metrics.items()]


def fitted(*overrides, objective=None, epochs=2, every=2, seed=3, lr=0.5):
    """(module, log, data, trainer) after a fit without callbacks."""
    cfg = config(*SMALL, *overrides)
    torch.manual_seed(5)
    vae, data = build_vae(cfg), make(cfg, "data")
    module = VAEModule(vae, objective or Recorder(), lambda groups: SGD(groups, lr), lambda o: StepLR(o, 1, 0.1), seed)
    log = Log()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=log, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False, log_every_n_steps=every,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module, log, data, trainer


def test_which_images_labels_and_steps_reach_the_objective():
    module, _, data, _ = fitted("conditional=true")
    calls = module.objective.calls
    trained, measured = ([call for call in calls if call[0] is training] for training in (True, False))
    assert [call[3] for call in trained] == [0, 1, 2, 3, 4, 5]  # optimizer steps made before
    assert [call[3] for call in measured] == [3, 3, 3, 6, 6, 6]  # after the epoch's steps
    assert [len(call[1]) for call in trained] == [4, 4, 2] * 2 and [len(call[1]) for call in measured] == [3, 3, 1] * 2
    for epoch in (0, 1):
        x = torch.cat([call[1] for call in trained[3 * epoch :][:3]])
        y = torch.cat([call[2] for call in trained[3 * epoch :][:3]])
        sampler = data.train_dataloader().sampler
        sampler.set_epoch(epoch)
        expected_x, expected_y = data.batch("train", list(sampler))
        assert torch.equal(x, expected_x) and torch.equal(y, expected_y)
    test_x, test_y = data.batch("test", range(7))
    assert torch.equal(torch.cat([call[1] for call in measured[:3]]), test_x)
    assert torch.equal(torch.cat([call[2] for call in measured[:3]]), test_y)


def test_a_model_without_classes_gets_no_labels():
    module, *_ = fitted(epochs=1)
    assert all(call[2] is None for call in module.objective.calls)


def test_evaluation_is_of_the_validation_split_where_there_is_one():
    module, log, data, trainer = fitted("data.validation_size=3", epochs=1)
    measured = torch.cat([call[1] for call in module.objective.calls if not call[0]])
    assert torch.equal(measured, data.batch("validation", range(3))[0])
    assert trainer.callback_metrics["validation/elbo"] == pytest.approx(-5 * 2)
    assert not any(name.startswith("test/") for name, _, _ in log.points)
    module.objective.calls.clear()
    trainer.test(module, datamodule=data, verbose=False)
    assert torch.equal(torch.cat([call[1] for call in module.objective.calls]), data.batch("test", range(7))[0])
    assert trainer.callback_metrics["test/elbo"] == pytest.approx(-5 * 13 / 7)
    assert SELECTION not in trainer.callback_metrics  # nothing is chosen by the test set


def test_evaluation_has_the_same_noise_each_time_and_training_another():
    module, *_ = fitted()
    noise = [call[4] for call in module.objective.calls if not call[0]]
    assert noise[:3] == noise[3:] and len(set(noise)) == 3
    torch.manual_seed(3)
    assert noise[0] == pytest.approx(torch.rand(()).item())  # of the module's seed
    training = [call[4] for call in module.objective.calls if call[0]]
    assert training == noise_of_steps(seed=3, rank=0)


def noise_of_steps(seed, rank):
    """The first number that is drawn in each step of two epochs of three minibatches."""
    expected = []
    for epoch, number in itertools.product(range(2), range(3)):
        seed_step(seed, rank, epoch, number, device=torch.device("cpu"))
        expected.append(torch.rand(()).item())
    return expected


def test_images_are_drawn_by_the_noise_of_their_step():
    """As the model sees them; where a batch has several minibatches, too (test_engine)."""
    module, _, data, _ = fitted("data.binarization=stochastic")
    seen = [call[1] for call in module.objective.calls if call[0]]
    sampler = data.train_dataloader().sampler
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for number, images in enumerate(torch.tensor(list(sampler)).split(4)):
            seed_step(3, 0, epoch, number, device=torch.device("cpu"))
            assert torch.equal(seen[3 * epoch + number], data.batch("train", images.tolist())[0])


def test_each_process_has_its_own_noise(monkeypatch):
    seen = []
    monkeypatch.setattr(VAEModule, "global_rank", 2)
    monkeypatch.setattr("cvae.training.module.fixed_noise", lambda seed, device: seen.append(seed) or torch.no_grad())
    module, *_ = fitted()
    assert seen == [3 + 2] * 2
    assert [call[4] for call in module.objective.calls if call[0]] == noise_of_steps(seed=3, rank=2)


def test_the_loss_is_what_is_minimized_by_its_mean_over_the_batch():
    """Gradient of mean(value) * weight: the mean of 1 … B at each weight, and lr falls by epoch."""
    module, *_ = fitted(epochs=2)
    torch.manual_seed(5)
    start = build_vae(config(*SMALL)).decoder[0].weight
    means = [2.5, 2.5, 1.5]
    expected = start - 0.5 * sum(means) - 0.05 * sum(means)
    torch.testing.assert_close(module.vae.decoder[0].weight, expected)


def test_curves_of_training_and_their_steps():
    """Means over the images since the last point, at the optimizer steps made; the rest of an epoch at its end."""
    module, log, *_ = fitted()
    points = [(step, value) for name, step, value in log.points if name == "train/rate"]
    # batches of 4, 4 | 2, and of 4 | 4, 2: their values are 1..4 and 1..2, and the rate twice that
    assert [step for step, _ in points] == [2, 3, 4, 6]
    assert [value for _, value in points] == pytest.approx([5, 3, 5, 2 * (10 + 3) / 6])
    epochs = [value for name, _, value in log.points if name == "train_epoch/rate"]
    assert epochs == pytest.approx([2 * (10 + 10 + 3) / 10] * 2)
    assert [(step, value) for name, step, value in log.points if name == "train/lr"] == [
        (0, 0.5),
        (3, pytest.approx(0.05)),
    ]
    names = {name for name, _, _ in log.points}
    assert {f"train/{part}" for part in ("elbo", "rate", "distortion", "loss", "part")} <= names
    assert not any("bound" in name for name in names)
    assert module.recent["rate"] == pytest.approx(2 * 13 / 6)
    assert [(step, value) for name, step, value in log.points if name == "train_epoch/rate"] == [
        (step, pytest.approx(4.6)) for step in (3, 6)
    ]
    assert [step for name, step, _ in log.points if name == "test/rate"] == [3, 6]
    assert "epoch" not in names


def test_a_curve_has_one_point_at_a_step():
    module, log, _, trainer = fitted()
    before = len(log.points)
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    assert len(log.points) == before  # the last epoch's evaluation was of the same images
    module.draw_curves({"test/rate": 1.0, "evaluation/nll": 5.0})
    assert log.points[before:] == [("evaluation/nll", 6, 5.0)]
    calls = log.calls
    module.draw_curves({"evaluation/nll": 6.0})
    assert len(log.points) == before + 1 and log.calls == calls  # a table would get an empty row


def test_figures_are_those_of_the_last_epoch_and_of_what_was_measured_last():
    module, _, _, trainer = fitted("data.validation_size=3")
    trainer.test(module, datamodule=trainer.datamodule, verbose=False)
    assert {name.partition("/")[0] for name in module.figures} == {"train_epoch", "validation", "test", "selection"}
    assert module.figures["test/bound"] == pytest.approx(-7 * 13 / 7)
    assert module.figures[SELECTION] == module.figures["validation/bound"] == pytest.approx(-7 * 2)
    assert "train_epoch/bound" not in module.figures and "train_epoch/rate" in module.figures


def test_figures_of_evaluation_are_means_over_its_images():
    _, log, _, trainer = fitted(epochs=1)
    mean = (6 + 6 + 1) / 7
    expected = {"elbo": -5 * mean, "rate": 2 * mean, "distortion": 3 * mean, "bound": -7 * mean, "part": 4 * mean}
    for name, value in expected.items():
        assert trainer.callback_metrics[f"test/{name}"].item() == pytest.approx(value)
    assert trainer.callback_metrics[SELECTION].item() == pytest.approx(-7 * mean)
    assert "test/part" in {name for name, _, _ in log.points}


def test_sums_begin_anew_with_each_evaluation():
    _, log, *_ = fitted()
    values = [value for name, _, value in log.points if name == "test/rate"]
    assert len(values) == 2 and values[0] == pytest.approx(values[1])


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (1, "training, epoch 1, step 2, learning rate 0.5: bound is nan. Often"),
        (4, "training, epoch 2, step 5, learning rate 0.05: bound is nan. Often"),
        (3, "test set, epoch 1: bound is nan"),
    ],
)
def test_a_figure_that_is_not_finite_stops_the_run(bad, where):
    with pytest.raises(NotFinite, match=where):
        fitted(objective=Recorder(bad), every=2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value):
    require_finite({"elbo": -1.0, "rate": 0.0}, "epoch 1")
    with pytest.raises(NotFinite, match="epoch 1: elbo is .*optimizer.lr"):
        require_finite({"elbo": value, "rate": 0.0}, "epoch 1")


def test_names_of_curves():
    assert named("test", {"elbo": -1.0, "bound": -1.0, "part": 2.0}) == {"test/elbo": -1.0, "test/part": 2.0}


def test_a_real_objective_learns():
    _, log, *_ = fitted(objective=ELBO(), epochs=3, every=1, lr=5e-3)
    values = [value for name, _, value in log.points if name == "train_epoch/elbo"]
    assert values[-1] > values[0]


class Rising(Recorder):
    """Its rate is the optimizer steps made: no two epochs are alike."""

    def forward(self, vae, x, y=None, step=0):
        terms = super().forward(vae, x, y, step)
        return terms._replace(rate=torch.full((len(x),), float(step)))


def test_sums_begin_anew_with_each_epoch():
    _, log, *_ = fitted(objective=Rising())
    epochs = [value for name, _, value in log.points if name == "train_epoch/rate"]
    assert epochs == pytest.approx([(0 * 4 + 1 * 4 + 2 * 2) / 10, (3 * 4 + 4 * 4 + 5 * 2) / 10])
    assert [value for name, _, value in log.points if name == "test/rate"] == [3, 6]


def test_all_figures_that_are_not_finite_are_named():
    said = "^there: elbo is nan, rate is inf. Often a smaller optimizer.lr helps.$"
    with pytest.raises(NotFinite, match=said):
        require_finite({"elbo": math.nan, "loss": 1.0, "rate": math.inf}, "there")


def test_what_reaches_the_optimizer_and_the_scheduler():
    """The model's parameters, and in a group of their own those of an objective that has some."""
    vae, objective, given = torch.nn.Linear(2, 3), torch.nn.Linear(1, 1), []
    optimizer = object()
    for other in (objective, Recorder()):
        module = VAEModule(vae, other, lambda groups: given.append(groups) or optimizer, lambda o: ("scheduler", o))
        assert module.configure_optimizers() == (
            [optimizer],
            [{"scheduler": ("scheduler", optimizer), "interval": "epoch"}],
        )
        assert module.seed == 0
    two, one = ([[id(p) for p in group["params"]] for group in groups] for groups in given)
    assert one == [[id(p) for p in vae.parameters()]]
    assert two == [*one, [id(p) for p in objective.parameters()]]
