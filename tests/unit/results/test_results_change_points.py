"""Changes in a series of runs: found where they are, and not where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.results.change_points import ALPHA, MIN_SEGMENT, change_points


def noisy(levels: list[tuple[float, int]], spread: float = 0.01, seed: int = 0) -> list[float]:
    generator = np.random.default_rng(seed)
    return [float(level * math.exp(generator.normal(0, spread))) for level, num in levels for _ in range(num)]


def test_a_step_is_found_where_it_is() -> None:
    [change] = change_points(noisy([(10, 12), (11, 12)]))
    assert change.index == 12
    assert change.ratio == pytest.approx(1.1, abs=0.02)
    assert change.p <= ALPHA


def test_two_steps_are_two_changes() -> None:
    found = change_points(noisy([(10, 12), (12, 12), (10, 12)]))
    assert [change.index for change in found] == [12, 24]
    assert found[0].ratio > 1 > found[1].ratio


def test_one_wild_run_is_no_change() -> None:
    values = noisy([(10, 30)])
    values[13] = 500.0
    values[20] = math.inf
    assert change_points(values) == []


def test_a_step_within_the_margin_is_no_change() -> None:
    values = noisy([(10, 20), (10.2, 20)], spread=0.001)
    assert change_points(values) == []
    assert len(change_points(values, margin=0.01)) == 1


def test_steady_series_rarely_change() -> None:
    # 200 series, each wrong with probability ALPHA at most: 9 or more has probability 3e-4. The seed is fixed.
    found = [change_points(noisy([(10, 20)], spread=0.1, seed=seed), margin=0.0) for seed in range(200)]
    assert sum(bool(each) for each in found) < 9


@given(st.lists(st.floats(0, 1e6) | st.just(math.inf), max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_series_is_split_into_parts_long_enough(values: list[float]) -> None:
    edges = [0, *(change.index for change in change_points(values)), len(values)]
    assert edges == sorted(edges)
    if len(edges) > 2:
        assert min(np.diff(edges)) >= MIN_SEGMENT


def test_equal_values_never_change() -> None:
    assert change_points([5.0] * 40) == []
