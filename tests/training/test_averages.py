"""Averages of the weights: what they are, and that all that is measured, drawn and loaded is of them."""

import io
import json
import math
import shutil
from contextlib import contextmanager

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from pytorch_lightning import Callback
from same_run import last
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_waits import NoWaiting
from tiny import QUIET, tiny
from torch.optim.swa_utils import AveragedModel

import cvae
from cvae.build import load_with_step
from cvae.errors import ConfigError, UserError
from cvae.runs.checkpoint import read_checkpoint
from cvae.runs.comparison import read
from cvae.runs.directory import Run
from cvae.training.averages import Averages
from cvae.training.module import VAEModule
from cvae.training.own_pictures import OwnImages
from cvae.training.pictures import Pictures
from cvae.training.step_state import Operators
from cvae.training.train import train

DECAY = "averaging.decay=0.8"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(tiny(folder, *QUIET, DECAY, "evaluation.samples=2"))
    return folder


@pytest.mark.parametrize("decay", [0.25, 0.8])
def test_they_are_those_of_tensorflow_after_each_optimizer_step(decay, tmp_path, monkeypatch):
    """Its ExponentialMovingAverage with num_updates; torch's AveragedModel, told of the initial weights and of these
    decays, has the same. Of six steps four are past the one after which the decay is 0.25.
    """
    torchs, optimize = [], VAEModule.optimize

    def tensorflows(averages, trained, counted):
        assert counted == len(steps)
        for average, parameter in zip(averages, trained, strict=True):
            d = min(decay, (1 + steps[-1]) / (10 + steps[-1]))
            average.mul_(d).add_(parameter, alpha=1 - d)

    steps = []

    def watched(self, *given):
        if not torchs:
            torchs.append(AveragedModel(self.vae, multi_avg_fn=tensorflows))
            torchs[0].update_parameters(self.vae)
        sums = optimize(self, *given)
        if self.ends:
            steps.append(len(steps))
            torchs[0].update_parameters(self.vae)
        return sums

    monkeypatch.setattr(VAEModule, "optimize", watched)
    words = ["+trainer.accumulate_grad_batches=2", "data.source.train_size=22"]
    train(tiny(tmp_path, *QUIET, f"averaging.decay={decay}", *words))
    saved = last(tmp_path)["cvae"]["averages"]
    assert int(torchs[0].n_averaged) == 1 + last(tmp_path)["global_step"] == 7
    for name, parameter in torchs[0].module.named_parameters():
        torch.testing.assert_close(saved[name], parameter.detach(), rtol=1e-5, atol=1e-7)
    assert set(saved) == dict(torchs[0].module.named_parameters()).keys()


def averages_of_a_line(decay, steps, of_step):
    """The average after so many steps of a weight that is 5 before the first and t + 1 after step t, in float64."""
    model = torch.nn.Linear(1, 1, bias=False).double()
    torch.nn.init.constant_(model.weight, 5.0)
    averages = Averages(model, decay)
    for step in range(steps):
        torch.nn.init.constant_(model.weight, step + 1.0)
        averages.update(of_step(step))
    return next(averages.buffers()).item()


@pytest.mark.parametrize("of_step", [int, torch.tensor])
def test_how_far_they_look_back(of_step):
    """With a decay near 1 all weights of n steps have a share: the initial ones' is 1 / C(n + 9, 9), step t has
    9 / (10 + t) * (2 + t) / (11 + t) * ... Once the decay is reached, averages are decay / (1 - decay) steps behind.
    """
    n = 40
    shares = [9 / (10 + t) * math.prod((1 + s) / (10 + s) for s in range(t + 1, n)) for t in range(n)]
    initial = 1 / math.comb(n + 9, 9)
    assert initial + sum(shares) == pytest.approx(1)
    expected = 5 * initial + sum(share * (t + 1) for t, share in enumerate(shares))
    assert averages_of_a_line(0.9999, n, of_step) == pytest.approx(expected, rel=1e-6)
    assert 600 - averages_of_a_line(0.9, 600, of_step) == pytest.approx(0.9 / 0.1, rel=1e-5)


