"""The prefix cache: equal beginnings are found, unequal ones are not, and no output changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.cache.eviction import POLICIES
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sequence import Sequence

MakeEngine = Callable[..., Engine]
Serve = Callable[..., dict[str, list[int]]]
BLOCK_SIZE = 4


def shared_prompts(count: int, **params: Any) -> dict[str, tuple[list[int], SamplingParams]]:
    """Requests whose prompts share beginnings of several lengths, two of them equal."""
    rng = random.Random(4)
    common = [rng.randrange(64) for _ in range(40)]
    requests = {}
    for index in range(count):
        shared = rng.choice([0, 7, 16, 33, 40])
        prompt = common[:shared] + [rng.randrange(64) for _ in range(rng.randint(1, 12))]
        chosen = SamplingParams(**{"max_tokens": rng.randint(1, 14), "ignore_eos": True, "temperature": 0, **params})
        requests[f"r{index}"] = (prompt, chosen)
    requests["twin"] = requests["r0"]
    return requests


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "seeded"])
def test_output_is_the_same_with_and_without(tiny_engine: MakeEngine, serve: Serve, params: dict[str, Any]) -> None:
    requests = shared_prompts(16, **params)
    expected = serve(tiny_engine(prefix_cache=False), requests)
    engine = tiny_engine(max_num_seqs=4, max_num_batched_tokens=24)
    assert serve(engine, requests) == expected
    assert serve(engine, requests) == expected  # and once more, from a warm cache
    stats = engine.stats()
    assert 0 < stats.num_cache_hit_tokens < stats.num_cache_queried_tokens
    assert stats.num_computed_tokens < stats.num_prompt_tokens + stats.num_generated_tokens


@pytest.mark.parametrize("eviction", POLICIES)
def test_a_crowded_cache_changes_no_output(tiny_engine: MakeEngine, serve: Serve, eviction: str) -> None:
    requests = shared_prompts(16)
    expected = serve(tiny_engine(prefix_cache=False), requests)
    engine = tiny_engine(num_blocks=24, max_model_len=80, max_num_batched_tokens=64, eviction=eviction)
    assert serve(engine, requests) == expected
    assert serve(engine, requests) == expected
    assert engine.stats().num_evicted_blocks > 0
    assert engine.stats().num_preemptions > 0


def test_cached_tokens_are_reported(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine()
    prompt = list(range(18))
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)

    def cached(name: str, prompt: list[int]) -> set[int]:
        engine.add_request(name, prompt, params)
        seen = set()
        while engine.has_work():
            seen |= {output.num_cached_tokens for output in engine.step()}
        return seen

    assert cached("cold", prompt) == {0}
    assert cached("warm", prompt) == {16}
    # A prompt of whole blocks leaves its last one to be computed: somebody has to bring the logits.
    assert cached("whole blocks", prompt[:16]) == {12}
    assert cached("other beginning", [5, *prompt[1:]]) == {0}
    # The answer is cached as the prompt is: 18 + 3 tokens, of which the last was never computed.
    assert cached("one block", prompt[:7]) == {4}
    assert engine.stats().num_cache_hit_tokens == 16 + 12 + 4


def test_a_conversation_finds_its_own_answer(tiny_engine: MakeEngine, serve: Serve) -> None:
    engine = tiny_engine()
    params = SamplingParams(max_tokens=11, temperature=0, ignore_eos=True)
    answer = serve(engine, {"turn 1": ([1, 2, 3, 4, 5], params)})["turn 1"]
    engine.add_request("turn 2", [1, 2, 3, 4, 5, *answer, 9, 9], params)
    (output,) = engine.step()
    assert output.num_cached_tokens == 12  # of 15 computed ones: whole blocks only


def test_preemption_does_not_count_as_a_hit(tiny_engine: MakeEngine, serve: Serve) -> None:
    engine = tiny_engine(num_blocks=14, max_model_len=48, max_num_batched_tokens=64)
    rng = random.Random(1)
    params = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)
    serve(engine, {f"r{i}": ([rng.randrange(64) for _ in range(12)], params) for i in range(6)})
    assert engine.stats().num_preemptions > 0
    assert engine.stats().num_cache_hit_tokens == 0


@pytest.mark.parametrize("max_num_batched_tokens", [16, 64])
def test_what_arrives_together_is_computed_once(
    tiny_engine: MakeEngine, serve: Serve, max_num_batched_tokens: int
) -> None:
    engine = tiny_engine(max_num_seqs=8, max_num_batched_tokens=max_num_batched_tokens)
    prompt = [token % 64 for token in range(40)]
    params = SamplingParams(max_tokens=2, temperature=1.0, ignore_eos=True)
    serve(engine, {f"r{index}": ([*prompt, index], params) for index in range(6)})
    # 41 tokens once, one more of each other prompt; and each answer's first token, from which its second is chosen.
    assert engine.stats().num_computed_tokens == 41 + 5 + 6


def test_who_waits_for_a_beginning_goes_on_when_it_is_given_up(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine(max_num_seqs=4, max_num_batched_tokens=8)
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
    for name in "ab":
        engine.add_request(name, [3] * 40, params)
    engine.step()
    engine.abort("a")
    engine.check_integrity()
    tokens = []
    while engine.has_work():
        tokens += [token for output in engine.step() for token in output.new_token_ids]
    assert len(tokens) == 2
    assert engine.stats().num_cache_hit_tokens == 8  # what the other one had computed


class Reader:
    """Sequences that come and go over one pool, as a scheduler would have them."""

    def __init__(self, num_blocks: int, policy: str) -> None:
        self.tables = BlockTables(BlockPool(num_blocks, policy), BLOCK_SIZE, prefix_cache=True)

    def open(self, tokens: list[int]) -> Sequence:
        sequence = Sequence(str(tokens), tokens, SamplingParams(), seed=0)
        assert self.tables.begin(sequence, num_spare=0)
        self.tables.commit(sequence, sequence.num_tokens)
        return sequence

    def read(self, tokens: list[int]) -> int:
        """How many of the tokens were cached; all of them are when it ends."""
        sequence = self.open(tokens)
        self.tables.release(sequence)
        assert sequence.num_cached_tokens is not None
        return sequence.num_cached_tokens


def prompt_of(letter: int) -> list[int]:
    return [letter] * (2 * BLOCK_SIZE + 1)


def test_lru_forgets_what_was_used_the_longest_ago() -> None:
    reader = Reader(9, "lru")  # two cached blocks each: four prompts fit, and one block more
    for letter in (1, 2, 3, 1, 4, 5):
        reader.read(prompt_of(letter))
    assert [reader.read(prompt_of(letter)) for letter in (1, 5)] == [8, 8]
    assert reader.read(prompt_of(2)) == 0


def test_fifo_forgets_what_was_computed_the_longest_ago() -> None:
    reader = Reader(9, "fifo")
    for letter in (1, 2, 3, 1, 4, 5):
        reader.read(prompt_of(letter))
    assert [reader.read(prompt_of(letter)) for letter in (2, 5)] == [8, 8]
    assert reader.read(prompt_of(1)) == 0


def test_age_keeps_what_many_share_through_a_crowd_and_forgets_it_in_the_end() -> None:
    reader = Reader(9, "age")
    for _ in range(10):
        reader.read(prompt_of(1))
    for letter in range(2, 12):
        assert reader.read(prompt_of(letter)) == 0
    assert reader.read(prompt_of(1)) == 8
    # Each newcomer is used often enough, one after another, to raise the price of staying.
    for letter in range(20, 60):
        for _ in range(4):
            reader.read(prompt_of(letter))
    assert reader.read(prompt_of(1)) == 0


def test_the_end_of_a_prompt_is_evicted_before_its_beginning() -> None:
    for policy in POLICIES:
        reader = Reader(4, policy)
        reader.read(list(range(4 * BLOCK_SIZE)))
        reader.read([60] * BLOCK_SIZE)  # takes one block
        assert reader.read(list(range(4 * BLOCK_SIZE))) == 3 * BLOCK_SIZE, policy


@given(
    policy=st.sampled_from(sorted(POLICIES)),
    num_blocks=st.integers(6, 16),
    actions=st.lists(st.tuples(st.lists(st.integers(0, 1), min_size=1, max_size=24), st.booleans()), max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_what_is_found_was_computed_from_the_same_tokens(
    policy: str, num_blocks: int, actions: list[tuple[list[int], bool]]
) -> None:
    """A model of the memory: the tokens whose keys and values each block holds."""
    tables = BlockTables(BlockPool(num_blocks, policy), BLOCK_SIZE, prefix_cache=True)
    memory: dict[int, list[int]] = {}
    live: list[Sequence] = []
    for tokens, ends_first in actions:
        if ends_first and live:
            tables.release(live.pop(0))
        sequence = Sequence("s", tokens, SamplingParams(), seed=0)
        if not tables.begin(sequence, num_spare=0):
            assert sequence.block_table == []
            continue
        assert sequence.num_computed_tokens < len(tokens)
        shared = sequence.num_computed_tokens // BLOCK_SIZE
        for index, block_id in enumerate(sequence.block_table):
            prefix = tokens[: (index + 1) * BLOCK_SIZE]
            if index < shared:
                assert memory[block_id] == prefix
            else:  # written now, so nobody else may read it
                assert not any(block_id in other.block_table for other in live)
                memory[block_id] = prefix
        tables.commit(sequence, len(tokens))
        live.append(sequence)
        tables.check_integrity(live)
    for sequence in live:
        tables.release(sequence)
    tables.check_integrity([])
    assert tables.pool.num_free == num_blocks


def test_writing_to_a_shared_block_copies_it_first() -> None:
    tables = BlockTables(BlockPool(8), BLOCK_SIZE)
    parent, child = (Sequence(name, [1] * 6, SamplingParams(), seed=0) for name in "pc")
    assert tables.begin(parent, num_spare=0)
    tables.commit(parent, 6)
    tables.fork(parent, child)
    full, partial = parent.block_table
    assert child.block_table == [full, partial]
    for sequence in (child, parent):
        sequence.token_ids.append(2)
        assert tables.grow(sequence, 7)
        tables.check_integrity([parent, child])
    assert tables.take_copies() == ((partial, child.block_table[1]),)
    assert tables.take_copies() == ()
    assert parent.block_table == [full, partial]  # alone with it by then, it writes in place
    assert child.block_table[0] == full
    assert child.block_table[1] != partial


def test_no_copy_without_a_free_block() -> None:
    tables = BlockTables(BlockPool(2), BLOCK_SIZE)
    parent, child = (Sequence(name, [1] * 6, SamplingParams(), seed=0) for name in "pc")
    assert tables.begin(parent, num_spare=0)
    tables.commit(parent, 6)
    tables.fork(parent, child)
    assert not tables.grow(child, 7)
    assert child.block_table == parent.block_table
    assert tables.take_copies() == ()
    tables.release(parent)
    assert tables.grow(child, 7)
