"""Which free block loses its content first, when a block is wanted and every free one still has some worth keeping."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import NamedTuple


class BlockUse(NamedTuple):
    """What a policy knows of a block. Times are ticks: how many blocks the pool had been given back by then.

    `evicted_rank` is the highest rank that was evicted so far: the price of staying in the cache, as it were.
    """

    stored_tick: int
    freed_tick: int
    num_uses: int
    evicted_rank: int


# The block with the lowest rank goes first; among equal ranks, the one freed first.
POLICIES: dict[str, Callable[[BlockUse], int]] = {
    # Least recently used: freed the longest ago.
    "lru": lambda use: use.freed_tick,
    # First in, first out: computed the longest ago, however often it was found since.
    "fifo": lambda use: use.stored_tick,
    # Least frequently used, with ageing: a use counts from the price at its time, so that what was popular once gives
    # way in the end. A crowd of prompts seen once cannot displace a prompt that all share. Source: LFU with dynamic
    # ageing, Arlitt et al., "Evaluating content management techniques for Web proxy caches", 2000.
    "age": lambda use: use.num_uses + use.evicted_rank,
}


class EvictionQueue:
    """Free blocks with content, the next to lose it first. A block's rank is set when it is freed."""

    def __init__(self, policy: str = "lru") -> None:
        self._rank_of = POLICIES[policy]
        self._ranks: dict[int, tuple[int, int]] = {}  # block id to rank and tick
        # May hold entries of blocks that are in use again: they are recognised by `_ranks` and skipped.
        self._heap: list[tuple[int, int, int]] = []
        self._tick = 0
        self._evicted_rank = 0

    def __len__(self) -> int:
        return len(self._ranks)

    def __contains__(self, block_id: int) -> bool:
        return block_id in self._ranks

    @property
    def tick(self) -> int:
        return self._tick

    def add(self, block_id: int, stored_tick: int, num_uses: int) -> None:
        """A block that nobody uses any more; it was found in the cache num_uses times since it was stored."""
        self._tick += 1
        rank = self._rank_of(BlockUse(stored_tick, self._tick, num_uses, self._evicted_rank))
        self._push(block_id, rank, self._tick)

    def move(self, source: int, target: int) -> None:
        """What `source` held is in `target` now, and loses its content when it would have."""
        self._push(target, *self._ranks.pop(source))

    def _push(self, block_id: int, rank: int, tick: int) -> None:
        self._ranks[block_id] = (rank, tick)
        heapq.heappush(self._heap, (rank, tick, block_id))
        if len(self._heap) > 2 * len(self._ranks) + 64:
            self._heap = [(rank, tick, block_id) for block_id, (rank, tick) in self._ranks.items()]
            heapq.heapify(self._heap)

    def remove(self, block_id: int) -> None:
        """The block is in use again."""
        del self._ranks[block_id]

    def pop(self) -> int:
        """The block that loses its content now. Raises IndexError if there is none."""
        while True:
            rank, tick, block_id = heapq.heappop(self._heap)
            if self._ranks.get(block_id) == (rank, tick):
                del self._ranks[block_id]
                self._evicted_rank = max(self._evicted_rank, rank)
                return block_id
