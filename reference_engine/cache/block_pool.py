"""Which KV blocks are free, and how many sequences use each of the others. Counts only; tensors: kv_cache.py."""

from __future__ import annotations

from collections.abc import Iterable

from llmbench.reference_engine.cache.eviction import EvictionQueue


class OutOfBlocksError(Exception):
    """Fewer blocks are free than were asked for; nothing was allocated."""


class BlockPool:
    """Blocks 0 … num_blocks - 1, each free or referred to by one or more block tables.

    used + free = num_blocks always. A block whose content was stored under a key is found by that key for as long as it
    is not handed out for other content: a free block may be a cached one too. Blocks without a key are handed out
    first; then `policy`, a name in eviction.POLICIES, decides. Source: PagedAttention, arXiv:2309.06180 §4.

    The first `num_touched` blocks may have been handed out since the pool was made or last compacted, no others were.
    """

    def __init__(self, num_blocks: int, policy: str = "lru") -> None:
        self.num_blocks = num_blocks
        self.num_evicted = 0
        self.num_touched = 0
        self._ref_counts = [0] * num_blocks
        # A stack: the block freed last is handed out first, while its memory may still be in the processor's cache.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached_free = EvictionQueue(policy)
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}
        self._stored_tick: dict[int, int] = {}
        self._num_uses: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        return len(self._free) + len(self._cached_free)

    @property
    def num_cached_free(self) -> int:
        """Those of the free blocks that have content worth keeping."""
        return len(self._cached_free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    def ref_count(self, block_id: int) -> int:
        return self._ref_counts[block_id]

    def allocate(self, num_blocks: int) -> list[int]:
        """That many free blocks, each with one reference now. All or nothing: raises OutOfBlocksError."""
        if num_blocks > self.num_free:
            raise OutOfBlocksError(f"{num_blocks} blocks asked for, {self.num_free} of {self.num_blocks} free")
        blocks = [self._free.pop() if self._free else self._evict() for _ in range(num_blocks)]
        for block_id in blocks:
            self._ref_counts[block_id] = 1
        if blocks:
            self.num_touched = max(self.num_touched, max(blocks) + 1)
        return blocks

    def share(self, block_ids: Iterable[int]) -> None:
        """One reference more to each of these blocks, for a table that reads what they hold: used or cached ones."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                if block_id not in self._cached_free:
                    raise ValueError(f"block {block_id} is free and cannot be shared")
                self._cached_free.remove(block_id)
            self._ref_counts[block_id] += 1
            if block_id in self._num_uses:
                self._num_uses[block_id] += 1

    def free(self, block_ids: Iterable[int]) -> None:
        """One reference less to each of these blocks; the ones without any are free again.

        In the order in which their content may be forgotten: a block is of no use without the ones before it.
        """
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                raise ValueError(f"block {block_id} was already free")
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] > 0:
                continue
            if block_id in self._key_of:
                self._cached_free.add(block_id, self._stored_tick[block_id], self._num_uses[block_id])
            else:
                self._free.append(block_id)

    def store(self, key: bytes, block_id: int) -> None:
        """Let a used block, complete from now on, be found under this key; the block that already is stays it."""
        if self._ref_counts[block_id] == 0:
            raise ValueError(f"block {block_id} is free and has no content to store")
        if key in self._block_of or block_id in self._key_of:
            return
        self._block_of[key] = block_id
        self._key_of[block_id] = key
        self._stored_tick[block_id] = self._cached_free.tick
        self._num_uses[block_id] = 0

    def find(self, key: bytes) -> int | None:
        """The block stored under this key, used or free; `share` it before anything is allocated."""
        return self._block_of.get(key)

    def forget(self, num_blocks: int) -> None:
        """Let so many of the cached free blocks lose their content, the ones that would be evicted first."""
        self._free += [self._evict() for _ in range(num_blocks)]

    def compact(self, most_moved: int) -> dict[int, int]:
        """Move used and cached blocks from the end of the pool to free places before them, most_moved at most.

        Old places to new ones; no block is in both. References, key and turn to be evicted move along. If fewer than
        most_moved, all content is in the first blocks now; from here on those that lie in front are handed out first.
        """
        self._free.sort(reverse=True)
        moved: dict[int, int] = {}
        while (last := self._last_with_content()) >= 0:
            if len(moved) == most_moved or not self._free or self._free[-1] > last:
                break
            moved[last] = self._free.pop()
            self._move(last, moved[last])
        self._free += moved
        self._free.sort(reverse=True)
        return moved

    def _last_with_content(self) -> int:
        """-1 if no block has any; `num_touched` falls to it."""
        while self.num_touched > 0 and self._is_empty(self.num_touched - 1):
            self.num_touched -= 1
        return self.num_touched - 1

    def _is_empty(self, block_id: int) -> bool:
        return self._ref_counts[block_id] == 0 and block_id not in self._cached_free

    def _move(self, source: int, target: int) -> None:
        self._ref_counts[target], self._ref_counts[source] = self._ref_counts[source], 0
        if source in self._cached_free:
            self._cached_free.move(source, target)
        if source in self._key_of:
            key = self._key_of[target] = self._key_of.pop(source)
            self._block_of[key] = target
            self._stored_tick[target] = self._stored_tick.pop(source)
            self._num_uses[target] = self._num_uses.pop(source)

    def _evict(self) -> int:
        block_id = self._cached_free.pop()
        del self._block_of[self._key_of.pop(block_id)]
        del self._stored_tick[block_id], self._num_uses[block_id]
        self.num_evicted += 1
        return block_id

    def check_integrity(self) -> None:
        """Raise RuntimeError unless each block without references is free once, and keys and blocks are one to one."""
        cached_free = {block_id for block_id in range(self.num_blocks) if block_id in self._cached_free}
        if len(set(self._free)) != len(self._free) or cached_free & set(self._free):
            raise RuntimeError("a block is in the free list twice")
        unreferenced = {block_id for block_id, count in enumerate(self._ref_counts) if count == 0}
        free = set(self._free) | cached_free
        if free != unreferenced:
            raise RuntimeError(f"free list and reference counts disagree on {sorted(unreferenced ^ free)}")
        if min(self._ref_counts, default=0) < 0:
            raise RuntimeError("a reference count is negative")
        if {block_id: key for key, block_id in self._block_of.items()} != self._key_of:
            raise RuntimeError("keys and blocks disagree")
        if not cached_free <= set(self._key_of) or set(self._free) & set(self._key_of):
            raise RuntimeError("a free block is in the wrong list for the content it has")
        if not all(map(self._is_empty, range(self.num_touched, self.num_blocks))):
            raise RuntimeError(f"a block beyond the {self.num_touched} that were touched has content")
