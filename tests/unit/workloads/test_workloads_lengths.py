"""Lengths follow the distribution asked for, within its bounds; false-failure chances are stated.

Seeds are fixed: a test that passed once passes always.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy import stats

from llmbench.workloads.base import MAX_TOKENS
from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.lengths import Lengths, largest, sample, smallest
from llmbench.workloads.seeds import stream

LENGTHS: TypeAdapter[Lengths] = TypeAdapter(Lengths)
MANY = 20_000


def drawn(fields: object, count: int = MANY, seed: int = 0) -> np.ndarray:
    return np.array(sample(LENGTHS.validate_python(fields), count, stream(seed, "lengths")))


def chi_square_p(seen: np.ndarray, probabilities: dict[int, float]) -> float:
    """P-value of `seen` under `probabilities`; rare lengths are pooled until each class expects five."""
    assert set(seen.tolist()) <= set(probabilities)
    observed: list[float] = []
    expected: list[float] = []
    pool_observed = pool_expected = 0.0
    for length, probability in sorted(probabilities.items()):
        pool_observed += np.count_nonzero(seen == length)
        pool_expected += probability * len(seen)
        if pool_expected >= 5:
            observed.append(pool_observed)
            expected.append(pool_expected)
            pool_observed = pool_expected = 0.0
    observed[-1] += pool_observed
    expected[-1] += pool_expected
    scale = sum(observed) / sum(expected)
    return float(stats.chisquare(observed, [value * scale for value in expected]).pvalue)


def test_a_number_means_every_length() -> None:
    assert set(drawn(17)) == {17} == set(drawn({"kind": "fixed", "value": 17}))
    assert LENGTHS.validate_python(17) == LENGTHS.validate_python({"kind": "fixed", "value": 17})


def test_uniform_draws_each_length_equally_often_ends_included() -> None:
    """False-failure chance 1e-6."""
    seen = drawn({"kind": "uniform", "min": 5, "max": 24})
    assert chi_square_p(seen, dict.fromkeys(range(5, 25), 1 / 20)) > 1e-6


@pytest.mark.parametrize(
    ("mean", "stddev", "low", "high"),
    [(100.0, 20.0, 1, None), (100.0, 20.0, 90, 130), (10.0, 30.0, 1, 50), (64.0, 8.0, 64, None)],
)
def test_normal_is_truncated_and_not_clipped(mean: float, stddev: float, low: int, high: int | None) -> None:
    """Against scipy's truncated normal, rounded. False-failure chance 1e-6 a case."""
    seen = drawn({"kind": "normal", "mean": mean, "stddev": stddev, "min": low, "max": high})
    top = np.inf if high is None else high + 0.5
    law = stats.truncnorm((low - 0.5 - mean) / stddev, (top - mean) / stddev, loc=mean, scale=stddev)
    last = high if high is not None else int(mean + 12 * stddev)
    probabilities = {length: law.cdf(length + 0.5) - law.cdf(length - 0.5) for length in range(low, last + 1)}
    assert chi_square_p(seen, probabilities) > 1e-6


@pytest.mark.parametrize(("low", "high"), [(1, None), (50, 400), (16, 1024)])
def test_lognormal_is_truncated_and_not_clipped(low: int, high: int | None) -> None:
    """Against scipy's log-normal, cut and rounded. False-failure chance 1e-6 a case."""
    mean, stddev = 192.0, 160.0
    seen = drawn({"kind": "lognormal", "mean": mean, "stddev": stddev, "min": low, "max": high})
    sigma = np.sqrt(np.log(1 + (stddev / mean) ** 2))
    law = stats.lognorm(sigma, scale=np.exp(np.log(mean) - sigma**2 / 2))
    last = high if high is not None else 100_000
    edges = law.cdf(np.arange(low - 0.5, last + 1))
    probabilities = dict(zip(range(low, last + 1), np.diff(edges) / (edges[-1] - edges[0]), strict=True))
    assert chi_square_p(seen, probabilities) > 1e-6


@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_moments_are_those_asked_for_where_nothing_is_cut_off(kind: str) -> None:
    """The mean of 20,000 lengths has a standard error of 0.14, and 5 of these are a chance of 6e-7."""
    seen = drawn({"kind": kind, "mean": 200, "stddev": 20})
    assert abs(seen.mean() - 200) < 5 * 20 / np.sqrt(MANY)
    assert seen.std() == pytest.approx(20, rel=0.03)


