"""Preempted blocks that come back from host memory, and blocks that a sliding window has left behind."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import RELEASED, BlockTables
from llmbench.reference_engine.cache.host_swap import HostSwap
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler
from llmbench.reference_engine.sequence import Sequence

MakeEngine = Callable[..., Engine]
Serve = Callable[..., dict[str, list[int]]]
BLOCK_SIZE = 4


def requests(count: int, **params: Any) -> dict[str, tuple[list[int], SamplingParams]]:
    rng = random.Random(3)
    chosen = {"max_tokens": 24, "ignore_eos": True, "temperature": 0, **params}
    return {
        f"r{index}": ([rng.randrange(64) for _ in range(rng.randint(4, 20))], SamplingParams(**chosen))
        for index in range(count)
    }


@pytest.mark.parametrize(
    "extra", [{}, {"num_swap_blocks": 9}, {"speculative": "ngram"}, {"prefix_cache": True}], ids=str
)
def test_swapping_changes_no_output_and_computes_nothing_twice(
    tiny_engine: MakeEngine, serve: Serve, extra: dict[str, Any]
) -> None:
    asked = requests(6)
    tight = {"num_blocks": 20, "max_model_len": 60, "max_num_batched_tokens": 64}
    engine = tiny_engine(preemption="swap", **{**tight, "prefix_cache": False, **extra})
    assert serve(engine, asked) == serve(tiny_engine(), asked)
    stats = engine.stats()
    assert stats.num_preemptions > 0
    assert stats.num_swapped_blocks > 0
    if "num_swap_blocks" in extra:
        assert 0 < stats.num_swapped_requests < stats.num_preemptions, "who found no room was computed again"
    else:
        assert stats.num_swapped_requests == stats.num_preemptions
    if not extra:
        # Every token once, but for each answer's last, which nobody reads.
        assert stats.num_computed_tokens == stats.num_prompt_tokens + stats.num_generated_tokens - len(asked)


@pytest.mark.parametrize("kv_cache_dtype", ["int8", "fp8"])
def test_quantised_blocks_are_swapped_shared_and_copied_as_others_are(
    tiny_engine: MakeEngine, serve: Serve, kv_cache_dtype: str
) -> None:
    asked = {name: ([7] * 9 + prompt, params) for name, (prompt, params) in requests(6).items()}
    tight = {"num_blocks": 20, "max_model_len": 60, "max_num_batched_tokens": 64}
    roomy = tiny_engine(prefix_cache=False, kv_cache_dtype=kv_cache_dtype)
    engine = tiny_engine(preemption="swap", kv_cache_dtype=kv_cache_dtype, **tight)
    assert serve(engine, asked) == serve(roomy, asked)
    assert engine.stats().num_swapped_blocks > 0
    assert engine.stats().num_cache_hit_tokens > 0
    answers = []
    for size in (4, 64):
        engine = tiny_engine(block_size=size, kv_cache_dtype=kv_cache_dtype)
        engine.add_request("beams", asked["r0"][0], BeamParams(width=3, max_tokens=12))
        while not (outputs := engine.step()):
            pass
        answers.append([beam.token_ids for beam in outputs[0].beams])
    assert answers[0] == answers[1]


def test_aborted_while_swapped_out_leaves_nothing_behind(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine(preemption="swap", num_blocks=20, max_model_len=60, max_num_batched_tokens=64)
    for name, (prompt, params) in requests(6).items():
        engine.add_request(name, prompt, params)
    while engine.stats().num_swapped_blocks == 0:
        engine.step()
    assert engine.stats().num_swap_blocks_used == engine.stats().num_swapped_blocks
    for name in requests(6):
        engine.abort(name)
        engine.check_integrity()
    assert not engine.has_work()
    assert engine.stats().num_blocks_used == engine.stats().num_swap_blocks_used == 0


def test_window_frees_what_is_out_of_sight_and_changes_no_output(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], serve: Serve
) -> None:
    pytest.importorskip("transformers")
    from transformers import MistralForCausalLM

    oracle = MistralForCausalLM.from_pretrained(tiny_checkpoint(window=10), dtype=torch.float32).eval()
    asked = requests(4, max_tokens=40)
    engine = tiny_engine(window=10, max_num_batched_tokens=32)
    tokens = serve(engine, asked)
    for name, (prompt, params) in asked.items():
        expected = oracle.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=params.max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens[name] == expected[0, len(prompt) :].tolist()
    for settings_ in ({"speculative": "ngram"}, {"preemption": "swap", "num_blocks": 18, "max_model_len": 64}):
        assert serve(tiny_engine(window=10, **settings_), asked) == tokens
    engine.add_request("long", [1] * 8, SamplingParams(max_tokens=100, temperature=0, ignore_eos=True))
    used = []
    while engine.has_work():
        engine.step()
        used.append(engine.stats().num_blocks_used)
    assert max(used) <= 4  # 10 tokens in sight lie in at most 4 blocks of 4


@given(
    window=st.none() | st.integers(1, 12),
    num_host_blocks=st.integers(0, 8),
    arrivals=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 12), st.integers(0, 3)), min_size=1, max_size=8),
    extra_blocks=st.integers(0, 6),
)
@settings(max_examples=120, deadline=None)
def test_contents_follow_their_sequences(
    window: int | None, num_host_blocks: int, arrivals: list[tuple[int, int, int]], extra_blocks: int
) -> None:
    """A model of both memories, (sequence, position) per slot: what a step's tokens may see is where the table says."""
    swap = HostSwap(num_host_blocks) if num_host_blocks else None
    tables = BlockTables(BlockPool(8 + extra_blocks), BLOCK_SIZE, window=window, swap=swap)
    scheduler = Scheduler(tables, 4, 16)
    memory: dict[int, list[object]] = {block_id: [None] * BLOCK_SIZE for block_id in range(8 + extra_blocks)}
    host: dict[int, list[object]] = {}
    todo = [(number, *arrival) for number, arrival in enumerate(arrivals)]
    for _ in range(1000):
        if todo:
            number, prompt, output, delay = todo[0]
            if delay == 0:
                params = SamplingParams(max_tokens=output, ignore_eos=True)
                scheduler.add(Sequence(str(number), [1] * prompt, params, seed=0))
                todo.pop(0)
            else:
                todo[0] = (number, prompt, output, delay - 1)
        elif not scheduler.has_work():
            break
        plan = scheduler.schedule()
        for source, target in plan.swap.out:
            host[target] = list(memory[source])
        for source, target in plan.swap.back:
            memory[target] = list(host[source])
        for sequence, start, num_tokens, _ in plan.chunks:
            for position in range(start, start + num_tokens):
                memory[sequence.block_table[position // BLOCK_SIZE]][position % BLOCK_SIZE] = (sequence, position)
        for sequence, start, num_tokens, _ in plan.chunks:
            oldest = 0 if window is None else max(0, start - window + 1)
            for position in range(oldest, start + num_tokens):
                block_id = sequence.block_table[position // BLOCK_SIZE]
                assert block_id != RELEASED
                assert memory[block_id][position % BLOCK_SIZE] == (sequence, position)
        scheduler.commit(plan)
        for chunk in plan.chunks:
            if chunk.samples:
                chunk.sequence.append(1, ())
                if chunk.sequence.finish_reason is not None:
                    scheduler.remove(chunk.sequence)
        scheduler.check_integrity()
    assert not scheduler.has_work()
    assert tables.pool.num_used == 0
    assert swap is None or swap.pool.num_used == 0


def test_swap_space_without_swapping_is_refused(tiny_checkpoint: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match='num_swap_blocks is the room for preemption = "swap"'):
        EngineConfig(model_path=tiny_checkpoint(), num_swap_blocks=4)
