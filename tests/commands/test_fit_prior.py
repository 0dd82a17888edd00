"""fit-prior: the same encoder and decoder with a prior that is fitted afterwards, as a run like any other."""

import json

import pytest
import torch
from conftest import ROOT
from test_commands import evaluations, make_run, other_weights
from tiny import TINY, trained

import cvae
from cvae.build import load_data, load_with_step, saved_config
from cvae.cli.resume import resume
from cvae.commands import fit_prior
from cvae.commands.fitted_prior import posterior_draws
from cvae.errors import UserError
from cvae.evaluation import Settings, evaluate
from cvae.evaluation.fit import fit, nll, split
from cvae.posteriors import DiagonalGaussian
from cvae.priors import AutoregressiveCodes, FlowPrior, MixtureOfGaussians, Standardized, TwoStage
from cvae.runs.checkpoint import FORMAT
from cvae.runs.comparison import read
from cvae.runs.directory import Run
from cvae.runtime.noise import fixed_noise
from cvae.version import VERSION

CPU = torch.device("cpu")
OF_CODES = ("posterior=vq", "posterior.codes=5", "posterior.width=2", "prior=uniform", "model.latent_dim=3")
SMALL = ("prior.hidden=8", "prior.layers=1", "prior.heads=2")
KINDS = {
    "gmm": ((), ("prior=gmm", "prior.components=3"), lambda: MixtureOfGaussians(2, components=3)),
    "flow": (
        (),
        ("prior=flow", "prior.transforms=1", "prior.hidden=4"),
        lambda: Standardized(2, None, lambda **sizes: FlowPrior(**sizes, transforms=1, hidden=4)),
    ),
    "two_stage": (
        (),
        ("prior=two_stage", "prior.hidden=4"),
        lambda: Standardized(2, None, lambda **sizes: TwoStage(**sizes, hidden=4)),
    ),
    "autoregressive": (
        OF_CODES,
        ("prior=autoregressive", *SMALL),
        lambda: AutoregressiveCodes(3, None, 5, hidden=8, layers=1, heads=2),
    ),
}


class Own(DiagonalGaussian):
    """A part that is not cvae's."""


