"""What the next step computes: continuous batching with chunked prefill under a token budget. Needs no torch."""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.sequence import Sequence


class Chunk(NamedTuple):
    """Tokens [start, start + num_tokens) of one sequence, to be computed in one step."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def samples(self) -> bool:
        """True if the chunk ends at the sequence's last token, so that its logits choose the next one."""
        return self.start + self.num_tokens == self.sequence.num_tokens


class StepPlan(NamedTuple):
    """One step's work. The first `num_decodes` chunks are one token each; prefill chunks follow."""

    chunks: tuple[Chunk, ...]
    num_decodes: int
    preempted: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


class Scheduler:
    """First come, first served; decodes first, then prefill chunks with the budget that is left.

    Every request ends: all running sequences arrived before all waiting ones, a lack of blocks is settled at the cost
    of the youngest running one, and any sequence of max_model_len fits the pool alone; so the oldest one advances in
    every step, and with it gone the next one is the oldest.
    """

    def __init__(self, pool: BlockPool, block_size: int, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.pool = pool
        self.block_size = block_size
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: deque[Sequence] = deque()  # in order of arrival, as is `running`
        self.running: list[Sequence] = []
        self.num_preemptions = 0

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that ended or was given up, waiting or running, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self._release(sequence)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running)

    def schedule(self) -> StepPlan:
        """The next step; its blocks are in the sequences' tables already. Empty only when there is no work."""
        preempted: list[str] = []
        decodes = self._plan_decodes(preempted)
        budget = self.max_num_batched_tokens - len(decodes)
        prefills: list[Chunk] = []
        for sequence in self.running:
            if sequence.num_uncomputed_tokens > 1:
                budget = self._plan_prefill(sequence, budget, prefills)
        # After a preemption the pool is full: whoever were admitted now would take the blocks that were just won.
        while self.waiting and budget > 0 and not preempted and self._admit_next():
            budget = self._plan_prefill(self.running[-1], budget, prefills)
        return StepPlan((*decodes, *prefills), len(decodes), tuple(preempted))

    def commit(self, plan: StepPlan) -> None:
        """Note that the plan's keys and values are in the cache."""
        for chunk in plan.chunks:
            chunk.sequence.num_computed_tokens = chunk.start + chunk.num_tokens

    def _plan_decodes(self, preempted: list[str]) -> list[Chunk]:
        decodes: list[Chunk] = []
        index = 0
        while index < len(self.running):  # the list shrinks from its end while sequences are preempted
            sequence = self.running[index]
            if sequence.num_uncomputed_tokens == 1:
                while not self._grow(sequence, sequence.num_tokens) and self.running[-1] is not sequence:
                    preempted.append(self._preempt_youngest())
                if not self._covers(sequence, sequence.num_tokens):
                    preempted.append(self._preempt_youngest())
                    break
                decodes.append(Chunk(sequence, sequence.num_computed_tokens, 1))
            index += 1
        return decodes

    def _plan_prefill(self, sequence: Sequence, budget: int, prefills: list[Chunk]) -> int:
        """Append the sequence's next chunk if there is budget; returns the budget left."""
        num_tokens = min(sequence.num_uncomputed_tokens, budget)
        if num_tokens > 0:
            prefills.append(Chunk(sequence, sequence.num_computed_tokens, num_tokens))
        return budget - num_tokens

    def _admit_next(self) -> bool:
        """Move the oldest waiting sequence to `running` with blocks for all its tokens; False if it has to wait.

        Blocks for the whole prompt, not only for its first chunk: then a prefill once begun never lacks blocks. One
        block per running sequence stays free: each will soon need one, and would preempt the newcomer for it.
        """
        if len(self.running) >= self.max_num_seqs:
            return False
        sequence = self.waiting[0]
        if self._num_blocks(sequence.num_tokens) + len(self.running) > self.pool.num_free:
            return False
        self.running.append(self.waiting.popleft())
        self._grow(sequence, sequence.num_tokens)
        return True

    def _preempt_youngest(self) -> str:
        """Take the youngest running sequence's blocks; it waits at the head of the queue and is recomputed later."""
        sequence = self.running.pop()
        self._release(sequence)
        self.waiting.appendleft(sequence)
        self.num_preemptions += 1
        return sequence.request_id

    def _release(self, sequence: Sequence) -> None:
        self.pool.free(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = 0

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _covers(self, sequence: Sequence, num_tokens: int) -> bool:
        return len(sequence.block_table) >= self._num_blocks(num_tokens)

    def _grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Extend the block table to hold that many tokens; False, and nothing changed, if blocks are lacking."""
        num_missing = self._num_blocks(num_tokens) - len(sequence.block_table)
        if num_missing > self.pool.num_free:
            return False
        if num_missing > 0:
            sequence.block_table += self.pool.allocate(num_missing)
        return True

    def check_integrity(self) -> None:
        """Raise RuntimeError unless every used block is in exactly as many tables as its reference count says."""
        self.pool.check_integrity()
        references = Counter(block_id for sequence in self.running for block_id in sequence.block_table)
        if any(sequence.block_table for sequence in self.waiting):
            raise RuntimeError("a waiting sequence holds blocks")
        if len(references) != self.pool.num_used:
            raise RuntimeError(f"{self.pool.num_used} blocks are used, {len(references)} are in block tables")
        for block_id, count in references.items():
            if count != self.pool.ref_count(block_id):
                raise RuntimeError(f"block {block_id} is in {count} tables, counted {self.pool.ref_count(block_id)}")
        for sequence in self.running:
            if not self._covers(sequence, sequence.num_computed_tokens):
                raise RuntimeError(f"{sequence.request_id} has computed tokens without a block")
