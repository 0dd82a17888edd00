"""Batches of ImageData: their order, the share of each process, where their memory is, and how an epoch goes on."""

import pytest
import torch
from given import TEST, TRAIN, batches, data, in_process, ready, trainer_on

from cvae.data.images import draw


@pytest.mark.parametrize("how", ["static", "fixed", "none"])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_batch_gives_the_images_of_a_split_as_the_model_sees_them(how, split):
    made = ready(binarization=how, validation_size=100)
    images = getattr(made, split).images
    for indices in ([7, 0, 7, 99], range(90, 100, 3)):
        x, y = made.batch(split, indices)
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert torch.equal(x, images.x[list(indices)].float() / 255) and torch.equal(y, images.y[list(indices)])


def test_batch_draws_stochastic_training_images_anew():
    made = ready(binarization="stochastic")
    torch.manual_seed(4)
    expected = draw(TRAIN.x[3:5].float() / 255)
    torch.manual_seed(4)
    assert torch.equal(made.batch("train", [3, 4])[0], expected)
    assert not torch.equal(made.batch("train", [3, 4])[0], expected)
    assert torch.equal(made.batch("test", [3, 4])[0], made.test.images.x[3:5].float() / 255)


def test_batch_is_made_on_the_device():
    x, y = ready(binarization="stochastic").batch("train", range(3), "meta")
    assert x.device.type == y.device.type == "meta" and x.shape == (3, 1, 4, 5)
    x, y = ready().batch("train", range(3), torch.device("cpu"))
    assert x.device.type == y.device.type == "cpu"


def test_batch_of_a_split_that_is_not_there():
    for split in ("validation", "tests", "images"):
        with pytest.raises(ValueError) as error:
            ready().batch(split, [0])
        assert str(error.value) == f"split={split}: must be one of ['train', 'test']"
    with pytest.raises(ValueError, match=r"must be one of \[\]"):
        data().batch("train", [0])  # before setup


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_evaluation_images_of_a_process_in_their_order(rank):
    """Every third image, each once: 100, 100 and 100 of 300."""
    made = in_process(ready(binarization="none", validation_size=101, seed=3), rank, 3)
    for loader, images in ((made.test_dataloader(), TEST), (made.val_dataloader(), made.validation.images)):
        x, y = batches(made, loader)
        assert torch.equal(x, images.x[rank::3].float() / 255) and torch.equal(y, images.y[rank::3])


def test_evaluation_batches():
    made = ready(validation_size=150)
    assert [len(y) for _, y in made.test_dataloader()] == [70, 70, 70, 70, 20]
    assert [len(y) for _, y in made.val_dataloader()] == [70, 70, 10]


def test_without_a_validation_split_the_test_set_is_measured():
    made = ready(binarization="none")
    assert made.validation is None and torch.equal(batches(made, made.val_dataloader())[0], TEST.x.float() / 255)


def training_order(made, epoch):
    loader = made.train_dataloader()
    loader.sampler.set_epoch(epoch)  # as Lightning does
    return list(loader.sampler)


