"""Compaction: blocks move and nobody notices but the operating system, which gets the memory behind them back."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.cache import compaction as compaction_module
from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.compaction import Compaction
from llmbench.reference_engine.cache.eviction import POLICIES
from llmbench.reference_engine.cache.host_swap import HostSwap
from llmbench.reference_engine.cache.lazy_memory import LazyMemory
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import StepPlan
from llmbench.reference_engine.sequence import Sequence
from llmbench.reference_engine.speculative.draft_model import DraftModelProposer

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


def requests(count: int, **params: Any) -> dict[str, tuple[list[int], SamplingParams]]:
    """Prompts with common beginnings, whose answers are of many lengths: so that what stays lies scattered."""
    rng = random.Random(5)
    common = [rng.randrange(64) for _ in range(24)]
    return {
        f"r{index}": (
            common[: rng.choice([0, 9, 24])] + [rng.randrange(64) for _ in range(rng.randint(1, 20))],
            SamplingParams(**{"max_tokens": rng.randint(1, 60), "ignore_eos": True, "temperature": 0, **params}),
        )
        for index in range(count)
    }


@pytest.fixture(params=[2, 256], ids="{} a step".format)
def most_moved(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(compaction_module, "MOST_MOVED", request.param)
    monkeypatch.setattr(compaction_module, "MOST_FORGOTTEN", request.param)
    monkeypatch.setattr(compaction_module, "MOST_RETURNED_BYTES", request.param * 1024)
    return int(request.param)


TIGHT = {"num_blocks": 40, "max_model_len": 110, "max_num_batched_tokens": 64, "num_kept_blocks": 16}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"prefix_cache": False, "num_kept_blocks": 50},
    "cached": {},
    "by age": {"eviction": "age"},
    "swap": {"preemption": "swap", **TIGHT},
    "swap with little room": {"preemption": "swap", "num_swap_blocks": 9, **TIGHT},
    "recompute": TIGHT,
    "window": {"window": 9},
    "int8": {"kv_cache_dtype": "int8"},
    "ngram": {"speculative": "ngram"},
    "draft model": {"speculative": 21},
    "draft model and window": {"speculative": 21, "window": 9},
    "same model": {"speculative": 20, "num_kept_blocks": 50},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("most_moved")
def test_answers_are_the_same(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], serve: Serve, case: str
) -> None:
    chosen = dict(CASES[case])
    if isinstance(seed := chosen.get("speculative"), int):
        chosen["speculative"] = tiny_checkpoint(seed)
    asked = requests(14)
    storage = {"kv_cache_dtype": chosen["kv_cache_dtype"]} if "kv_cache_dtype" in chosen else {}
    expected = serve(tiny_engine(window=chosen.get("window"), prefix_cache=False, **storage), asked)
    num_kept_blocks = chosen.setdefault("num_kept_blocks", 24)
    engine = tiny_engine(compaction="idle", **chosen)
    for _ in range(2):  # the second time from what the first has left in the cache
        assert serve(engine, asked) == expected
        assert engine.stats().num_resident_blocks <= 2 * num_kept_blocks
    stats = engine.stats()
    assert stats.num_moved_blocks > 0
    assert chosen.get("prefix_cache", True) == (stats.num_cache_hit_tokens > 0)
    assert ("swap" in case) == (stats.num_swapped_blocks > 0)
    if isinstance(engine._proposer, DraftModelProposer):
        assert engine._proposer._compaction is not None
        assert engine._proposer._compaction.num_moved_blocks > 0
        assert engine._proposer._compaction.num_resident_blocks <= 2 * num_kept_blocks
        # It drafts what it would have drafted: a model always agrees with itself.
        assert (stats.num_accepted_tokens == stats.num_draft_tokens) == (case == "same model")


def test_blocks_leave_for_the_host_before_others_take_their_places(
    tiny_engine: MakeEngine, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last request is swapped out, and in the same step the blocks of the one before move to where it was."""
    rng = random.Random(6)
    asked = {
        name: (
            [rng.randrange(64) for _ in range(length)],
            SamplingParams(max_tokens=most, temperature=0, ignore_eos=True),
        )
        for name, length, most in (("first", 60, 1), ("stays", 18, 60), ("waits", 78, 80))
    }
    expected = serve(tiny_engine(), asked)
    plans: list[StepPlan] = []
    move_blocks = ModelRunner.move_blocks

    def noting(runner: ModelRunner, plan: StepPlan) -> None:
        plans.append(plan)
        move_blocks(runner, plan)

    monkeypatch.setattr(ModelRunner, "move_blocks", noting)
    tight = {"num_blocks": 40, "max_model_len": 160, "max_num_batched_tokens": 256, "prefix_cache": False}
    engine = tiny_engine(preemption="swap", compaction="idle", num_kept_blocks=16, **tight)
    assert serve(engine, asked) == expected
    (both,) = [plan for plan in plans if plan.swap.out]
    assert {source for source, _ in both.swap.out} & {target for _, target in both.copies}


