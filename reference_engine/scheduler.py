"""What the next step computes: continuous batching with chunked prefill under a token budget. Needs no torch."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from llmbench.reference_engine import batching
from llmbench.reference_engine.beam_search import BeamGroup
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.compaction import Compaction
from llmbench.reference_engine.cache.host_swap import SwapPlan
from llmbench.reference_engine.config import FairnessName, StepOrder
from llmbench.reference_engine.fairness import VirtualTokenCounters
from llmbench.reference_engine.sequence import Sequence

# A request of priority p goes ahead of the last (p' - p) * this many requests of priority p'. Finite, so that no
# request waits for ever, however many more urgent ones arrive.
QUEUE_PLACES_PER_PRIORITY = 1000


class Chunk(NamedTuple):
    """Tokens [start, start + num_tokens) of one sequence, to be computed in one step.

    The last ones may be drafts, which the sequence does not have yet: then the chunk verifies them.
    """

    sequence: Sequence
    start: int
    num_tokens: int
    draft_token_ids: SequenceOf[int] = ()

    @property
    def samples(self) -> bool:
        """True if the chunk reaches the sequence's last token, so that its logits choose the next one."""
        return self.start + self.num_tokens >= self.sequence.num_tokens


class StepPlan(NamedTuple):
    """One step's work. The first `num_decodes` chunks are one token each; verifications and prefill chunks follow.

    Before anything is computed, content moves as `swap` says, and then from the first to the second block of each of
    `copies`, one by one. Then the memory of the blocks `given_back` is not needed any more.
    """

    chunks: tuple[Chunk, ...]
    num_decodes: int
    preempted: tuple[str, ...]
    copies: tuple[tuple[int, int], ...] = ()
    swap: SwapPlan = SwapPlan()
    given_back: range = range(0)

    @property
    def num_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


