"""What the tests share: a config, and a small MNIST in the real file format."""

import copy
import functools
import gzip
import hashlib
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.utils import _locate
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

import cvae.cli.messages  # noqa: F401, as train.py does: an experiment's values are put in
from cvae import pictures
from cvae.__main__ import main
from cvae.cli.compose import apply_what_was_typed
from cvae.data.idx_files import MD5, write_idx
from cvae.runtime.console import ConsoleHandler

torch.set_num_threads(1)  # the tests run side by side, and their tensors are small
# A thread that waits for a dead process is abandoned; it tells torch's logger of its end in the middle of another test.
logging.getLogger("c10d-NullHandler-default").addFilter(lambda record: False)
ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # benchmarks/ is no part of the package; behind it, so that cvae is the installed one


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for each test, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_console():
    """Without what a command has set up for its own log lines, outside of a test."""
    for handler in logging.root.handlers[:]:
        if isinstance(handler, ConsoleHandler):
            logging.root.removeHandler(handler)
            logging.root.setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def no_axes(request, monkeypatch):
    """The runs that tests of training make have no pictures with axes, each of which takes a tenth of a second."""
    if request.path.parent.name == "training":
        for name in ("manifold", "latent_map", "traversal", "rates", "curves"):
            monkeypatch.setattr(pictures, name, lambda *_: np.zeros((2, 2, 3), np.uint8))


def get_object(name):
    """What Hydra makes of a `_target_`; hydra.utils has its own get_object only from a later 1.3 on."""
    return _locate(name)


PLUGINS = {  # words of the command line, by how they begin -> the plugin of Hydra that they need, from the extra sweep
    "search=": "hydra_plugins.hydra_optuna_sweeper",
    "hydra/launcher=joblib": "hydra_plugins.hydra_joblib_launcher",
    "hydra/launcher=submitit": "hydra_plugins.hydra_submitit_launcher",
}


def config(*overrides):
    """The config that `python train.py OVERRIDES` composes. A test that needs a missing plugin is skipped.

    Choices take Hydra a tenth of a second, so those of before are kept. Values it puts into them as it always does.
    """
    for beginning, plugin in PLUGINS.items():
        if any(word.startswith(beginning) for word in overrides):
            pytest.importorskip(plugin, reason="the extra sweep is not installed")
    values = [word for word in overrides if is_value(word)]
    try:
        return with_values(copy.deepcopy(composed(*(word for word in overrides if word not in values))), values)
    except HydraException:  # its own message
        return composed.__wrapped__(*overrides)


def with_values(cfg, words):
    """A config, after Hydra has put the values in that these words set."""
    apply_what_was_typed(OverridesParser.create().parse_overrides(list(words)), cfg)
    return cfg


@functools.cache
def composed(*overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def is_value(word):
    """Whether a word sets a key, in place of choosing a member of a group."""
    key = word.partition("=")[0].lstrip("+~")
    return not ("/" in key or "@" in key or key.startswith("hydra") or (ROOT / "conf" / key).is_dir())


def small_mnist(train=96, test=40):
    """Blurred bars, their place given by the class: {file name: uint8 array} of MNIST's four files."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", train), ("t10k", test)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, 28, 28))
        for image, label in zip(images, labels, strict=True):
            image[4 + 2 * label : 7 + 2 * label, 6:22] += 180
        arrays[f"{part}-images-idx3-ubyte"], arrays[f"{part}-labels-idx1-ubyte"] = (
            images.astype(np.uint8),
            labels.astype(np.uint8),
        )
    return arrays


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory):
    """A data root with the small MNIST as .gz files, as the originals are distributed."""
    root = tmp_path_factory.mktemp("data")
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, array in small_mnist().items():
        write_idx(folder / name, array)
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return root


@pytest.fixture
def small_md5(mnist_root, monkeypatch):
    """Let the small MNIST pass for the real one: its hashes in place of those."""
    for name in MD5["MNIST"]:
        content = gzip.decompress((mnist_root / "MNIST" / "raw" / f"{name}.gz").read_bytes())
        monkeypatch.setitem(MD5["MNIST"], name, hashlib.md5(content, usedforsecurity=False).hexdigest())


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


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
