"""A queue that grows is told from one that only varies."""

from __future__ import annotations

import numpy as np
import pytest

from llmbench.results.steadiness import growth


def queue_waits(load: float, num_requests: int, seed: int) -> np.ndarray:
    """Waits in a queue with one server and service times of mean 1, by Lindley's recursion, plus the service."""
    rng = np.random.default_rng(seed)
    gaps, services = rng.exponential(1 / load, num_requests), rng.exponential(1.0, num_requests)
    waits = np.zeros(num_requests)
    for index in range(1, num_requests):
        waits[index] = max(0.0, waits[index - 1] + services[index - 1] - gaps[index])
    return waits + services


def test_an_overloaded_queue_never_gets_steady() -> None:
    found = [growth(queue_waits(2.0, 200, seed)) for seed in range(50)]
    assert all(each is not None and each.last > 2 * each.first for each in found)


def test_a_queue_that_is_kept_up_with_is_hardly_ever_accused() -> None:
    assert sum(growth(queue_waits(0.5, 200, seed)) is not None for seed in range(300)) <= 2


def test_few_answers_show_nothing() -> None:
    assert growth(np.arange(49.0)) is None
    assert growth(np.arange(50.0)) is not None


def test_a_trend_too_small_to_matter_is_none() -> None:
    assert growth(np.linspace(100.0, 150.0, 100)) is None
    found = growth(np.linspace(100.0, 500.0, 100))
    assert found is not None
    assert found.first == pytest.approx(138.4, abs=0.1)
