"""Room in host memory for the KV blocks of preempted sequences, so that they need no recomputing. Counts only."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.sequence import Sequence


class SwapPlan(NamedTuple):
    """Pairs of blocks: `out` from the KV cache to the host, before a step computes; `back` from the host, likewise.

    First all of `out`, then all of `back`: their blocks may be the same.
    """

    out: tuple[tuple[int, int], ...] = ()
    back: tuple[tuple[int, int], ...] = ()


class HostSwap:
    """Which host blocks hold whose content. The copies themselves are planned here and done by the KV cache."""

    def __init__(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.num_swapped_blocks = 0
        self.num_swapped_requests = 0
        self._blocks_of: dict[str, list[int]] = {}
        self._out: list[tuple[int, int]] = []
        self._back: list[tuple[int, int]] = []

    def holds(self, sequence: Sequence) -> bool:
        return sequence.request_id in self._blocks_of

    def save(self, sequence: Sequence, blocks: SequenceOf[int]) -> bool:
        """Plan to copy these blocks out; False, and nothing changed, if there is no room for all of them."""
        if len(blocks) > self.pool.num_free:
            return False
        host_blocks = self.pool.allocate(len(blocks))
        self._blocks_of[sequence.request_id] = host_blocks
        self._out += zip(blocks, host_blocks, strict=True)
        self.num_swapped_blocks += len(blocks)
        self.num_swapped_requests += 1
        return True

    def restore(self, sequence: Sequence, blocks: SequenceOf[int]) -> None:
        """Plan to copy a saved sequence's content into these blocks, as many as were saved; its room is free again."""
        host_blocks = self._blocks_of.pop(sequence.request_id)
        self._back += zip(host_blocks, blocks, strict=True)
        self.pool.free(host_blocks)

    def forget(self, sequence: Sequence) -> None:
        """The sequence ended; it may have nothing saved."""
        self.pool.free(self._blocks_of.pop(sequence.request_id, ()))

    def take_plan(self) -> SwapPlan:
        """The copies that the next step begins with; they are the caller's now."""
        plan = SwapPlan(tuple(self._out), tuple(self._back))
        self._out.clear()
        self._back.clear()
        return plan

    def check_integrity(self, waiting: Iterable[Sequence]) -> None:
        """Raise RuntimeError unless each host block belongs to one of the waiting sequences."""
        self.pool.check_integrity()
        names = {sequence.request_id for sequence in waiting}
        if not set(self._blocks_of) <= names:
            raise RuntimeError("a sequence that does not wait has blocks in the swap space")
        if sum(map(len, self._blocks_of.values())) != self.pool.num_used:
            raise RuntimeError("a block of the swap space belongs to nobody")