def run_of(folder, *overrides):
    torch.manual_seed(1)
    run = make_run(folder, *overrides, base=TINY)
    other_weights(run)
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_with_the_same_model_and_the_fitted_prior(tmp_path, call, kind):
    overrides, words, make = KINDS[kind]
    old = run_of(tmp_path / "2026-01-31_12-00-00_lr=1", *overrides)
    (old / ".hydra" / "overrides.yaml").write_text("- prior=vamp\n- prior.components=7\n- optimizer.lr=1\n")
    (old / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {prior: vamp}}}\n")
    (old / "metrics.json").write_text('{"epochs": 2, "steps": 7, "train/seconds_per_epoch": [1, 2], "test/elbo": 1}')
    code, printed = call("fit-prior", old, *words, "--rounds", 2, "--seed", 3, "--samples", 4, "--checkpoint", "best")
    assert code == 0, printed
    before, data = cvae.load(old, "best"), load_data(Run(old))
    with fixed_noise(3, CPU):
        prior, z = make(), posterior_draws(before, data)
        own, found = nll(before.prior(before.infer), split(z)[-1]), fit(prior, z, range(2))
    said = f"draws held out: {own:.2f} nats by the prior of {old}, {found:.2f} by the new one"
    said += " 1 of 3 components are kept, as suits draws held out best" if kind == "gmm" else ""  # of 10 draws
    said += " The run is in"
    assert said in " ".join(printed.split())
    (new,) = (path for path in tmp_path.iterdir() if path != old)
    assert new.name == f"{old.name},{fit_prior.suffix(None, words)[1:]}" and f"The run is in {new}" in printed
    vae = cvae.load(new)
    before.prior = prior
    for name, value in before.state_dict().items():
        assert torch.equal(vae.state_dict()[name], value), name
    # Its figures, by the names that training leaves.
    x, y = data.batch("test", range(7))
    expected = evaluate(vae, [(x, vae.labels(y))], Settings(samples=4, seed=3))
    metrics = json.loads((new / "metrics.json").read_text())
    for name in ("elbo", "rate", "distortion"):
        assert metrics[f"test/{name}"] == pytest.approx(expected[name].value), name
    assert metrics["test/bound"] == metrics["test/elbo"]
    assert metrics["evaluation/nll"] == pytest.approx(expected["nll"].value)
    assert (metrics["epochs"], metrics["steps"], metrics["train/seconds_per_epoch"]) == (2, 7, [1, 2])
    assert metrics["parameters"] == sum(parameter.numel() for parameter in vae.parameters())
    ((_, report),) = evaluations(new).items()
    assert report["settings"]["checkpoint"] == "last.ckpt" and report["settings"]["step"] == 7
    assert load_with_step(Run(new), "last.ckpt", "cpu")[1] == 7
    content = torch.load(new / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["cvae"] == {"format": FORMAT, "version": VERSION, "weights": "raw"}
    # As one of many runs.
    assert (new / ".hydra" / "hydra.yaml").read_bytes() == (old / ".hydra" / "hydra.yaml").read_bytes()
    assert Run(new).state() == "finished" and saved_config(Run(new)).run_dir == str(new)
    assert Run(new).overrides() == ["optimizer.lr=1", *words]
    (entry,) = read([Run(new)])
    assert entry.settings["prior"] == kind


def test_a_prior_of_few_draws_has_few_components(tmp_path, call):
    """The run that is left, and a density that `sample` keeps, are of the size that was fitted."""
    run = run_of(tmp_path / "run", "data.source.train_size=50")
    code, printed = call("fit-prior", run, "prior=gmm", "--samples", 1, "--out", tmp_path / "new")
    assert code == 0 and "of 50 components are kept" in printed and "groups" not in printed
    prior = cvae.load(tmp_path / "new").prior
    assert len(prior.mean) == saved_config(Run(tmp_path / "new")).prior.components <= 4
    for said in (True, False):
        code, printed = call("sample", run, "--prior", "gmm", "--num", 2)
        assert code == 0 and ("of 50 components are kept" in printed) == said
    (file,) = (run / "priors").iterdir()
    assert len(torch.load(file)["logits"]) <= 4


def test_of_several_groups_the_top_one_alone_has_a_fitted_prior(tmp_path, call):
    small = ("model=ladder", "model.latent_dim=2", "model.width=4", "model.channels=2", "model.groups=[1x1,4x2]")
    torch.manual_seed(1)
    run = make_run(tmp_path / "run", *small, base=[word for word in TINY if not word.startswith("model")])
    before = {name: value for name, value in cvae.load(run).state_dict().items() if not name.startswith("prior.")}
    code, printed = call("fit-prior", run, "prior=gmm", "--samples", 1, "--out", tmp_path / "new")
    said = f"Of {cvae.load(run).groups} groups of latents the top one alone has the fitted prior"
    assert code == 0 and said in " ".join(printed.split())
    after = cvae.load(tmp_path / "new").state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_it_is_used_and_measured_as_any_other(tmp_path, call):
    """A run of its own: sampled, evaluated, fitted again; the old one stays as it is."""
    old = run_of(tmp_path / "2026-01-31_12-00-00", *OF_CODES)
    files = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    assert call("fit-prior", old, "prior=autoregressive", *SMALL, "--rounds", 1)[0] == 0
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == files
    (new,) = (path for path in tmp_path.iterdir() if path != old)
    assert new.name.startswith("2026-01-31_12-00-00_prior=autoregressive")
    assert call("sample", new, "--num", 4)[0] == 0 and call("evaluate", new, "--samples", 2)[0] == 0
    assert call("fit-prior", new, "prior=autoregressive", *SMALL, "--rounds", 1)[0] == 0
    assert call("fit-prior", old, "prior=autoregressive", *SMALL, "--rounds", 1)[0] == 0
    names = {path.name for path in tmp_path.iterdir()} - {old.name, new.name}
    assert len(names) == 2 and f"{new.name}_2" in names and any(name.startswith(f"{new.name},") for name in names)


def test_a_sample_of_codes_from_a_fitted_prior(tmp_path, call):
    run = run_of(tmp_path / "run", *OF_CODES)
    code, printed = call("sample", run, "--prior", "autoregressive", "--num", 3)
    assert code == 0 and "autoregressive fitted to the aggregate posterior" in printed
    assert [path.name for path in (run / "priors").iterdir()] == ["autoregressive_last_step=7.pt"]
    assert call("sample", run, "--prior", "gmm")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["prior=vamp"],
            "prior=vamp: must be prior=gmm|flow|two_stage|autoregressive, and keys of it as in ",
        ),
        (["gmm"], "gmm: must be prior=gmm|flow|two_stage|autoregressive"),
        (["prior.components=3"], "prior.components=3: must be prior="),
        (["prior=gmm", "prior=flow"], "prior=gmm prior=flow: must be"),
        (["prior=gmm", "prior.components"], "prior=gmm prior.components: must be"),
        (["prior=gmm", "seed=3"], "prior=gmm seed=3: must be"),
        (["prior=gmm", "prior.components=0"], "prior.components=0: must be a positive integer"),
        (["prior=gmm", "prior.bins=8"], "prior: cvae.priors.MixtureOfGaussians does not take its values"),
        (
            ["prior=autoregressive"],
            "prior=autoregressive: must be gmm or flow or two_stage: the latents of this model",
        ),
        (["prior=gmm", "--rounds", 0], "--rounds=0: must be a positive integer"),
        (["prior=gmm", "--samples", 0], "--samples=0: must be a positive integer"),
        (["prior=gmm", "--seed", -1], "--seed=-1: must be"),
        (["prior=gmm", "--out", "."], "--out=.: must be a folder that is not there yet "),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(tmp_path, call, words, message):
    run = run_of(tmp_path / "run")
    code, printed = call("fit-prior", run, *words)
    assert code == 1 and message in " ".join(printed.split()) + " "
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_parts_of_others_need_trust(tmp_path, call):
    run = run_of(tmp_path / "run", "posterior._target_=test_fit_prior.Own")
    code, printed = call("fit-prior", run, "prior=gmm", "--rounds", 1, "--out", tmp_path / "new")
    assert code == 1 and "--trust" in printed and not (tmp_path / "new").exists()
    code, printed = call("fit-prior", run, "prior=gmm", "--rounds", 1, "--out", tmp_path / "new", "--trust")
    assert code == 0, printed
    assert type(cvae.load(tmp_path / "new", trust=True).posterior).__name__ == "Own"


def test_missing_data_leave_nothing(tmp_path, call):
    run = make_run(tmp_path / "run", "data=mnist", f"data.root={tmp_path}/gone")
    code, printed = call("fit-prior", run, "prior=gmm")
    assert code == 1 and f"{tmp_path}/gone" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_its_training_does_not_go_on(tmp_path, call):
    old, new = tmp_path / "old", tmp_path / "new"
    trained(old, "~callbacks.pictures")
    assert call("fit-prior", old, "prior=gmm", "prior.components=2", "--rounds", 1, "--out", new)[0] == 0
    with pytest.raises(UserError, match="has a model alone, as of a run whose prior was fitted: there is no training"):
        resume(Run(new), ["trainer.max_epochs=9"], ROOT / "conf")


def test_the_words_become_keys():
    assert fit_prior.prior_of(["prior.a=1e-3", "prior=flow", "prior.b=[1,2]", "prior.c=x"]) == (
        "flow", {"a": 0.001, "b": [1, 2], "c": "x"},
    )  # fmt: skip
