"""The options of python -m cvae: what each is by default, what --help says of it, and what it changes."""

import argparse
import io
import logging
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvae import __main__ as entry
from cvae import pictures
from cvae.build import Loaded
from cvae.commands import evaluate as evaluate_module
from cvae.commands import sample as sample_module
from cvae.errors import ConfigError
from cvae.evaluation import Settings
from cvae.evaluation.measure import Figure

EVALUATE = {
    "run": "RUN", "checkpoint": "last.ckpt", "seed": 0, "samples": None, "images": None, "aggregate_images": 2000,
    "memory": 1.0, "until": None, "data_root": None, "device": None, "trust": False, "call": evaluate_module.measure,
    "weights": None, "quality": False, "features": None, "lpips": None, "factors": False, "draw": None,
}  # fmt: skip
SAMPLE = {
    "run": "RUN", "checkpoint": "last.ckpt", "seed": 0, "num": 64, "label": None, "out": None, "trust": False,
    "weights": None, "temperature": 1.0, "prior": None, "data_root": None, "call": sample_module.draw,
}  # fmt: skip


def parsed(*words):
    return vars(entry.parser().parse_args(list(words)))


def test_defaults():
    assert parsed("evaluate", "RUN") == EVALUATE and parsed("sample", "RUN") == SAMPLE
    settings = Settings()
    assert settings.samples == evaluate_module.SAMPLES
    names = ("images", "draw", "aggregate_images", "memory", "seed", "until")
    assert all(getattr(settings, name) == EVALUATE[name] for name in names)


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--samples", "7"], {"samples": 7}), (["--images", "7"], {"images": 7}), (["--seed", "7"], {"seed": 7}),
        (["--aggregate-images", "7"], {"aggregate_images": 7}), (["--memory", "0.5"], {"memory": 0.5}),
        (["--until", "0.5"], {"until": 0.5}), (["--draw", "7"], {"draw": 7}),
        (["--data-root", "DIR"], {"data_root": "DIR"}), (["--device", "cpu"], {"device": "cpu"}),
        (["--device", "cuda"], {"device": "cuda"}), (["--device", "mps"], {"device": "mps"}),
        (["--checkpoint", "best"], {"checkpoint": "best"}), (["--trust"], {"trust": True}),
        (["--quality"], {"quality": True}), (["--features", "pixels"], {"features": "pixels"}),
        (["--lpips", "vgg16:FILE"], {"lpips": "vgg16:FILE"}),
        (["--factors"], {"factors": True}),
    ],
)  # fmt: skip
def test_options_of_evaluate(words, changed):
    assert parsed("evaluate", "RUN", *words) == EVALUATE | changed


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        (["--temperature", "0.5"], {"temperature": 0.5}), (["--prior", "gmm"], {"prior": "gmm"}),
        (["--prior", "flow"], {"prior": "flow"}), (["--data-root", "DIR"], {"data_root": "DIR"}),
        (["--num", "7"], {"num": 7}), (["--class", "7"], {"label": "7"}), (["--out", "a.png"], {"out": "a.png"}),
        (["--seed", "7"], {"seed": 7}), (["--checkpoint", "best"], {"checkpoint": "best"}),
    ],
)  # fmt: skip
def test_options_of_sample(words, changed):
    assert parsed("sample", "RUN", *words) == SAMPLE | changed


@pytest.mark.parametrize(
    "words",
    [
        [], ["trains"], ["evaluate"], ["evaluate", "RUN", "--device", "tpu"], ["sample", "RUN", "--num", "many"],
        ["sample", "RUN", "--seed", "1.5"],
    ],
)  # fmt: skip
def test_what_cannot_be_parsed(words, capsys):
    with pytest.raises(SystemExit) as end:
        entry.parser().parse_args(words)
    assert end.value.code == 2 and "usage: python -m cvae" in capsys.readouterr().err


def helped(*words, capsys):
    with pytest.raises(SystemExit) as end:
        entry.parser().parse_args([*words, "--help"])
    assert end.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_says_what_there_is(capsys):
    shown = helped(capsys=capsys)
    assert shown.startswith("usage: python -m cvae [-h] COMMAND ...")
    assert "Train a VAE, measure it, use it, and explore its latent space." in shown
    assert " train train, as python train.py does" in shown
    assert "evaluate measure a run on its test set: log p(x), ELBO, bits per dim, active units, the" in shown
    assert "sample draw images from the prior" in shown


