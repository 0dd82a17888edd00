"""benchmarks/: the arithmetic, the turns, and that the plain loop computes what ours computes. No times are judged."""

import json
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT

from benchmarks import driver, goals, gpu, limits, memory, processes, reading, scaling, scores, steps
from benchmarks.callbacks import Pace, Seconds
from benchmarks.ours import bare, config, overrides_of, paced
from benchmarks.turns import FD
from cvae.evaluation.known_factors import Measured
from cvae.evaluation.measure import Figure
from cvae.training.train import assemble

SMALL = ["trainer=cpu", "model=mlp", "model.hidden=[4]", "data.batch_size=8"]

# A worker whose step takes as many milliseconds as it is told, without a clock.
FAKE = """
import itertools, time
from benchmarks.turns import Turns
clock = itertools.count()
ask = "0"
time.perf_counter = lambda: next(clock) * float(ask) / 1e3
turns = Turns(steps=4)
while True:
    ask = turns.wait()
"""


@pytest.fixture
def images(tmp_path):
    file = tmp_path / "images.npy"
    np.save(file, np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8))
    return file


def test_ratios_are_of_each_round():
    times = {"a": [2.0, 30.0, 3.0], "b": [1.0, 10.0, 2.0]}
    assert driver.ratios(times, "a", "b") == [2, 3, 1.5]
    assert driver.summary(times, "b") == [
        ["a", "2.00", "3.00", "2.000", "1.750 to 2.500"],
        ["b", "1.00", "2.00", "1.000", "1.000 to 1.000"],
    ]


def test_quartiles():
    assert driver.quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2, 3, 4)
    assert driver.quartiles([7.0]) == (7, 7, 7)


def test_the_reference():
    assert driver.reference_of(["ours", "bare", "tensorflow"], None, ("tensorflow", "bare")) == "tensorflow"
    assert driver.reference_of(["ours", "bare"], None, ("tensorflow", "bare")) == "bare"
    assert driver.reference_of(["ours", "naive"], None, ("tensorflow", "")) == "ours"
    assert driver.reference_of(["ours", "naive"], "naive", ("ours",)) == "naive"
    with pytest.raises(SystemExit, match="--reference x: there is ours"):
        driver.reference_of(["ours"], "x", ())


class Counted:
    """A worker that answers with how many turns all workers have had."""

    taken = 0

    def __init__(self, name):
        self.name = name

    def turn(self, ask):
        Counted.taken += 1
        return Counted.taken


def test_workers_take_turns_and_the_first_round_does_not_count():
    Counted.taken = 0
    assert driver.in_turn([Counted("a"), Counted("b")], 3) == {"a": [3, 5, 7], "b": [4, 6, 8]}


def test_a_worker_answers_with_milliseconds_per_step(tmp_path):
    worker = driver.Worker("fake", [sys.executable, "-c", FAKE], tmp_path)
    state = Path(f"/proc/{worker.process.pid}/stat")
    try:
        assert worker.turn("8") == pytest.approx(2)  # 8 ms, 4 steps
        until = time.monotonic() + 100
        while state.exists() and state.read_text().split()[2] not in "tT":  # it does not run while others do
            assert time.monotonic() < until
    finally:
        worker.end()
    assert worker.process.returncode


def test_workers_that_fail_are_left_out_by_name(tmp_path, capsys):
    commands = {"broken": [sys.executable, "-c", "raise SystemExit('no such thing')"]}
    assert driver.start(commands, tmp_path) == []
    assert "broken: no such thing" in capsys.readouterr().out


def test_a_worker_without_a_driver_ends_when_nobody_asks(monkeypatch):
    monkeypatch.delenv(FD, raising=False)
    done = subprocess.run([sys.executable, "-c", FAKE], input="2\n", capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["ready", "0.5"])


