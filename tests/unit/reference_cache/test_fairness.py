"""Users who compete: by the virtual token counter none gets far ahead, none starves, and nothing is left idle."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_world import World, make_sequence

from llmbench.reference_engine import fairness
from llmbench.reference_engine.beam_search import BeamGroup, BeamParams
from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.host_swap import HostSwap
from llmbench.reference_engine.fairness import OUTPUT_WEIGHT, PROMPT_WEIGHT
from llmbench.reference_engine.scheduler import Scheduler
from llmbench.reference_engine.sequence import Sequence


class FairWorld(World):
    """Keeps every request that ever came, to count from outside what each user got."""

    def __init__(self, num_blocks: int, seats: int, budget: int, **options) -> None:
        super().__init__(num_blocks, seats, budget, **{"fairness": "vtc", **options})
        self.sequences: list[Sequence] = []

    def add(self, user: str | None, prompt: list[int], output: int, priority: int = 0) -> Sequence:
        sequence = make_sequence(f"{user}{len(self.sequences)}", prompt, output, priority, user)
        self.sequences.append(sequence)
        self.scheduler.add(sequence)
        return sequence

    def run(self) -> list[str]:
        while self.scheduler.has_work():
            self.step()
        return self.ended

    def served(self) -> Counter[str | None]:
        """What each user got so far, weighted: of prompts what was computed, and every token of an answer."""
        got: Counter[str | None] = Counter()
        for sequence in self.sequences:
            if sequence.num_cached_tokens is not None:
                got[sequence.user] += PROMPT_WEIGHT * (sequence.num_prompt_tokens - sequence.num_cached_tokens)
                got[sequence.user] += OUTPUT_WEIGHT * sequence.num_output_tokens
        return got

    def backlogged(self) -> set[str | None]:
        return {sequence.user for sequence in self.scheduler.waiting}

    def counters(self) -> fairness.VirtualTokenCounters:
        assert self.scheduler._counters is not None
        return self.scheduler._counters


USERS = ["ann", "bob", None]
LONGEST_PROMPT, LONGEST_OUTPUT = 10, 6
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=LONGEST_PROMPT)
arrivals = st.tuples(st.sampled_from(USERS), prompts, st.integers(1, LONGEST_OUTPUT), st.sampled_from([0, 0, -1, 2]))


@given(
    policy=st.sampled_from(["continuous", "continuous", "static", "dynamic"]),
    order=st.sampled_from(["decode-first", "prefill-first"]),
    swap=st.booleans(),
    prefix_cache=st.booleans(),
    num_blocks=st.integers(8, 12),
    seats=st.integers(1, 4),
    extra_budget=st.integers(0, 12),
    queue=st.lists(arrivals, min_size=10, max_size=50),
    script=st.lists(arrivals | st.sampled_from(["step", "step", "step", "abort"]), max_size=60),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_of_two_users_who_always_wait_neither_gets_far_ahead(
    policy, order, swap, prefix_cache, num_blocks, seats, extra_budget, queue, script, seed
) -> None:
    """The paper's theorem 4.4, over every interval of a run; and what the counters say is what was given."""
    world = FairWorld(
        num_blocks,
        seats,
        seats + extra_budget,
        rng=random.Random(seed),
        prefix_cache=prefix_cache,
        batching_policy=policy,
        order=order,
    )
    world.tables.swap = HostSwap(4) if swap else None
    # Since both wait: how much more the first got than the second, least and most.
    ahead: dict[tuple[str | None, str | None], tuple[int, int]] = {}
    widest, most_tokens = 0, 0

    def look() -> None:
        nonlocal widest
        got, waiting = world.served(), world.backlogged()
        for first in USERS:
            for second in USERS:
                if first is second or not {first, second} <= waiting:
                    ahead.pop((first, second), None)
                    continue
                now = got[first] - got[second]
                low, high = ahead.get((first, second), (now, now))
                ahead[first, second] = low, high = min(low, now), max(high, now)
                widest = max(widest, high - low)

    def step() -> None:
        nonlocal most_tokens
        before, got = world.backlogged(), world.served()
        counters = {user: world.counters()[user] for user in before}
        world.step()
        for user in before & world.backlogged():  # who waits is not lifted
            assert world.counters()[user] - counters[user] == world.served()[user] - got[user]
        computed = [*world.scheduler.running, *world.ended_now]
        most_tokens = max(most_tokens, sum(sequence.max_num_tokens for sequence in computed))
        look()

    for arrival in queue:
        world.add(*arrival)
    for action in script:
        if action == "step":
            step()
        elif action == "abort":
            alive = [*world.scheduler.waiting, *world.scheduler.running]
            if alive:
                world.scheduler.remove(world.rng.choice(alive))
        else:
            counters = {user: world.counters()[user] for user in world.backlogged()}
            world.add(*action)
            assert counters == {user: world.counters()[user] for user in counters}
        look()
    for _ in range(10_000):
        if not world.scheduler.has_work():
            break
        step()
    assert not world.scheduler.has_work()
    longest = max(sequence.num_prompt_tokens for sequence in world.sequences)
    assert widest <= 2 * max(PROMPT_WEIGHT * longest, OUTPUT_WEIGHT * most_tokens)


