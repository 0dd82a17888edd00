"""Augmentation: each change by value, its range, and that it says what it does not know."""

import pytest
import torch
from given import ready
from tiny import QUIET, tiny

from cvae.data.augment import CHANGES, Augmentation, colour, crop, flip, rotate90, shift
from cvae.errors import ConfigError
from cvae.training.train import assemble, train

SQUARE = (3, 6, 6)


def pictures(count=400, shape=SQUARE):
    return torch.randint(256, (count, *shape), dtype=torch.uint8)


def same(one, two):
    """Which images are equal: (B,)."""
    return (one == two).flatten(1).all(1)


@pytest.mark.parametrize("word", CHANGES)
def test_levels_stay_levels_and_each_image_has_its_own_draws(word):
    x = pictures(1).expand(400, -1, -1, -1)
    out = Augmentation([word], SQUARE, False)(x)
    assert out.dtype == torch.uint8 and out.shape == x.shape and out.is_contiguous()
    assert 1 < len(out.unique(dim=0)) and same(out, x).float().mean() < 0.7


@pytest.mark.parametrize("shape", [(1, 5, 7), SQUARE, (1, 4, 4)])
def test_words_are_made_in_one_order_from_the_global_noise(shape):
    square = shape[1] == shape[2]
    words = ["shift", "colour", "flip", "crop", *(["rotate90"] if square else [])]
    x = pictures(20, shape)
    torch.manual_seed(4)
    out = Augmentation(words, shape, False)(x)
    torch.manual_seed(4)
    steps = (crop, 0.8), *([(rotate90, 0)] if square else []), (flip, 0), (shift, 0.125), (colour, 0.2)
    expected = x
    for change, amount in steps:
        expected = change(expected, amount)
    assert torch.equal(out, expected)


def test_flip_by_value():
    x = pictures()
    out = flip(x, 0)
    stays, turned = same(out, x), same(out, x.flip(3))
    assert (stays ^ turned).all() and 150 < turned.sum() < 250


def test_rotate90_by_value():
    x = pictures()
    out = rotate90(x, 0)
    counts = [same(out, x.rot90(quarter, (2, 3))) for quarter in range(4)]
    assert torch.stack(counts).sum(0).tolist() == [1] * 400 and all(60 < count.sum() < 140 for count in counts)


def test_shift_by_value():
    """Up to a quarter of 8 rows and of 4 columns, the edge repeated; each place equally often."""
    x = pictures(1, (1, 8, 4)).expand(3000, -1, -1, -1)
    out = shift(x, 0.25)
    rows, columns = torch.arange(8), torch.arange(4)
    found = 0
    for down in range(-2, 3):
        for right in range(-1, 2):
            moved = x[:1, :, (rows - down).clamp(0, 7)][..., (columns - right).clamp(0, 3)]
            count = same(out, moved).sum()
            assert 140 < count < 260
            found += count
    assert found == 3000


def test_crop_enlarges_a_part_bilinearly():
    """Of a ramp, whose values tell which part it is: between `least` and 1 of each side, inside the image."""
    ramp = torch.arange(64.0)[None, :] * 2 + torch.arange(64.0)[:, None]
    x = ramp.byte()[None, None].expand(500, 1, 64, 64)
    out = crop(x, 0.5).float()
    inside = slice(8, 56)  # not at the edge, where pixels are repeated
    side = (out[:, 0, inside, 55] - out[:, 0, inside, 8]).mean(1) / (2 * 47)
    down = (out[:, 0, 55, inside] - out[:, 0, 8, inside]).mean(1) / 47
    assert torch.allclose(side, down, atol=0.03)  # the same for both sides: nothing is stretched
    assert 0.49 < side.min() < 0.52 and 0.98 < side.max() < 1.01 and abs(side.mean() - 0.75) < 0.03
    centre = out[:, 0, 31:33, 31:33].mean((1, 2))
    assert centre.min() > 31.5 * 3 - 16 * 3 - 1 and centre.max() < 31.5 * 3 + 16 * 3 + 1 and centre.std() > 5
    assert torch.equal(crop(x, 1 - 1e-6), x)


def test_colour_by_value(monkeypatch):
    x = torch.tensor([[100, 203], [50, 50], [0, 40]], dtype=torch.uint8).reshape(1, 3, 1, 2)
    monkeypatch.setattr("cvae.data.augment.uniform", lambda *_: torch.tensor([[1.1], [0.5], [0.8]]))
    bright = x.double() * 1.1
    grey = (torch.tensor([0.299, 0.587, 0.114]).double()[:, None, None] * bright).sum(1, keepdim=True)
    duller = grey + 0.8 * (bright - grey)
    expected = (duller.mean() + 0.5 * (duller - duller.mean())).round()
    assert torch.equal(colour(x, 0.2).double(), expected)
    grey = x[:, :1].double() * 1.1  # an image without colours has no saturation
    assert torch.equal(colour(x[:, :1], 0.2).double(), (grey.mean() + 0.5 * (grey - grey.mean())).round())


