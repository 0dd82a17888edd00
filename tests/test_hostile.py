"""Run directories made to do harm: every command that opens one names what is wrong, and nothing happens."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
import zipfile
from functools import cache

import pytest
import torch
from command_line import train_py
from conftest import ROOT, config
from omegaconf import OmegaConf

import cvae
from cvae.__main__ import main
from cvae.build import build_data, build_vae, config_to_go_on, load_data, read_images
from cvae.cli.resume import change, resume, words_of_sweep
from cvae.data.idx_files import IdxFiles
from cvae.errors import DataError, UserError
from cvae.runs.directory import Run

TINY = ["data=synthetic", "data.image_shape=[1,8,8]", "model=mlp", "model.hidden=[4]"]
SECRET = "the-secret-of-the-environment"
TOUCH = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["CANARY"]}}
COMMAND = {"_target_": "torch.utils.collect_env.run", "command": "touch CANARY"}
SPAWN = {"_target_": "subprocess.run", "args": ["touch", "CANARY"]}
GATES = "the model is larger than its checkpoint"

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
    "a number of many digits": ("model.latent_dim", 10**100, "it has a number of 101 signs in line 1"),
    "a large number": ("model.latent_dim", 2**32, "model.latent_dim: a saved config has no number"),
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


@cache
def content_of(text):
    return json.dumps(OmegaConf.to_container(OmegaConf.create(text)))


def spoil(run, key, value):
    content = json.loads(content_of(run.config_file.read_text()))
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
    before, memory, began = (
        files(run.path.parent),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        time.process_time(),
    )
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
    assert time.process_time() - began < 10
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


CONF = ROOT / "conf"
TRAINING = {  # which only a training builds
    "a callback": ("callbacks.mine", SPAWN, "callbacks.mine._target_='subprocess.run'"),
    "a callback of a library": (
        "callbacks.x", {"_target_": "pytorch_lightning.callbacks.LambdaCallback"}, "LambdaCallback'"
    ),
    "a place": ("callbacks.pictures.run_dir", "/tmp", "callbacks.pictures.run_dir='/tmp': what a saved config makes"),
    "a place by reference": ("callbacks.pictures.run_dir", "${name}", "run_dir='${name}': what a saved config makes"),
    "a place of Lightning's": ("trainer.default_root_dir", "..", "trainer.default_root_dir='..': what a saved config"),
    "a name that is a way": (
        "logger.csv", {"_target_": "pytorch_lightning.loggers.CSVLogger", "save_dir": "${run_dir}", "name": "../x"},
        "logger.csv.name='../x': what a saved config makes writes into",
    ),
    "a logger that sends": (
        "logger.mlflow", {"_target_": "cvae.training.loggers.mlflow", "tracking_uri": "http://127.0.0.1:1"}, "mlflow'"
    ),
    "a plugin": ("trainer.plugins", [COMMAND], "trainer.plugins.0._target_='torch.utils.collect_env.run'"),
    "a strategy": ("trainer.strategy", SPAWN, "trainer.strategy._target_='subprocess.run'"),
    "an optimizer": ("optimizer._target_", "torch.optim.adam.torch.load", "optimizer._target_='torch.optim.adam.torch"),
    "a schedule": ("scheduler.lr_lambda", SPAWN, "scheduler.lr_lambda._target_='subprocess.run'"),
    "a weight": ("objective.beta", SPAWN, "objective.beta._target_='subprocess.run'"),
}  # fmt: skip
BEFORE = {name: row for name, row in HOSTILE.items() if GATES not in row[2] and row[2] != "context="}


@pytest.mark.parametrize("name", [*BEFORE, *HOSTILE_DATA, *TRAINING])
def test_a_hostile_run_does_not_go_on(run, name):
    """It is refused before its folder is claimed, its log written, or a part made."""
    key, value, message = (BEFORE | HOSTILE_DATA | TRAINING)[name]
    spoil(run, key, value)
    before = files(run.path.parent)
    if "must be at most" in message or "describes" in message:
        config_to_go_on(run)  # sizes and kinds of data are seen when the data are made
        return
    with pytest.raises(UserError, match=re.escape(message)):
        resume(run, [], CONF)
    assert files(run.path.parent) == before


def test_links_that_a_training_would_follow(run, tmp_path):
    """A log that is written on, a file of curves that is cut back to a checkpoint: they could be the user's own."""
    (tmp_path / "mine").write_text("mine")
    for link in (run.log_file, run.events() / "events.out.tfevents.1"):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "mine")
        cvae.load(run.path)
        with pytest.raises(UserError, match=f"^{link} is a pipe, or a link that leads out of the run"):
            resume(run, [], CONF)
        link.unlink()
    assert (tmp_path / "mine").read_text() == "mine" and not run.status_file.exists()


