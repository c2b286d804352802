"""Which KV blocks are free, and how many sequences use each of the others. Counts only; tensors: kv_cache.py."""

from __future__ import annotations

from collections.abc import Iterable


class OutOfBlocksError(Exception):
    """Fewer blocks are free than were asked for; nothing was allocated."""


class BlockPool:
    """Blocks 0 … num_blocks - 1, each free or referred to by one or more block tables.

    used + free = num_blocks always. Source: PagedAttention, arXiv:2309.06180 §4.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._ref_counts = [0] * num_blocks
        # A stack: the block freed last is handed out first, while its memory may still be in the processor's cache.
        self._free = list(range(num_blocks - 1, -1, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    def ref_count(self, block_id: int) -> int:
        return self._ref_counts[block_id]

    def allocate(self, num_blocks: int) -> list[int]:
        """That many free blocks, each with one reference now. All or nothing: raises OutOfBlocksError."""
        if num_blocks > len(self._free):
            raise OutOfBlocksError(f"{num_blocks} blocks asked for, {len(self._free)} of {self.num_blocks} free")
        blocks = [self._free.pop() for _ in range(num_blocks)]
        for block_id in blocks:
            self._ref_counts[block_id] = 1
        return blocks

    def share(self, block_ids: Iterable[int]) -> None:
        """One reference more to each of these used blocks, for a second table that reads them."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                raise ValueError(f"block {block_id} is free and cannot be shared")
            self._ref_counts[block_id] += 1

    def free(self, block_ids: Iterable[int]) -> None:
        """One reference less to each of these blocks; the ones without any are free again."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                raise ValueError(f"block {block_id} was already free")
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._free.append(block_id)

    def check_integrity(self) -> None:
        """Raise RuntimeError unless the free list is exactly the blocks without references, each of them once."""
        if len(set(self._free)) != len(self._free):
            raise RuntimeError("a block is in the free list twice")
        unreferenced = {block_id for block_id, count in enumerate(self._ref_counts) if count == 0}
        if set(self._free) != unreferenced:
            raise RuntimeError(f"free list and reference counts disagree on {sorted(unreferenced ^ set(self._free))}")
        if min(self._ref_counts, default=0) < 0:
            raise RuntimeError("a reference count is negative")