def test_help_of_evaluate_names_the_true_defaults(capsys):
    shown = helped("evaluate", capsys=capsys)
    for text in (
        "Measure a run on its test set. Writes a file into RUN/evaluation, and prints a table.",
        "RUN a run directory, as train.py writes it",
        f"--checkpoint FILE {EVALUATE['checkpoint']} (default) or best.ckpt",
        f"--seed SEED the seed of the noise (default: {EVALUATE['seed']})",
        "--trust the run's config may call any code: for runs with custom components, only if you trust their maker",
        "--samples SAMPLES importance samples per image (default: 5,000); with --quality the number of sampled "
        "images (default: 10,000)",
        "--until NATS double the samples of each block of up to 100 images until the estimated error of its mean "
        "log p(x), the bias and two standard errors, is below this, as in 0.05. About 95 of 100 blocks are then within "
        "it, unless the Pareto k-hat is high. At most 50,000 samples an image; --samples is the first number",
        "--images N only N test images, the first ones (default: all)",
        "--draw SEED with --images: these are drawn from all test images by this seed",
        "--aggregate-images N images for the aggregate posterior: the time grows with N squared, and the estimated "
        f"mutual information is at most log N (default: {EVALUATE['aggregate_images']})",
        f"--memory GIB about how much memory decoded images may take at once (default: {EVALUATE['memory']:g})",
        "--data-root DIR the folder of the data, if it has moved since the training",
        "--device {cpu,cuda,mps} default: cuda if there is one, else cpu",
        "example: python -m cvae evaluate outputs/tf_tutorial/2026-01-31_12-00-00 --samples 5000",
    ):
        assert text in re.sub(r"- (?=[a-z])", "-", shown), text


def test_help_of_sample_names_the_true_defaults(capsys):
    shown = helped("sample", capsys=capsys)
    for text in (
        "Draw images from the prior: means of p(x|z). A model that is conditioned on the class label draws "
        "one row per class.",
        f"--num NUM images (default: {SAMPLE['num']}); conditional: rounded up to full rows",
        "--class CLASS of this class alone, if conditional",
        "--temperature T a factor for the noise that is drawn: below 1 more typical and less varied images (default: "
        f"{SAMPLE['temperature']:g})",
        "--prior {gmm,flow,two_stage,autoregressive} draw from a prior that is fitted to the aggregate posterior of "
        "the training images, a mixture of Gaussians, a flow or a second VAE, or for codes an autoregressive one; it "
        "is kept in the run (Ghosh et al. 2020; Dai and Wipf 2019)",
        "--data-root DIR for --prior: the folder of the data, if it has moved",
        "--out PATH where to: a .png, one grid; a .npz with x (N, H, W, C) and, conditional, y; or a folder, for a PNG "
        "each (default: RUN/samples.png)",
        "example: python -m cvae sample outputs/tf_tutorial/2026-01-31_12-00-00 --num 64 --temperature 0.8",
    ):
        assert text in shown, text


def test_main_looks_for_the_run_before_it_imports_torch(tmp_path, monkeypatch, capsys):
    """A misspelt name is said at once; log lines are plain and go through the one console."""
    given = {}
    monkeypatch.setattr(logging, "basicConfig", lambda **values: given.update(values))
    monkeypatch.setattr(sample_module, "draw", lambda args: pytest.fail("called"))
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(SystemExit) as end:
        entry.main(["sample", str(tmp_path)])
    assert end.value.code == 1
    (handler,) = given.pop("handlers")
    assert isinstance(handler, entry.ConsoleHandler) and given == {"level": logging.INFO, "format": "%(message)s"}