@given(
    script=st.lists(arrivals | st.just("step"), max_size=60), seats=st.integers(1, 4), extra_budget=st.integers(0, 12)
)
@settings(max_examples=100, deadline=None)
def test_no_seat_is_empty_and_no_budget_left_while_someone_waits(script, seats, extra_budget) -> None:
    world = FairWorld(1000, seats, seats + extra_budget, prefix_cache=False)
    for action in [*script, *["step"] * 2000]:
        if action != "step":
            world.add(*action)
            continue
        plan = world.step()
        is_full = len({chunk.sequence for chunk in plan.chunks}) == seats
        assert is_full or plan.num_tokens == seats + extra_budget or not world.scheduler.waiting
        if not world.scheduler.has_work():
            break


@given(
    queue=st.lists(arrivals, max_size=30),
    steps=st.integers(0, 20),
    later=st.lists(arrivals, max_size=20),
    seats=st.integers(1, 4),
    extra_blocks=st.integers(0, 8),
)
@settings(max_examples=100, deadline=None)
def test_first_come_first_served_knows_no_users_and_one_user_notices_nothing(
    queue, steps, later, seats, extra_blocks
) -> None:
    """Under fcfs names change nothing; and among one user's requests, named or not, vtc is fcfs."""
    seen = []
    for policy, rename in (
        ("fcfs", lambda user: user),
        ("fcfs", lambda user: None),
        ("vtc", lambda user: None),
        ("vtc", lambda user: "ann"),
    ):
        world = FairWorld(8 + extra_blocks, seats, seats + 6, fairness=policy)
        for user, *request in queue:
            world.add(rename(user), *request)
        plans = [world.step() for _ in range(steps)]
        for user, *request in later:
            world.add(rename(user), *request)
        while world.scheduler.has_work():
            plans.append(world.step())
        place = {id(sequence): index for index, sequence in enumerate(world.sequences)}
        seen.append([[(place[id(chunk.sequence)], *chunk[1:3]) for chunk in plan.chunks] for plan in plans])
        assert world.scheduler.num_overtakings == 0
    assert all(each == seen[0] for each in seen)


def test_a_flood_does_not_hold_up_who_sends_little() -> None:
    """64 requests came first. By vtc three others' answers come among the first; by fcfs they come last."""
    place = {}
    for policy in ("vtc", "fcfs"):
        world = FairWorld(64, 2, 16, fairness=policy, prefix_cache=False)
        for _ in range(64):
            world.add("flood", [1] * 8, 6)
        world.step()
        few = [world.add("few", [1] * 4, 2).request_id for _ in range(3)]
        ended = world.run()
        place[policy] = max(ended.index(name) for name in few)
    assert place == {"vtc": 4, "fcfs": 66}


def shares(world: FairWorld, num_ends: int) -> Counter[str | None]:
    """Whose the next requests are that end."""
    before = len(world.ended)
    while len(world.ended) < before + num_ends:
        world.step()
    user_of = {sequence.request_id: sequence.user for sequence in world.sequences}
    return Counter(user_of[name] for name in world.ended[before : before + num_ends])