class Scheduler:
    """Served by rank, which is order of arrival moved by priority; who comes first gets seats, blocks and budget first.

    fairness: with "vtc" the user who was served least comes first, and rank decides among one user's requests, so that
    no priority takes anything from other users; see fairness.py.

    order: "decode-first" computes all decodes and spends the rest of the budget on prefill chunks, so that running
    requests never stall (Sarathi-Serve, arXiv:2403.02310 §4); "prefill-first" decodes only where there is nothing to
    prefill, or when max_num_seqs prefills have held decodes up. Drafts get what budget and blocks are left.

    Every request ends. Only finitely many others have a lower rank. A lack of blocks is settled at the cost of the
    running sequence of the highest rank, and any sequence of max_model_len fits the pool alone: so the running sequence
    of the lowest rank is never held up by another one, and with it gone the next one is the first. Prefill-first steps
    hold it up, but not for ever, however many requests arrive that end with their first token. With "vtc" the same
    holds of the user who was served least: who gets nothing becomes that user, for the counters of those who are served
    rise, newcomers' too. Blocks are taken only in steps that bring others a token, and those who are served less than
    the taker bring finitely many.
    """

    def __init__(
        self,
        tables: BlockTables,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        *,
        batching_policy: str = "continuous",
        max_delay_ns: int = 0,
        order: StepOrder = "decode-first",
        compaction: Compaction | None = None,
        fairness: FairnessName = "fcfs",
        clock_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self.tables = tables
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: list[Sequence] = []  # by rank
        self.running: list[Sequence] = []  # as served: by rank, with "vtc" by the users' counters and then by rank
        self.num_preemptions = 0
        self.num_overtakings = 0
        self._is_closed = batching_policy != "continuous"  # whoever is to be in a batch joins at its beginning
        self._may_admit = batching.POLICIES[batching_policy]
        self._max_delay_ns = max_delay_ns
        self._order = order
        self.compaction = compaction
        self._counters = VirtualTokenCounters() if fairness == "vtc" else None
        self._clock_ns = clock_ns
        self._num_arrived = 0
        self._num_steps_held_up = 0

    def add(self, sequence: Sequence) -> None:
        self.note_arrival(sequence)
        self.enqueue(sequence)

    def note_arrival(self, sequence: Sequence) -> None:
        """Give it its place in the queue, where it comes with `enqueue`, also if others were added meanwhile."""
        self._num_arrived += 1
        sequence.rank = self._num_arrived + sequence.priority * QUEUE_PLACES_PER_PRIORITY
        sequence.stamps.arrival_ns = self._clock_ns()

    def enqueue(self, sequence: Sequence) -> None:
        if self._counters is not None:
            self._counters.begin_to_wait(sequence.user, self.waiting, self.running)
        insort(self.waiting, sequence, key=_rank)

    def _let_run(self, sequence: Sequence) -> None:
        if self._counters is None:
            insort(self.running, sequence, key=_rank)
        else:  # counters have moved since the list was sorted: the next step sorts it anew, and keeps beams in order
            self.running.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that ended or was given up, waiting or running, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self.waiting.remove(sequence)
        self.tables.release(sequence)

    def replace(self, families: SequenceOf[tuple[Sequence, Sequence]], parents: SequenceOf[Sequence]) -> None:
        """Let children run in place of all the parents, from whose blocks they fork."""
        for parent, child in families:
            self.tables.fork(parent, child)
            child.rank, child.stamps = parent.rank, parent.stamps
        for parent in parents:
            self.remove(parent)
        for _, child in families:
            self._let_run(child)

    def has_work(self) -> bool:
        return bool(self.waiting or self.running) or (self.compaction is not None and self.compaction.is_due())

    def schedule(self) -> StepPlan:
        """The next step; its blocks are in the sequences' tables already.

        Without chunks only when there are no requests, or when the batching policy has the queue wait for more of them;
        blocks may have to be moved even then.
        """
        preempted: list[str] = []
        if self._counters is not None:
            self.running.sort(key=self._counters.turn)
        decodes, prefills = self._plan_chunks(preempted)
        plain = [chunk for chunk in decodes if not chunk.draft_token_ids]
        verifications = [chunk for chunk in decodes if chunk.draft_token_ids]
        chunks = (*plain, *verifications, *prefills)
        swap = SwapPlan() if self.tables.swap is None else self.tables.swap.take_plan()
        given_back = range(0) if self.compaction is None else self.compaction.plan(self.running)
        return StepPlan(chunks, len(plain), tuple(preempted), self.tables.take_copies(), swap, given_back)

    def _plan_chunks(self, preempted: list[str]) -> tuple[list[Chunk], list[Chunk]]:
        """Decodes and prefills, in the order's order; the names of those who had to give way are appended."""
        may_admit = self._is_open()
        decodes: list[Chunk] = []
        prefills: list[Chunk] = []
        decodes_first = self._order == "decode-first" or self._num_steps_held_up >= self.max_num_seqs
        if decodes_first:
            decodes = self._plan_decodes(preempted)
        if not decodes or self._order == "decode-first":
            prefills = self._plan_prefills(self.max_num_batched_tokens - len(decodes), may_admit and not preempted)
        if not prefills and not decodes_first:
            decodes = self._plan_decodes(preempted)
        could_decode = any(sequence.num_uncomputed_tokens == 1 for sequence in self.running)
        self._num_steps_held_up = self._num_steps_held_up + 1 if could_decode and not decodes else 0
        spare = self.max_num_batched_tokens - len(decodes) - sum(chunk.num_tokens for chunk in prefills)
        return self._with_drafts(decodes, spare), prefills

    def commit(self, plan: StepPlan) -> None:
        """Note that the plan's keys and values are in the cache; those of drafts do not count yet."""
        for chunk in plan.chunks:
            self.tables.commit(chunk.sequence, chunk.start + chunk.num_tokens - len(chunk.draft_token_ids))
        if self._counters is not None:
            for chunk in plan.chunks:
                if chunk.samples:
                    self._counters.generate(chunk.sequence, 1)

    def accept(self, sequence: Sequence, num_drafts: int) -> None:
        """Count the keys and values of so many drafts, by now tokens of the sequence, and give up those of the rest."""
        if self._counters is not None:  # the first of the new tokens was counted when the step was committed
            self._counters.generate(sequence, sequence.num_uncomputed_tokens - 1)
        self.tables.commit(sequence, sequence.num_computed_tokens + num_drafts)
        self.tables.trim(sequence)

    def _is_open(self) -> bool:
        if not self.waiting:
            return False
        waited_ns = self._clock_ns() - min(sequence.stamps.arrival_ns for sequence in self.waiting[: self.max_num_seqs])
        return self._may_admit(
            batching.QueueState(len(self.running), len(self.waiting), self.max_num_seqs, waited_ns, self._max_delay_ns)
        )

    def _plan_decodes(self, preempted: list[str]) -> list[Chunk]:
        decodes: list[Chunk] = []
        index = 0
        while index < len(self.running):  # the list shrinks from its end while sequences are preempted
            sequence = self.running[index]
            if sequence.num_uncomputed_tokens == 1:
                while not (grown := self.tables.grow(sequence, sequence.num_tokens)):
                    preempted.append(self._preempt_last())
                    if index >= len(self.running):
                        break
                if not grown:
                    # Beams that were planned a moment ago have gone with the one that found no block.
                    decodes = [
                        each for each in decodes if sequence.beams is None or each.sequence.beams is not sequence.beams
                    ]
                    break
                decodes.append(Chunk(sequence, sequence.num_computed_tokens, 1))
            index += 1
        return decodes

    def _with_drafts(self, decodes: list[Chunk], spare: int) -> list[Chunk]:
        """The same decodes, as verifications where there are drafts, and budget and blocks that nobody else needs."""
        for index, (sequence, start, _, _) in enumerate(decodes):
            drafts = sequence.draft_token_ids[:spare]
            if drafts and self.tables.grow(sequence, sequence.num_tokens + len(drafts)):
                decodes[index] = Chunk(sequence, start, 1 + len(drafts), drafts)
                spare -= len(drafts)
        return decodes

    def _plan_prefills(self, budget: int, may_admit: bool) -> list[Chunk]:
        """Chunks of at most `budget` tokens: of prefills begun before, then of newcomers while there is room.

        may_admit is False after a preemption, too: the pool is full then, and whoever were admitted would take the
        blocks that were just won. A closed batch takes as many as there are seats and blocks for, and computes their
        prompts in as many steps as the budget asks for.
        """
        prefills: list[Chunk] = []
        for sequence in self.running:
            if sequence.num_uncomputed_tokens > 1:
                budget = self._plan_prefill(sequence, budget, prefills)
        while may_admit and (budget > 0 or self._is_closed) and (admitted := self._admit_next()) is not None:
            budget = self._plan_prefill(admitted, budget, prefills)
        return prefills

    def _plan_prefill(self, sequence: Sequence, budget: int, prefills: list[Chunk]) -> int:
        """Append the sequence's next chunk if there is budget; returns the budget left."""
        num_tokens = min(sequence.num_uncomputed_tokens, budget)
        if num_tokens > 0:
            prefills.append(Chunk(sequence, sequence.num_computed_tokens, num_tokens))
        return budget - num_tokens

    def _admit_next(self) -> Sequence | None:
        """Move the first waiting sequence to `running` with blocks for all its tokens; None if it has to wait.

        Blocks for the whole prompt, not only for its first chunk: then a prefill once begun never lacks blocks. One
        block stays free for each running sequence that will need more: it would preempt the newcomer for it.
        """
        if not self.waiting or len(self.running) >= self.max_num_seqs:
            return None
        first = self.waiting[0]
        sequence = first if self._counters is None else min(self.waiting, key=self._counters.turn)
        if sum(other.num_seats for other in self.running) + sequence.num_seats > self.max_num_seqs:
            return None
        num_spare = sum(not self.tables.covers(other, other.max_num_tokens) for other in self.running)
        is_readmitted = sequence.num_cached_tokens is not None
        # In an open batch a common prefix is left to the one that computes it anyway; a closed one would start without
        # who waits for that.
        if not self.tables.begin(sequence, num_spare, not self._is_closed):
            return None
        if self._counters is not None:
            self._counters.admit(sequence, is_readmitted)
            self.num_overtakings += sequence is not first
        sequence.stamps.admitted(self._clock_ns())
        self.waiting.remove(sequence)
        self._let_run(sequence)
        return sequence

    def _preempt_last(self) -> str:
        """Take the blocks of the last running sequence; it waits for its turn, to be swapped back in or recomputed.

        Beams go together, and their prompt waits in their place.
        """
        sequence = self.running.pop()
        if sequence.beams is not None and sequence.num_output_tokens > 0:
            sequence = self._withdraw_beams(sequence, sequence.beams)
        else:
            self.tables.suspend(sequence)
        sequence.draft_token_ids = []
        self.enqueue(sequence)
        self.num_preemptions += 1
        return sequence.request_id

    def _withdraw_beams(self, last: Sequence, beams: BeamGroup) -> Sequence:
        self.running = [sequence for sequence in self.running if sequence.beams is not beams]
        for member in beams.members:
            self.tables.release(member)
        root = beams.restart()
        root.rank, root.stamps, root.num_cached_tokens = last.rank, last.stamps, last.num_cached_tokens
        return root

    def check_integrity(self) -> None:
        """Raise RuntimeError unless every used block is in exactly as many tables as its reference count says."""
        self.tables.check_integrity(self.running, self.waiting)


def _rank(sequence: Sequence) -> int:
    return sequence.rank
