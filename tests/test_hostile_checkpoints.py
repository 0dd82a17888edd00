"""Checkpoints made to do harm, or of odd types: one message, nothing outside, no more memory than the file."""

import pickle
import re
import resource
import shutil
import struct
import time
import zipfile

import pytest
import torch
from conftest import ROOT
from tiny import QUIET, trained

import cvae
from cvae.__main__ import main
from cvae.cli.resume import resume
from cvae.errors import UserError
from cvae.runs.checkpoint import read_checkpoint
from cvae.runs.directory import Run

CONF = ROOT / "conf"
WORDS = [*QUIET, "+callbacks.stop._target_=pytorch_lightning.callbacks.EarlyStopping",
         "+callbacks.stop.monitor=test/elbo", "+callbacks.stop.mode=max",
         "+callbacks.more._target_=pytorch_lightning.callbacks.ModelCheckpoint"]  # fmt: skip
MODEL = "callbacks.ModelCheckpoint{'monitor': None, 'mode': 'min', 'every_n_train_steps': 0, 'every_n_epochs': 1, " \
    "'train_time_interval': None}"  # fmt: skip
STOP = "callbacks.EarlyStopping{'monitor': 'test/elbo', 'mode': 'max'}"
CURRENT = "loops.fit_loop.epoch_progress.current"
STATE = "optimizer_states.0.state.0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    cfg, _ = trained(folder, *WORDS, "trainer.max_epochs=1")
    Run(folder).save_config(cfg)
    return folder


@pytest.fixture
def run(whole, tmp_path, monkeypatch):
    shutil.copytree(whole, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):
        monkeypatch.setenv(name, "1")
    return Run(tmp_path / "run")


def change(run, key, value):
    """Set a value in last.ckpt; keys are those of dicts and the numbers of lists."""
    file = run.checkpoints / "last.ckpt"
    content = torch.load(file, weights_only=True)
    name, brace, rest = key.partition("{")  # the names of Lightning's callbacks have dots within braces
    state, _, inner = rest.partition("}")
    keys = ["callbacks", f"{name.removeprefix('callbacks.')}{{{state}}}", *filter(None, [inner.lstrip(".")])]
    keys = keys if brace else key.split(".")
    place, (*groups, last) = content, [int(part) if part.isdecimal() else part for part in keys]
    for group in groups:
        place = place[group]
    assert not isinstance(place, dict) or last in place or last in ("step", "new")  # what there is to change
    place[last] = value
    torch.save(content, file)
    (run.checkpoints / "previous.ckpt").unlink(missing_ok=True)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "/run/" not in str(path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("global_step", "../../../mine"), ("global_step", "3"), ("global_step", -1), ("global_step", 3.0),
        ("global_step", True), ("global_step", [3]), ("global_step", 10**30), ("epoch", None), ("state_dict", 3),
        ("state_dict", []), ("loops", None), ("loops", {}), ("loops", 3), ("callbacks", []), ("callbacks", 3),
        ("optimizer_states", {}), ("optimizer_states", []), ("optimizer_states", [3]), ("lr_schedulers", 3),
        ("lr_schedulers", [3]), ("lr_schedulers", []), ("cvae", None), ("cvae", {}), ("cvae", 3),
        ("cvae.processes", 3), ("cvae.processes", [3]), ("cvae.processes.0", {}), ("cvae.processes.0.window", []),
        ("cvae.processes.0.epoch.sums", 3), ("cvae.processes.0.epoch.sums", [torch.ones(2, 2)]),
        ("cvae.processes.0.epoch.names", "elbo"), ("cvae.processes.0.epoch.names", ["a"]),
        ("cvae.processes.0.window.count", "a"), ("cvae.figures", []), ("cvae.figures", {"test/elbo": "a"}),
        ("cvae.points", {"test/elbo": "a"}), ("cvae.points", 3), ("cvae.max_epochs", "a"), ("cvae.logs", 3),
        ("cvae.logs", ["a"]), ("cvae.logs", [{"a": "b"}]), ("cvae.logs", [None, None, 3]),
        ("cvae.format", "1"), ("cvae.format", []), ("cvae.version", 3),
        (f"{CURRENT}.processed", "a"), (f"{CURRENT}.processed", -1), (f"{CURRENT}.ready", 1.5), (CURRENT, []),
        (f"{CURRENT}.processed", 10**12),
        ("callbacks.Checkpoints.best", "a"), ("callbacks.Checkpoints.step", "a"), ("callbacks.Checkpoints", 3),
        ("callbacks.EpochLines.seconds", 3), ("callbacks.EpochLines.seconds", ["a"]),
        ("callbacks.EpochLines.of_this_epoch", "a"), (f"{STOP}.wait_count", "a"), (f"{STOP}.best_score", "a"),
        (f"{STOP}.best_score", torch.ones(3)), (f"{STOP}", 3), (f"{MODEL}.best_model_path", 3),
        (f"{MODEL}.best_model_path", "run/checkpoints/../../mine"), (f"{MODEL}.last_model_path", "memory://mine"),
        ("optimizer_states.0.param_groups", []), ("optimizer_states.0.param_groups.0.lr", "a"),
        ("optimizer_states.0.param_groups.0.betas", [0.9]), ("optimizer_states.0.param_groups.0.betas", 0.9),
        ("optimizer_states.0.param_groups.0.params", ["a"]), ("optimizer_states.0.state", 3),
        (STATE, {"a": 1}), (STATE, 3), (f"{STATE}.exp_avg", torch.ones(2)), (f"{STATE}.exp_avg", 3),
        (f"{STATE}.exp_avg", torch.ones(1, 1).expand(4, 64)), (f"{STATE}.new", torch.ones(4, 64)),
        ("lr_schedulers.0.base_lrs", "a"), ("lr_schedulers.0.step", 3), ("lr_schedulers.0.last_epoch", "a"),
        ("lr_schedulers.0.factor", []),
    ],
)  # fmt: skip
def test_odd_values_end_in_one_line(run, key, value):
    (run.path.parent / "mine").write_text("mine")
    before = files(run.path.parent)
    change(run, key, value)
    with pytest.raises(UserError) as error:
        resume(run, ["trainer.max_epochs=2"], CONF)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400, error.value
    assert files(run.path.parent) == before and (run.path.parent / "mine").read_text() == "mine"
    try:
        cvae.load(run.path)
    except UserError:
        pass


