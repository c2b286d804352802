"""Which blocks each sequence reads and writes: its block table, from admission to release. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.host_swap import HostSwap
from llmbench.reference_engine.cache.prefix_cache import extend_keys, find_prefix
from llmbench.reference_engine.sequence import Sequence

# In a table in place of a block that no token to come can see, and of one whose content is in the swap space.
RELEASED, SWAPPED = -1, -2


class BlockTables:
    """Fills and empties the sequences' tables with blocks of one pool; no step may overwrite what another one reads.

    `prefix_cache` lets a sequence begin with the blocks of an equal beginning that was computed before. With a `window`
    tokens see that many of the last ones, themselves included, and blocks out of sight are freed. With a `swap`
    preempted sequences find their blocks' content there. `copies` are the blocks whose content must be copied before
    the step computes anything, in this order; the scheduler takes them.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_size: int,
        prefix_cache: bool = False,
        window: int | None = None,
        swap: HostSwap | None = None,
    ) -> None:
        self.pool = pool
        self.block_size = block_size
        self.prefix_cache = prefix_cache
        self.window = window
        self.swap = swap
        self.copies: list[tuple[int, int]] = []
        # Names of blocks that admitted sequences have yet to fill.
        self._computing: dict[bytes, Sequence] = {}
        self.num_queried_tokens = 0
        self.num_hit_tokens = 0

    def begin(self, sequence: Sequence, num_spare: int, wait_for_prefix: bool = False) -> bool:
        """Give a sequence blocks for all its tokens, the cached ones among them.

        False, and nothing changed, if the pool would be left with fewer than num_spare free blocks; or, where
        wait_for_prefix says so, if another sequence is computing at this time what this one would begin with.
        """
        if self.swap is not None and self.swap.holds(sequence):
            return self._resume(self.swap, sequence, num_spare)
        cached = self._find_cached(sequence)
        if wait_for_prefix and self._is_being_computed(sequence, len(cached)):
            return False
        num_new = self._num_blocks(sequence.num_tokens) - len(cached)
        num_revived = sum(self.pool.ref_count(block_id) == 0 for block_id in cached)
        if num_new + num_revived + num_spare > self.pool.num_free:
            return False
        self.pool.share(cached)
        sequence.block_table = cached + self.pool.allocate(num_new)
        sequence.num_computed_tokens = len(cached) * self.block_size
        for key in sequence.block_keys[len(cached) :]:
            self._computing.setdefault(key, sequence)
        if sequence.num_cached_tokens is None:  # only now: after a preemption a sequence finds what it computed itself
            sequence.num_cached_tokens = sequence.num_computed_tokens
            if self.prefix_cache:
                self.num_queried_tokens += sequence.num_tokens
                self.num_hit_tokens += sequence.num_computed_tokens
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Let the sequence write up to num_tokens; False, and nothing changed, if blocks are lacking.

        The block that is written next may be one that other tables read too: then this table gets a copy of it.
        """
        num_missing = self._num_blocks(num_tokens) - len(sequence.block_table)
        first_written = sequence.num_computed_tokens // self.block_size
        must_copy = (
            first_written < len(sequence.block_table) and self.pool.ref_count(sequence.block_table[first_written]) > 1
        )
        if max(num_missing, 0) + must_copy > self.pool.num_free:
            return False
        if must_copy:
            (own,) = self.pool.allocate(1)
            shared = sequence.block_table[first_written]
            self.copies.append((shared, own))
            sequence.block_table[first_written] = own
            self.pool.free([shared])
        if num_missing > 0:
            sequence.block_table += self.pool.allocate(num_missing)
        return True

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Let the child, equal to the parent so far, read the parent's blocks; the first to write copies."""
        self.pool.share(_held(parent))
        child.block_table = list(parent.block_table)
        child.num_computed_tokens = parent.num_computed_tokens
        child.num_cached_tokens = parent.num_cached_tokens

    def commit(self, sequence: Sequence, num_computed_tokens: int) -> None:
        """Note that the keys and values of so many tokens are in the sequence's blocks, or that only so many count."""
        num_full, num_full_now = sequence.num_computed_tokens // self.block_size, num_computed_tokens // self.block_size
        sequence.num_computed_tokens = num_computed_tokens
        if num_full_now <= num_full:
            return
        if self.prefix_cache:
            keys = sequence.block_keys
            extend_keys(keys, sequence.token_ids, self.block_size)
            for index in range(num_full, num_full_now):
                self.pool.store(keys[index], sequence.block_table[index])
                self._computing.pop(keys[index], None)
        if self.window is not None:
            self._release_unseen(sequence, self.window)

    def _release_unseen(self, sequence: Sequence, window: int) -> None:
        """Free the blocks before the oldest token that the next one sees."""
        index = (sequence.num_computed_tokens - window + 1) // self.block_size - 1
        while index >= 0 and sequence.block_table[index] != RELEASED:
            self.pool.free([sequence.block_table[index]])
            sequence.block_table[index] = RELEASED
            index -= 1

    def trim(self, sequence: Sequence) -> None:
        """Free the blocks beyond the sequence's last token."""
        num_blocks = self._num_blocks(sequence.num_tokens)
        self.pool.free(reversed(sequence.block_table[num_blocks:]))
        del sequence.block_table[num_blocks:]

    def release(self, sequence: Sequence) -> None:
        # The last block first: evicted in this order, what is left of the content is still a beginning.
        self.pool.free(reversed(_held(sequence)))
        self._stop_computing(sequence)
        sequence.block_table = []
        sequence.num_computed_tokens = 0
        if self.swap is not None:
            self.swap.forget(sequence)

    def suspend(self, sequence: Sequence) -> None:
        """Take a sequence's blocks; if there is room in the swap space, their content will be back when it begins
        again, or else computed again."""
        blocks = _held(sequence)
        if self.swap is None or not self.swap.save(sequence, blocks):
            self.release(sequence)
            return
        self.pool.free(reversed(blocks))
        self._stop_computing(sequence)
        sequence.block_table = [RELEASED if place == RELEASED else SWAPPED for place in sequence.block_table]

    def _resume(self, swap: HostSwap, sequence: Sequence, num_spare: int) -> bool:
        """The blocks of a suspended sequence, at the same places of its table, and those of its further tokens."""
        num_new = self._num_blocks(sequence.num_tokens) - len(sequence.block_table)
        num_swapped = sequence.block_table.count(SWAPPED)
        if num_swapped + max(num_new, 0) + num_spare > self.pool.num_free:
            return False
        blocks = self.pool.allocate(num_swapped)
        swap.restore(sequence, blocks)
        places = iter(blocks)
        sequence.block_table = [next(places) if place == SWAPPED else place for place in sequence.block_table]
        if num_new > 0:
            sequence.block_table += self.pool.allocate(num_new)
        return True

    def compact(self, sequences: Iterable[Sequence], most_moved: int) -> int:
        """Move blocks to the front of the pool: how many. `sequences` are all that hold blocks."""
        moved = self.pool.compact(most_moved)
        if moved:
            self.copies += moved.items()
            for sequence in sequences:
                sequence.block_table = [moved.get(place, place) for place in sequence.block_table]
        return len(moved)

    def take_copies(self) -> tuple[tuple[int, int], ...]:
        """The copies that the next step begins with, from block to block; they are the caller's now."""
        copies = tuple(self.copies)
        self.copies.clear()
        return copies

    def covers(self, sequence: Sequence, num_tokens: int) -> bool:
        return len(sequence.block_table) >= self._num_blocks(num_tokens)

    def _find_cached(self, sequence: Sequence) -> list[int]:
        if not self.prefix_cache:
            return []
        extend_keys(sequence.block_keys, sequence.token_ids, self.block_size)
        # One token at least is left to compute: the cache holds keys and values, and no logits to choose a token from.
        return find_prefix(self.pool, sequence.block_keys[: (sequence.num_tokens - 1) // self.block_size])

    def _is_being_computed(self, sequence: Sequence, num_cached: int) -> bool:
        usable = (sequence.num_tokens - 1) // self.block_size
        return num_cached < min(usable, len(sequence.block_keys)) and sequence.block_keys[num_cached] in self._computing

    def _stop_computing(self, sequence: Sequence) -> None:
        for key in sequence.block_keys[sequence.num_computed_tokens // self.block_size :]:
            if self._computing.get(key) is sequence:
                del self._computing[key]

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def check_integrity(self, running: Iterable[Sequence], waiting: Iterable[Sequence] = ()) -> None:
        """Raise RuntimeError unless every used block is in exactly as many tables of the running sequences as its count
        says, and swapped blocks belong to waiting ones."""
        self.pool.check_integrity()
        sequences, waiting = list(running), list(waiting)
        if self.swap is not None:
            self.swap.check_integrity(waiting)
        if any(_held(sequence) for sequence in waiting):
            raise RuntimeError("a waiting sequence holds blocks")
        references = Counter(block_id for sequence in sequences for block_id in _held(sequence))
        if len(references) != self.pool.num_used:
            raise RuntimeError(f"{self.pool.num_used} blocks are used, {len(references)} are in block tables")
        for block_id, count in references.items():
            if count != self.pool.ref_count(block_id):
                raise RuntimeError(f"block {block_id} is in {count} tables, counted {self.pool.ref_count(block_id)}")
        if not set(map(id, self._computing.values())) <= set(map(id, sequences)):
            raise RuntimeError("a sequence that does not run is said to compute a block")
        for sequence in sequences:
            if not self.covers(sequence, sequence.num_computed_tokens):
                raise RuntimeError(f"{sequence.request_id} has computed tokens without a block")


def _held(sequence: Sequence) -> list[int]:
    """The blocks of a sequence's table, without the places of those that it does not have."""
    return [block_id for block_id in sequence.block_table if block_id >= 0]
