"""When KV blocks move to the front of their cache, so that the memory behind them can be given back. Counts only.

Moving helps no sequence: any block is as good as any other for it. But a burst leaves the blocks that are still wanted
all over the cache, and each of them keeps its pages from the operating system.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.sequence import Sequence

# How much of it one step does, so that a request that comes meanwhile is held up for a few milliseconds at most.
MOST_FORGOTTEN = 500
MOST_MOVED = 256
MOST_MOVED_BYTES = 8 * 2**20
MOST_RETURNED_BYTES = 64 * 2**20


class Compaction:
    """Shrinks a cache with more than twice `num_kept_blocks` in memory to that many, once no more than these are used.

    Cached blocks beyond them are forgotten, in the order in which they would be evicted. Twice, so that what is moved
    has been paid for: at least as many blocks were computed since the last time.
    """

    def __init__(self, tables: BlockTables, num_kept_blocks: int, block_bytes: int) -> None:
        self.num_moved_blocks = 0
        self._tables = tables
        self._num_kept_blocks = num_kept_blocks
        self._most_moved = min(max(MOST_MOVED_BYTES // block_bytes, 1), MOST_MOVED)
        self._most_returned = max(MOST_RETURNED_BYTES // block_bytes, 1)
        self._is_under_way = False
        self._num_not_returned = 0

    @property
    def num_resident_blocks(self) -> int:
        """All others have no memory: they were never handed out, or theirs was given back."""
        return max(self._num_not_returned, self._tables.pool.num_touched)

    def is_due(self) -> bool:
        """True while `plan` has something to do."""
        if self._tables.pool.num_used > self._num_kept_blocks:
            return False
        return self._is_under_way or self.num_resident_blocks > 2 * self._num_kept_blocks

    def plan(self, sequences: Iterable[Sequence]) -> range:
        """Move some blocks in the tables of these sequences, all that hold any; the copies come last in the tables'.

        Returned are the blocks whose memory may be given back when these copies are done. To be called when all else of
        a step is planned: content that the step's other copies bring is moved after they brought it.
        """
        self._num_not_returned = self.num_resident_blocks
        self._is_under_way = self.is_due()
        if not self._is_under_way:
            return range(0)
        pool = self._tables.pool
        num_too_many = max(pool.num_used + pool.num_cached_free - self._num_kept_blocks, 0)
        pool.forget(min(num_too_many, MOST_FORGOTTEN))
        if num_too_many > MOST_FORGOTTEN:  # what is forgotten next would be moved in vain
            return range(0)
        num_moved = self._tables.compact(sequences, self._most_moved)
        self.num_moved_blocks += num_moved
        returned = range(max(pool.num_touched, self._num_not_returned - self._most_returned), self._num_not_returned)
        self._num_not_returned = returned.start
        self._is_under_way = num_moved == self._most_moved or returned.start > pool.num_touched
        return returned


def make_compaction(config: EngineConfig, tables: BlockTables, block_bytes: int) -> Compaction | None:
    """None if it is off. block_bytes: of all layers. Raises ConfigError where num_kept_blocks leaves nothing to do."""
    if config.compaction == "off":
        return None
    num_kept_blocks, num_blocks = config.num_kept_blocks, tables.pool.num_blocks
    if num_kept_blocks is not None and 2 * num_kept_blocks >= num_blocks:
        raise ConfigError(
            f"num_kept_blocks is {num_kept_blocks}, and memory is given back when more than twice as many blocks have "
            f"been used; the KV cache has {num_blocks}: give fewer, or leave compaction off."
        )
    return Compaction(tables, num_kept_blocks or max(num_blocks // 8, 1), block_bytes)