def test_an_update_waits_for_no_device_and_repeats_no_number():
    """As in a CUDA graph: the operators of two steps have the same arguments."""
    averages, seen = Averages(torch.nn.Linear(2, 3).to("meta"), 0.5), []
    for step in (0, 1000):
        with Operators() as operators, NoWaiting():
            averages.update(torch.full((), step, device="meta"))
        seen.append(operators.seen[1:])
    assert seen[0] == seen[1] and len(seen[0]) > 3


def test_training_is_that_without_them(folder, tmp_path):
    train(tiny(tmp_path, *QUIET))
    torch.testing.assert_close(last(folder)["state_dict"], last(tmp_path)["state_dict"], rtol=0, atol=0)
    assert "averages" not in last(tmp_path)["cvae"]


def test_what_is_measured_and_loaded_is_of_them(folder, tmp_path):
    """The test ELBO is that of a run that ends with the averages as its weights."""
    averaged, raw = cvae.load(folder), cvae.load(folder, weights="raw")
    for name, parameter in averaged.named_parameters():
        torch.testing.assert_close(parameter.detach(), last(folder)["cvae"]["averages"][name], rtol=0, atol=0)
        torch.testing.assert_close(
            raw.get_parameter(name).detach(), last(folder)["state_dict"][f"vae.{name}"], rtol=0, atol=0
        )
        assert not torch.equal(parameter, raw.get_parameter(name))
    train(tiny(tmp_path, *QUIET, "evaluation.samples=2"))
    ours, without = cvae.open_run(folder), cvae.open_run(tmp_path)
    assert ours.metrics["train_epoch/elbo"] == without.metrics["train_epoch/elbo"]
    for figure in ("test/elbo", "evaluation/nll", "evaluation/elbo"):
        assert ours.metrics[figure] != without.metrics[figure]
    again = ours.evaluate(2)
    assert again["evaluation/nll"] == ours.metrics["evaluation/nll"]
    assert ours.evaluate(2, weights="raw")["evaluation/nll"] == without.metrics["evaluation/nll"]
    torch.testing.assert_close(ours.vae.state_dict(), averaged.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("words", "weights"), [([DECAY], "averaged"), ([], "raw")])
def test_the_evaluation_at_the_end_of_a_training_says_what_it_is_of(tmp_path, words, weights):
    train(tiny(tmp_path, *QUIET, "evaluation.samples=2", *words))
    (file,) = (tmp_path / "evaluation").iterdir()
    assert json.loads(file.read_text())["settings"]["weights"] == weights


def test_a_table_has_figures_of_the_weights_that_the_training_measures(folder):
    run = cvae.open_run(folder)
    raw = run.evaluate(50, weights="raw")["evaluation/nll"]
    (entry,) = read([Run(folder)])
    assert entry.figures["NLL"] != raw and entry.averaged and entry.by == "2 samples, 7 images, averaged weights"
    assert "1 of the runs: figures of averaged weights" in cvae.find_runs(str(folder)).table()


def test_each_evaluation_says_what_it_is_of(folder, call):
    for words, said in (
        ([], "of averaged weights (averaging.decay=0.8)"),
        (["--weights", "raw"], "of the raw weights"),
    ):
        code, text = call("evaluate", folder, "--samples", "3", *words)
        assert code == 0 and said in text
    kept = {file.name: file for file in (folder / "evaluation").glob("*samples=3*")}
    assert sorted(kept) == ["last_averaged_samples=3_images=7_seed=0.json", "last_samples=3_images=7_seed=0.json"]


@contextmanager
def noting_weights(vae, seen):
    """Each reconstruction in this block adds a copy of the parameters that make it to `seen`."""
    reconstruct = vae.reconstruct

    def looks(*given):
        seen.append([parameter.detach().clone() for parameter in vae.parameters()])
        return reconstruct(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae, "reconstruct", looks)
        yield


