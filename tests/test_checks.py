"""Checks of single values: what they let pass, what they refuse, and what they say is allowed."""

import math

import pytest

from cvae import checks
from cvae.errors import ConfigError

INT, FINITE, SEED = "a positive integer", "a finite number of at least 0", "an integer from 0 to 4294967295"
SHAPE = "three positive integers [channels, height, width]"
CHECKS = {
    # name: (values that pass, {what is allowed: values that do not pass})
    "positive_int": ([1, 2, 10**12], {INT: [0, -1, 1.0, 1.5, "1", None, True, [1]]}),
    "number": ([0, 0.0, 1e-300, 1, 2.5], {FINITE: [-1e-9, -1, math.inf, math.nan, "1", None, True, False]}),
    "positive_number": (
        [1e-300, 1, 2.5],
        {"a finite number above 0": [0, 0.0, -1, math.inf, -math.inf, math.nan, "1", None, True]},
    ),
    "seed_number": ([0, 1, 2**32 - 1], {SEED: [-1, 2**32, 1.0, "1", None, True]}),
    "image_shape": (
        [(1, 2, 4), (3, 1, 1), (13, 2, 2)],
        {
            SHAPE: [[1, 2], [1, 2, 3, 4], [1, 0, 2], [1, 2, -1], [1.0, 2, 2], [1, 2, True], 5, None, "123"],
        },
    ),
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_passes_comes_back(name):
    for value in CHECKS[name][0]:
        back = getattr(checks, name)("key", value)
        assert back == value and type(back) is type(value)


@pytest.mark.parametrize("name", CHECKS)
def test_what_does_not_pass_is_named_with_what_is_allowed(name):
    for allowed, values in CHECKS[name][1].items():
        for value in values:
            with pytest.raises(ConfigError) as error:
                getattr(checks, name)("key", value)
            assert str(error.value) == f"key={value}: must be {allowed}"


def test_a_list_is_as_good_as_a_tuple_for_an_image_shape():
    assert checks.image_shape("key", [3, 4, 5]) == (3, 4, 5)
    with pytest.raises(ConfigError, match=r"^key=\[3, 4\]: must be"):  # shown as in a config
        checks.image_shape("key", (3, 4))


def test_the_least_of_a_number():
    assert checks.number("key", 2.5, 2.5) == 2.5
    assert checks.number("key", -1e300, -math.inf) == -1e300
    for value, least, allowed in (
        (2.4, 2.5, "a finite number of at least 2.5"),
        (-math.inf, -math.inf, "a finite number"),
    ):
        with pytest.raises(ConfigError, match=f"^key={value}: must be {allowed}$"):
            checks.number("key", value, least)


def test_one_of_compares_types_too():
    assert checks.one_of("key", "b", ("a", "b")) == "b"
    assert checks.one_of("key", True, (False, True)) is True
    for value in (1, 0, "True", None, 1.0):
        with pytest.raises(ConfigError, match=f"^key={value}: must be one of False, True$"):
            checks.one_of("key", value, (False, True))
    with pytest.raises(ConfigError, match="^key=c: must be an activation, one of a, b$"):
        checks.one_of("key", "c", ["a", "b"], "an activation, ")


def test_integers_are_no_truth_values():
    assert [checks.is_int(value) for value in (1, -3, True, False, 1.0, "1", None)] == [True, True, *[False] * 5]