def test_the_cost_of_a_command(tmp_path):
    found = driver.cost("grow", [sys.executable, "-c", "x = bytearray(b'1' * 2**27)"], tmp_path)
    assert found.seconds > 0 and 256 < found.peak_mib < 320  # torch, which the tests have, takes more
    with pytest.raises(driver.Failed, match="wrong: why"):
        driver.cost("wrong", [sys.executable, "-c", "raise SystemExit('why')"], tmp_path)


def test_a_missing_peer_is_left_out_by_name(tmp_path, capsys):
    options = driver.parser("steps", "", 1)
    driver.add_ours(options, steps.DEFAULT)
    options.set_defaults(only=None, batch_size=16)
    args = options.parse_args(["--pythae", sys.executable, "--tensorflow", "nowhere", "--ours", "a:x=1 y=2"])
    found = steps.competitors(args, Path("i.npy"), tmp_path)
    assert list(found) == ["ours a", "bare a", "naive", "lightning", "pythae"]
    assert found["bare a"][1:] == ["-m", "benchmarks.peers.bare", "i.npy", "data.batch_size=16", "x=1", "y=2"]
    assert found["pythae"] == [sys.executable, "-m", "benchmarks.peers.pythae", "i.npy", "16"]
    assert "tensorflow: left out, there is no nowhere" in capsys.readouterr().out
    args.only = "bare,tensorflow"
    assert list(steps.competitors(args, Path("i.npy"), tmp_path)) == ["bare a"]


def test_the_plain_loop_and_ours_have_the_same_loss_on_the_same_batch(images, tmp_path):
    plain = bare(images, SMALL)
    data, module, _, _ = assemble(config([*overrides_of(images, SMALL), f"run_dir={tmp_path}"]))
    data.setup()
    module.vae.load_state_dict(plain.vae.state_dict())
    index = plain.batches()[0]
    torch.manual_seed(1)
    loss = plain.loss(index)
    torch.manual_seed(1)
    assert loss.item() == module.terms(data.batch("train", index.tolist())).loss.mean().item()
    assert [len(part) for part in plain.batches()] == [8, 8, 4]
    before = [p.clone() for p in plain.vae.parameters()]
    plain.step(index)
    assert not any(torch.equal(a, b) for a, b in zip(before, plain.vae.parameters(), strict=True) if b.grad.any())


def test_the_plain_loop_takes_bfloat16_where_ours_does(images):
    exact, rounded = bare(images, SMALL), bare(images, [*SMALL, "trainer.precision=bf16-mixed"])
    assert rounded.bfloat16 and not exact.bfloat16
    torch.manual_seed(1)
    loss = exact.loss(exact.batches()[0])
    torch.manual_seed(1)
    assert loss.item() != rounded.loss(rounded.batches()[0]).item() == pytest.approx(loss.item(), rel=0.01)


def test_the_config_of_a_paced_training(images, tmp_path):
    """It can be composed, and what it paces is a training without pictures, evaluation and checkpoints."""
    command = paced(images, tmp_path / "run", SMALL)
    assert command[1] == "train.py"
    cfg = config([part for part in command[2:] if not part.startswith("hydra.")] + [f"run_dir={tmp_path}"])
    trainer = assemble(cfg).trainer
    names = {type(part).__name__ for part in trainer.callbacks}
    assert {"Pace", "ProgressBar"} <= names and not {"Pictures", "Checkpoints"} & names
    assert trainer.check_val_every_n_epoch == trainer.max_epochs == 100_000


def test_an_epoch_is_paced_by_its_optimizer_steps(monkeypatch):
    class Trainer:
        datamodule, is_global_zero = SimpleNamespace(minibatches_of_an_epoch=lambda: 3), True

    monkeypatch.setattr("benchmarks.callbacks.Turns", lambda steps: Asked(steps))

    class Asked(list):
        def __init__(self, steps):
            self.steps = steps

        def wait(self):
            self.append(1)

    pace = Pace()
    pace.on_train_epoch_start(Trainer, None)
    pace.on_train_epoch_start(Trainer, None)
    assert (pace.turns.steps, len(pace.turns)) == (3, 2)
    Trainer.is_global_zero = False  # one of several processes, which waits for the first one's gradients
    pace.on_train_epoch_start(Trainer, None)
    assert len(pace.turns) == 2


