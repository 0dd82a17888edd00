"""Sets of images: parts, joins, whole batches, and draws."""

import pytest
import torch

from cvae.data.images import ImageDataset, Images, as_is, draw, drawn_once, texts


def numbered(start, stop, factors=True):
    """Images whose level, label and factors are their number."""
    n = torch.arange(start, stop)
    x = n.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 3)
    return Images(x, n, torch.stack([n, -n], 1).float() if factors else None)


def assert_numbers(images, numbers):
    assert images.y.tolist() == images.x[:, 0, 1, 2].tolist() == numbers
    if images.factors is not None:
        assert images.factors.tolist() == [[n, -n] for n in numbers]


@pytest.mark.parametrize("factors", [False, True])
@pytest.mark.parametrize("indices", [[3, 0, 3], torch.tensor([3, 0, 3]), slice(1, 3)])
def test_take_keeps_labels_and_factors_with_their_images(indices, factors):
    part = numbered(10, 15, factors).take(indices)
    assert_numbers(part, [11, 12] if isinstance(indices, slice) else [13, 10, 13])
    assert (part.factors is None) != factors


@pytest.mark.parametrize("factors", [False, True])
def test_join_puts_the_other_set_behind(factors):
    both = numbered(5, 7, factors).join(numbered(1, 4, factors))
    assert_numbers(both, [5, 6, 1, 2, 3])
    assert (both.factors is None) != factors


@pytest.mark.parametrize("first", [False, True])
def test_join_refuses_to_lose_factors(first):
    with pytest.raises(ValueError, match="factors"):
        numbered(0, 2, first).join(numbered(0, 2, not first))


def test_images_have_no_factors_unless_given():
    assert Images(torch.zeros(1, 1, 2, 2), torch.zeros(1)).factors is None


def test_names_stay_with_their_images():
    named = numbered(10, 15)._replace(names=texts("abcde"), classes=("x", "y"))
    for indices in ([3, 0, 3], torch.tensor([3, 0, 3])):
        part = named.take(indices)
        assert part.names.tolist() == ["d", "a", "d"] and part.classes == ("x", "y")
    both = named.take(slice(1, 3)).join(named.take([0])).to("cpu")
    assert both.names.tolist() == ["b", "c", "a"] and both.classes == ("x", "y")
    assert named.join(numbered(1, 4)).names is None


def test_dataset_returns_single_images_and_whole_batches():
    dataset = ImageDataset(numbered(10, 15))
    assert len(dataset) == 5
    x, y = dataset[3]
    assert x.shape == (1, 2, 3) and x.unique().item() == y.item() == 13
    x, y = dataset.__getitems__([4, 0])
    assert x[:, 0, 0, 0].tolist() == y.tolist() == [14, 10] and x.dtype == torch.uint8
    assert as_is((x, y))[0] is x


def test_draw_is_one_where_a_uniform_number_is_below_p():
    p = torch.rand(50, 7, dtype=torch.float64)
    uniform = torch.rand(50, 7, generator=torch.Generator().manual_seed(3))
    expected = (uniform < p).double()
    assert torch.equal(draw(p, torch.Generator().manual_seed(3)), expected)
    torch.manual_seed(3)
    assert torch.equal(draw(p), expected) and draw(p).dtype == torch.float64


def test_draw_takes_the_given_generator_alone():
    before = torch.get_rng_state()
    draw(torch.full((9,), 0.5), torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])  # the least and the greatest that torch draws
def test_black_stays_black_and_white_white(monkeypatch, uniform):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, uniform))
    assert draw(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_drawn_once_by_value():
    """One uniform number per pixel, image after image; labels and factors stay; the source does not change."""
    generator = torch.Generator().manual_seed(1)
    images = Images(
        torch.randint(256, (1003, 1, 2, 3), generator=generator, dtype=torch.uint8),
        torch.arange(1003),
        torch.rand(1003, 2),
    )
    before = images.x.clone()
    uniform = torch.rand(1003, 1, 2, 3, generator=torch.Generator().manual_seed(5))
    drawn = drawn_once(images, torch.Generator().manual_seed(5))
    assert drawn.x.dtype == torch.uint8 and torch.equal(drawn.x, (uniform < images.x.float() / 255).byte() * 255)
    assert torch.equal(drawn.y, images.y) and torch.equal(drawn.factors, images.factors)
    assert torch.equal(images.x, before)


def test_images_move_with_all_that_is_known_of_them():
    for factors in (None, torch.zeros(3, 2)):
        moved = Images(torch.zeros(3, 1, 2, 2), torch.zeros(3), factors).to("meta")
        assert [part.device.type for part in moved if part is not None] == ["meta"] * (2 if factors is None else 3)
        assert (moved.factors is None) == (factors is None)
