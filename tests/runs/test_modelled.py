"""What a run models: which runs can be ranked, and what is said of test images that were not held out."""

import copy

import pytest
from conftest import config, get_object
from omegaconf import OmegaConf

from cvae.runs.modelled import (
    DENSITIES,
    ONE_CODE,
    PROBABILITIES,
    UNKNOWN,
    chosen_by,
    measure,
    modelled,
    one_code,
    remarks,
)


def saved(*words):
    return OmegaConf.to_container(config(*words))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "MNIST 1x28x28, binarization=static; probabilities"),
        (["data=kmnist", "data.invert=true"], "KMNIST 1x28x28, binarization=static, invert=true; probabilities"),
        (["data.binarization=none", "likelihood=gaussian"], "MNIST 1x28x28, binarization=none; densities"),
        (["likelihood=discretized_logistic", "data.binarization=none"],
         "MNIST 1x28x28, binarization=none; probabilities"),
        (["data.binarization=none", "likelihood.soft=true"],
         "MNIST 1x28x28, binarization=none; cross-entropies, no log p(x)"),
        (["data=synthetic"], "Synthetic 1x28x28, num_classes=10, test_size=128, binarization=static; probabilities"),
        (["data=image_folder", "data.root=/a", "data.image_shape=[3,64,64]"],
         "image_folder 3x64x64, root=/a, test_size=0.1, binarization=static; probabilities"),
        (["data=npz", "data.root=/b.npz"], "npz, root=/b.npz, test_size=0.1, binarization=static; probabilities"),
        (["conditional=true", "+trainer.limit_test_batches=2"],
         "MNIST 1x28x28, binarization=static, limit_test_batches=2, given the class; probabilities"),
        (["data.train_on=all"],
         "MNIST 1x28x28, binarization=static, trained on the test images, too (data.train_on=all); probabilities"),
    ],
)  # fmt: skip
def test_in_words(words, said):
    assert modelled(saved(*words)) == said


@pytest.mark.parametrize(
    "words",
    [
        ["data.root=elsewhere"], ["data.batch_size=7"], ["data.validation_size=10000"], ["seed=3"], ["model=mlp"],
        ["data.seed=4"], ["prior=vamp"], ["objective=iwae"], ["posterior=vq", "prior=uniform"],
    ],
)  # fmt: skip
def test_what_changes_nothing_of_it(words):
    assert modelled(saved(*words)) == modelled(saved())


def test_a_source_of_ones_own_is_told_by_its_folder():
    content = saved("data.root=/a")
    content["data"]["source"] = {"_target_": "mine.Stars", "width": 3}
    other = copy.deepcopy(content)
    other["data"]["root"] = "/b"
    assert modelled(content) == "Stars 1x28x28, width=3, root=/a, binarization=static; probabilities"
    assert modelled(other) != modelled(content)


@pytest.mark.parametrize("content", [{}, {"data": 3}, {"data": {}, "likelihood": "x"}, {"likelihood": {}}])
def test_what_is_not_known(content):
    assert modelled(content) == UNKNOWN


def test_configs_of_any_shape_are_said():
    assert modelled({"data": {"source": 1, "image_shape": 3, "_target_": [1]}, "likelihood": {"_target_": 5}})


def test_the_kinds_are_those_of_the_classes():
    for name in PROBABILITIES | DENSITIES:
        likelihood = get_object(f"cvae.likelihoods.{name}")([1, 4, 4])
        assert likelihood.is_mass == (measure({"_target_": f"cvae.likelihoods.{name}"}) == "probabilities")
    assert measure({"_target_": "mine.Poisson"}) == "likelihood Poisson"
    for name in ONE_CODE:
        assert get_object(f"cvae.posteriors.{name}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], False), (["posterior=vq", "prior=uniform"], True), (["posterior=fsq", "prior=uniform"], True),
     (["posterior=categorical", "prior=uniform"], False)],
)  # fmt: skip
def test_a_single_code(words, expected):
    assert one_code(saved(*words)) == expected


ALL, BEST = "the test images were trained on, too (data.train_on=all)", "best.ckpt was chosen by the test images"


@pytest.mark.parametrize(
    ("words", "checkpoint", "said"),
    [
        ([], "last.ckpt", []),
        ([], "best.ckpt", [f"{BEST} (data.validation_size=0)"]),
        (["data.validation_size=100"], "best.ckpt", []),
        (["callbacks.checkpoint.monitor=train_epoch/elbo"], "best.ckpt", []),
        (["data.train_on=all"], "last.ckpt", [ALL]),
        (["data.train_on=all"], "best.ckpt", [ALL, f"{BEST} (data.validation_size=0)"]),
        (["averaging.decay=0.9"], "last.ckpt", ["of averaged weights (averaging.decay=0.9)"]),
    ],
)
def test_what_is_said_of_test_images(words, checkpoint, said):
    content = saved(*words)
    assert remarks(content, checkpoint) == said
    assert chosen_by(content) == (not any("validation" in word or "monitor" in word for word in words))