@pytest.mark.usefixtures("most_moved")
def test_beams_and_what_arrives_meanwhile_are_answered_the_same(tiny_engine: MakeEngine) -> None:
    def answers(engine: Engine) -> dict[str, Any]:
        found: dict[str, Any] = {}
        todo = list(requests(12).items())
        while engine.has_work() or todo:
            for name, (prompt, params) in todo[:2]:
                engine.add_request(name, prompt, params)
                engine.add_request(f"beams {name}", prompt, BeamParams(width=3, max_tokens=params.max_tokens // 3 + 1))
            del todo[:2]
            for output in engine.step():
                found.setdefault(output.request_id, []).extend(output.new_token_ids)
                if output.beams is not None:
                    found[output.request_id] = [beam.token_ids for beam in output.beams]
            engine.check_integrity()
            if len(engine._sequences) < 6:
                continue
            while len(engine._sequences) > 3:  # the burst ends, and the next one comes while blocks move
                for output in engine.step():
                    found.setdefault(output.request_id, []).extend(output.new_token_ids)
                    if output.beams is not None:
                        found[output.request_id] = [beam.token_ids for beam in output.beams]
                engine.check_integrity()
        return found

    expected = answers(tiny_engine(prefix_cache=False))
    engine = tiny_engine(compaction="idle", num_kept_blocks=40)
    assert answers(engine) == expected
    assert engine.stats().num_moved_blocks > 0


def test_cached_prompts_are_found_where_they_were_moved(tiny_engine: MakeEngine, serve: Serve) -> None:
    """Up to the limit, and the ones used last; the others are forgotten."""
    engine = tiny_engine(compaction="idle", num_kept_blocks=10)
    rng = random.Random(1)
    params = SamplingParams(max_tokens=1, temperature=0)
    prompts = {f"p{index}": ([rng.randrange(64) for _ in range(17)], params) for index in range(6)}
    expected = {}
    for name, asked in prompts.items():
        assert engine.stats().num_resident_blocks <= 20
        expected |= serve(engine, {name: asked})
    hits = {}
    for name in reversed(prompts):
        before = engine.stats().num_cache_hit_tokens
        assert serve(engine, {name: prompts[name]})[name] == expected[name]
        hits[name] = engine.stats().num_cache_hit_tokens - before
    assert hits["p5"] == hits["p4"] == 16
    assert hits["p0"] == 0


def resident_mib() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


@pytest.fixture(scope="session")
def wide_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with large keys and values: 64 KiB a token."""
    pytest.importorskip("transformers")
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(20)
    shape = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "max_position_embeddings": 512}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 256, "sliding_window": None}
    folder = tmp_path_factory.mktemp("wide")
    MistralForCausalLM(MistralConfig(vocab_size=64, initializer_range=0.2, **shape, **heads)).save_pretrained(folder)
    return folder


def test_memory_is_given_back_after_a_burst(wide_checkpoint: Path, serve: Serve) -> None:
    """300 MiB of keys and values; what else the process takes and gives back meanwhile is a tenth of it."""
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
    rng = random.Random(2)
    asked = {f"r{index}": ([rng.randrange(64) for _ in range(300)], params) for index in range(16)}
    common = {"model_path": wide_checkpoint, "kernels": "torch", "num_blocks": 400}
    expected = serve(Engine(EngineConfig(**common)), asked)
    engine = Engine(EngineConfig(**common, compaction="idle", num_kept_blocks=20))
    quiet = resident_mib()
    for _ in range(2):
        for name, (prompt, chosen) in asked.items():
            engine.add_request(name, prompt, chosen)
        tokens: dict[str, list[int]] = {name: [] for name in asked}
        while engine._sequences:
            for output in engine.step():
                tokens[output.request_id] += output.new_token_ids
        assert tokens == expected
        busy = resident_mib()
        assert busy - quiet > 270
        while engine.has_work():
            engine.step()
        assert engine.stats().num_resident_blocks <= 20
        assert busy - resident_mib() > 240, "20 of 304 blocks stay"
    engine.check_integrity()


def test_untouched_memory_takes_no_room_and_reads_as_zeros() -> None:
    before = resident_mib()
    memory = LazyMemory(256 * 2**20)
    assert resident_mib() - before < 30
    memory.bytes.fill_(7)
    assert resident_mib() - before > 226
    memory.give_back(100, 200 * 2**20 + 5)
    assert resident_mib() - before < 86
    numbers = memory.bytes
    assert int(numbers[:4096].min()) == int(numbers[200 * 2**20 :].min()) == 7  # the pages that others have a part in
    assert int(numbers[4096 : 200 * 2**20].max()) == 0
    memory.give_back(4097, 8190)  # no whole page
    numbers[4096 : 200 * 2**20] = 3
    assert int(numbers.min()) == 3


def test_what_cannot_be_done_is_refused(tiny_checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_checkpoint()
    with pytest.raises(ConfigError, match='num_kept_blocks is what compaction = "idle" leaves in memory; give both'):
        EngineConfig(model_path=folder, num_kept_blocks=4)
    with pytest.raises(ConfigError, match="compaction = idle is for device = cpu; device is cuda, where the KV cache"):
        EngineConfig(model_path=folder, compaction="idle", device="cuda")
    with pytest.raises(ConfigError, match="compaction must be one of off, idle; 'on' was given"):
        EngineConfig(model_path=folder, compaction="on")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"num_kept_blocks is 20, and .* the KV cache has 40: give fewer"):
        Engine(EngineConfig(model_path=folder, compaction="idle", num_kept_blocks=20, num_blocks=40, kernels="torch"))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="gives memory back to Linux, and this is darwin; leave compaction off"):
        LazyMemory(4096)
