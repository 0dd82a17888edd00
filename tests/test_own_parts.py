"""docs/own_parts.md, word for word: its files are written down as they stand there, and its commands are run."""

import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, config
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from cvae.build import build_data, build_vae, make
from cvae.cli.messages import find_own_parts
from cvae.errors import ConfigError, UserError
from cvae.objectives import ELBO

DOCUMENT = (ROOT / "docs" / "own_parts.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(my_parts/\S+)`:\n\n```\w+\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE))
COMMANDS = re.findall(r"^python train.py .*$", DOCUMENT, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the document's files in my_parts/, which Python finds; it forgets them afterwards."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path / "my_parts")
    yield tmp_path
    for name in ("noise", "patches", "laplace", "denoising"):
        sys.modules.pop(name, None)


def own(folder, *words):
    """What --config-dir does, for `compose`."""
    return config(f"hydra.searchpath=[file://{folder}/my_parts]", "data=synthetic", *words)


def test_what_the_document_has():
    folders = ["model", "objective", "prior", "data"]
    python = ["denoising.py", "laplace.py", "patches.py", "noise.py"]
    assert sorted(FILES) == sorted(
        [*(f"my_parts/{name}" for name in python)]
        + [
            f"my_parts/{group}/{name[:-3]}.yaml"
            for group, name in zip(folders, ["patches.py", "denoising.py", "laplace.py", "noise.py"], strict=True)
        ]
    )
    assert len(COMMANDS) == 4
    listed = re.findall(r"^  (\w+\.py) +(\w+/\w+\.yaml)$", DOCUMENT, re.MULTILINE)
    assert sorted(f"my_parts/{name}" for pair in listed for name in pair) == sorted(FILES)


def test_the_network(folder):
    vae = build_vae(own(folder, "model=patches", "model.width=8", "model.latent_dim=3"))
    x, z = torch.rand(2, 1, 28, 28), torch.randn(2, 3)
    assert vae.encode(x).event_shape == (3,) and vae.decode(z).mean.shape == (2, 1, 28, 28)
    changed = x.clone()
    changed[0, 0, 7:14, 14:21] = 0  # one patch: the others' numbers stay
    before, after = vae.encoder[0](x), vae.encoder[0](changed)
    assert ((before - after).abs().sum((0, 1)) > 0).nonzero().tolist() == [[1, 2]]
    with pytest.raises(ConfigError, match="data.image_shape=.* multiples of 5"):
        build_vae(own(folder, "model=patches", "model.patch=5"))


def test_the_prior(folder):
    cfg = own(folder, "prior=laplace", "model.latent_dim=3", "prior.scale=0.5")
    p = build_vae(cfg).p_z()
    z = torch.tensor([0.0, -1.0, 2.0])
    assert p.log_prob(z).item() == pytest.approx(-3.0 / 0.5, abs=1e-5)  # log 1/(2 scale) = 0
    cfg.prior.scale = -1
    with pytest.raises(ConfigError, match="^prior.scale=-1: must be a finite number above 0$"):
        build_vae(cfg)


def test_the_objective(folder):
    cfg = own(folder, "objective=denoising", "objective.drop=0.4", "model.filters=4")
    vae, objective, x = build_vae(cfg), make(cfg, "objective"), torch.rand(200, 1, 28, 28).round()
    terms = objective(vae, x)
    assert terms.parts["kept"].mean().item() == pytest.approx(0.6, abs=0.01)
    torch.manual_seed(1)
    evaluated = objective.eval()(vae, x)
    torch.manual_seed(1)
    for ours, elbo in zip(evaluated[:4], ELBO()(vae, x)[:4], strict=True):
        torch.testing.assert_close(ours, elbo)
    cfg.objective.drop = 1
    with pytest.raises(ConfigError, match="^objective.drop=1: must be at least 0 and below 1$"):
        make(cfg, "objective")


def test_the_data(folder):
    data = build_data(config(f"hydra.searchpath=[file://{folder}/my_parts]", "data=noise", "data.source.size=15"))
    data.setup()
    assert data.train.images.x.shape == (15, 3, 32, 32) and len(data.test) == 3
    assert set(data.train.images.y.tolist()) <= set(range(10)) and data.train.images.y.unique().numel() > 1


@pytest.fixture
def sources(monkeypatch):
    """Tell Hydra's config that it came from these places."""

    def tell(*pairs):
        sources = [{"provider": provider, "path": path, "schema": "file"} for provider, path in pairs]
        monkeypatch.setattr(HydraConfig, "get", lambda: OmegaConf.create({"runtime": {"config_sources": sources}}))

    monkeypatch.setattr(sys, "path", ["first", "last"])
    return tell


def test_the_folder_of_config_dir_is_searched_last(sources):
    sources(("hydra", "hydra.conf"), ("main", "/here/conf"), ("command-line", "/own/parts"), ("schema", ""))
    find_own_parts()
    assert sys.path == ["first", "last", "/own/parts"]


def test_without_config_dir_nothing_changes(sources):
    sources(("hydra", "hydra.conf"), ("main", "/here/conf"))
    find_own_parts()
    assert sys.path == ["first", "last"]


def test_a_file_that_is_not_found(folder):
    cfg = own(folder, "model=patches")
    cfg.model._target_ = "my_nets.network"
    with pytest.raises(
        UserError, match="^model: my_nets.network cannot be imported. A file of your own must lie in the"
    ):
        build_vae(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands(folder, command):
    """In a folder where train.py and my_parts/ are, without PYTHONPATH for the latter."""
    for name in ("train.py", "conf", "cvae"):
        (folder / name).symlink_to(ROOT / name)
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    words = [sys.executable, *command.split()[1:]]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (metrics,) = folder.glob("outputs/*/*/metrics.json")
    assert OmegaConf.load(metrics).epochs == 2
