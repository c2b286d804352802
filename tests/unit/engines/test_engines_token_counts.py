"""A total shared out over reads keeps its sum and its order of size."""

from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.token_counts import apportion

weights = st.lists(st.integers(0, 1000), min_size=1, max_size=50)


@given(st.integers(0, 5000), weights)
def test_parts_sum_to_the_total(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == total
    assert len(parts) == len(weights)
    assert min(parts) >= (1 if total >= len(weights) else 0)


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=50))
def test_weights_that_sum_to_the_total_are_the_parts(weights: list[int]) -> None:
    assert apportion(sum(weights), weights) == weights


@given(st.integers(0, 5000), st.integers(1, 50))
def test_equal_weights_give_parts_at_most_one_apart(total: int, num: int) -> None:
    parts = apportion(total, [7] * num)
    assert max(parts) - min(parts) <= 1


def test_nothing_to_share_among_is_no_parts() -> None:
    assert apportion(3, []) == []
