"""Autoencoders: their losses by value, and no figure of theirs is called ELBO, rate or NLL anywhere."""

import json

import pytest
import torch
from linear_vaes import SHAPE, D, off_vae
from tiny import tiny, trained

from cvae.api import TrainedRun
from cvae.distributions import Unknown, has_density
from cvae.errors import ConfigError
from cvae.evaluation import Settings
from cvae.evaluation.latents import latents
from cvae.evaluation.measure import evaluate
from cvae.objectives import RAE, WAE, Autoencoder
from cvae.objectives.autoencoder import slope
from cvae.objectives.infovae import mmd
from cvae.posteriors import Deterministic
from cvae.priors import NoPrior
from cvae.runs.directory import Run
from cvae.training.train import train

WORDS = ["posterior=deterministic", "prior=none", "objective=rae"]


def autoencoder(images):
    vae = off_vae(Deterministic(D), images, spread=1).double()
    torch.nn.init.normal_(vae.encoder.features)
    return vae, torch.randn(images, *SHAPE, dtype=torch.float64)


def test_losses_by_hand():
    vae, x = autoencoder(5)
    z = vae.encoder.features
    distortion = -vae.likelihood(vae.decoder(z)).log_prob(x)
    plain = Autoencoder()(vae, x)
    assert plain.bound is None and plain.rate is None and plain.elbo is None
    torch.testing.assert_close((plain.loss, plain.distortion), (distortion, distortion))
    l2 = RAE(0.3, "l2", 0.7)(vae, x)
    squares = sum(parameter.square().sum() for parameter in vae.decoder.parameters())
    torch.testing.assert_close(l2.loss, distortion + 0.3 * z.square().sum(1) / 2 + 0.7 * squares)
    torch.testing.assert_close(RAE(0.3, "none")(vae, x).loss, distortion + 0.15 * z.square().sum(1))
    for options in (("imq", 1), ("rbf", 1), ("imq", 2), ("rbf", 0.5)):
        torch.manual_seed(1)
        wae = WAE(20, *options)(vae, x)
        torch.manual_seed(1)
        discrepancy = mmd(z, vae.p_z().sample((5,)), *options)
        torch.testing.assert_close(wae.loss, distortion + 20 * discrepancy)
    assert WAE()(*autoencoder(2)).parts["mmd"].abs().min() > 0
    assert WAE()(*autoencoder(1)).parts["mmd"].tolist() == [0]


def test_the_gradient_penalty_is_the_norm_of_the_jacobian():
    vae, x = autoencoder(4000)
    vae.encoder.features.data[:] = vae.encoder.features[:1]
    penalty = RAE(0, "gradient_penalty", 1)(vae, x).parts["regularizer"]
    exact = vae.decoder[0].weight.square().sum()  # the decoder is linear
    error = penalty.std() / 4000**0.5
    assert abs(penalty.mean() - exact) < 4.5 * error < 0.2 * exact


def test_the_gradient_penalty_has_the_classes_and_full_precision(monkeypatch):
    vae, _ = autoencoder(4)
    seen, z, likelihood_of = [], vae.encoder.features.detach().float(), vae.float().likelihood_of

    def noted(z, y=None):
        p = likelihood_of(z)
        seen.append((y, vae.decoder(z).dtype))
        return p

    monkeypatch.setattr(vae, "likelihood_of", noted)
    y = torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        slope(vae, z, y)
    assert [(labels is y, kind) for labels, kind in seen] == [(True, torch.float32)] * 2


def test_evaluation_asks_the_distribution_whether_there_are_densities():
    vae, x = autoencoder(2)
    q = vae(x).latents[0].q
    assert not has_density(q) and not has_density(NoPrior(3)()) and has_density(vae.p_z())
    assert q.log_prob(q.mean).isnan().all() and vae.p_z().log_prob(q.mean).isfinite().all()
    vae.posterior.deterministic = False  # the model's own word is not asked for
    done = []
    figures = evaluate(vae, [(x, None)], Settings(samples=2), lambda *step: done.append(step))
    assert set(figures) == {"distortion", "active_units"} and done == [("images", 2)]
    assert latents(vae, [(x.sigmoid(), None)]).exact is None


