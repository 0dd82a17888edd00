"""python -m cvae: what the commands write and print, with which settings, checkpoint, data, noise."""

import json
import shutil
import subprocess
import sys

import imageio.v3 as imageio
import pytest
import torch
from conftest import ROOT, config
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributions import kl_divergence

import cvae
from cvae.build import build_vae, make
from cvae.runs.directory import Run
from cvae.runtime.noise import fixed_noise

SMALL = ("data=synthetic", "model.filters=4", "model.base_channels=4")


def make_run(folder, *overrides, base=SMALL):
    """A run directory as training leaves it, of an untrained model."""
    cfg = config(*base, *overrides)
    (folder / ".hydra").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    OmegaConf.save(cfg, folder / ".hydra" / "config.yaml")
    weights = {f"vae.{name}": value for name, value in build_vae(cfg).state_dict().items()}
    torch.save({"state_dict": weights, "global_step": 7}, folder / "checkpoints" / "last.ckpt")
    return folder


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run", "conditional=true")


def evaluations(run):
    """{file name: content} of all evaluations of a run."""
    return {path.name: json.loads(path.read_text()) for path in (run / "evaluation").glob("*")}


def points(run):
    """The points (step, value) of the NLL in TensorBoard."""
    events = EventAccumulator(str(run)).Reload()
    return [(event.step, event.value) for event in events.Scalars("bound/NLL")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], ["best.ckpt was chosen by the test images (data.validation_size=0)"]),
        (["data.train_on=all", "data.validation_size=0.1"], ["the test images were trained on, too"]),
        (["data.validation_size=9"], []),
    ],
)
def test_evaluate_says_that_test_images_were_not_held_out(tmp_path, call, words, said):
    run = make_run(tmp_path / "run", *words)
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    options = ["--samples", 2, "--aggregate-images", 9, "--images", 9, "--device", "cpu"]
    code, printed = call("evaluate", run, "--checkpoint", "best.ckpt", *options)
    assert code == 0
    words = ["best.ckpt was chosen by the test images (data.validation_size=0)", "the test images were trained on, too"]
    assert [word for word in words if word in " ".join(printed.split())] == said


def test_evaluate_reports_everywhere(run, call):
    assert "${hydra:runtime.output_dir}" in (run / ".hydra" / "config.yaml").read_text()
    code, printed = call("evaluate", run, "--samples", 3, "--aggregate-images", 50, "--seed", 5, "--device", "cpu")
    assert code == 0
    ((name, report),) = evaluations(run).items()
    assert name == "last_samples=3_images=128_seed=5.json"
    assert report["settings"] == {
        "samples": 3, "images": 128, "draw": None, "aggregate_images": 50, "memory": 1.0, "seed": 5, "until": None,
        "checkpoint": "last.ckpt", "step": 7, "split": "test", "binarization": "static", "device": "cpu",
        "weights": "raw",
    }  # fmt: skip
    nll = report["nll"]
    assert nll["unit"] == "nats" and nll["standard_error"] > 0 and report["bits_per_dim"]["value"] is None
    row = next(line for line in printed.splitlines() if "-log p(x)" in line)
    assert f"{nll['value']:.3f}" in row and f"{nll['standard_error']:.3f}" in row and "nats per image" in row
    assert "128 test images, 3 importance samples, last.ckpt" in " ".join(printed.split())
    assert "mutual information is at most log 50 = 3.91" in printed and "binarization: static; seed: 5" in printed
    ((step, value),) = points(run)
    assert step == 7 and value == pytest.approx(nll["value"], rel=1e-6)


def test_each_evaluation_keeps_its_file(run, call):
    arguments = ["evaluate", run, "--samples", 2, "--aggregate-images", 20]
    call(*arguments)
    (first,) = evaluations(run).values()
    call(*arguments, "--images", 50)
    call(*arguments, "--images", 50, "--draw", 3)
    call(*arguments, "--seed", 6)
    call(*arguments[:-1], 10)  # another number of images for the aggregate posterior: the name is the same
    call(*arguments)  # the same again: replaced by the same
    files = evaluations(run)
    assert sorted(files) == [
        "last_samples=2_images=128_seed=0.json", "last_samples=2_images=128_seed=0_2.json",
        "last_samples=2_images=128_seed=6.json", "last_samples=2_images=50_draw=3_seed=0.json",
        "last_samples=2_images=50_seed=0.json",
    ]  # fmt: skip
    assert files["last_samples=2_images=128_seed=0.json"] == first
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(weights | {"global_step": 9}, run / "checkpoints" / "last.ckpt")  # training went on
    call(*arguments)
    assert evaluations(run)["last_samples=2_images=128_seed=0.json"] == first
    assert evaluations(run)["last_samples=2_images=128_seed=0_3.json"]["settings"]["step"] == 9
    assert files["last_samples=2_images=128_seed=0_2.json"]["settings"]["aggregate_images"] == 10
    assert files["last_samples=2_images=128_seed=6.json"]["nll"]["value"] != first["nll"]["value"]
    assert len(points(run)) == 5  # TensorBoard has those of all images


