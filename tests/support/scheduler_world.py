"""A scheduler with a clock, and a stand-in for the model: what steps do to sequences, without tensors."""

from __future__ import annotations

import random
from typing import Any

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler, StepPlan
from llmbench.reference_engine.sequence import Sequence

MAX_LEN = 32
BLOCK_SIZE = 4
DELAY_NS = 50


def make_sequence(name: str, prompt: list[int], output: int, priority: int = 0, user: str | None = None) -> Sequence:
    return Sequence(name, prompt, SamplingParams(max_tokens=output, ignore_eos=True), 0, priority, user)


class World:
    """A scheduler, a clock that it reads, and a stand-in for the model that makes up tokens and accepts some drafts."""

    def __init__(
        self,
        num_blocks: int,
        seats: int,
        budget: int,
        *,
        rng: random.Random | None = None,
        prefix_cache: bool = True,
        **policy: Any,
    ) -> None:
        self.now_ns = 0
        self.rng = rng or random.Random(0)
        self.tables = BlockTables(BlockPool(num_blocks), BLOCK_SIZE, prefix_cache)
        self.scheduler = Scheduler(
            self.tables, seats, budget, max_delay_ns=DELAY_NS, clock_ns=lambda: self.now_ns, **policy
        )
        self.ended: list[str] = []
        self.ended_now: list[Sequence] = []  # in the last step
        self.first_token_of: list[str] = []

    def step(self) -> StepPlan:
        for sequence in self.scheduler.running:
            sequence.draft_limit = 3
            if sequence.num_uncomputed_tokens == 1:
                sequence.draft_token_ids = [self.rng.randrange(2) for _ in range(sequence.max_draft_tokens)]
        self.ended_now = []
        plan = self.scheduler.schedule()
        self.check(plan)
        self.scheduler.commit(plan)
        for chunk in plan.chunks:
            if not chunk.samples:
                continue
            sequence = chunk.sequence
            if sequence.num_output_tokens == 0:
                self.first_token_of.append(sequence.request_id)
            accepted = chunk.draft_token_ids[: self.rng.randint(0, len(chunk.draft_token_ids))]
            for token_id in (*accepted, self.rng.randrange(2)):
                sequence.append(token_id, ())
            if chunk.draft_token_ids:
                self.scheduler.accept(sequence, len(accepted))
            if sequence.finish_reason is not None:
                self.scheduler.remove(sequence)
                self.ended.append(sequence.request_id)
                self.ended_now.append(sequence)
        self.scheduler.check_integrity()
        self.now_ns += 10
        return plan

    def check(self, plan: StepPlan) -> None:
        scheduler = self.scheduler
        assert plan.num_tokens <= scheduler.max_num_batched_tokens
        assert len(scheduler.running) <= scheduler.max_num_seqs
        assert all(chunk.num_tokens == 1 and not chunk.draft_token_ids for chunk in plan.chunks[: plan.num_decodes])
        names = [chunk.sequence.request_id for chunk in plan.chunks]
        assert len(set(names)) == len(names)
        assert not set(names) & set(plan.preempted)
        written: set[int] = set()
        for sequence, start, num_tokens, _ in plan.chunks:
            assert start == sequence.num_computed_tokens
            first, last = start // BLOCK_SIZE, (start + num_tokens - 1) // BLOCK_SIZE
            blocks = sequence.block_table[first : last + 1]
            assert len(blocks) == last - first + 1
            # What a step writes, no other sequence may read.
            assert all(self.tables.pool.ref_count(block_id) == 1 for block_id in blocks)
            assert not written & set(blocks)
            written |= set(blocks)
