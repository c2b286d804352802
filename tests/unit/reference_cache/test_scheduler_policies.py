"""Every policy under random arrivals and aborts: budget and seats are kept, nobody starves, every request ends."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import BLOCK_SIZE, DELAY_NS, MAX_LEN, World, make_sequence

from llmbench.reference_engine import batching
from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.scheduler import QUEUE_PLACES_PER_PRIORITY, Scheduler
from llmbench.reference_engine.sequence import Sequence

requests = st.tuples(
    st.lists(st.integers(0, 1), min_size=1, max_size=MAX_LEN - 8),
    st.integers(1, 8),
    st.sampled_from([0, 0, 0, -1, 2]),
    st.sampled_from([None, "ann", "bob"]),
)


@given(
    policy=st.sampled_from(sorted(batching.POLICIES)),
    order=st.sampled_from(["decode-first", "prefill-first"]),
    fairness=st.sampled_from(["fcfs", "vtc"]),
    extra_blocks=st.integers(0, 12),
    seats=st.integers(1, 4),
    extra_budget=st.integers(0, 16),
    script=st.lists(requests | st.sampled_from(["step", "abort"]), max_size=40),
    seed=st.integers(0, 99),
)
@settings(max_examples=300, deadline=None)
def test_every_request_ends(policy, order, fairness, extra_blocks, seats, extra_budget, script, seed) -> None:
    world = World(
        MAX_LEN // BLOCK_SIZE + extra_blocks,
        seats,
        seats + extra_budget,
        rng=random.Random(seed),
        batching_policy=policy,
        order=order,
        fairness=fairness,
    )
    live: dict[str, Sequence] = {}
    num_work = 0
    for number, action in enumerate(script):
        if action == "step":
            world.step()
        elif action == "abort":
            candidates = [name for name in live if name not in world.ended]
            if candidates:
                world.scheduler.remove(live.pop(world.rng.choice(candidates)))
        else:
            prompt, output, priority, user = action
            live[str(number)] = make_sequence(str(number), prompt, output, priority, user)
            world.scheduler.add(live[str(number)])
            num_work += len(prompt) + output
    # One of the running advances in every step, and a batch that is not full starts after its delay; a preempted one
    # begins again, at most once for each step of an earlier one.
    for _ in range((num_work + DELAY_NS) * (1 + len(live))):
        if not world.scheduler.has_work():
            break
        world.step()
    assert not world.scheduler.has_work()
    assert set(live) <= set(world.ended)
    assert len(world.ended) == len(set(world.ended))
    assert world.tables.pool.num_free == world.tables.pool.num_blocks


def test_static_batch_ends_before_the_next_begins() -> None:
    world = World(64, 2, 64, batching_policy="static")
    for name, output in (("a", 2), ("b", 9), ("c", 2)):
        world.scheduler.add(make_sequence(name, [1, 2, 3], output))
    while world.scheduler.has_work():
        world.step()
        if "b" not in world.ended:
            assert "c" not in world.first_token_of
    assert world.ended == ["a", "b", "c"]
    continuous = World(64, 2, 64)
    for name, output in (("a", 2), ("b", 9), ("c", 2)):
        continuous.scheduler.add(make_sequence(name, [1, 2, 3], output))
    while continuous.scheduler.has_work():
        continuous.step()
    assert continuous.ended == ["a", "c", "b"]


def test_dynamic_batch_waits_for_company_or_for_its_delay() -> None:
    world = World(64, 2, 64, batching_policy="dynamic")
    world.scheduler.add(make_sequence("a", [1], 1))
    num_empty = 0
    while not world.step().chunks:
        num_empty += 1
    assert num_empty == DELAY_NS // 10
    world.scheduler.add(make_sequence("b", [1], 1))
    world.scheduler.add(make_sequence("c", [1], 1))
    assert len(world.step().chunks) == 2  # full: no reason to wait


@pytest.mark.parametrize(
    ("order", "expected"), [("decode-first", [[1, 7], [1, 7], [1, 2]]), ("prefill-first", [[8], [8], [1, 1]])]
)
def test_step_order(order: str, expected: list[list[int]]) -> None:
    """A prompt of 16 beside a decode, 8 tokens per step: the decode goes on, or stops until the prompt is done."""
    world = World(64, 2, 8, order=order)
    world.scheduler.add(make_sequence("old", [1, 2], 20))
    plan = world.scheduler.schedule()
    world.scheduler.commit(plan)
    plan.chunks[0].sequence.append(1, ())
    world.scheduler.add(make_sequence("new", [3] * 16, 4))
    sizes = []
    for _ in range(3):
        plan = world.scheduler.schedule()
        world.scheduler.commit(plan)
        sizes.append([chunk.num_tokens for chunk in plan.chunks])
        for chunk in plan.chunks:
            if chunk.samples:
                chunk.sequence.append(1, ())
    assert sizes == expected


def test_urgent_requests_go_first_and_others_are_not_forgotten() -> None:
    world = World(64, 1, 8)
    for name, priority in (("usual", 0), ("later", 1), ("urgent", -1), ("urgent too", -1)):
        world.scheduler.add(make_sequence(name, [1], 1, priority))
    while world.scheduler.has_work():
        world.step()
    assert world.ended == ["urgent", "urgent too", "usual", "later"]

    world = World(64, 1, 8)
    world.scheduler.add(make_sequence("patient", [1], 1))
    for number in range(3 * QUEUE_PLACES_PER_PRIORITY):  # one urgent request per step, for ever as it were
        world.scheduler.add(make_sequence(str(number), [1], 1, priority=-1))
        world.step()
        if "patient" in world.ended:
            break
    assert len(world.ended) == QUEUE_PLACES_PER_PRIORITY


def test_no_block_is_kept_free_for_sequences_that_have_all_they_need() -> None:
    """One region per sequence, as large as the context: a contiguous cache runs as many sequences as it has regions."""
    scheduler = Scheduler(BlockTables(BlockPool(4), MAX_LEN), 8, 64)
    for number in range(5):
        scheduler.add(make_sequence(str(number), [1], 4))
    assert len(scheduler.schedule().chunks) == 4


@pytest.mark.parametrize("order", ["decode-first", "prefill-first"])
@pytest.mark.parametrize("fairness", ["fcfs", "vtc"])
def test_requests_of_one_token_that_never_cease_hold_nobody_up_for_ever(order: str, fairness: str) -> None:
    world = World(64, 3, 8, order=order, fairness=fairness)
    world.scheduler.add(make_sequence("old", [1, 2], 5, user="ann"))
    num_steps = 0
    while "old" not in world.ended:
        world.scheduler.add(make_sequence(str(num_steps), [3, 4], 1, user="bob"))
        world.step()
        num_steps += 1
        assert num_steps <= 5 * (1 + 3)


@pytest.mark.parametrize("policy", ["static", "dynamic"])
def test_a_closed_batch_is_as_large_as_there_are_seats_whatever_a_step_may_compute(policy: str) -> None:
    world = World(64, 4, 8, batching_policy=policy)
    for name in "abcdef":
        world.scheduler.add(make_sequence(name, [1] * 12, 4))
    world.step()
    assert [sequence.request_id for sequence in world.scheduler.running] == ["a", "b", "c", "d"]
    while world.scheduler.has_work():
        world.step()
        if "e" in world.first_token_of:
            assert {"a", "b", "c", "d"} <= set(world.ended)


def test_drafts_get_what_prefills_leave() -> None:
    world = World(64, 4, 12)
    for name in "ab":
        world.scheduler.add(make_sequence(name, [1], 40))
    world.step()
    world.scheduler.add(make_sequence("new", [2] * 19, 4))
    for sequence in world.scheduler.running:
        sequence.draft_limit, sequence.draft_token_ids = 9, [1] * 9
    plan = world.scheduler.schedule()
    assert [(chunk.sequence.request_id, chunk.num_tokens) for chunk in plan.chunks] == [("a", 1), ("b", 1), ("new", 10)]
    world.scheduler.commit(plan)
    for chunk in plan.chunks[:2]:
        chunk.sequence.append(1, ())
    for sequence in world.scheduler.running[:2]:
        sequence.draft_token_ids = [1] * 9
    plan = world.scheduler.schedule()
    sizes = [(chunk.sequence.request_id, chunk.num_tokens) for chunk in plan.chunks]
    assert sizes == [("b", 1), ("a", 2), ("new", 9)]
