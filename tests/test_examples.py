"""The examples in docstrings are run: each has what it prints behind it."""

import doctest
import importlib

import pytest
import torch
from conftest import ROOT
from tiny import QUIET, tiny

from cvae.training.train import train

FILES = [path.relative_to(ROOT) for path in sorted((ROOT / "cvae").rglob("*.py")) if ">>> " in path.read_text("utf-8")]
MODULES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES]


@pytest.fixture(scope="session")
def a_run(tmp_path_factory):
    """What examples call RUN: of images (1, 8, 8)."""
    folder = tmp_path_factory.mktemp("run")
    train(tiny(folder, *QUIET))
    return str(folder)


@pytest.mark.parametrize("module", MODULES)
def test_examples(module, request):
    torch.manual_seed(0)
    found = [test for test in doctest.DocTestFinder().find(importlib.import_module(module)) if test.examples]
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    said = []
    for test in found:
        if "RUN" in test.docstring:
            test.globs["RUN"] = request.getfixturevalue("a_run")
        runner.run(test, out=said.append)
    assert found and not runner.failures, "".join(said)


def test_what_a_reader_meets_first_has_an_example():
    rooms = ("models", "networks", "posteriors", "priors", "likelihoods", "objectives", "distributions", "evaluation")
    assert {f"cvae.{room}" for room in rooms} | {"cvae.build", "cvae.api", "cvae.schedules"} <= set(MODULES)