def test_a_prior_that_is_none_has_no_draws():
    p = NoPrior(3)()
    assert isinstance(p, Unknown) and p.event_shape == (3,) and p.log_prob(torch.zeros(2, 3)).isnan().all()
    with pytest.raises(ConfigError, match="^prior=none: must be fitted to the codes before: python -m cvae fit-prior"):
        p.sample()


def test_a_run_speaks_of_distortion_alone(tmp_path, caplog, capsys):
    caplog.set_level("INFO")
    _, returned = trained(tmp_path / "run", *WORDS, "evaluation.samples=3", "data.validation_size=3")
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    named = {name.rpartition("/")[2] for name in metrics}
    assert not named & {"elbo", "rate", "bound", "nll"} and {"distortion", "loss", "minus_loss"} <= named
    assert returned == metrics["validation/minus_loss"] == -metrics["validation/loss"] == Run(tmp_path / "run").result()
    assert metrics["evaluation/distortion"] == pytest.approx(metrics["test/distortion"], rel=1e-6)
    said = [record.getMessage() for record in caplog.records]
    assert any(line.startswith("Next, for samples: python -m cvae fit-prior") for line in said)
    assert not any("ELBO" in line or "rate" in line.split() for line in said)
    assert "ELBO" not in (printed := capsys.readouterr().out) and "log p(x)" not in printed.replace("log p(x|z)", "")
    images = {file.name for file in (tmp_path / "run").rglob("*.png")}
    assert "latent_rates.png" not in images and "latent_manifold.png" in images
    assert not any(name.startswith("sample") for name in images) and (tmp_path / "run" / "cvae.gif").is_file()
    assert "test distortion" in repr(TrainedRun(tmp_path / "run"))


def test_best_ckpt_has_the_smallest_loss(tmp_path):
    _, returned = trained(tmp_path, *WORDS, "trainer.max_epochs=4")
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    of_callback = next(state for key, state in best["callbacks"].items() if "Checkpoints" in key)
    assert of_callback["best"] >= returned
    assert best["cvae"]["figures"]["selection/minus_loss"] == of_callback["best"]


def test_what_chooses_is_known_by_its_name(tmp_path):
    stop = "+callbacks.stop={_target_:pytorch_lightning.callbacks.EarlyStopping,mode:max,monitor:%s}"
    train(tiny(tmp_path / "a", *WORDS, stop % "selection/minus_loss"))
    with pytest.raises(ConfigError, match="^callbacks.stop.monitor=selection/bound: must be one of selection/m"):
        train(tiny(tmp_path / "b", *WORDS, stop % "selection/bound"))
    with pytest.raises(ConfigError, match=r"^callbacks.checkpoint.monitor=train_epoch/elbo: .*there is no ELBO"):
        train(tiny(tmp_path / "c", *WORDS, "callbacks.checkpoint.monitor=train_epoch/elbo"))


def test_commands_after_it(tmp_path, call):
    run, fitted = tmp_path / "run", tmp_path / "fitted"
    trained(run, *WORDS, "~callbacks.pictures")
    code, printed = call("sample", run)
    assert code and "prior=none: must be fitted to the codes before" in printed
    code, printed = call("fit-prior", run, "prior=gmm", "--out", fitted)
    assert not code and "no prior before, " in printed and "ELBO" not in printed
    assert "test/elbo" not in json.loads((fitted / "metrics.json").read_text())
    for words in (
        ["sample", fitted], ["sample", run, "--prior", "gmm"], ["interpolate", run, 0, 1], ["traverse", run],
        ["encode", run, "--split", "test"], ["explore", run, "--html", tmp_path / "x.html"],
    ):  # fmt: skip
        code, printed = call(*words)
        assert not code, printed
    code, printed = call("compare", run, fitted)
    assert not code and "distortion" in printed and "ELBO" not in printed and "NLL" not in printed
