"""What README.md and CONTRIBUTING.md show: their Python is run, their commands are read, their links lead somewhere."""

import re
import shlex

import pytest
import torch
import yaml
from conftest import ROOT, config
from omegaconf import OmegaConf, open_dict
from torch.distributions import Distribution, StudentT

import cvae.priors
from cvae.__main__ import parser
from cvae.build import build_vae
from cvae.cli.resume import run_to_resume

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# Python


def make_run(folder, *words):
    """A run directory as training leaves it, of a small untrained model of 28x28 images."""
    cfg = config("model.filters=4", "model.base_channels=4", *words)
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    weights = {f"vae.{name}": value for name, value in build_vae(cfg).state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 1}, folder / "checkpoints" / "last.ckpt")


def test_the_python_of_the_readme(tmp_path):
    make_run(tmp_path / "run")
    code, replaced = re.subn(r'"outputs/[\w./:-]+"', repr(str(tmp_path / "run")), "".join(blocks(README, "python")))
    assert replaced == code.count("cvae.load(") == 1
    left = {}
    exec(compile(code, "README.md", "exec"), left)
    images, q, log_px_given_z = left["images"], left["q"], left["log_px_given_z"]
    assert images.shape == (16, 1, 28, 28) and 0 <= images.min() < images.max() <= 1
    assert isinstance(q, Distribution) and (q.batch_shape, q.event_shape) == ((16,), (2,))
    assert log_px_given_z.shape == (16,) and (log_px_given_z < 0).all()  # binary images: a probability
    shapes = {"typical": (16,), "again": (16,), "way": (9, 1), "moved": (2, 7, 1)}
    assert {name: tuple(left[name].shape) for name in shapes} == {name: (*n, 1, 28, 28) for name, n in shapes.items()}


def test_the_prior_of_contributing(monkeypatch):
    """Its class and its YAML file, as they stand there."""
    (code, line), (choice,) = blocks(CONTRIBUTING, "python"), blocks(CONTRIBUTING, "yaml")
    left = {}
    exec(compile(code, "CONTRIBUTING.md", "exec"), left)
    assert '"student_t": (StudentTPrior, ' in line
    monkeypatch.setattr(cvae.priors, "StudentTPrior", left["StudentTPrior"], raising=False)
    cfg = config("model.latent_dim=3", "model.filters=4")
    with open_dict(cfg):
        cfg.prior = yaml.safe_load(choice)
    p, z = build_vae(cfg).p_z(), torch.randn(4, 3)
    assert (p.batch_shape, p.event_shape) == ((), (3,))
    torch.testing.assert_close(p.log_prob(z), StudentT(10.0).log_prob(z).sum(-1))
    cfg.prior.degrees = 2
    with pytest.raises(ValueError, match="prior.degrees=2: must be"):
        build_vae(cfg)


# Commands


def commands(text):
    """Each `python train.py …` in a line of its own or between backticks, once, without its comment."""
    found = re.findall(r"(?:^|`)python train\.py([^`\n]*)", "\n".join(re.split(r" && ", text)), re.MULTILINE)
    return list(dict.fromkeys(" ".join(shlex.split(line, comments=True)) for line in found))


COMMANDS = re.findall(r"^python -m cvae (.*?)(?:  +#.*)?$", README, re.MULTILINE)


def test_the_commands_after_a_run_are_found():
    assert {line.split()[0] for line in COMMANDS} >= {
        "evaluate", "sample", "reconstruct", "encode", "interpolate", "traverse", "export", "explore",
    }  # fmt: skip


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_after_a_run_is_read(line):
    args = parser().parse_args(line.split())
    assert callable(args.call)


def test_the_commands_are_found():
    found = commands(
        "```\npip install . && python train.py\npython train.py a=1  # why\n```\nor `python train.py -m b=[1,2] c=2`."
    )
    assert found == ["", "a=1", "-m b=[1,2] c=2"]


@pytest.mark.parametrize("command", [command for command in commands(README) if "--help" not in command])
def test_a_command_of_the_readme_composes(command):
    words = command.split()
    if "-m" not in words and (stopped := run_to_resume(words)):
        assert stopped[1] == []
        return
    if "-m" in words:  # a sweep: its first run
        words = [re.sub(r"(=[^\[,]*),.*", r"\1", word) for word in words if word != "-m"]
    config(*words)


# Links


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_lead_somewhere(text):
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = [
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in prose.splitlines()
        if line.startswith("#")
    ]
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not target.startswith(("https://", "http://")):
            file, _, heading = target.partition("#")
            assert (ROOT / file).exists(), target
            assert file or heading in headings, target
