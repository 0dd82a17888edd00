"""Words in place of models of their own: what the pages say of other libraries, and the rows of benchmarks/table."""

import re
import shutil
import subprocess

import pytest
import torch
from conftest import ROOT, config
from hydra import compose, initialize_config_dir

from cvae.build import build_vae, make
from cvae.training.compatible import require_objective

PAGE = (ROOT / "docs" / "from_other_libraries.md").read_text(encoding="utf-8")
SMALL = ["data=synthetic", "data.image_shape=[1,28,28]", "model.width=4", "model.depth=1"]
MODELS = """AE VAE BetaVAE VAE_LinNF VAE_IAF DisentangledBetaVAE FactorVAE BetaTCVAE IWAE MIWAE PIWAE CIWAE MSSSIM_VAE
    WAE_MMD INFOVAE_MMD VAMP SVAE PoincareVAE Adversarial_AE VAEGAN VQVAE HRQVAE RAE_GP RAE_L2 HVAE RHVAE""".split()
SAMPLERS = """NormalSampler GaussianMixtureSampler TwoStageVAESampler HypersphereUniformSampler PoincareDiskSampler
    VAMPSampler RHVAESampler MAFSampler IAFSampler PixelCNNSampler""".split()
WORD = re.compile(r"[a-z_.]+=[^\s\"]+")  # without the words of the libraries, which have quotes
BEFORE = {  # words that go with others alone
    "objective.regularizer=gradient_penalty": ["experiment=rae"],
    "objective.critic_lr=1": ["objective=aae"],
    "prior=uniform_sphere": ["posterior=power_spherical"],
    "prior=wrapped_normal": ["posterior=wrapped_normal"],
}
TABLE = ROOT / "benchmarks" / "table"
DATA = "cvae.data.ImageData"
FACTORS = ROOT / "benchmarks" / "factors"
ROWS = sorted(path.stem for path in (TABLE / "experiment").glob("row_*.yaml"))


def cells(page):
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]


def choices():
    """The words of each choice that the page names, as they are typed."""
    spans = [span for _, *rest in cells(PAGE) for cell in rest for span in re.findall(r"`([^`]+)`", cell)]
    return sorted({span for span in spans if all(WORD.fullmatch(word) for word in span.split())})


def step(cfg):
    vae, objective = build_vae(cfg), make(cfg, "objective")
    require_objective(cfg, vae, objective)
    objective.prepare(100)
    shape = list(cfg.data.image_shape)
    y = torch.arange(3) if cfg.conditional else None
    terms = objective(vae, torch.rand(3, *shape).round(), y)
    terms.loss.mean().backward()
    assert terms.loss.isfinite().all() and any(p.grad is not None and p.grad.any() for p in vae.parameters())
    return terms


def test_the_page_has_every_model_and_sampler_of_pythae():
    page = PAGE[: PAGE.index("## PyTorch-VAE")]
    named = {name for first, *_ in cells(page) for name in re.findall(r"`(\w+)`", first)}
    assert named == {*MODELS, *SAMPLERS} and len(MODELS) == 26 and len(SAMPLERS) == 10


@pytest.mark.parametrize("typed", choices())
def test_the_words_on_the_page_make_a_step(typed):
    words = [*BEFORE.get(typed, []), *typed.split()]
    model = [] if any(word.startswith(("experiment", "model")) for word in words) else ["model=mlp", "model.hidden=[8]"]
    small = SMALL[:2] if model or "experiment=vq_mnist" not in words else SMALL
    step(config(*small, *model, *words))


def test_the_page_names_enough_choices():
    assert len(choices()) > 25


@pytest.mark.parametrize("row", ROWS)
def test_a_row_of_the_table_makes_a_step_in_the_one_network(row):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        search = f"hydra.searchpath=[file://{TABLE}]"
        small = ["data=synthetic", "data.image_shape=[1,8,8]", "model.hidden=[8]"]
        cfg = compose("config", [f"experiment={row}", search, *small])
    assert cfg.model._target_ == "cvae.networks.mlp" and cfg.model.latent_dim == (4 if row == "row_vq" else 16)
    assert (cfg.trainer.max_time, cfg.data.batch_size, cfg.evaluation.samples) == ("00:00:05:00", 100, 1000)
    assert not cfg.experiment.left_out, "all values of a row apply"
    assert (step(cfg).bound is None) == (cfg.posterior._target_ == "cvae.posteriors.Deterministic")


@pytest.mark.parametrize("file", sorted((FACTORS / "experiment").glob("factors_*.yaml")), ids=lambda file: file.stem)
def test_a_row_of_the_table_of_factors_makes_a_step(file):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = compose("config", [f"experiment={file.stem}", f"hydra.searchpath=[file://{FACTORS}]", "model.hidden=[8]"])
    assert (cfg.data._target_, cfg.model._target_, cfg.model.latent_dim) == (DATA, "cvae.networks.mlp", 10)
    assert cfg.data.image_shape == [1, 32, 32] and cfg.trainer.max_time == "00:00:05:00"
    assert not cfg.experiment.left_out, "all values of a row apply"
    step(cfg)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_command_of_the_table_can_be_read():
    subprocess.run(["bash", "-n", str(ROOT / "benchmarks" / "table.sh")], check=True)
    said = (ROOT / "benchmarks" / "table.sh").read_text(encoding="utf-8")
    assert {f"row_{name}" for name in ("autoencoder", "rae", "rae_gradient")} <= set(ROWS)  # those without a prior
    assert "{autoencoder,rae,rae_gradient}" in said and "experiment=glob(row_*)" in said