@pytest.mark.parametrize("seed, epoch", [(0, 0), (0, 3), (5, 0), (5, 3)])
def test_training_order_is_a_function_of_seed_and_epoch(seed, epoch):
    expected = torch.randperm(1100, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    assert training_order(ready(seed=seed), epoch) == expected


def test_processes_share_the_training_images():
    """In turns; the first ones are used twice where the count does not divide."""
    order = training_order(ready(seed=2), 4)
    for rank in range(3):
        assert training_order(in_process(ready(seed=2), rank, 3), 4) == (order + order[:1])[rank::3]


def test_training_batches():
    """Images and labels in the sampler's order, the last short batch too."""
    made = ready(binarization="none", seed=2)
    loader = made.train_dataloader()
    assert [len(y) for _, y in loader] == [32] * 34 + [12]
    order = torch.randperm(1100, generator=torch.Generator().manual_seed(2))
    x, y = batches(made, loader)
    assert torch.equal(x, TRAIN.x[order].float() / 255) and torch.equal(y, TRAIN.y[order])


@pytest.mark.parametrize("how", ["fixed", "stochastic"])
def test_setup_and_loaders_leave_the_global_noise_alone(how):
    before = torch.get_rng_state()
    made = ready(binarization=how, validation_size=100)
    for loader in (made.train_dataloader(), made.val_dataloader(), made.test_dataloader()):
        assert len(list(loader)) == len(loader)
    assert torch.equal(torch.get_rng_state(), before)


META = torch.device("meta")  # in place of a GPU


@pytest.mark.parametrize(("spare", "moved"), [(0, True), (-1, False)])
def test_images_live_on_a_gpu_if_they_fit_into_a_quarter_of_its_memory(monkeypatch, spare, moved):
    made = ready(validation_size=100)
    splits = (made.train, made.validation, made.test)
    needed = sum(len(split) for split in splits) * (20 + 8)  # pixels, and the bytes of a label
    asked = []
    monkeypatch.setattr("cvae.data.module.free_memory", lambda device: asked.append(device) or needed * 4 + spare)
    made.keep_on(META)
    assert asked == [META]
    for split in splits:
        assert [part.device.type for part in split.images[:2]] == ["meta" if moved else "cpu"] * 2
    made.trainer = trainer_on("cuda")
    assert made.test_dataloader().pin_memory is not moved  # memory of a GPU cannot be pinned


def test_images_stay_on_a_cpu():
    made = ready()
    before = made.train.images
    made.keep_on(torch.device("cpu"))
    assert made.train.images is before


@pytest.mark.gpu
def test_batches_of_images_on_a_gpu_are_the_same():
    here, there = ready(), ready()
    there.keep_on(torch.device("cuda"))
    for ours, theirs in zip(here.test_dataloader(), there.test_dataloader(), strict=True):
        assert theirs[0].is_cuda and torch.equal(ours[0], theirs[0].cpu()) and torch.equal(ours[1], theirs[1].cpu())


@pytest.mark.parametrize(("device", "pinned"), [("cuda:1", True), ("cpu", False), ("mps", False), (None, False)])
def test_memory_is_pinned_for_a_gpu_alone(monkeypatch, device, pinned):
    """Also where there is a GPU that the training does not use: pinned memory would take some of its memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    made = ready(validation_size=100)
    made.trainer = trainer_on(device) if device else None
    for loader in (made.train_dataloader(), made.val_dataloader(), made.test_dataloader()):
        assert loader.pin_memory is pinned


def test_batches_of_several_minibatches_are_those_of_single_ones():
    one, several = (ready(batch_size=300) for _ in range(2))
    several.minibatches = 3
    assert [len(x) for x, _ in several.train_dataloader()] == [900, 200]
    split = [minibatch for batch in several.train_dataloader() for minibatch in several.minibatches_of(batch)]
    assert [len(x) for x, _ in split] == [300, 300, 300, 200]
    for ours, theirs in zip(split, one.train_dataloader(), strict=True):
        assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(("world", "minibatches"), [(1, 4), (2, 2), (3, 2)])
def test_minibatches_of_an_epoch(world, minibatches):
    made = ready(batch_size=300)
    made.trainer = trainer_on(world=world)
    assert made.minibatches_of_an_epoch() == minibatches


@pytest.mark.parametrize("minibatches", [1, 2])
def test_an_epoch_goes_on_with_the_batch_that_was_next(minibatches):
    """From the state that a loader had when a checkpoint was saved; the next epoch is whole again."""

    def loader(epoch):
        made = ready(batch_size=300)
        made.minibatches = minibatches
        loader = made.train_dataloader()
        loader.sampler.set_epoch(epoch)
        return loader

    whole, first, second = loader(1), loader(1), loader(1)
    expected = [y for _, y in whole]
    batches = iter(first)
    assert torch.equal(next(batches)[1], expected[0])
    state = first.state_dict()
    assert state == {"used": 1} and len(second) == len(expected)
    second.load_state_dict(state)
    rest = list(second)
    assert len(rest) == len(expected) - 1
    assert all(torch.equal(y, other) for (_, y), other in zip(rest, expected[1:], strict=True))
    assert second.state_dict() == {"used": len(expected)} and len(second) == len(expected)
    again = list(second)
    assert all(torch.equal(y, other) for (_, y), other in zip(again, expected, strict=True))
    next(iter(second))  # an epoch that is cut short
    assert len(list(second)) == len(expected)