def test_time_spent_away_earns_no_credit() -> None:
    world = FairWorld(64, 1, 16, prefix_cache=False)
    for _ in range(80):
        world.add("busy", [1] * 4, 4)
    world.add("away", [1] * 4, 4)
    assert shares(world, 50) == {"busy": 49, "away": 1}
    for _ in range(40):
        world.add("away", [1] * 4, 4)
    assert shares(world, 20) == {"busy": 10, "away": 10}


@pytest.mark.parametrize("is_preempted", [False, True])
def test_a_request_that_runs_for_long_earns_none_either(is_preempted: bool) -> None:
    """Its user waits for nothing meanwhile, and so is not served less than those who wait."""
    world = FairWorld(64, 6, 128, prefix_cache=False)
    slow = world.add("slow", [1], 31)
    for _ in range(200):
        world.add("busy", [1] * 16, 1)
    while slow.num_output_tokens < 20:
        world.step()
    assert world.scheduler.running == [slow]
    assert world.counters()["busy"] > world.counters()["slow"] + 20 * (16 + 2)
    if is_preempted:
        world.scheduler._preempt_last()
    for _ in range(20):
        world.add("slow", [1] * 16, 1)
    assert shares(world, 10)["busy"] >= 4


def test_newcomers_without_end_do_not_starve_who_was_served_before() -> None:
    """Each under a name of its own, and each as soon as one before it has ended."""
    world = FairWorld(64, 1, 16, prefix_cache=False)
    world.add("old", [1] * 8, 8)
    world.run()
    for number in range(2):
        world.add(f"new{number}", [1] * 2, 1)
    old = world.add("old", [1] * 8, 8)
    for number in range(2, 200):
        world.add(f"new{number}", [1] * 2, 1)
        world.step()
        if old.finish_reason is not None:
            break
    assert old.finish_reason is not None
    assert len(world.ended) < 40


def test_priority_moves_a_request_among_its_own_user_s() -> None:
    world = FairWorld(64, 1, 16, prefix_cache=False)
    for priority in (0, 0, -5):
        world.add("ann", [1] * 4, 2, priority)
    for _ in range(3):
        world.add("bob", [1] * 4, 2)
    assert world.run() == ["ann2", "bob3", "ann0", "bob4", "ann1", "bob5"]


def test_blocks_are_taken_from_who_was_served_most() -> None:
    """By rank the newcomer would lose them. What is computed again is not charged again."""
    for policy, loser in (("vtc", "big"), ("fcfs", "small")):
        world = FairWorld(10, 3, 64, fairness=policy, prefix_cache=False)
        world.add("big", [1] * 16, 16)
        world.step()
        world.add("small", [1] * 4, 20)
        lost: list[str] = []
        while world.scheduler.has_work():
            lost += world.step().preempted
        assert {name.rstrip("0123456789") for name in lost} == {loser}
    world = FairWorld(9, 2, 64, prefix_cache=False)
    for _ in range(2):
        world.add("big", [1] * 12, 8)
    world.run()
    assert world.scheduler.num_preemptions > 0
    assert world.counters()["big"] == 2 * (12 * PROMPT_WEIGHT + 8 * OUTPUT_WEIGHT)


def test_a_prompt_is_charged_when_it_is_admitted_but_for_what_the_cache_had() -> None:
    world = FairWorld(64, 1, 4)
    first = world.add("ann", [1] * 10, 2)
    world.step()
    assert first.num_computed_tokens == 4
    assert world.counters()["ann"] == 10 * PROMPT_WEIGHT
    world.run()
    assert world.counters()["ann"] == 10 * PROMPT_WEIGHT + 2 * OUTPUT_WEIGHT
    before = world.counters()["ann"]
    world.add("ann", [1] * 10, 2)
    world.run()
    assert world.counters()["ann"] - before == 2 * PROMPT_WEIGHT + 2 * OUTPUT_WEIGHT