def test_a_picture_is_of_them_and_training_goes_on_with_the_others(tmp_path, monkeypatch):
    seen, draw = [], Pictures._epoch

    def watched(self, trainer, module, epoch):
        with noting_weights(module.vae, seen):
            draw(self, trainer, module, epoch)

    monkeypatch.setattr(Pictures, "_epoch", watched)
    train(tiny(tmp_path, DECAY))
    torch.testing.assert_close(seen[-1], list(last(tmp_path)["cvae"]["averages"].values()), rtol=0, atol=0)


def test_curves_have_figures_of_them_alone(folder, tmp_path, call):
    """TensorBoard's charts have one point a step; the evaluation of the other weights is in a file alone."""
    curves = shutil.ignore_patterns("events.out.tfevents.*")  # of other tests, which evaluate the folder itself
    run = shutil.copytree(folder, tmp_path / "run", ignore=curves)
    for words, points in (["--weights", "raw"], 0), ([], 1):
        code, text = call("evaluate", run, "--samples", "3", *words)
        assert code == 0, text
        events = EventAccumulator(str(run)).Reload()
        assert "bound/NLL" in events.Tags()["scalars"] if points else not events.Tags()["scalars"]


def test_a_prior_is_fitted_to_the_weights_that_draw(folder, tmp_path, call, monkeypatch):
    """And kept under a name of its own, so that the others never draw by it."""
    seen = []

    def fitted(kind, args, vae, step, weights):
        seen.append((weights, next(vae.parameters()).detach().clone()))
        return vae.prior

    monkeypatch.setattr("cvae.commands.sample.fitted", fitted)
    for words in ([], ["--weights", "raw"]):
        code, text = call("sample", folder, "--prior", "gmm", "--num", "2", "--out", tmp_path / "a.png", *words)
        assert code == 0, text
    assert [weights for weights, _ in seen] == ["averaged", "raw"]
    for weights, parameter in seen:
        assert torch.equal(parameter, next(cvae.load(folder, weights=weights).parameters()))
    files = [Run(folder).fitted_prior("gmm", "last.ckpt", 6, weights).name for weights, _ in seen]
    assert files == ["gmm_last_step=6_averaged.pt", "gmm_last_step=6.pt"]


class Saves(Callback):
    """A checkpoint in the middle of an evaluation."""

    def on_validation_epoch_end(self, trainer, module):
        trainer.save_checkpoint(Run(module.trainer.default_root_dir).checkpoints / "within.ckpt")


def test_what_a_callback_saves_in_an_evaluation_has_the_weights_and_the_averages(tmp_path):
    train(tiny(tmp_path, *QUIET, DECAY, "+callbacks.saves._target_=test_averages.Saves"))
    within, after = last(tmp_path, "within.ckpt"), last(tmp_path)
    assert within["global_step"] == after["global_step"]
    torch.testing.assert_close(within["state_dict"], after["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(within["cvae"]["averages"], after["cvae"]["averages"], rtol=0, atol=0)


def test_own_images_are_reconstructed_with_them(tmp_path, monkeypatch):
    seen, drawn = [], OwnImages.drawn

    def watched(self, module, *given):
        with noting_weights(module.vae, seen):
            return drawn(self, module, *given)

    (tmp_path / "mine").mkdir()
    imageio.imwrite(tmp_path / "mine" / "a.png", np.zeros((8, 8), np.uint8))
    monkeypatch.setattr(OwnImages, "drawn", watched)
    train(tiny(tmp_path / "run", DECAY, f"callbacks.pictures.own={tmp_path / 'mine'}"))
    averages = last(tmp_path / "run")["cvae"]["averages"].values()
    torch.testing.assert_close(seen[-1], list(averages), rtol=0, atol=0)


def test_the_pictures_at_the_end_are_of_them(tmp_path, monkeypatch):
    seen, draw = [], Pictures._at_the_end

    def watched(self, vae, *given):
        seen.extend(parameter.detach().clone() for parameter in vae.parameters())
        return draw(self, vae, *given)

    monkeypatch.setattr(Pictures, "_at_the_end", watched)
    train(tiny(tmp_path, DECAY))
    torch.testing.assert_close(seen, list(last(tmp_path)["cvae"]["averages"].values()), rtol=0, atol=0)


def test_a_checkpoint_saved_with_the_averages_in_use_has_both():
    model = torch.nn.Linear(2, 1)
    averages = Averages(model, 0.5)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 2
    averages.update(8)
    addresses = [parameter.data_ptr() for parameter in model.parameters()]
    with averages.in_use(), averages.in_use():
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), before[name] + 1)
            torch.testing.assert_close(averages.of_checkpoint()[0][name], before[name] + 1)
            torch.testing.assert_close(averages.of_checkpoint()[1][name], before[name] + 2)
    assert addresses == [parameter.data_ptr() for parameter in model.parameters()]  # a CUDA graph goes on
    torch.testing.assert_close(model.weight.detach(), before["weight"] + 2)