def test_it_goes_on_as_it_is(run):
    resume(run, ["trainer.max_epochs=2"], CONF)
    assert run.state() == "finished"


def pickled(run, content):
    """last.ckpt with another pickle in it."""
    file = run.checkpoints / "last.ckpt"
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, old in entries.items():
            archive.writestr(name, content if name.endswith("data.pkl") else old)


def calling(module, name, *arguments):
    """The pickle of {"state_dict": name(*arguments)}."""
    key = pickle.dumps("state_dict", 2)[2:-3]  # without its head and its end
    given = b"".join(pickle.dumps(argument, 2)[2:-1] for argument in arguments)
    return b"\x80\x02}" + key + f"c{module}\n{name}\n(".encode() + given + b"tRs."


def nested(count):
    return b"\x80\x02}" + pickle.dumps("state_dict", 2)[2:-3] + b"]" * count + b"a" * (count - 1) + b"s."


def doubled(times):
    """A list of two of a list of two of …"""
    steps = b"".join(b"]q" + bytes([n]) + b"(" + b"h" + bytes([n - 1]) + b"h" + bytes([n - 1]) + b"e"
                     for n in range(1, times))  # fmt: skip
    return b"\x80\x02]q\x00" + steps + b"."


PICKLES = {
    "bytearray": (calling("__builtin__", "bytearray", 8 * 2**30), "it has a __builtin__.bytearray"),
    "bytearray by its new name": (calling("builtins", "bytearray", 8 * 2**30), "it has a builtins.bytearray"),
    "a tensor of a size": (calling("torch", "FloatTensor", 2**31), "it has a torch.FloatTensor"),
    "codecs": (calling("_codecs", "encode", "a" * 9, "utf-32"), "it has a _codecs.encode"),
    "a system's": (calling("os", "system", "touch mine"), "it has a os.system"),
    "depth": (nested(60_000), "more than 32 deep"),
    "a million lists": (b"\x80\x02(" + b"]" * 3 * 10**6 + b"l.", "it has more than"),
    "doubled": (doubled(30), "it has more than"),
    "an open end": (b"\x80\x02}", "is damaged or no checkpoint"),
}


