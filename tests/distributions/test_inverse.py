"""The way back through an autoregressive flow: zuko's, by the work of one network pass."""

from functools import partial

import pytest
import torch
from torch.nn.utils import parameters_to_vector
from zuko.flows import MaskedAutoregressiveTransform
from zuko.nn import MaskedLinear
from zuko.transforms import AutoregressiveTransform, MonotonicRQSTransform

from cvae.distributions import stable

SPLINE = {"univariate": partial(MonotonicRQSTransform, slope=1e-3), "shapes": [(4,), (4,), (3,)]}


def transform(dims, context, order=None, hidden=(9, 12), **options):
    torch.manual_seed(dims)
    made = MaskedAutoregressiveTransform(dims, context, order=order, hidden_features=list(hidden), **options)
    made = stable(made).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made


@pytest.mark.parametrize("options", [{}, SPLINE], ids=["affine", "spline"])
@pytest.mark.parametrize("context", [0, 3])
@pytest.mark.parametrize(
    ("dims", "order", "hidden"),
    [(2, None, (9, 12)), (5, [4, 3, 2, 1, 0], (9, 12)), (5, [2, 0, 4, 1, 3], (7,)), (6, None, (3, 4, 5))],
)
def test_it_is_zukos(options, context, dims, order, hidden):
    """Value and gradients, also with fewer units than dimensions; a context of each image goes with all draws."""
    made = transform(dims, context, order and torch.tensor(order), hidden, **options)
    c = torch.randn(4, context, dtype=torch.float64, requires_grad=True) if context else None
    y = torch.randn(3, 4, dims, dtype=torch.float64, requires_grad=True)
    f = made(c)
    ours, zukos = f.inv(y), AutoregressiveTransform._inverse(f, y)
    torch.testing.assert_close(ours, zukos)
    torch.testing.assert_close(f(ours), y)
    learned, weights = [y, *made.parameters(), *([] if c is None else [c])], torch.randn_like(y)
    of = [torch.autograd.grad((weights * x).sum(), learned) for x in (ours, zukos)]
    torch.testing.assert_close(parameters_to_vector(of[0]), parameters_to_vector(of[1]))
    assert of[0][0].abs().max() > 0


def test_one_y_for_many_contexts():
    made, c, y = transform(3, 2), torch.randn(5, 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    torch.testing.assert_close(made(c).inv(y), made(c).inv(y.expand(5, 3)))


def test_each_unit_is_computed_once(monkeypatch):
    """All products together are no more than those of one pass."""
    made, outputs = transform(6, 3, hidden=(20, 30)), []
    linear = torch.nn.functional.linear
    counted = lambda x, w, b=None: outputs.append((x.shape[-1], len(w))) or linear(x, w, b)
    f, y = made(torch.randn(4, 3, dtype=torch.float64)), torch.randn(2, 4, 6, dtype=torch.float64)
    monkeypatch.setattr(torch.nn.functional, "linear", counted)
    f.inv(y)
    layers = [layer for layer in made.hyper if isinstance(layer, MaskedLinear)]
    work = sum(inputs * found for inputs, found in outputs)
    assert 0 < work <= sum(layer.weight.numel() for layer in layers)


def test_in_half_precision_it_rounds_as_the_way_there():
    made = transform(4, 2, **SPLINE).float()
    f, y = made(torch.randn(3, 2)), torch.randn(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        x, zukos = f.inv(y), AutoregressiveTransform._inverse(f, y)
    assert torch.equal(x, zukos) and x.dtype == torch.float32
    assert not torch.equal(x, f.inv(y))


def test_its_order_is_no_part_of_a_checkpoint():
    """Weights of runs from before it fit."""
    made = transform(4, 2)
    plain = MaskedAutoregressiveTransform(4, 2, hidden_features=[9, 12])
    assert made.state_dict().keys() == plain.state_dict().keys()