@pytest.mark.parametrize(("command", "function"), [("evaluate", "measure"), ("sample", "draw")])
def test_main_calls_the_command_with_its_options(monkeypatch, tmp_path, command, function):
    called = []
    monkeypatch.setattr(entry.Run, "config", lambda self: called.append((self.path, self.trust)))
    monkeypatch.setattr(f"cvae.commands.{command}.{function}", called.append)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):
        monkeypatch.setenv(name, "1")
    entry.main([command, str(tmp_path), "--seed", "3", "--trust"])
    (path, trust), args = called
    assert path == tmp_path and trust is True and args.run == str(tmp_path) and args.seed == 3


def test_a_command_may_do_without_a_run(monkeypatch):
    """As one that compares many has to."""
    called = []

    def add(commands, run):
        commands.add_parser("count").set_defaults(call=called.append)

    monkeypatch.setattr(entry, "COMMANDS", (SimpleNamespace(add=add),))
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    for name in ("HYDRA_FULL_ERROR", "CVAE_READABLE_ERRORS"):
        monkeypatch.setenv(name, "1")
    entry.main(["count"])
    assert len(called) == 1


def test_help_is_instant():
    """Nothing slow is imported for it."""
    code = (
        "import sys, cvae.__main__ as m; m.parser(); print([n for n in ('torch', 'numpy', 'PIL') if n in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


class Stub:
    """The parts of `evaluate` that have tests of their own, and what they are given."""

    def __init__(self, folder, monkeypatch):
        self.seen, self.vae, self.folder = [], object(), folder
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "best.ckpt").write_text("")
        (folder / "checkpoints" / "last.ckpt").write_text("")
        self.data = SimpleNamespace(test=range(9))
        for name, value in {
            "runtime.devices.keep_freed_memory": lambda: self.seen.append("memory"),
            "build.load_with_step": lambda run, name, device, weights: (
                self.seen.append((run.path, run.trust, name, device)) or Loaded(self.vae, 31, weights or "raw")
            ),
            "build.load_data": lambda run, root: self.seen.append((run.path, run.trust, root)) or self.data,
            "evaluation.report.report": self.report,
        }.items():
            monkeypatch.setattr(f"cvae.{name}", value)

    def report(self, vae, data, run, settings, checkpoint, step, weights):
        assert weights == "raw" and step == 31 and vae is self.vae and data is self.data and run.path == self.folder
        self.seen.append((settings, checkpoint))
        return {"nll": Figure(2.5, None, "nats", ""), "bits_per_dim": Figure(None, None, "bits", "")}

    def points(self):
        events = EventAccumulator(str(self.folder)).Reload()
        return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.fixture
def stub(tmp_path, monkeypatch):
    return Stub(tmp_path / "run", monkeypatch)


def call(stub, **options):
    evaluate_module.measure(argparse.Namespace(**EVALUATE | {"run": str(stub.folder)} | options))


def test_evaluate_hands_its_options_on(stub):
    options = {"samples": 3, "images": 4, "draw": 7, "aggregate_images": 5, "memory": 0.5, "seed": 6, "until": 0.2}
    call(stub, **options, checkpoint="best", device="cpu", data_root="moved", trust=True)
    assert stub.seen == [
        "memory", (stub.folder, True, "best", "cpu"), (stub.folder, True, "moved"), (Settings(**options), "best.ckpt"),
    ]  # fmt: skip
    assert stub.points() == {}  # the curves are of all test images


@pytest.mark.parametrize("images", [None, 9, 10])
def test_an_evaluation_of_all_images_goes_into_tensorboard(stub, images):
    call(stub, images=images)
    assert (stub.folder, False, None) in stub.seen
    assert stub.points() == {"bound/NLL": [(31, 2.5)]}
    (table,) = EventAccumulator(str(stub.folder)).Reload().Tensors("1 evaluation/text_summary")
    assert table.step == 31 and b"5,000 importance samples" in table.tensor_proto.string_val[0]


