"""Run directories made to do harm: every command that opens one names what is wrong, and nothing happens."""

import json
import re
import resource
import shutil
import time

import pytest
import torch
from conftest import config
from omegaconf import OmegaConf

import cvae
from cvae.__main__ import main
from cvae.build import build_vae, load_data
from cvae.errors import UserError
from cvae.run import Run

TINY = ["data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "model.hidden=[4]"]
SECRET = "the-secret-of-the-environment"
TOUCH = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["CANARY"]}}
COMMAND = {"_target_": "torch.utils.collect_env.run", "command": "touch CANARY"}
SPAWN = {"_target_": "subprocess.run", "args": ["touch", "CANARY"]}
GATES = "the model is larger than the checkpoint"

# name: (key, value, what the message says). CANARY is a file that must not appear.
HOSTILE = {
    "a command": ("likelihood", COMMAND, "likelihood._target_='torch.utils.collect_env.run': a saved config may build"),
    "nested": ("likelihood.soft", COMMAND, "likelihood.soft._target_='torch.utils.collect_env.run'"),
    "in a list": ("model.hidden", [4, COMMAND], "model.hidden.1._target_='torch.utils.collect_env.run'"),
    "in a list in a list": ("prior.image_shape", [[{"a": SPAWN}]], "prior.image_shape.0.0.a._target_='subprocess.run'"),
    "arguments by place": ("prior", {"_target_": "os.system", "_args_": ["touch CANARY"]}, "_target_='os.system'"),
    "an allowed part with arguments by place": ("prior._args_", [TOUCH], "prior._args_="),
    "a conversion": ("prior._convert_", "all", "prior._convert_='all': a saved config may not say _convert_"),
    "no recursion": ("prior._recursive_", False, "prior._recursive_=False: a saved config may not say _recursive_"),
    "another group's part": ("prior._target_", "torch.optim.Adam", "may build parts of cvae.priors here"),
    "the name of a target by reference": ("prior._target_", "${name}", "prior._target_='${name}'"),
    "a group by reference": ("prior", "${evil}", "evil is no plain value"),
    "no name": ("prior._target_", ["os.system"], "prior._target_=['os.system']"),
    "the environment": ("model.latent_dim", "${oc.env:SECRET}", "model.latent_dim='${oc.env:SECRET}'"),
    "the environment within text": ("model.activation", "a ${oc.env:SECRET}", "activation='a ${oc.env:SECRET}'"),
    "the environment as a default": ("data.root", "${oc.env:SECRET,data}", "data.root='${oc.env:SECRET,data}'"),
    "the environment elsewhere": ("model.hidden", ["${oc.env:CVAE_DATA,data}"], "model.hidden.0='${oc.env:CVAE_DATA,"),
    "the environment, put together": ("model.activation", "$${name}{oc.env:SECRET}", "activation='$${name}{oc.env"),
    "code in text": ("model.hidden", "${oc.decode:'[4]'}", 'model.hidden="${oc.decode:'),
    "another resolver": ("seed", "${hydra:runtime.cwd}", "seed='${hydra:runtime.cwd}'"),
    "a nested reference": ("seed", "${a${b}}", "seed"),
    "Hydra's own keys": ("hydra", {"callbacks": {"x": SPAWN}, "run": {"dir": "${now:%Y}"}}, "hydra.run.dir="),
    "references that multiply": ("model.hidden", ["${wide}", "${wide}"], "wide is no plain value"),
    "a reference to itself": ("seed", "${seed}", "seed='${seed}': seed is no plain value"),
    "text that multiplies": ("model.activation", "${text}" * 9, "a saved config may refer to its own keys"),
    "letters for the terminal": ("model.activation", "\x1b]0;title\x07", "can't be printed"),
    "a width": ("model.hidden", [10**9], GATES),
    "widths": ("model.hidden", [10**5, 10**5], GATES),
    "a million layers": ("model", {"_target_": "cvae.networks.resnet", "latent_dim": 2, "width": 1, "depth": 10**9,
                                   "halvings": 1}, GATES),
    "latents": ("model.latent_dim", 2**31, GATES),
    "an image": ("data.image_shape", [1, 10**5, 10**5], GATES),
    "pseudo-inputs": ("prior", {"_target_": "cvae.priors.VampPrior", "components": 10**9}, GATES),
    "components": ("likelihood", {"_target_": "cvae.likelihoods.MixtureOfLogistics", "components": 10**9}, GATES),
    "a flow": ("prior", {"_target_": "cvae.priors.FlowPrior", "hidden": 10**5}, GATES),
    "transforms": ("posterior", {"_target_": "cvae.posteriors.IAF", "transforms": 10**9}, GATES),
    "a number of many digits": ("model.latent_dim", 10**100, "model.latent_dim: a saved config has no number"),
    "a part that is unfinished": ("prior._partial_", True, "prior._partial_=True: a saved config may not say"),
    "a value of another type": ("posterior", {"_target_": "cvae.posteriors.IAF", "context": {"a": 1}}, "context="),
}  # fmt: skip