def test_several_processes_by_hand_and_by_us(images, tmp_path):
    commands = processes.commands_of(["model.filters=4"], images, tmp_path, [1, 2], 5)
    assert list(commands) == ["ours 1", "by hand 1", "ours 2", "by hand 2"]
    assert all("data.batch_size=5" in command and "model.filters=4" in command for command in commands.values())
    assert {"trainer=ddp", "trainer.devices=2"} <= set(commands["ours 2"]) - set(commands["ours 1"])
    assert assemble(config([*commands["ours 2"][2:-1], f"run_dir={tmp_path}"])).trainer.world_size == 2


@pytest.mark.slow
def test_workers_of_several_processes_take_turns(tmp_path):
    images = tmp_path / "images.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8))
    commands = processes.commands_of(["model=mlp", "model.hidden=[4]"], images, tmp_path, [1, 2], 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        times = driver.take_turns(commands, 2)["turn"]
    assert times.keys() == commands.keys() and all(len(values) == 2 for values in times.values())


def test_the_arithmetic_of_a_step():
    """Two operations for each weight and place of a layer's small side, thrice: forward, and two gradients."""
    dense = 2304 * 4 + 2 * 1568
    convolutions = 9 * 32 * 13 * 13 + 9 * 32 * 64 * 6 * 6
    transposed = 9 * 32 * 64 * 7 * 7 + 9 * 64 * 32 * 14 * 14 + 9 * 32 * 28 * 28
    images_need_no_gradient = 2 * 9 * 32 * 13 * 13
    assert limits.operations(1) == 6 * (dense + convolutions + transposed) - images_need_no_gradient
    assert limits.operations(8) == 8 * limits.operations(1)


def test_goals_are_judged(tmp_path):
    (tmp_path / "steps.json").write_text(json.dumps({"ms_per_step": {"ours float32": [2, 0.25, 0.2], "t": [1, 1, 1]}}))
    (tmp_path / "runs.json").write_text(json.dumps({"costs": {"help": [{"seconds": 3.0, "peak_mib": 1}]}}))
    (tmp_path / "commands.tsv").write_text("tests\t12.5\t0\nevaluate\t3\t1\n")
    cpu, gpu = ({goal.name: goals.judged(goal, tmp_path) for goal in goals.GOALS[device]} for device in ("cpu", "gpu"))
    assert gpu["tutorial, batch 32"] == ("4,000 steps/s", "met")
    assert gpu["tests that need a device"] == ("12.5 s", "met")
    assert gpu["5,000 samples for 10,000 images"] == ("inf s", "FALLS SHORT")
    assert cpu["train.py --help"] == ("3 s", "FALLS SHORT")
    assert cpu["step, float32, to TensorFlow's"][1].startswith("not measured")
    assert goals.ratio(tmp_path, "steps.json", "ms_per_step", "ours float32", "t") == 0.25


def test_without_a_gpu_its_check_says_so_and_fails(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 2
    assert "There is no GPU here" in capsys.readouterr().out


QUICK = ["default", "tests", "falls back", "no waiting", "odd batch", "evaluate", "ddp", "compile", "speed"]


def test_every_command_of_the_check_of_a_gpu_can_be_parsed(monkeypatch, capsys):
    assert gpu.main(["--dry-run", *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(QUICK) and all("  ok  " in line for line in lines[1:-1])
    monkeypatch.setitem(gpu.CHECKS, "ddp", gpu.Check(gpu.ended, lambda folder: [["train.py", "trainer=none_such"]]))
    assert gpu.main(["--dry-run", "ddp"]) == 1
    assert "WRONG  MissingConfigException" in capsys.readouterr().out


@pytest.mark.slow
def test_the_check_of_a_gpu_can_be_parsed_as_one_types_it():
    done = subprocess.run(["bash", "benchmarks/gpu.sh", "--dry-run"], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2 + len(gpu.CHECKS)), done.stdout + done.stderr


def test_the_points_of_a_sweep():
    for points in scaling.sweeps(1000, False).values():
        assert all(batch <= images <= 60_000 for _, batch, images in points)
    assert [(size, images) for _, size, images in scaling.sweeps(1, False)["batch size"]] == [
        (32, 1600), (64, 1600), (128, 1536), (256, 1536), (512, 2048), (1024, 4096), (2048, 8192),
    ], "whole batches, and at least four"  # fmt: skip
    assert [images for _, _, images in scaling.sweeps(2, False)["filters"]] == [3200, 1600, 768, 384, 192]
    assert [override for override, _, _ in scaling.sweeps(1, True)["filters"]] == [
        "model.filters=32",
        "model.filters=128",
    ]


def test_files_are_made_and_decoded_in_turn(tmp_path):
    from PIL import Image

    (tmp_path / "from").mkdir()
    for number in range(3):
        x = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(x).save(tmp_path / "from" / f"{number}.png")
    reading.make(tmp_path / "made", 12, tmp_path / "from")
    files = sorted((tmp_path / "made").rglob("*.*"))
    assert [file.suffix for file in files].count(".jpg") == 6 and len({file.read_bytes() for file in files}) == 12
    times = reading.decoding(tmp_path / "made", 2)
    assert {name: len(values) for name, values in times.items()} == {
        "plain loop": 2, "first start": 2, "second start": 2,
    }  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["from", "made"]


def test_peers_load_nothing_of_ours():
    """Their environments have none of it."""
    code = "import sys, benchmarks.turns; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=ROOT).stdout.split()
    assert "benchmarks.turns" in loaded and not {"torch", "numpy", "cvae", "rich"} & set(loaded)
    for name in ("pythae", "tensorflow", "tensorflow_script", "usual"):
        text = (ROOT / f"benchmarks/peers/{name}.py").read_text(encoding="utf-8")
        assert "from cvae" not in text and "import cvae" not in text and "benchmarks.driver" not in text


def test_an_installation_has_no_benchmarks():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert all(name.split(".")[0] == "cvae" for name in pyproject["tool"]["setuptools"]["packages"])


def test_memory_is_measured_for_each_width_and_way(monkeypatch, tmp_path, capsys):
    asked = []

    def measured(overrides, images):
        asked.append((overrides, images))
        return None if "model.width=9" in overrides else (700.4, 12.345)

    monkeypatch.setattr(memory, "measure", measured)
    monkeypatch.setattr(sys, "argv", ["memory"])
    file = tmp_path / "memory.json"
    memory.main(["--only", "resnet_mnist", "--widths", "8,9", "--batch-size", "12", "--json", str(file), "seed=1"])
    base = ["experiment=resnet_mnist", "data=synthetic", "seed=1", "data.batch_size=12"]
    assert [(words[:4], words[4], images) for words, images in asked] == [
        (base, f"model.width={width}", 24) for _ in range(5) for width in (8, 9)
    ]
    ways = [words[5:] for words, _ in asked[::2]]
    assert ways[:3] == [[], ["model.checkpointing=true"], ["trainer.precision=bf16-mixed"]]
    assert ways[3] == ["data.batch_size=3", "+trainer.accumulate_grad_batches=4"] and ways[4] == [
        *ways[1],
        *ways[2],
        *ways[3],
    ]
    printed = capsys.readouterr().out
    assert printed.count("checkpointing") == 2 and "700" in printed and "12.3" in printed
    saved = json.loads(file.read_text())["peak_mib_and_images_per_second"]["resnet_mnist"]
    assert saved["as it is, 8"] == [[700.4, 12.345]] and saved["as it is, 9"] == []
    with pytest.raises(SystemExit, match="--batch-size 6: must be a multiple of 4"):
        memory.main(["--batch-size", "6"])


@pytest.mark.slow
def test_the_memory_of_a_training(capsys):
    words = [*memory.MODELS["resnet_mnist"], "trainer=cpu", "model.width=8", "data.batch_size=4"]
    peak, pace = memory.measure(words, 8)
    assert 200 < peak < 3000 and pace > 0
    assert memory.measure([*words, "model.width=0"], 8) is None
    assert "left out, it failed: training: " in capsys.readouterr().out


def test_the_seconds_of_the_last_epoch(monkeypatch, tmp_path):
    clock = iter([10.0, 13.0, 20.0, 22.5])
    monkeypatch.setattr("benchmarks.callbacks.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    seconds = Seconds(str(tmp_path / "seconds"))
    for _ in range(2):
        seconds.on_train_epoch_start(None, None)
        seconds.on_train_epoch_end(None, None)
    assert float((tmp_path / "seconds").read_text()) == 2.5


def test_codes_of_known_scores():
    """A grid's factors with noise, as they are, turned by 45 degrees, twice, or beside a constant; and noise."""
    z, factors = scores.codes("factors")
    assert (
        z.shape == (360, 60, 4) and len(np.unique(factors, axis=0)) == 360 and factors.max(0).tolist() == [3, 4, 5, 2]
    )
    exact = (factors - factors.mean(0)) / factors.std(0)
    assert z.mean(1) == pytest.approx(exact, abs=0.07) and (z - exact[:, None]).std() == pytest.approx(0.1, rel=0.02)
    turned = scores.codes("rotated")[0]
    assert turned[..., 0] == pytest.approx((z[..., 0] + z[..., 1]) / 2**0.5) and (turned[..., 2:] == z[..., 2:]).all()
    doubled, constant = scores.codes("doubled")[0], scores.codes("constant")[0]
    assert (doubled[..., :4] == z).all() and 0.13 < (doubled[..., 4:] - z).std() < 0.15
    assert (constant[..., :4] == z).all() and (constant[..., 4] == 0).all()
    assert np.abs(scores.codes("noise")[0].mean(1)).max() < 0.7 and scores.codes("mixed")[0].shape == (360, 60, 6)


def test_scores_beside_each_other(monkeypatch, tmp_path, capsys):
    """The peer's mean and deviation, and how many errors ours is above; ours has 2,000 of the images it is of."""
    seen, file = [], tmp_path / "scores.json"
    figures = {"mig": Figure(0.5, 0.03, "", "MIG"), "sap": Figure(0.25, 0.01, "", "SAP")}
    monkeypatch.setattr(scores, "measure", lambda known, seed: seen.append(known) or Measured(figures, None))
    monkeypatch.setattr(scores, "theirs", lambda python, z, seeds, images: {"mig": [0.1, 0.2, 0.3, 0.4]})
    scores.main(["--cases", "factors", "--disent", sys.executable, "--json", str(file)])
    correlation = np.corrcoef(seen[0].z.T, seen[0].factors.T)[:4, 4:]
    assert len(seen[0].z) == 2000 and np.diag(correlation).min() > 0.99
    apart = (0.5 - 0.25) / np.hypot(0.03, np.std([0.1, 0.2, 0.3, 0.4], ddof=1) / 2)
    printed = capsys.readouterr().out
    assert "0.500 ± 0.030" in printed and "0.250 ± 0.129" in printed and f"{apart:.1f}" in printed
    assert json.loads(file.read_text())["scores"]["factors"]["ours"] == {"mig": [0.5, 0.03], "sap": [0.25, 0.01]}
    scores.main(["--cases", "noise", "--disent", "nowhere"])
    assert "disent: left out, there is no nowhere" in capsys.readouterr().out