@pytest.mark.parametrize("value", [-0.1, 1, "x", True])
def test_decays_that_are_refused(value, tmp_path):
    with pytest.raises(ConfigError, match=r"^averaging.decay=.*: must be a number of at least 0 and below 1"):
        train(tiny(tmp_path, f"averaging.decay={value}"))


def test_weights_that_are_not_there(folder, tmp_path, call):
    train(tiny(tmp_path, *QUIET))
    with pytest.raises(ConfigError, match="^weights=averaged: must be raw: .*last.ckpt has no others"):
        cvae.load(tmp_path, weights="averaged")
    with pytest.raises(ConfigError, match="^weights=x: must be averaged or raw"):
        cvae.load(folder, weights="x")
    code, text = call("sample", tmp_path, "--weights", "averaged")
    assert code and "--weights=averaged: must be raw" in text
    assert load_with_step(Run(tmp_path), "last", "cpu").weights == "raw"


def test_a_run_with_a_fitted_prior_keeps_the_averages_alone(folder, tmp_path, call):
    code, text = call("fit-prior", folder, "prior=gmm", "prior.components=2", "--rounds", "2", "--samples", "2",
                      "--out", tmp_path / "new")  # fmt: skip
    assert code == 0, text
    vae, _, weights = load_with_step(Run(tmp_path / "new"), "last", "cpu")
    assert weights == "averaged" and torch.equal(vae.encoder[1].weight, cvae.load(folder).encoder[1].weight)
    with pytest.raises(ConfigError, match="^weights=raw: must be averaged"):
        cvae.load(tmp_path / "new", weights="raw")


@pytest.mark.parametrize("change", ["shape", "type", "names", "kind"])
def test_averages_of_another_model_are_refused(change, folder, tmp_path):
    content = last(folder)
    averages = content["cvae"]["averages"]
    name = next(iter(averages))
    if change == "shape":
        averages[name] = torch.zeros(1)
    elif change == "type":
        averages[name] = averages[name].double()
    elif change == "names":
        del averages[name]
    else:
        averages[name] = "x"
    if change == "kind":
        buffer = io.BytesIO()
        torch.save(content, buffer)
        (tmp_path / "last.ckpt").write_bytes(buffer.getvalue())
        with pytest.raises(UserError, match=f"cvae.averages.{name} is of a type that no training saves"):
            read_checkpoint(tmp_path / "last.ckpt")
        return
    with pytest.raises(UserError, match="cvae.averages"):
        Averages(cvae.load(folder), 0.8, averages)


def test_averages_alone():
    """Copies of the initial weights, which no state_dict has; used within each other they are exchanged once."""
    model = torch.nn.Linear(2, 1)
    first = [parameter.detach().clone() for parameter in model.parameters()]
    averages = Averages(model, 0.75)
    assert list(averages.state_dict()) == []
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    averages.update(1000)  # long after the beginning
    expected = [0.75 * value + 0.25 * (value + 1) for value in first]
    torch.testing.assert_close(list(averages.of_checkpoint()[0].values()), expected)
    with averages.in_use(), averages.in_use():
        torch.testing.assert_close([p.detach() for p in model.parameters()], expected)
    torch.testing.assert_close([p.detach() for p in model.parameters()], [value + 1 for value in first])
    good = dict(zip(("weight", "bias"), expected, strict=True))
    for bad in (good | {"more": first[0]}, {"weight": first[0]}, good | {"bias": first[1].double()}):
        with pytest.raises(UserError, match="averages"):
            averages.load(bad)