@pytest.mark.parametrize(("there", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_used_where_there_is_one(stub, monkeypatch, there, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    call(stub)
    assert stub.seen[1] == (stub.folder, False, "last.ckpt", device)


def test_a_device_that_is_not_there(stub, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="^--device=cuda: must be a device of this machine: one of cpu$"):
        call(stub, device="cuda")
    assert stub.seen == []


def drawn(folder, monkeypatch, classes=0, **options):
    """What `sample` writes, and what the model was asked for: (file, (num, labels, noise), columns)."""
    found = {}

    class Model:
        num_classes = classes
        shapes = ((2,), (1, 2, 2))

        def sample(self, num, labels, temperature):
            found["asked"] = (num, None if labels is None else labels.tolist(), torch.rand(()).item())
            found["temperature"] = temperature
            return torch.zeros(num, 1, 2, 2)

    def load(run, checkpoint, device, weights):
        found["loaded"] = (str(run), checkpoint, run.trust)
        assert device == "cpu"
        return Loaded(Model(), 0, "raw")

    grid = pictures.grid
    monkeypatch.setattr("cvae.build.load_with_step", load)
    monkeypatch.setattr(
        pictures, "grid", lambda images, columns: found.update(columns=columns) or grid(images, columns)
    )
    sample_module.draw(argparse.Namespace(**SAMPLE | {"run": str(folder)} | options))
    return found


@pytest.mark.parametrize(
    ("classes", "options", "num", "labels", "columns"),
    [
        (0, {"num": 64}, 64, None, 8),
        (0, {"num": 12}, 12, None, 3),
        (0, {"num": 1}, 1, None, 1),
        (3, {"num": 4}, 6, [0, 0, 1, 1, 2, 2], 2),
        (3, {"num": 3}, 3, [0, 1, 2], 1),
        (3, {"num": 1}, 3, [0, 1, 2], 1),
        (3, {"num": 4, "label": "2"}, 4, [2, 2, 2, 2], 2),
        (3, {"num": 4, "label": "0"}, 4, [0, 0, 0, 0], 2),
    ],
)
def test_how_many_samples_of_which_classes(tmp_path, monkeypatch, capsys, classes, options, num, labels, columns):
    state = torch.get_rng_state()
    found = drawn(tmp_path, monkeypatch, classes, seed=11, **options)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(11)
    assert found["asked"] == (num, labels, torch.rand(()).item()) and found["columns"] == columns
    assert found["loaded"] == (str(tmp_path), "last.ckpt", False)
    assert capsys.readouterr().out == f"{num} samples: {tmp_path / 'samples.png'}\n"
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")


def test_samples_into_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    out = tmp_path / ("[a long name] " + 9 * "0123456789") / "mine.PNG"
    found = drawn(tmp_path, monkeypatch, out=str(out), checkpoint="best", num=2, trust=True)
    assert out.exists() and found["loaded"][1:] == ("best", True)
    assert capsys.readouterr().out == f"2 samples: {out}\n"
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "mine").write_text("")
    for name in ("mine.jpg", "mine", "folder.png"):
        said = f"^--out={tmp_path / name}: must be the name of a file that ends in .png or .npz, or a folder$"
        with pytest.raises(ConfigError, match=said):
            drawn(tmp_path, monkeypatch, out=str(tmp_path / name))


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        (3, {"label": "3"}, "--class=3: must be from 0 to 2$"),
        (3, {"label": "-1"}, "--class=-1: must be from 0 to 2$"),
        (0, {"label": "0"}, "--class=0: must be left out: this model knows no classes$"),
        (0, {"num": 0}, "--num=0: must be a positive integer$"),
        (0, {"temperature": -0.5}, "--temperature=-0.5: must be a finite number of at least 0$"),
        (0, {"seed": -1}, "--seed=-1: must be an integer from 0"),
    ],
)
def test_what_cannot_be_drawn(tmp_path, monkeypatch, classes, options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        drawn(tmp_path, monkeypatch, classes, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "--samples=0: must be a positive integer$"),
        ({"aggregate_images": 0}, "--aggregate-images=0: must be a positive integer$"),
        ({"memory": 0.0}, "--memory=0.0: must be a finite number above 0$"),
    ],
)
def test_what_cannot_be_measured(stub, options, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        call(stub, **options)
    assert stub.seen == []


def test_the_name_of_the_file_is_plain_on_a_terminal(tmp_path, monkeypatch):
    from rich.console import Console

    terminal = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor")
    monkeypatch.setattr("cvae.commands.inputs.console", terminal)
    drawn(tmp_path, monkeypatch, num=4)
    assert terminal.file.getvalue() == f"4 samples: {tmp_path / 'samples.png'}\n"
