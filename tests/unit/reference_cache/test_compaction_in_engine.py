"""Compaction in a whole engine: the same answers, and less memory; and what cannot be compacted is refused."""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.cache import compaction as compaction_module
from llmbench.reference_engine.cache.lazy_memory import LazyMemory
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.model_runner import ModelRunner
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import StepPlan
from llmbench.reference_engine.speculative.draft_model import DraftModelProposer

MakeEngine = Callable[..., Engine]
Serve = Callable[..., dict[str, list[int]]]


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


def resident_mib(memory: torch.Tensor) -> float:
    """Asked of the kernel for these pages alone: the process takes and gives back others meanwhile."""
    pages = (ctypes.c_ubyte * -(-memory.nbytes // LazyMemory.PAGE_BYTES))()
    status = ctypes.CDLL(None).mincore(ctypes.c_void_p(memory.data_ptr()), ctypes.c_size_t(memory.nbytes), pages)
    assert status == 0
    return sum(page & 1 for page in pages) * LazyMemory.PAGE_BYTES / 2**20


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
    """A block is 1 MiB, and whole pages in each of its eight planes."""
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True)
    rng = random.Random(2)
    asked = {f"r{index}": ([rng.randrange(64) for _ in range(300)], params) for index in range(16)}
    common = {"model_path": wide_checkpoint, "kernels": "torch", "num_blocks": 400}
    expected = serve(Engine(EngineConfig(**common)), asked)
    engine = Engine(EngineConfig(**common, compaction="idle", num_kept_blocks=20))
    memory = engine._runner.kv_cache.data
    for _ in range(2):
        for name, (prompt, chosen) in asked.items():
            engine.add_request(name, prompt, chosen)
        tokens: dict[str, list[int]] = {name: [] for name in asked}
        while engine._sequences:
            for output in engine.step():
                tokens[output.request_id] += output.new_token_ids
        assert tokens == expected
        assert resident_mib(memory) >= 280
        while engine.has_work():
            engine.step()
        assert resident_mib(memory) <= engine.stats().num_resident_blocks <= 20
    engine.check_integrity()


def test_untouched_memory_takes_no_room_and_reads_as_zeros() -> None:
    memory = LazyMemory(64 * 2**20)
    numbers = memory.bytes
    assert resident_mib(numbers) == 0
    numbers.fill_(7)
    assert resident_mib(numbers) == 64
    memory.give_back(100, 48 * 2**20 + 5)
    assert resident_mib(numbers) == 16 + LazyMemory.PAGE_BYTES / 2**20
    assert int(numbers[:4096].min()) == int(numbers[48 * 2**20 :].min()) == 7  # the pages that others have a part in
    assert int(numbers[4096 : 48 * 2**20].max()) == 0
    memory.give_back(4097, 8190)  # no whole page
    numbers[4096 : 48 * 2**20] = 3
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
