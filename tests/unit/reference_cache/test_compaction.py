"""Compaction's plan: tables, keys and turns to be evicted follow their blocks, and no step does more than its share."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import event, given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.compaction import Compaction
from llmbench.reference_engine.cache.eviction import POLICIES
from llmbench.reference_engine.cache.host_swap import HostSwap
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sequence import Sequence

MakeEngine = Callable[..., Engine]
Serve = Callable[..., dict[str, list[int]]]
BLOCK_SIZE = 2
NUM_BLOCKS = 40


class World:
    """Sequences over one cache whose every slot holds the text up to its token; steps in the scheduler's order."""

    def __init__(self, policy: str, window: int | None, num_host_blocks: int, num_kept: int, most: int) -> None:
        swap = HostSwap(num_host_blocks) if num_host_blocks else None
        self.pool = BlockPool(NUM_BLOCKS, policy)
        self.tables = BlockTables(self.pool, BLOCK_SIZE, True, window, swap)
        self.compaction = Compaction(self.tables, num_kept, block_bytes=1)
        self.compaction._most_moved = self.compaction._most_returned = most
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []
        self.memory: list[list[tuple[int, ...] | None]] = [[None] * BLOCK_SIZE for _ in range(NUM_BLOCKS)]
        self.host: dict[int, list[tuple[int, ...] | None]] = {}
        self.text_of: dict[bytes, tuple[int, ...]] = {}
        self.num_names = 0

    def sequence(self, tokens: list[int]) -> Sequence:
        self.num_names += 1
        return Sequence(str(self.num_names), tokens, SamplingParams(max_tokens=99), seed=0)

    def fork(self, parent: Sequence, token: int) -> None:
        child = self.sequence([*parent.token_ids, token])
        self.tables.fork(parent, child)
        self.running.append(child)

    def remove(self, sequence: Sequence) -> None:
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.tables.release(sequence)

    def preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.tables.suspend(sequence)
        self.waiting.append(sequence)

    def step(self) -> None:
        """What needs computing gets blocks, or takes them from the last; who waits is admitted; blocks are moved."""
        for sequence in list(self.running):
            while sequence in self.running and not self.tables.grow(sequence, sequence.num_tokens):
                self.preempt(self.running[-1])
        while self.waiting and self.tables.begin(self.waiting[0], num_spare=0):
            self.running.append(self.waiting.pop(0))
        was_due = self.compaction.is_due()
        num_readers = list(self.pool._ref_counts)
        num_copies = len(self.tables.copies)
        given_back = self.compaction.plan(self.running)
        moved = self.tables.copies[num_copies:]
        if any(num_readers[source] > 1 for source, _ in moved):
            event("moved a block with several readers")
        if moved:
            event("moved after copies of the same step" if num_copies else "moved")
        if was_due and not self.compaction.is_due():
            self.check_dense()
        self.move_content(given_back)
        self.compute()
        self.check()

    def check_dense(self) -> None:
        used = [block_id for block_id in range(NUM_BLOCKS) if self.pool.ref_count(block_id)]
        kept = sorted(self.pool._key_of.keys() - set(used))
        assert sorted(used + kept) == list(range(len(used + kept)))
        assert self.compaction.num_resident_blocks == len(used + kept)

    def move_content(self, given_back: range) -> None:
        if self.tables.swap is not None:
            plan = self.tables.swap.take_plan()
            for source, target in plan.out:
                self.host[target] = list(self.memory[source])
            for source, target in plan.back:
                self.memory[target] = list(self.host[source])
        for source, target in self.tables.take_copies():
            self.memory[target] = list(self.memory[source])
        for block_id in given_back:
            self.memory[block_id] = [None] * BLOCK_SIZE

    def compute(self) -> None:
        for sequence in self.running:
            for position in range(sequence.num_computed_tokens, sequence.num_tokens):
                block_id = sequence.block_table[position // BLOCK_SIZE]
                assert self.pool.ref_count(block_id) == 1, "what others read is written"
                self.memory[block_id][position % BLOCK_SIZE] = tuple(sequence.token_ids[: position + 1])
        for sequence in self.running:
            self.tables.commit(sequence, sequence.num_tokens)
            for index, key in enumerate(sequence.block_keys):
                self.text_of[key] = tuple(sequence.token_ids[: (index + 1) * BLOCK_SIZE])

    def check(self) -> None:
        with_memory = [block_id for block_id, slots in enumerate(self.memory) if slots != [None] * BLOCK_SIZE]
        assert max(with_memory, default=-1) < self.compaction.num_resident_blocks
        self.tables.check_integrity(self.running, self.waiting)
        for sequence in self.running:
            oldest = 0 if self.tables.window is None else max(0, sequence.num_computed_tokens - self.tables.window + 1)
            for position in range(oldest, sequence.num_computed_tokens):
                block_id = sequence.block_table[position // BLOCK_SIZE]
                assert block_id >= 0
                assert self.memory[block_id][position % BLOCK_SIZE] == tuple(sequence.token_ids[: position + 1])
        for key, block_id in self.pool._block_of.items():
            text = self.text_of[key]
            assert self.memory[block_id] == [text[:-1], text]


def play(world: World, is_busy: bool, rng: random.Random) -> None:
    """What happens between two steps, and a step. Those who came first end more often: what stays is behind gaps."""
    for _ in range(rng.randint(1, 3) if is_busy else 0):
        shared = [0] * rng.choice([0, 0, 3, 8])
        world.waiting.append(world.sequence(shared + [rng.randrange(2) for _ in range(rng.randint(1, 14))]))
    for _ in range(rng.choice([0, 0, 1]) if is_busy else rng.choice([0, 1, 1, 2])):
        if living := world.running + world.waiting:
            world.remove(living[rng.choice([0, 0, 0, rng.randrange(len(living))])])
    for sequence in list(world.running):
        match rng.randrange(6):
            case 0:
                world.fork(sequence, rng.randrange(2))
            case 1 | 2:
                sequence.token_ids.append(rng.randrange(2))
    if world.running and rng.random() < 0.2:
        world.preempt(rng.choice(world.running))
    world.step()


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    window=st.none() | st.integers(1, 7),
    num_host_blocks=st.integers(0, 8),
    num_kept=st.integers(4, 19),
    most=st.integers(1, 5),
    phases=st.lists(st.tuples(st.booleans(), st.integers(1, 5), st.integers(0, 2**32)), min_size=3, max_size=12),
)
@settings(max_examples=300, deadline=None)
def test_every_table_and_every_key_finds_its_content_after_moves(
    policy: str, window: int | None, num_host_blocks: int, num_kept: int, most: int, phases: list[tuple[bool, int, int]]
) -> None:
    world = World(policy, window, num_host_blocks, num_kept, most)
    for is_busy, num_steps, seed in phases:
        rng = random.Random(seed)
        for _ in range(num_steps):
            play(world, is_busy, rng)
    for sequence in world.running + world.waiting:
        world.remove(sequence)
    for _ in range(2 * NUM_BLOCKS):
        world.step()
    assert not world.compaction.is_due()
    assert world.compaction.num_resident_blocks <= 2 * num_kept


@given(policy=st.sampled_from(sorted(POLICIES)), num_actions=st.integers(20, 120), seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_a_moved_block_keeps_its_turn_to_be_evicted(policy: str, num_actions: int, seed: int) -> None:
    """The same history with and without moves: the same keys are lost, in the same order."""
    rng = random.Random(seed)
    plain, moving = BlockPool(16, policy), BlockPool(16, policy)
    held: list[tuple[list[int], list[int]]] = []
    keys: list[bytes] = []
    lost: list[list[bytes]] = [[], []]

    def note_lost() -> None:
        for pool, gone in zip((plain, moving), lost, strict=True):
            gone += [key for key in keys if pool.find(key) is None and key not in gone]

    for _ in range(num_actions):
        action = rng.choice(["take", "take", "take", "free", "free", "find", "forget", "compact"])
        if action == "take" and plain.num_free:
            held.append((plain.allocate(1), moving.allocate(1)))
            note_lost()
            if rng.random() < 0.7:
                keys.append(str(len(keys)).encode())
                for pool, blocks in zip((plain, moving), held[-1], strict=True):
                    pool.store(keys[-1], blocks[0])
        elif action == "free" and held:
            of_plain, of_moving = held.pop(rng.randrange(len(held)))
            plain.free(of_plain)
            moving.free(of_moving)
        elif action == "find" and keys:
            key = rng.choice(keys[-20:])
            in_plain, in_moving = plain.find(key), moving.find(key)
            if in_plain is not None and in_moving is not None:
                plain.share([in_plain])
                moving.share([in_moving])
                held.append(([in_plain], [in_moving]))
        elif action == "forget" and plain.num_cached_free:  # so that there are gaps
            plain.forget(1)
            moving.forget(1)
            note_lost()
        elif action == "compact" and rng.random() < 0.5:
            moved = moving.compact(rng.randint(1, 12))
            event(f"moved {len(moved)}")
            for _, blocks in held:
                blocks[:] = [moved.get(block_id, block_id) for block_id in blocks]
        moving.check_integrity()
    while plain.num_cached_free:
        plain.forget(1)
        moving.forget(1)
        note_lost()
    assert lost[0] == lost[1]
    assert plain.num_evicted == moving.num_evicted


def test_after_a_compaction_the_front_is_handed_out_first() -> None:
    pool = BlockPool(10)
    blocks = pool.allocate(9)
    pool.free([blocks[index] for index in (1, 5, 3, 7, 4)])
    assert pool.compact(9) == {8: 1, 6: 3}
    assert pool.num_touched == 4
    assert pool.allocate(3) == [4, 5, 6]


def test_no_step_does_more_than_its_share() -> None:
    tables = BlockTables(BlockPool(1000), BLOCK_SIZE)
    compaction = Compaction(tables, 100, block_bytes=2**20)
    live, doomed = (Sequence(name, [1] * 100, SamplingParams(), seed=0) for name in "ab")
    for sequence in (doomed, live):
        assert tables.begin(sequence, num_spare=0)
    filler = tables.pool.allocate(200)
    tables.release(doomed)
    tables.pool.free(filler)
    moved, given_back = [], []
    while compaction.is_due():
        given_back.append(compaction.plan([live]))
        moved.append(len(tables.take_copies()))
        tables.check_integrity([live])
    assert moved == [8, 8, 8, 8, 8, 8, 2]
    assert [block_id for blocks in given_back for block_id in reversed(blocks)] == list(range(299, 49, -1))
    assert max(map(len, given_back)) == 64
    assert live.block_table == list(range(49, -1, -1))
