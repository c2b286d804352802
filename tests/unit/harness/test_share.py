"""How requests and bounds are divided among load workers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llmbench.engines.wire import GenerationRequest
from llmbench.harness.plan import PlannedRequest, Trial
from llmbench.harness.share import shares, workers_needed
from llmbench.workloads.arrivals import BurstArrivals
from llmbench.workloads.spec import EngineSpec


def requests(turns: list[int], gap_ns: int | None = 1000, max_tokens: int = 10) -> list[PlannedRequest]:
    """Conversations of so many turns each, their first ones every `gap_ns`."""
    planned: list[PlannedRequest] = []
    for conversation, num_turns in enumerate(turns):
        for turn in range(num_turns):
            index = len(planned)
            planned.append(
                PlannedRequest(
                    request_id=str(index),
                    index=index,
                    due_offset_ns=conversation * gap_ns if gap_ns is not None and turn == 0 else None,
                    generation=GenerationRequest(str(index), "m", max_tokens, prompt="x"),
                    warmup=False,
                    prompt_tokens=1,
                    after=str(index - 1) if turn > 0 else None,
                )
            )
    return planned


@given(
    turns=st.lists(st.integers(1, 4), max_size=30),
    concurrency=st.none() | st.integers(1, 12),
    num_workers=st.integers(1, 6),
)
def test_nothing_is_lost_and_all_bounds_are_the_one_asked(
    turns: list[int], concurrency: int | None, num_workers: int
) -> None:
    planned = requests(turns)
    dealt = shares(planned, concurrency, num_workers)
    assert sorted(each.index for share in dealt for each in share.requests) == list(range(len(planned)))
    assert len(dealt) <= num_workers
    for share in dealt:
        assert share.requests
        own = {each.request_id for each in share.requests}
        assert all(each.after is None or each.after in own for each in share.requests)
        assert [each.index for each in share.requests] == sorted(each.index for each in share.requests)
    if concurrency is None:
        assert all(share.concurrency is None for share in dealt)
    else:
        bounds = [share.concurrency or 0 for share in dealt]
        assert min(bounds, default=1) >= 1
        assert sum(bounds) <= concurrency
        if len(turns) >= concurrency:
            assert sum(bounds) == concurrency


def test_requests_are_dealt_in_proportion_to_slots() -> None:
    dealt = shares(requests([1] * 9, gap_ns=None), 3, 2)
    assert [(share.concurrency, len(share.requests)) for share in dealt] == [(2, 6), (1, 3)]


def trial(planned: list[PlannedRequest], concurrency: int | None = None) -> Trial:
    return Trial(EngineSpec(name="a"), "burst", BurstArrivals(), 0, tuple(planned), (), concurrency)


def test_workers_are_as_many_as_the_busiest_trial_needs() -> None:
    calm = trial(requests([1] * 11, gap_ns=100_000_000))
    # 100 chunks every 1.25 ms are 80,000 chunks/s.
    busy = trial(requests([1] * 801, gap_ns=1_250_000, max_tokens=100))
    assert workers_needed([calm], 64) == 1
    assert workers_needed([calm, busy], 64) == 4
    assert workers_needed([calm, busy], 4) == 2
    assert workers_needed([calm, busy], 1) == 1
    assert workers_needed([trial(requests([1] * 900, gap_ns=None), 600)], 64) == 3
    assert workers_needed([], 8) == 1
    assert workers_needed([calm], 64, growth=900) == 4  # 110 chunks/s, 900 times over
