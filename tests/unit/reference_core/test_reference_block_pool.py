"""The block pool against a model of itself: a plain dict of reference counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from llmbench.reference_engine.cache.block_pool import BlockPool, OutOfBlocksError


class PoolMachine(RuleBasedStateMachine):
    """Random allocations, shares and frees; `tables` is what the users of the pool hold."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(12)
        self.tables: list[list[int]] = []

    @rule(count=st.integers(0, 14))
    def allocate(self, count: int) -> None:
        free_before = self.pool.num_free
        if count > free_before:
            with pytest.raises(OutOfBlocksError, match=f"{count} blocks asked for, {free_before} of 12 free"):
                self.pool.allocate(count)
            assert self.pool.num_free == free_before
        else:
            blocks = self.pool.allocate(count)
            assert len(set(blocks)) == count
            assert not set(blocks) & {block for table in self.tables for block in table}
            self.tables.append(blocks)

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        table = data.draw(st.sampled_from(self.tables))
        self.pool.share(table)
        self.tables.append(list(table))

    @precondition(lambda self: self.tables)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.pool.free(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @invariant()
    def counts_agree(self) -> None:
        self.pool.check_integrity()
        held = [block for table in self.tables for block in table]
        assert self.pool.num_used == len(set(held))
        assert self.pool.num_used + self.pool.num_free == self.pool.num_blocks
        for block in range(12):
            assert self.pool.ref_count(block) == held.count(block)

    def teardown(self) -> None:
        for table in self.tables:
            self.pool.free(table)
        assert self.pool.num_free == self.pool.num_blocks


PoolMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPool = PoolMachine.TestCase


def test_freeing_a_free_block_is_refused() -> None:
    pool = BlockPool(2)
    (block,) = pool.allocate(1)
    pool.free([block])
    with pytest.raises(ValueError, match="already free"):
        pool.free([block])
    pool.check_integrity()


def test_sharing_a_free_block_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be shared"):
        BlockPool(2).share([0])


def test_integrity_check_finds_a_lost_block() -> None:
    pool = BlockPool(3)
    pool.allocate(1)
    pool._ref_counts = [0, 0, 0]
    with pytest.raises(RuntimeError, match="disagree on"):
        pool.check_integrity()


@given(steps=st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.integers(0, 5)), max_size=60))
def test_all_free_blocks_can_be_had_wherever_they_lie(steps: list[tuple[int, bool, int]]) -> None:
    """Why no sequence needs compaction: no pattern of use leaves a free block that it could not get."""
    pool = BlockPool(24)
    held: list[list[int]] = []
    for key, (count, releases, index) in enumerate(steps):
        if releases and held:
            pool.free(held.pop(index % len(held)))
        elif count <= pool.num_free:
            held.append(pool.allocate(count))
            if held[-1]:
                pool.store(str(key).encode(), held[-1][0])
    rest = pool.allocate(pool.num_free)
    assert sorted(rest + [block for blocks in held for block in blocks]) == list(range(24))