def test_colour_stays_in_its_range():
    x = torch.full((2000, 1, 2, 2), 100, dtype=torch.uint8)
    factors = colour(x, 0.2).float()[:, 0, 0, 0] / 100
    assert 0.8 <= factors.min() < 0.82 and 1.18 < factors.max() <= 1.2
    assert colour(torch.full_like(x, 255), 0.2).max() == 255


def test_nothing_waits_for_the_device():
    """A tensor on the device meta has no values to read back: a CUDA graph can have all changes."""
    out = Augmentation(list(CHANGES), SQUARE, False)(pictures(5).to("meta"))
    assert out.shape == (5, *SQUARE) and out.dtype == torch.uint8 and out.device.type == "meta"


def test_nothing_is_drawn_without_words():
    x, before = pictures(3), torch.get_rng_state()
    for none in (None, [], {}):
        assert Augmentation(none, SQUARE, True)(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_amounts():
    shifted = Augmentation({"shift": 0.5, "flip": None, "crop": None}, SQUARE, False)
    assert shifted.changes == [(crop, 0.8), (flip, 0), (shift, 0.5)]


@pytest.mark.parametrize(
    "words, key, allowed",
    [
        (["flop"], "augment", "a list of crop, rotate90, flip, shift, colour, as in"),
        ("flip", "augment", "a list of"),
        (3, "augment", "a list of"),
        ([["flip"]], "augment", "a list of"),
        ({"turn": 3}, "augment", "a list of"),
        ({"shift": 1.5}, "augment.shift", "a number between 0 and 1, or null for 0.125"),
        ({"shift": 0}, "augment.shift", "a number between"),
        ({"crop": True}, "augment.crop", "a number between"),
        ({"colour": "much"}, "augment.colour", "a number between"),
        ({"flip": 0.5}, "augment.flip", "null: it has no amount"),
    ],
)
def test_wrong_words_are_named(words, key, allowed):
    with pytest.raises(ConfigError, match=f"must be {allowed}") as error:
        Augmentation(words, SQUARE, False)
    assert error.value.key == key


def test_changes_that_do_not_fit_the_images():
    with pytest.raises(ConfigError, match="without rotate90, for the images are 4x5 and not square"):
        ready(augment=["rotate90"])
    with pytest.raises(ConfigError, match="without crop and colour, which would make grey of binary images"):
        ready(augment=["crop", "colour"], binarization="static")
    ready(augment=["crop", "colour"], binarization="stochastic")
    ready(augment=["flip", "shift"], binarization="fixed")


def test_only_training_steps_change_images():
    """Loaders, evaluation and pictures have the images as they are."""
    plain, made = ready(binarization="none"), ready(augment=["flip", "shift"], binarization="none")
    for one, two in zip(plain.train_dataloader(), made.train_dataloader(), strict=True):
        assert torch.equal(one[0], two[0])
    assert torch.equal(plain.batch("train", [3, 4])[0], made.batch("train", [3, 4])[0])


def test_a_training_step_sees_changed_images(tmp_path, monkeypatch):
    data, module, _, _ = assemble(tiny(tmp_path, *QUIET, "data.augment=[flip]"))
    data.setup()
    monkeypatch.setattr(module, "_trainer", type("T", (), {"datamodule": data, "global_step": 0})())
    seen = []
    monkeypatch.setattr(module, "training_terms", lambda o, v, x, y, s: seen.append(x) or o(v, x, y, s))
    levels, y = data.train.__getitems__(list(range(8)))
    torch.manual_seed(1)
    module.loss(levels, y, 0)
    torch.manual_seed(1)
    assert torch.equal(seen[0], flip(levels, 0).float() / 255) and not torch.equal(seen[0], levels.float() / 255)


def weights(folder, *words):
    train(tiny(folder, *QUIET, *words))
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def test_the_words_of_the_command_line_and_a_run_that_repeats_itself(tmp_path):
    """Lists and amounts are typed; the same words give the same weights, others others."""
    one, two = (weights(tmp_path / name, "data.augment=[flip,shift]") for name in "ab")
    other = weights(tmp_path / "c", "data.augment={shift: 0.25, flip: null}")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