def test_what_is_given_up_costs_what_was_charged_and_nothing_before_that() -> None:
    world = FairWorld(64, 1, 4, prefix_cache=False)
    running, waiting = world.add("ann", [1] * 10, 2), world.add("ann", [1] * 10, 2)
    world.step()
    for sequence in (running, waiting):
        world.scheduler.remove(sequence)
    assert world.counters()["ann"] == 10 * PROMPT_WEIGHT


def test_each_beam_is_charged_its_tokens_once() -> None:
    scheduler = Scheduler(BlockTables(BlockPool(12), 4), 4, 64, fairness="vtc")
    group = BeamGroup("beams", [1] * 4, BeamParams(width=2, max_tokens=9), (), 0, user="ann")

    def step() -> int:
        plan = scheduler.schedule()
        scheduler.commit(plan)
        parents = group.members
        scheduler.replace(group.advance([[(7, -1.0), (8, -2.0)] for _ in plan.chunks]), parents)
        return scheduler._counters["ann"]

    scheduler.add(group.members[0])
    assert [step() for _ in range(3)] == [4 + 2, 4 + 2 + 4, 4 + 2 + 8]
    scheduler._preempt_last()
    # The first three steps are done again.
    assert [step() for _ in range(4)] == [4 + 2 + 8] * 3 + [4 + 2 + 12]


def test_users_who_are_gone_are_forgotten_and_those_who_wait_are_not(monkeypatch) -> None:
    monkeypatch.setattr(fairness, "MAX_ABSENT", 10)
    world = FairWorld(64, 1, 16, prefix_cache=False)
    world.add("regular", [1] * 4, 1)
    world.run()
    regular = world.counters()["regular"]
    for number in range(500):
        if number % 5 == 0:
            world.add("regular", [1] * 4, 1)
        world.add(f"visitor{number}", [1] * 4, 1)
        world.run()
        assert len(world.counters()) <= 2 * (10 + 2)
        assert world.counters()["regular"] >= regular
        regular = world.counters()["regular"]
    many = FairWorld(64, 1, 16, prefix_cache=False)
    for number in range(100):
        many.add(f"patient{number}", [1] * 4, 1)
    assert len(many.run()) == 100


@pytest.mark.parametrize("batching", ["static", "dynamic"])
def test_a_closed_batch_is_shared(batching: str) -> None:
    world = FairWorld(64, 4, 64, batching_policy=batching, prefix_cache=False)
    for _ in range(8):
        world.add("flood", [1] * 4, 4)
    for _ in range(2):
        world.add("few", [1] * 4, 4)
    while not (plan := world.step()).chunks:
        pass
    assert Counter(chunk.sequence.user for chunk in plan.chunks) == {"flood": 2, "few": 2}


@given(
    others=st.lists(st.tuples(st.sampled_from(USERS), st.integers(1, 8), st.integers(1, 12)), max_size=8),
    place=st.integers(0, 8),
    width=st.integers(2, 4),
)
@settings(max_examples=100, deadline=None)
def test_beams_are_computed_in_the_order_of_their_group(others, place, width) -> None:
    """The engine tells by it which tokens are whose."""
    scheduler = Scheduler(BlockTables(BlockPool(100), 4), 12, 64, fairness="vtc")
    group = BeamGroup("beams", [1] * 4, BeamParams(width=width, max_tokens=9), (), 0, user="ann")
    sequences = [
        make_sequence(str(n), [1] * prompt, output, 0, user) for n, (user, prompt, output) in enumerate(others)
    ]
    for sequence in [*sequences[:place], group.members[0], *sequences[place:]]:
        scheduler.add(sequence)
    while scheduler.has_work():
        plan = scheduler.schedule()
        scheduler.commit(plan)
        beams = [chunk.sequence for chunk in plan.chunks if chunk.sequence.beams is group]
        assert not beams or beams == group.members
        for chunk in plan.chunks:
            if chunk.sequence.beams is None and chunk.samples:
                chunk.sequence.append(1, ())
                if chunk.sequence.finish_reason is not None:
                    scheduler.remove(chunk.sequence)
        if beams:
            families = group.advance([[(token, -1.0 - token) for token in range(4)] for _ in beams])
            if families:
                scheduler.replace(families, beams)
            else:
                for beam in beams:
                    scheduler.remove(beam)