def other_weights(run):
    """Make best.ckpt and last.ckpt two models that differ, both far from their start."""
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for name, factor in (("last", 2.5), ("best", 1.3)):
        for value in weights["state_dict"].values():
            value.mul_(factor if value.is_floating_point() else 1)
        torch.save(weights, run / "checkpoints" / f"{name}.ckpt")


def test_evaluate_measures_the_test_images_of_the_run(run, call):
    """By the closed form of the rate, of the checkpoint that is asked for, with the labels of the images."""
    other_weights(run)
    found = {}
    for checkpoint in ("last", "best"):
        words = ["--samples", 400, "--images", 32, "--aggregate-images", 1, "--checkpoint", f"{checkpoint}.ckpt"]
        call("evaluate", run, *words)
        vae = cvae.load(run, f"{checkpoint}.ckpt")
        data = make(Run(run).config(), "data")
        data.setup()
        x, y = data.batch("test", range(32))
        rate = kl_divergence(vae.encode(x, y), vae.p_z()).mean().item()
        (report,) = (content for name, content in evaluations(run).items() if name.startswith(checkpoint))
        found[checkpoint] = rate
        assert report["rate"]["value"] == pytest.approx(rate, rel=0.02)
        assert report["settings"]["checkpoint"] == f"{checkpoint}.ckpt"
    assert found["best"] > 1.2 * found["last"]


def test_the_data_may_lie_elsewhere(tmp_path, mnist_root, small_md5, call):
    run = make_run(tmp_path / "run", "data=mnist", f"data.root={tmp_path}/gone")
    code, printed = call("evaluate", run, "--samples", 1, "--data-root", mnist_root)
    assert code == 0 and "40 test images" in printed


def shape(path):
    """Of a grid before it is zoomed."""
    return tuple(size // 3 for size in imageio.imread(path).shape[:2])


def test_samples_are_those_of_the_model(run, call):
    """Cell by cell: the means for draws from the prior with this noise, one row per class, by the checkpoint given."""
    other_weights(run)
    for checkpoint in ("last", "best"):
        call("sample", run, "--num", 20, "--seed", 4, "--checkpoint", checkpoint)
        vae = cvae.load(run, checkpoint)
        with fixed_noise(4, torch.device("cpu")):
            expected = vae.sample(20, torch.arange(10).repeat_interleave(2))
        pixels = imageio.imread(run / "samples.png")[::3, ::3, 0]
        for number, image in enumerate(expected[:, 0]):
            row, column = divmod(number, 2)
            cell = pixels[2 + 30 * row :, 2 + 30 * column :][:28, :28]
            assert abs(cell / 255 - image.numpy()).max() < 0.003


def test_samples_by_seed_and_class(run, call):
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
        (("evaluate", run, "--draw", 1), "--draw=1: must be left out where all images are measured"),
        (("evaluate", run, "--images", 5, "--draw", -1), "--draw=-1: must be an integer from 0 to"),
        (("evaluate", run, "--draw", 0, "--factors"), "--draw=0: must be left out with --factors"),
        (("evaluate", run, "--draw", 0, "--quality"), "--draw=0: must be left out with --quality"),
        (("evaluate", run, "--aggregate-images", -1), "--aggregate-images=-1"),
        (("evaluate", run, "--memory", 0), "--memory=0.0: must be a finite number above 0"),
        (("evaluate", run, "--seed", -1), "--seed=-1"),
        (("evaluate", run, "--until", 0), "--until=0.0: must be a finite number above 0"),
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
    assert not (run / "evaluation").exists() and not (plain / "samples.png").exists()


def test_help_names_the_commands(call):
    code, printed = call("--help")
    assert code == 0 and "evaluate" in printed and "sample" in printed


def test_an_error_in_a_process_of_its_own(tmp_path):
    """As a user sees it: one line, on stderr, and exit code 1."""
    command = [sys.executable, "-m", "cvae", "evaluate", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    expected = f"Error: {tmp_path} is not a run directory: it has no .hydra/config.yaml\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (1, "", expected)
