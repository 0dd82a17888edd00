"""python -m cvae: what the commands write and print, with which settings, checkpoint, data, noise."""

import json
import subprocess
import sys

import imageio.v3 as imageio
import pytest
import torch
from conftest import ROOT, config
from omegaconf import OmegaConf

from cvae.__main__ import main
from cvae.build import build_vae


def make_run(folder, *overrides):
    """A run directory as training leaves it, of an untrained model."""
    cfg = config("data=synthetic", "model.filters=4", "model.base_channels=4", *overrides)
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    weights = {f"vae.{name}": value for name, value in build_vae(cfg).state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 7}, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", "conditional=true")


@pytest.fixture
def call(monkeypatch, capsys, caplog):
    """python -m cvae in this process: (exit code, what was printed)."""
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):  # readable_errors sets them; here they are unset again
        monkeypatch.setenv(name, "1")

    def call(*args):
        caplog.clear()
        try:
            main([str(arg) for arg in args])
            code = 0
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return code, out + err + caplog.text

    return call


def test_evaluate_reports_everywhere(run, call):
    assert "${hydra:runtime.output_dir}" in (run / ".hydra" / "config.yaml").read_text()
    arguments = ["evaluate", run, "--samples", 3, "--images", 105, "--device", "cpu", "--aggregate-images", 50]
    code, printed = call(*arguments, "--seed", 5)
    assert code == 0
    report = json.loads((run / "evaluation.json").read_text())
    assert list(run.glob(".*.part")) == []
    settings = {
        "samples": 3,
        "images": 105,
        "aggregate_images": 50,
        "seed": 5,
        "checkpoint": "last.ckpt",
        "split": "test",
    }
    assert settings.items() <= report["settings"].items()
    assert report["nll"]["unit"] == "nats" and report["nll"]["standard_error"] > 0
    assert f"{report['nll']['value']:.3f}" in printed and f"{report['nll']['standard_error']:.3f}" in printed
    assert report["bits_per_dim"]["value"] is None

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard")).Reload()
    (point,) = events.Scalars("evaluation/nll")
    assert point.step == 7 and point.value == pytest.approx(report["nll"]["value"], rel=1e-6)

    call(*arguments, "--seed", 5, "--chunk", 7)
    again = json.loads((run / "evaluation.json").read_text())
    assert again["nll"]["value"] == pytest.approx(report["nll"]["value"], rel=1e-6)
    call(*arguments, "--seed", 6)
    assert json.loads((run / "evaluation.json").read_text())["nll"]["value"] != again["nll"]["value"]


def test_samples_by_seed_and_class(run, call):
    shape = lambda path: tuple(size // 3 for size in imageio.imread(path).shape[:2])  # of the grid before it is zoomed
    assert call("sample", run, "--num", 25)[0] == 0  # 10 classes: 10 full rows of 3
    assert shape(run / "samples.png") == (10 * 30 + 2, 3 * 30 + 2)
    files = []
    for arguments in (("--seed", 1), ("--seed", 1), ("--seed", 2), ("--class", 3), ("--class", 4)):
        files.append(run / "pictures" / f"{len(files)}.png")
        assert call("sample", run, "--num", 9, *arguments, "--out", files[-1])[0] == 0
    first, again, other, third, fourth = (file.read_bytes() for file in files)
    assert first == again and first != other and third != fourth
    assert shape(files[3]) == (3 * 30 + 2, 3 * 30 + 2)


def test_what_is_wrong_in_one_message(run, call, tmp_path):
    whole, checkpoints = (run / "checkpoints" / "last.ckpt").read_bytes(), run / "checkpoints"
    plain = make_run(tmp_path / "plain", "model.latent_dim=3")
    contents = {"half": whole[: len(whole) // 2], "text": b"not a checkpoint", "none": b""}
    contents["other"] = (plain / "checkpoints" / "last.ckpt").read_bytes()
    for name, content in contents.items():
        (checkpoints / f"{name}.ckpt").write_bytes(content)
    torch.save({"global_step": 1}, checkpoints / "empty.ckpt")
    cases = [
        (("evaluate", tmp_path), "not a run directory"),
        (("evaluate", run, "--samples", 0), "--samples=0: must be a positive integer"),
        (("evaluate", run, "--images", 0), "--images=0"),
        (("evaluate", run, "--aggregate-images", -1), "--aggregate-images=-1"),
        (("evaluate", run, "--chunk", 0), "--chunk=0"),
        (("evaluate", run, "--seed", -1), "--seed=-1"),
        (("evaluate", run, "--checkpoint", "best.ckpt"), "it has: empty.ckpt, half.ckpt, last.ckpt"),
        (("evaluate", run, "--checkpoint", "other.ckpt"), "does not hold the weights"),
        (("evaluate", run, "--checkpoint", "empty.ckpt"), "does not hold the weights"),
        (("evaluate", run, "--checkpoint", "half.ckpt"), "half.ckpt is damaged"),
        (("evaluate", run, "--checkpoint", "text.ckpt"), "text.ckpt is damaged"),
        (("evaluate", run, "--checkpoint", "none.ckpt"), "none.ckpt is damaged"),
        (("sample", run, "--num", 0), "--num=0"),
        (("sample", run, "--class", 10), "from 0 to 9"),
        (("sample", plain, "--class", 1), "left out"),
    ]
    for arguments, message in cases:
        code, printed = call(*arguments)
        assert code == 1 and message in printed and "Traceback" not in printed, (arguments, printed)
    assert not (run / "evaluation.json").exists() and not (plain / "samples.png").exists()


def test_help_names_the_commands(call):
    code, printed = call("--help")
    assert code == 0 and "evaluate" in printed and "sample" in printed


def test_an_error_in_a_process_of_its_own(tmp_path):
    """As a user sees it: one line, on stderr, and exit code 1."""
    command = [sys.executable, "-m", "cvae", "evaluate", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    expected = f"Error: {tmp_path} is not a run directory: it has no .hydra/config.yaml\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)