@pytest.mark.parametrize("name", PICKLES)
def test_what_is_pickled_takes_no_more_than_the_file(run, name, capsys, caplog):
    content, message = PICKLES[name]
    pickled(run, content)
    before, memory, began = (
        files(run.path.parent),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        time.process_time(),
    )
    with pytest.raises(UserError, match=re.escape(message)):
        read_checkpoint(run.checkpoints / "last.ckpt")
    with pytest.raises(SystemExit) as end:
        main(["sample", str(run.path)])
    said = "".join(capsys.readouterr()) + caplog.text
    assert end.value.code == 1 and message in said and "Traceback" not in said
    assert files(run.path.parent) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500_000, "kilobytes"
    assert time.process_time() - began < 20  # two readings, on a busy machine


def test_tensors_that_are_larger_than_the_file(run):
    file, one = run.checkpoints / "last.ckpt", torch.ones(1)
    whole = torch.ones(1000)
    for tensors, message in (
        ([one.expand(10**10)], "it has a tensor that is larger than its numbers"),
        ([one.expand(2)], "it has a tensor that is larger than its numbers"),
        ([whole[:999] for _ in range(100)], "its tensors would take more than twice its size"),
    ):
        torch.save({"state_dict": {str(number): tensor for number, tensor in enumerate(tensors)}}, file)
        with pytest.raises(UserError, match=message):
            read_checkpoint(file)
    torch.save({"state_dict": {"a": whole, "b": whole}}, file)  # tied weights
    assert read_checkpoint(file)["state_dict"]["b"].equal(whole)


def test_a_tensor_that_says_it_has_more_than_its_storage(run):
    file = run.checkpoints / "last.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1000)}}, file)
    with zipfile.ZipFile(file) as archive:
        content = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    size = b"M" + struct.pack("<H", 1000)
    assert content.count(size) == 2  # of the storage, and of the tensor
    place = content.rindex(size)
    pickled(run, content[:place] + b"J" + struct.pack("<i", 2**31 - 1) + content[place + 3 :])
    with pytest.raises(UserError, match="is damaged or no checkpoint"):
        read_checkpoint(file)


def test_a_link_to_itself(run, capsys, caplog):
    for link in (run.checkpoints / "last.ckpt", run.path / "x", run.path / ".lock"):
        link.unlink(missing_ok=True)
        link.symlink_to(link)
        with pytest.raises(UserError, match="is a pipe, or a link that leads out of the run"):
            cvae.load(run.path)
        with pytest.raises(UserError, match="is a pipe, or a link that leads out of the run"):
            resume(run, [], CONF)
        link.unlink()


def test_a_saved_config_starts_no_more_processes_than_there_are_cores(run, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    began = []
    monkeypatch.setattr("cvae.training.train.train", lambda cfg, resume: began.append(cfg.trainer.devices))
    text = run.config_file.read_text()
    for value in ("12", "'12'", "[0,1,2,3,4]"):
        run.config_file.write_text(text.replace("devices: 1", f"devices: {value}", 1))
        with pytest.raises(UserError, match="trainer.devices=.*: a saved config starts at most 4 here"):
            resume(run, [], CONF)
    resume(run, ["trainer.devices=12", "trainer.max_epochs=2"], CONF)
    resume(Run(run.path, trust=True), ["trainer.max_epochs=2"], CONF)
    run.config_file.write_text(text.replace("devices: 1", "devices: 4", 1))
    resume(run, ["trainer.max_epochs=2"], CONF)
    run.config_file.write_text(text.replace("devices: 1", "devices: 1\n  num_nodes: 9", 1))
    with pytest.raises(UserError, match="trainer.num_nodes=9: a saved config starts at most 1 here"):
        resume(run, [], CONF)
    assert began == [12, [0, 1, 2, 3, 4], 4]