def test_empirical_draws_by_weight_and_never_a_weight_of_zero() -> None:
    """False-failure chance 1e-6 a case."""
    seen = drawn({"kind": "empirical", "values": [3, 5, 8, 9], "weights": [1, 0, 2, 1]})
    assert chi_square_p(seen, {3: 0.25, 8: 0.5, 9: 0.25}) > 1e-6
    assert chi_square_p(drawn({"kind": "empirical", "values": [3, 3, 5, 6]}), {3: 0.5, 5: 0.25, 6: 0.25}) > 1e-6


def test_empirical_reads_a_file(tmp_path: Path) -> None:
    path = tmp_path / "lengths.txt"
    path.write_text("# measured\n3, 1\n\n8 2  # twice as often\n9\n")
    assert chi_square_p(drawn({"kind": "empirical", "path": str(path)}), {3: 0.25, 8: 0.5, 9: 0.25}) > 1e-6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("3\nx\n", r"lengths:2: given 'x', allowed: a length from 1"),
        ("0", r"lengths:1: given '0', allowed"),
        ("3 -1", r"lengths:1: given '3 -1'"),
        ("3 nan", r"lengths:1: given '3 nan'"),
        ("3 1 1", r"lengths:1: given '3 1 1'"),
        ("2.5", r"lengths:1: given '2.5'"),
        ("# nothing", r"lengths: the file of lengths holds no length with a weight above 0"),
        ("3 0", r"holds no length with a weight above 0"),
    ],
)
def test_a_bad_file_of_lengths_is_named_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "lengths"
    path.write_text(content)
    with pytest.raises(WorkloadError, match=message):
        drawn({"kind": "empirical", "path": str(path)}, 1)
    with pytest.raises(WorkloadError, match="cannot be read"):
        drawn({"kind": "empirical", "path": str(tmp_path / "nowhere")}, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "uniform", "min": 5, "max": 4}, "given 5, allowed: at most max, which is 4"),
        ({"kind": "normal", "mean": 5, "stddev": 0}, "greater than 0"),
        ({"kind": "normal", "mean": 5, "stddev": 1, "min": 500}, "leaves out practically all of a distribution"),
        ({"kind": "lognormal", "mean": -5, "stddev": 1}, "greater than 0"),
        ({"kind": "empirical"}, "give either `values` or `path`, and not both"),
        ({"kind": "empirical", "values": [1], "path": "x"}, "give either `values` or `path`, and not both"),
        ({"kind": "empirical", "values": []}, "given an empty list"),
        ({"kind": "empirical", "values": [1, 2], "weights": [0, 0]}, "sum above 0"),
        ({"kind": "empirical", "values": [1], "weights": [1, 2]}, "given 2 weights, allowed: 1"),
        ({"kind": "empirical", "path": "x", "weights": [1]}, "weights go with `values`"),
        (True, "valid dictionary"),
        (0, "greater than or equal to 1"),
    ],
)
def test_lengths_that_cannot_be_are_refused(fields: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LENGTHS.validate_python(fields)


TOKENS = st.integers(1, 5000)
ANY_LENGTHS = st.one_of(
    TOKENS,
    st.builds(lambda a, b: {"kind": "uniform", "min": min(a, b), "max": max(a, b)}, TOKENS, TOKENS),
    st.builds(
        lambda kind, mean, stddev, low, width: {
            "kind": kind,
            "mean": mean,
            "stddev": stddev,
            "min": low,
            "max": None if width is None else low + width,
        },
        st.sampled_from(["normal", "lognormal"]),
        st.floats(0.5, 1e7),
        st.floats(0.001, 1e7),
        TOKENS,
        st.none() | st.integers(0, 5000),
    ),
    st.builds(
        lambda pairs: {
            "kind": "empirical",
            "values": [value for value, _ in pairs],
            "weights": [weight for _, weight in pairs],
        },
        st.lists(st.tuples(TOKENS, st.floats(0.1, 1e9)), min_size=1, max_size=8),
    ),
)


@settings(max_examples=200, deadline=None)
@given(fields=ANY_LENGTHS, seed=st.integers(0, 2**32))
def test_any_lengths_are_whole_numbers_within_their_bounds(fields: object, seed: int) -> None:
    try:
        lengths = LENGTHS.validate_python(fields)
    except ValidationError as error:
        assume("practically all" not in str(error))
        raise
    seen = sample(lengths, 40, stream(seed))
    low, high = smallest(lengths), largest(lengths)
    assert low is not None
    assert all(type(length) is int and low <= length <= (high or MAX_TOKENS) for length in seen)
    assert seen == sample(lengths, 40, stream(seed))