HOSTILE_DATA = {  # which only what reads the images builds
    "partial": ("data.source", SPAWN | {"_partial_": True}, "data.source._target_='subprocess.run'"),
    "behind an allowed name": ("data.source._target_", "cvae.data.mnist.subprocess.run", "mnist.subprocess.run'"),
    "our own writer": (
        "data.source", {"_target_": "cvae.data.idx_files.write_idx", "path": "CANARY", "array": 3}, "write_idx'"
    ),
    "our own download": ("data.source._target_", "cvae.data.mnist.from_package", "'cvae.data.mnist.from_package'"),
    "a source of another kind": (
        "data.source", {"_target_": "cvae.data.Images", "_partial_": True, "y": 1}, "describes no data: AttributeError"
    ),
    "a number of images": ("data.source.train_size", 10**8, "source.train_size=100000000: must be at most"),
    "a shape of its own": ("data.source.image_shape", [1, 2**16, 2**16], "source.train_size=512: must be at most 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run directory as training leaves it, of a model of a few hundred weights."""
    run = Run(tmp_path_factory.mktemp("run"))
    cfg = config(*TINY)
    run.save_config(cfg)
    weights = {f"vae.{name}": value for name, value in build_vae(cfg).state_dict().items()}
    run.checkpoints.mkdir()
    torch.save({"state_dict": weights, "global_step": 3}, run.checkpoints / "last.ckpt")
    return run.path


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """A copy of it to spoil, with the canary's folder as the current one and a secret in the environment."""
    shutil.copytree(tiny, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):  # readable_errors sets them; here they are unset again
        monkeypatch.setenv(name, "1")
    return Run(tmp_path / "run")


def spoil(run, key, value):
    content = OmegaConf.to_container(OmegaConf.load(run.config_file))
    content |= {"evil": SPAWN, "name": "os.system", "wide": ["${narrow}"] * 2, "narrow": [1], "text": "a"}
    *groups, last = key.split(".")
    place = content
    for group in groups:
        place = place[group]
    place[last] = value
    run.config_file.write_text(json.dumps(content))  # which is YAML, too


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def opened(run, commands, capsys, caplog):
    """What the commands say of a run: each must end with one message, soon, and leave nothing behind."""
    before, memory, began = files(run.path.parent), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    said = []
    for command in commands:
        caplog.clear()
        with pytest.raises(SystemExit) as end:
            main([command[0], str(run.path), *command[1:]])
        out, err = capsys.readouterr()
        said.append(out + err + caplog.text)
        assert end.value.code == 1
    assert files(run.path.parent) == before, "something was written"
    assert not any(SECRET in text or "Traceback" in text for text in said)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000, "kilobytes of memory were taken"
    assert time.monotonic() - began < 10
    return said


EVALUATE = ["evaluate", "--samples", "1", "--device", "cpu"]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_has_no_effect(run, name, capsys, caplog):
    key, value, message = HOSTILE[name]
    spoil(run, key, value)
    with pytest.raises(UserError, match=re.escape(message)):
        cvae.load(run.path)
    for text in opened(run, [["sample"], EVALUATE], capsys, caplog):
        assert message in text, text


@pytest.mark.parametrize("name", HOSTILE_DATA)
def test_hostile_data_have_no_effect(run, name, capsys, caplog):
    key, value, message = HOSTILE_DATA[name]
    spoil(run, key, value)
    cvae.load(run.path)
    with pytest.raises(UserError, match=re.escape(message)):
        load_data(run)
    assert message in opened(run, [EVALUATE], capsys, caplog)[0]
