"""Where a request's time is counted, on a clock that the test turns."""

from __future__ import annotations

from llmbench.reference_engine.beam_search import BeamGroup, BeamParams
from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.request_times import RequestTimes
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler
from llmbench.reference_engine.sequence import Sequence

BLOCK_SIZE = 4


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def step(scheduler: Scheduler) -> list[str]:
    """Who got a token, as the engine has it."""
    plan = scheduler.schedule()
    scheduler.commit(plan)
    for chunk in plan.chunks:
        chunk.sequence.append(7, ())
    return [chunk.sequence.request_id for chunk in plan.chunks]


def test_a_wait_after_a_preemption_is_decoding_and_not_queueing() -> None:
    clock = Clock()
    scheduler = Scheduler(BlockTables(BlockPool(12), BLOCK_SIZE), 1, 64, clock_ns=clock)
    first, second = (
        Sequence(name, [1] * 4, SamplingParams(max_tokens=5, ignore_eos=True), seed=0) for name in ("first", "second")
    )
    clock.now_ns = 10
    scheduler.add(first)
    clock.now_ns = 20
    scheduler.add(second)
    clock.now_ns = 50
    assert step(scheduler) == ["first"], "there is one seat"
    assert first.stamps.got_tokens(60) == RequestTimes(queued_ns=40, prefill_ns=10, decode_ns=0)
    scheduler.remove(first)
    clock.now_ns = 80
    assert step(scheduler) == ["second"]
    assert second.stamps.got_tokens(90) == RequestTimes(queued_ns=60, prefill_ns=10, decode_ns=0)
    scheduler._preempt_last()
    assert scheduler.waiting == [second]
    clock.now_ns = 500
    assert step(scheduler) == ["second"]
    assert second.stamps.got_tokens(510) == RequestTimes(queued_ns=60, prefill_ns=10, decode_ns=420)


def test_beams_have_their_request_s_time_in_spite_of_a_preemption() -> None:
    clock = Clock()
    scheduler = Scheduler(BlockTables(BlockPool(12), BLOCK_SIZE), 4, 64, clock_ns=clock)
    group = BeamGroup("beams", [1] * 4, BeamParams(width=2, max_tokens=6), (), 0)
    clock.now_ns = 5
    scheduler.add(group.members[0])
    clock.now_ns = 15
    step_of_beams(scheduler, group)
    assert group.members[1].stamps.got_tokens(20) == RequestTimes(queued_ns=10, prefill_ns=5, decode_ns=0)
    scheduler._preempt_last()
    clock.now_ns = 100
    step_of_beams(scheduler, group)
    assert group.members[1].stamps.got_tokens(120) == RequestTimes(queued_ns=10, prefill_ns=5, decode_ns=100)


def step_of_beams(scheduler: Scheduler, group: BeamGroup) -> None:
    plan = scheduler.schedule()
    scheduler.commit(plan)
    parents = group.members
    families = group.advance([[(7, -1.0), (8, -2.0)] for _ in plan.chunks])
    scheduler.replace(families, parents)
