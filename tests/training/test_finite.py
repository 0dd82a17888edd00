"""What is said of figures that are not finite."""

import math

import pytest

from cvae.errors import NotFinite
from cvae.training.finite import in_training, require_finite


def test_where_all_figures_are_nan_the_step_before_is_named():
    nan, figures = math.nan, {"rate": math.nan, "distortion": math.nan, "loss": math.inf}
    assert "rate is nan, distortion is nan, loss is inf (all of them: a gradient of step 4 was not finite" in str(
        in_training(figures, 2, 5, 0.25)
    )
    assert str(in_training(figures, 1, 1, 0.25)).startswith(
        "training, epoch 1, step 1, learning rate 0.25: rate is nan, distortion is nan, loss is inf. Often"
    )
    for alone in ({"rate": nan}, {"distortion": nan, "loss": nan}):
        assert "all of them" not in str(in_training(alone, 2, 5, 0.25))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_means_that_are_not_finite_are_named(value):
    require_finite({"elbo": -3.0, "rate": 0.0}, "test")
    with pytest.raises(NotFinite, match=f"^after epoch 3: rate is {value}. Often"):
        require_finite({"elbo": -3.0, "rate": value}, "after epoch 3")
