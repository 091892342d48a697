"""Intervals against the list of all resamples, and decisions on runs whose difference is known."""

from itertools import product

import numpy as np
import pytest

from zhiyin.evaluate.bootstrap import compare, interval
from zhiyin.evaluate.measures import ratio


def test_an_interval_is_that_of_all_resamples() -> None:
    errors, words = [0, 1, 3, 2, 5], [10, 4, 6, 9, 7]
    every = [sum(errors[at] for at in drawn) / sum(words[at] for at in drawn) for drawn in product(range(5), repeat=5)]
    stats_NK = np.array([errors, words], np.float64).T
    found = interval(stats_NK, ratio, resamples=20000, seed=3)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(every, [0.025, 0.975])), abs=0.012)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    stats_NK = np.array([[1, 1]] * 300 + [[0, 1]] * 700, np.float64)
    found = interval(stats_NK, ratio, resamples=4000)
    spread = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.3 - spread, 0.3 + spread), abs=0.004)


def test_seeds_repeat_and_pieces_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    stats_NK = np.random.default_rng(0).random((40, 2)) + 1
    first = interval(stats_NK, ratio, seed=5)
    assert interval(stats_NK, ratio, seed=5) == first
    assert interval(stats_NK, ratio, seed=6) != first
    monkeypatch.setattr("zhiyin.evaluate.bootstrap._CELLS", 120)
    assert interval(stats_NK, ratio, seed=5) == first


def test_a_figure_of_nothing_has_no_interval() -> None:
    found = interval(np.zeros((3, 2)), ratio)
    assert np.isnan(found.low) and np.isnan(found.high)


def test_a_run_that_is_better_on_most_records_is_surely_better() -> None:
    words = np.full(200, 10.0)
    first = np.stack([np.where(np.arange(200) % 4 == 0, 2.0, 1.0), words], 1)
    second = np.stack([np.full(200, 2.0), words], 1)
    found = compare(first, second, ratio, resamples=1000)
    assert found.value == pytest.approx(0.125 - 0.2)
    assert found.interval.high < 0 and found.p == pytest.approx(2 / 1001)
    mirrored = compare(second, first, ratio, resamples=1000)
    assert (mirrored.value, mirrored.p) == (pytest.approx(-found.value), found.p)


def test_pairs_matter() -> None:
    """Hard and easy records differ widely; a small steady gain is seen only because the same records are drawn."""
    hard = np.tile([0.0, 9.0], 100)
    words = np.full(200, 10.0)
    found = compare(np.stack([hard, words], 1), np.stack([hard + 0.5, words], 1), ratio)
    assert (found.interval.low, found.interval.high) == pytest.approx((-0.05, -0.05))
    single = interval(np.stack([hard, words], 1), ratio)
    assert single.high - single.low > 0.1


def test_the_same_run_is_not_another_one() -> None:
    stats_NK = np.random.default_rng(1).random((50, 2)) + 1
    assert compare(stats_NK, stats_NK, ratio).p == 1.0


def test_differences_by_chance_are_rarely_called_sure() -> None:
    """At 5 % about one in twenty; ten of a hundred would be a rare day."""
    rng = np.random.default_rng(7)
    sure = 0
    for _ in range(100):
        drawn = rng.random((2, 120)) < 0.3
        one, other = (np.stack([hits.astype(float), np.ones(120)], 1) for hits in drawn)
        sure += compare(one, other, ratio, resamples=300).p < 0.05
    assert sure <= 11
