"""sample --prior: a density that is fitted once to a checkpoint's aggregate posterior, and kept in the run."""

import numpy as np
import pytest
import torch
from code_vaes import CODES, OF_CODES, vae_of
from test_commands import make_run, other_weights
from test_use import arrays
from tiny import TINY

import cvae
from cvae.build import load_data
from cvae.commands import fitted_prior as module
from cvae.evaluation.fit import fit
from cvae.posteriors import DiagonalGaussian
from cvae.priors import FlowPrior, MixtureOfGaussians, Standardized, StandardNormal
from cvae.runs.directory import Run
from cvae.runtime.noise import fixed_noise

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setitem(module.NUMBERS["gmm"], "components", 3)
    torch.manual_seed(1)
    folder = make_run(tmp_path / "run", "conditional=true", base=TINY)
    other_weights(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "make"),
    [("gmm", lambda: MixtureOfGaussians(2, components=3)), ("flow", lambda: Standardized(2, None, FlowPrior))],
)
def test_samples_come_from_the_density_that_is_fitted(run, call, tmp_path, monkeypatch, kind, make):
    monkeypatch.setattr(module, "BATCH", 4)
    code, printed = call("sample", run, "--prior", kind, "--num", 10, "--seed", 3, "--out", tmp_path / "s.npz")
    assert code == 0 and f"{kind} fitted to the aggregate posterior: -log p(z) of draws held out is " in printed
    vae, data = cvae.load(run), load_data(Run(run))
    with fixed_noise(0, CPU):  # one draw for each training image, with its label
        prior, z = make(), []
        for rows in torch.arange(10).split(4):
            x, y = data.batch("train", rows.tolist())
            z.append(vae.encode(x, y).sample())
        found = fit(prior, torch.cat(z), range(2))
    assert f"held out is {found:.2f} nats" in printed
    vae.prior = prior
    with fixed_noise(3, CPU):
        expected = vae.sample(10, torch.arange(10))
    assert np.allclose(arrays(tmp_path / "s.npz")["x"][..., 0], expected[:, 0].numpy(), atol=1e-5)
    assert [file.name for file in (run / "priors").iterdir()] == [f"{kind}_last_step=7.pt"]


def test_it_is_fitted_once_for_each_checkpoint(run, call, monkeypatch):
    calls = []
    fit = module.posterior_draws
    monkeypatch.setattr(module, "posterior_draws", lambda *values: calls.append(1) or fit(*values))
    for words in ([], ["--seed", 5], ["--checkpoint", "best.ckpt"], ["--checkpoint", "best"], ["--prior", "flow"]):
        assert call("sample", run, "--prior", "gmm", *words)[0] == 0
    assert len(calls) == 3
    names = {"gmm_last_step=7.pt", "gmm_best_step=7.pt", "flow_last_step=7.pt"}
    assert {file.name for file in (run / "priors").iterdir()} == names
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(weights | {"global_step": 8}, run / "checkpoints" / "last.ckpt")  # training went on
    code, printed = call("sample", run, "--prior", "gmm")
    assert code == 0 and "fitted" in printed and (run / "priors" / "gmm_last_step=8.pt").exists()


def test_the_numbers_of_the_fit():
    assert module.ROUNDS == 50 and module.KINDS == ("gmm", "flow", "two_stage", "autoregressive")
    vae = vae_of(lambda _: DiagonalGaussian(3), lambda dims, shape, codes: StandardNormal(dims))
    assert module.unfitted(module.NUMBERS["gmm"], vae).mean.shape == (50, 3)
    prior = module.unfitted(module.NUMBERS["flow"], vae)
    assert prior.loc.shape == (3,) and prior.state_dict().keys() == Standardized(3, None, FlowPrior).state_dict().keys()
    codes = vae_of(CODES["vq"], OF_CODES["uniform"])
    prior = module.unfitted(module.CODES["autoregressive"], codes)
    assert (prior.latent_dim, prior.num_codes) == (3, 5)


def test_a_file_that_holds_another_density(run, call):
    call("sample", run, "--prior", "gmm")
    file = run / "priors" / "gmm_last_step=7.pt"
    for content, message in (
        ({"mean": torch.zeros(2)}, "does not hold a density for this model"),
        (None, "is damaged"),
    ):
        torch.save(content, file) if content else file.write_bytes(b"")
        code, printed = call("sample", run, "--prior", "gmm")
        assert code == 1 and f"{file} {message}" in " ".join(printed.split())
