"""Gaps of many reads, thinned out: the same figures within the grid's step, whatever pieces they come in."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import pytest
from made_runs import Entry, MakeRun, entry

from llmbench.results.ahead import ahead
from llmbench.results.gaps import GRID_STEP, Gaps, chunk_gaps
from llmbench.results.samples import each_samples
from llmbench.results.statistics import distribution


def many(num: int, rounds: int = 5) -> list[Entry]:
    generator = np.random.default_rng(4)
    made = []
    for index in range(num * rounds):
        stamps = index * 10 + np.cumsum(generator.exponential(3, 20))
        tokens = [(float(stamp), int(count)) for stamp, count in zip(stamps, generator.integers(0, 4, 20), strict=True)]
        made.append(entry(index, due=index * 10.0, tokens=tokens, round=index // num))
    return made


@pytest.mark.parametrize("place", [0, 1, 2])
def test_thinned_gaps_give_the_figures_of_exact_ones(make_run: MakeRun, place: int) -> None:
    [samples] = each_samples(make_run(many(30)))

    def described(gaps: Gaps):
        found = distribution(gaps.ms, gaps.weights, gaps.request, samples.units)
        assert found is not None
        return found

    exact, thinned = described(chunk_gaps(samples)[place]), described(chunk_gaps(samples, exact_chunks=0)[place])
    assert thinned.n == exact.n
    step = GRID_STEP - 1
    assert thinned.mean == pytest.approx(exact.mean, rel=step)
    for share in exact.quantiles:
        assert thinned.at(share) == pytest.approx(exact.at(share), rel=step)
        ours, theirs = thinned.interval_at(share), exact.interval_at(share)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours == pytest.approx(theirs, rel=step)


def test_pieces_are_whole_requests_and_only_those_asked_for(make_run: MakeRun) -> None:
    finished, journalled = make_run(many(4)), make_run(many(4), finish=False)
    for run in (finished, journalled):
        [samples] = each_samples(run)
        assert [len(piece.request) for piece in samples.pieces()] == [400]
        [piece] = samples.pieces(np.array([3, 7]))
        assert piece.request.tolist() == [3] * 20 + [7] * 20
        assert not list(samples.pieces(np.empty(0, np.int64)))
    assert each_samples(finished)[0].chunk_ns.tolist() == each_samples(journalled)[0].chunk_ns.tolist()


def test_some_reads_are_of_stretches_all_over_the_measurement(make_run: MakeRun) -> None:
    [samples] = each_samples(make_run(many(40)))
    assert len(set(samples.some_chunks(10_000).request.tolist())) == 200
    some = samples.some_chunks(1000)
    assert 500 <= len(some.request) <= 1000
    requests = sorted(set(some.request.tolist()))
    assert requests[0] < 10
    assert requests[-1] >= 190
    assert (np.diff(requests) == 1).any()


def test_a_caller_that_stops_early_leaves_nothing_behind() -> None:
    closed: list[int] = []

    def made() -> Generator[int, None, None]:
        try:
            yield from range(5)
        finally:
            closed.append(1)

    items = ahead(item + 1 for item in made())
    assert next(items) == 1
    items.close()
    assert closed
    assert list(ahead(item + 1 for item in made())) == [1, 2, 3, 4, 5]


def test_what_fails_ahead_fails_where_it_is_asked_for() -> None:
    def made() -> Generator[int, None, None]:
        yield 1
        raise OSError("gone")

    items = ahead(made())
    assert next(items) == 1
    with pytest.raises(OSError, match="gone"):
        next(items)


def test_requests_without_an_answer_have_no_gaps(make_run: MakeRun) -> None:
    [samples] = each_samples(make_run([entry(0, tokens=[], ok=False), entry(1, due=5), entry(2, due=9, tokens=[])]))
    assert samples.gaps.by_chunk.ms.tolist() == pytest.approx([10])
    assert samples.gaps.by_chunk.request.tolist() == [1]
