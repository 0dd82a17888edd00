"""What latents tell of factors, by histograms and by lines: against sums by hand, and codes whose answers are known."""

import math
from collections import Counter

import numpy as np
import pytest

from cvae.evaluation.information import (
    BINS,
    binned,
    chance,
    entropies,
    gap,
    information,
    mig,
    modularity,
    sap_of_lines,
)

RNG = np.random.default_rng(0)


def by_hand(a, b):
    """The mutual information of two lists, in nats."""
    n, joint, left, right = len(a), Counter(zip(a, b, strict=True)), Counter(a), Counter(b)
    return sum(k / n * math.log(k * n / (left[i] * right[j])) for (i, j), k in joint.items())


def test_bins_are_of_the_same_width():
    z = np.array([[0.0, 5.0], [0.49, 5.0], [0.51, 5.0], [1.99, 5.0], [2.0, 5.0]])
    assert binned(z, 4).T.tolist() == [[0, 0, 1, 3, 3], [0] * 5]
    many = RNG.normal(size=(1000, 3))
    edges = [np.histogram(column, BINS)[1] for column in many.T]
    expected = [np.digitize(column, edge[:-1]) - 1 for column, edge in zip(many.T, edges, strict=True)]
    assert np.array_equal(binned(many), np.stack(expected, 1)) and BINS == 20


def test_information_by_hand():
    z, factors = RNG.normal(size=(300, 3)), RNG.integers(0, (2, 5), (300, 2))
    z[:, 1] += factors[:, 1]
    found, places = information(z, factors, 6), binned(z, 6)
    for d in range(3):
        for f in range(2):
            assert found[d, f] == pytest.approx(by_hand(places[:, d].tolist(), factors[:, f].tolist()))
    assert entropies(factors) == pytest.approx([by_hand(f.tolist(), f.tolist()) for f in factors.T])


def test_entropies_of_known_shares():
    factors = np.array([[0, 0], [0, 1], [1, 2], [1, 3]])
    assert entropies(factors) == pytest.approx([math.log(2), math.log(4)])


def test_chance_is_rarely_exceeded_and_near():
    factors = RNG.integers(0, (3, 30), (4000, 2))
    noise = RNG.uniform(size=(4000, 200))
    found, bound = information(noise, factors), chance(noise, factors)
    assert (found < bound).all() and (found.max(0) > 0.6 * bound.max(0)).all()
    assert found.mean(0) == pytest.approx([19 * 2 / 8000, 19 * 29 / 8000], rel=0.05)
    assert chance(np.zeros((9, 1)), factors[:9]).tolist() == [[0, 0]]


def test_the_gap_is_to_the_second():
    assert gap(np.array([[0.9, 0.1], [0.2, 0.4], [0.5, 0.3]])) == pytest.approx([0.4, 0.1])
    assert gap(np.array([[0.9, 0.1]])).tolist() == [0.9, 0.1]  # one latent


def test_mig_and_modularity_by_hand():
    told = np.array([[1.0, 0.2, 0.1], [0.4, 0.3, 0.0], [0.0, 0.0, 0.0]])
    assert mig(told, np.array([2.0, 0.5, 0.1])) == pytest.approx((0.6 / 2 + 0.1 / 0.5 + 0.1 / 0.1) / 3)
    some = np.full((3, 3), 0.25)
    each = [1 - (0.2**2 + 0.1**2) / 2, 1 - 0.3**2 / 0.4**2 / 2]
    assert modularity(told, some) == pytest.approx(np.mean(each))
    assert modularity(told, np.full((3, 3), 0.5)) == pytest.approx(each[0])
    assert modularity(told, np.full((3, 3), 2.0)) == 0  # all of it can be chance
    assert modularity(told[:, :1], some[:, :1]) == 1  # there is one factor


def test_sap_of_lines_by_hand():
    z, factors = RNG.normal(size=(200, 3)), RNG.integers(0, (4, 5), (200, 2))
    z[:, 0] += factors[:, 0]
    squares = np.corrcoef(z.T, factors.T)[:3, 3:] ** 2
    expected = [np.sort(column)[-1] - np.sort(column)[-2] for column in squares.T]
    assert sap_of_lines(z, factors) == pytest.approx(np.mean(expected))
    constant = np.concatenate([z, np.ones((200, 1))], 1)
    assert sap_of_lines(constant, factors) == pytest.approx(np.mean(expected))
