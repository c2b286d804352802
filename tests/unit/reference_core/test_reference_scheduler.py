"""The scheduler under random arrivals and aborts, with a stand-in for the model that makes up tokens."""

from __future__ import annotations

import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler, StepPlan
from llmbench.reference_engine.sequence import Sequence

MAX_LEN = 40
BLOCK_SIZE = 4


def make_sequence(name: str, prompt: int, output: int) -> Sequence:
    return Sequence(name, [1] * prompt, SamplingParams(max_tokens=output, ignore_eos=True), seed=0)


def run_step(scheduler: Scheduler) -> StepPlan:
    """One step as the engine does it; every token of the plan must lie in a block."""
    plan = scheduler.schedule()
    for sequence, start, num_tokens, _ in plan.chunks:
        assert start == sequence.num_computed_tokens
        assert len(sequence.block_table) * BLOCK_SIZE >= start + num_tokens
    scheduler.commit(plan)
    for chunk in plan.chunks:
        sequence = chunk.sequence
        if sequence.num_uncomputed_tokens == 0:
            sequence.append(7, ())
            if sequence.finish_reason is not None:
                scheduler.remove(sequence)
    return plan


class SchedulerMachine(RuleBasedStateMachine):
    @initialize(extra_blocks=st.integers(0, 12), seats=st.integers(1, 5), extra_budget=st.integers(0, 12))
    def start(self, extra_blocks: int, seats: int, extra_budget: int) -> None:
        self.pool = BlockPool(MAX_LEN // BLOCK_SIZE + extra_blocks)
        self.scheduler = Scheduler(BlockTables(self.pool, BLOCK_SIZE), seats, seats + extra_budget)
        self.live: list[Sequence] = []
        self.count = 0

    @rule(prompt=st.integers(1, MAX_LEN - 1), data=st.data())
    def arrive(self, prompt: int, data: st.DataObject) -> None:
        output = data.draw(st.integers(1, MAX_LEN - prompt))
        self.count += 1
        self.live.append(make_sequence(f"r{self.count}", prompt, output))
        self.scheduler.add(self.live[-1])

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.scheduler.remove(self.live.pop(data.draw(st.integers(0, len(self.live) - 1))))

    @precondition(lambda self: self.live)
    @rule(steps=st.integers(1, 6))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            self.one_step()

    def one_step(self) -> None:
        oldest = self.live[0] if self.live else None
        before = oldest.num_computed_tokens if oldest else 0
        plan = run_step(self.scheduler)
        assert plan.num_tokens <= self.scheduler.max_num_batched_tokens
        assert len(self.scheduler.running) <= self.scheduler.max_num_seqs
        names = [chunk.sequence.request_id for chunk in plan.chunks]
        assert len(set(names)) == len(names)
        assert not set(names) & set(plan.preempted)
        if oldest is not None and oldest.finish_reason is None:
            assert oldest.num_computed_tokens > before, "the oldest request did not advance"
        self.live = [sequence for sequence in self.live if sequence.finish_reason is None]

    @invariant()
    def blocks_add_up(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check_integrity()
            tables = [block for sequence in self.live for block in sequence.block_table]
            assert len(set(tables)) == len(tables) == self.pool.num_used
            assert self.pool.num_used + self.pool.num_free == self.pool.num_blocks

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        # The oldest advances by at least one token per step, so this many steps are enough for all.
        for _ in range(sum(sequence.num_prompt_tokens + sequence.params.max_tokens for sequence in self.live)):
            if self.scheduler.has_work():
                self.one_step()
        assert not self.scheduler.has_work()
        assert self.live == []
        assert self.pool.num_free == self.pool.num_blocks


SchedulerMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestScheduler = SchedulerMachine.TestCase


def test_long_prompt_is_computed_in_chunks_beside_decodes() -> None:
    scheduler = Scheduler(BlockTables(BlockPool(100), BLOCK_SIZE), max_num_seqs=4, max_num_batched_tokens=8)
    short, long = make_sequence("short", 3, 20), make_sequence("long", 20, 2)
    scheduler.add(short)
    run_step(scheduler)
    scheduler.add(long)
    sizes = []
    while long.num_output_tokens == 0:
        plan = run_step(scheduler)
        assert plan.chunks[0].sequence is short
        assert plan.num_decodes == 1
        sizes.append(plan.chunks[1].num_tokens)
    assert sizes == [7, 7, 6]


def test_served_in_order_of_arrival() -> None:
    scheduler = Scheduler(BlockTables(BlockPool(100), BLOCK_SIZE), max_num_seqs=2, max_num_batched_tokens=64)
    for index in range(5):
        scheduler.add(make_sequence(f"r{index}", 4, 3))
    first_seen: list[str] = []
    while scheduler.has_work():
        for chunk in run_step(scheduler).chunks:
            if chunk.sequence.request_id not in first_seen:
                first_seen.append(chunk.sequence.request_id)
    assert first_seen == [f"r{index}" for index in range(5)]


def test_youngest_is_preempted_and_keeps_its_output() -> None:
    scheduler = Scheduler(BlockTables(BlockPool(6), BLOCK_SIZE), max_num_seqs=2, max_num_batched_tokens=64)
    old, young = make_sequence("old", 8, 12), make_sequence("young", 4, 8)
    scheduler.add(old)
    scheduler.add(young)
    preempted: list[str] = []
    lengths = []
    while scheduler.has_work():
        preempted += run_step(scheduler).preempted
        lengths.append(young.num_output_tokens)
    assert set(preempted) == {"young"}
    assert scheduler.num_preemptions == len(preempted)
    assert lengths == sorted(lengths)
    assert young.num_output_tokens == 8


@given(prompts=st.lists(st.integers(1, 30), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_without_pressure_the_number_of_steps_is_the_least_possible(prompts: list[int]) -> None:
    """With seats, blocks and budget for all, every request is prefilled in the first step and decodes one per step."""
    scheduler = Scheduler(BlockTables(BlockPool(1000), BLOCK_SIZE), max_num_seqs=8, max_num_batched_tokens=1000)
    for index, prompt in enumerate(prompts):
        scheduler.add(make_sequence(f"r{index}", prompt, 5))
    steps = 0
    while scheduler.has_work():
        run_step(scheduler)
        steps += 1
    assert steps == 5


def test_scheduling_needs_no_torch() -> None:
    code = (
        "import sys; import llmbench.reference_engine.scheduler, llmbench.reference_engine.config; "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