def test_links_that_a_sweep_which_goes_on_would_follow(run, tmp_path):
    """In any of its members, whatever they are: it is refused before Hydra reads anything."""
    (tmp_path / "mine").write_text("mine")
    sweep = tmp_path / "sweep"
    run.path.rename(sweep)  # with its files as those of a member
    link = sweep / "checkpoints" / "train.log"
    link.symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match=f"^{link} is a pipe, or a link that leads out of the run"):
        words_of_sweep(["-m", "seed=1,2", f"resume={sweep}"])
    assert words_of_sweep(["-m", "--trust", f"resume={sweep}"])[:2] == ["-m", f"hydra.sweep.dir='{sweep}'"]
    link.unlink()
    link.symlink_to(sweep / ".hydra" / "config.yaml")  # which stays in it
    assert len(words_of_sweep(["-m", "seed=1,2", f"resume={sweep}"])) == 4


COMMANDS = (
    ["sample"], EVALUATE, ["encode", "a.png"], ["reconstruct", "a.png"], ["interpolate", "0", "1"], ["traverse"],
    ["fit-prior", "prior=gmm"], ["export"], ["explore", "--no-browser"],
)  # fmt: skip


@pytest.mark.parametrize("name", ["train.log", "status.json", "evaluation/a.json", "priors/gmm.pt", "test/events"])
def test_links_in_a_run_that_commands_write_into(run, tmp_path, name, capsys, caplog):
    """Each refuses them, in the same words, before it writes or makes anything."""
    (tmp_path / "mine").write_text("mine")
    link = run.path / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(tmp_path / "mine")
    for said in opened(run, COMMANDS, capsys, caplog):
        assert f"Error: {link} is a pipe, or a link that leads out of the run. If you trust" in said
    assert (tmp_path / "mine").read_text() == "mine"


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_links_in_a_folder_that_a_new_run_is_to_have(run, tmp_path, kind):
    """A folder without a run can be somebody else's, too."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "folder").mkdir()
    link = tmp_path / "folder" / "train.log"
    link.symlink_to(tmp_path / "mine")
    done = train_py(*(["-m"] * (kind == "sweep")), "model.latent_dim=0", f"hydra.{kind}.dir=folder", cwd=tmp_path)
    said = f"Error: hydra.{kind}.dir=folder: must be a new folder; folder/train.log is a pipe, or a link that leads out"
    assert done.returncode == 1 and said in done.stderr and (tmp_path / "mine").read_text() == "mine"
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["train.log"]


@pytest.mark.slow
def test_a_run_that_says_it_is_of_a_job_is_foreign(run, tmp_path, monkeypatch):
    """A job that SLURM starts again does not call what the config of a planted run names."""
    shutil.copytree(run.path, tmp_path / "outputs" / "x" / "run")
    planted = Run(tmp_path / "outputs" / "x" / "run")
    planted.save_status("interrupted", slurm_job="77")
    spoil(planted, "callbacks.mine", SPAWN)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1", "XDG_STATE_HOME": str(tmp_path / "state")}
    for words in ([], ["hydra.run.dir=outputs/x/run"]):
        done = train_py("model.latent_dim=0", *words, cwd=tmp_path, **slurm)
        assert done.returncode == 1 and TRAINING["a callback"][2] in done.stderr and not (tmp_path / "CANARY").exists()


@pytest.mark.parametrize("name", ["$(touch CANARY)", "a$b", "a\nb", "it's", "a,b=c ", "a\\", "Übung", "[a]{b}*?"])
def test_the_name_of_its_folder_does_not_spoil_a_run(run, tmp_path, name, call):
    run.path.rename(tmp_path / name)
    before = files(tmp_path)
    for command in (["sample", name, "--num", "1"], ["evaluate", name, "--samples", "1", "--device", "cpu"]):
        assert call(*command)[0] == 0
    assert all(path in before or path.startswith(name) for path in files(tmp_path))


@pytest.mark.parametrize("name", ["a${seed}", "a\udcff"])
def test_a_name_that_no_part_could_be_given(run, tmp_path, call, name):
    run.path.rename(tmp_path / name)
    code, said = call("sample", name)
    assert code == 1 and "the name of a folder cannot have ${, nor bytes that are no UTF-8: rename it" in said


def test_a_model_that_a_training_builds_is_no_larger_than_its_checkpoints(run):
    spoil(run, "model.hidden", [10**5, 10**5])
    with pytest.raises(UserError, match="the model is larger than its checkpoint, which should hold it$"):
        build_vae(config_to_go_on(run))
    shutil.rmtree(run.checkpoints)
    with pytest.raises(UserError, match="the model is larger than a GiB, and no checkpoint holds it$"):
        build_vae(config_to_go_on(run))


def test_a_training_that_goes_on_fetches_only_into_a_folder_that_the_user_names(run, tmp_path, monkeypatch):
    fetched = []
    monkeypatch.setattr(IdxFiles, "download", lambda self: fetched.append(self.folder))
    run.save_config(config(f"data.root={tmp_path}/theirs"))
    for words, root in (([], None), ([f"data.root={tmp_path}/mine"], "mine")):
        cfg = config_to_go_on(run)
        for word in words:
            change(cfg, word, CONF)
        with pytest.raises(DataError, match="train-images-idx3-ubyte is missing"):
            read_images(cfg, build_data(cfg))
        assert fetched == ([tmp_path / root / "MNIST" / "raw"] if root else [])


ESCAPE = "\x1b]0;title\x07"  # which a terminal would take as its title


def rename_a_weight(run):
    file = run.checkpoints / "last.ckpt"
    content = torch.load(file, weights_only=True)
    content["state_dict"][f"vae.{ESCAPE}"] = torch.zeros(1)
    torch.save(content, file)


def rename_an_entry(run):
    """A checkpoint with an entry of this name, whose checksum is wrong."""
    with zipfile.ZipFile(run.checkpoints / "last.ckpt", "a") as archive:
        archive.writestr(f"archive/{ESCAPE}", "the content")
    content = (run.checkpoints / "last.ckpt").read_bytes()
    (run.checkpoints / "last.ckpt").write_bytes(content.replace(b"the content", b"The content"))


def rename_a_class(run):
    """A pickle that names a class."""
    name = f"cos\n{ESCAPE}\n.".encode()
    with zipfile.ZipFile(run.checkpoints / "last.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", name)
        archive.writestr("archive/version", "3")


ESCAPES = {
    "a weight": rename_a_weight,
    "an entry": rename_an_entry,
    "a class": rename_a_class,
    "a checkpoint": lambda run: (run.checkpoints / "last.ckpt").rename(run.checkpoints / f"{ESCAPE}.ckpt"),
    "a pipe": lambda run: os.mkfifo(run.path / ESCAPE),
    "a link to itself": lambda run: (run.path / ESCAPE).symlink_to(ESCAPE),
    "a class of the config": lambda run: spoil(run, "prior._target_", ESCAPE),
    "a key": lambda run: spoil(run, f"prior.{ESCAPE}", 1),
    "YAML": lambda run: run.config_file.write_text(f'"{ESCAPE}'),
}


@pytest.mark.parametrize("name", ESCAPES)
def test_names_of_others_are_printed_but_not_obeyed(run, name, capsys, caplog):
    ESCAPES[name](run)
    with pytest.raises(UserError) as error:
        cvae.load(run.path)
    for text in [str(error.value), *opened(run, [["sample"], EVALUATE], capsys, caplog)]:
        assert not set("\x1b\x07") & set(text), text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a command", "widths"])
def test_hostile_runs_by_real_commands(run, name):
    """As a user types them, with the canary's folder as the current one."""
    key, value, message = HOSTILE[name]
    spoil(run, key, value)
    environment = {
        name: value for name, value in os.environ.items() if "FULL_ERROR" not in name and "CVAE_R" not in name
    }
    before = files(run.path.parent)
    for words in (
        ["-m", "cvae", "sample", run.path], ["-m", "cvae", *EVALUATE[:1], run.path, *EVALUATE[1:]],
        [ROOT / "train.py", f"resume={run.path}"],
        ["-c", f"import cvae; cvae.load({str(run.path)!r})"],
    ):  # fmt: skip
        command = [sys.executable, *map(str, words)]
        ended = subprocess.run(
            command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=600
        )
        assert ended.returncode == 1 and message in ended.stderr and SECRET not in ended.stderr + ended.stdout
        assert "Traceback" not in ended.stderr or words[0] == "-c"
    new = set(files(run.path.parent)) - set(before)
    assert new <= ({"run/train.log", "run/status.json", "run/.lock"} if message == GATES else set()), new
