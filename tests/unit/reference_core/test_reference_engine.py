"""What a user of the engine sees: the same tokens however requests are batched, chunked, preempted or disturbed."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.cache.kv_cache import KVCache
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError, RequestError
from llmbench.reference_engine.models.loader import read_model_config
from llmbench.reference_engine.sampling import SamplingParams

MakeEngine = Callable[..., Engine]
Drain = Callable[[Engine], dict[str, list[int]]]
GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


def mixed_requests(count: int, **settings: Any) -> dict[str, tuple[list[int], SamplingParams]]:
    """Prompts of 1 to 60 tokens, outputs of 1 to 24, some sharing their beginnings."""
    rng = random.Random(8)
    common = [rng.randrange(320) for _ in range(60)]
    requests = {}
    for index in range(count):
        length = rng.randint(1, 60)
        own = [rng.randrange(320) for _ in range(length)]
        prompt = common[: length // 2] + own[length // 2 :] if index % 3 == 0 else own
        params = SamplingParams(**{"max_tokens": rng.randint(1, 24), "ignore_eos": True, "temperature": 0, **settings})
        requests[f"r{index}"] = (prompt, params)
    return requests


def run(engine: Engine, drain: Drain, requests: dict[str, tuple[list[int], SamplingParams]]) -> dict[str, list[int]]:
    for request_id, (prompt, params) in requests.items():
        engine.add_request(request_id, prompt, params)
    return drain(engine)


def run_alone(
    engine: Engine, drain: Drain, requests: dict[str, tuple[list[int], SamplingParams]]
) -> dict[str, list[int]]:
    return {name: run(engine, drain, {name: request})[name] for name, request in requests.items()}


def test_greedy_output_equals_transformers(
    make_engine: MakeEngine, checkpoint: Callable[[str], Path], drain: Drain
) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaForCausalLM

    oracle = LlamaForCausalLM.from_pretrained(checkpoint("gqa"), dtype=torch.float32).eval()
    requests = mixed_requests(6)
    tokens = run(make_engine(), drain, requests)
    for name, (prompt, params) in requests.items():
        expected = oracle.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=params.max_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens[name] == expected[0, len(prompt) :].tolist()


def test_32_mixed_requests_in_one_batch_equal_each_alone(make_engine: MakeEngine, drain: Drain) -> None:
    requests = mixed_requests(32)
    engine = make_engine(max_num_seqs=32, max_num_batched_tokens=96)
    together = run(engine, drain, requests)
    assert together == run_alone(engine, drain, requests)
    assert [len(tokens) for tokens in together.values()] == [params.max_tokens for _, params in requests.values()]


def test_sampled_output_depends_on_the_seed_alone(make_engine: MakeEngine, drain: Drain) -> None:
    requests = mixed_requests(12, temperature=1.0, top_k=40, top_p=0.95, seed=7)
    together = run(make_engine(max_num_batched_tokens=40), drain, requests)
    assert together == run_alone(make_engine(), drain, requests)
    other = {name: (prompt, SamplingParams(max_tokens=24, seed=8)) for name, (prompt, _) in requests.items()}
    assert run(make_engine(), drain, other) != together


def test_engine_seed_reproduces_requests_without_one(make_engine: MakeEngine, drain: Drain) -> None:
    requests = mixed_requests(4, temperature=1.0, max_tokens=20)
    first, again, other = (run(make_engine(seed=seed), drain, requests) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    twins = {name: ([1, 2, 3], SamplingParams(max_tokens=20, ignore_eos=True)) for name in ("a", "b")}
    tokens = run(make_engine(), drain, twins)
    assert tokens["a"] != tokens["b"]


def test_chunked_prefill_equals_unchunked(make_engine: MakeEngine, drain: Drain) -> None:
    requests = mixed_requests(8)
    whole = run(make_engine(max_num_batched_tokens=4096), drain, requests)
    assert run(make_engine(max_num_seqs=3, max_num_batched_tokens=5), drain, requests) == whole


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 3}], ids=["greedy", "seeded"])
def test_preemption_does_not_change_the_output(make_engine: MakeEngine, drain: Drain, settings: dict[str, Any]) -> None:
    requests = mixed_requests(10, max_tokens=24, **settings)
    tight = make_engine(num_blocks=26, max_model_len=100, max_num_batched_tokens=64)
    tokens = run(tight, drain, requests)
    assert tight.stats().num_preemptions > 3
    assert tokens == run(make_engine(), drain, requests)


@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_block_size_does_not_change_the_output(make_engine: MakeEngine, drain: Drain, block_size: int) -> None:
    requests = mixed_requests(5)
    assert run(make_engine(block_size=block_size), drain, requests) == run(make_engine(), drain, requests)


def test_bfloat16_serves(make_engine: MakeEngine, drain: Drain) -> None:
    requests = mixed_requests(5)
    tokens = run(make_engine(dtype="bfloat16"), drain, requests)
    assert [len(tokens[name]) for name in requests] == [params.max_tokens for _, params in requests.values()]


def test_random_arrivals_and_aborts_leave_the_others_alone(make_engine: MakeEngine, drain: Drain) -> None:
    requests = mixed_requests(24, max_tokens=16)
    expected = run(make_engine(), drain, requests)
    engine = make_engine(num_blocks=40, max_model_len=100, max_num_seqs=6, max_num_batched_tokens=24)
    rng = random.Random(2)
    todo, tokens, aborted = list(requests.items()), {name: [] for name in requests}, set()
    while todo or engine.has_work():
        while todo and rng.random() < 0.3:
            name, (prompt, params) = todo.pop()
            engine.add_request(name, prompt, params)
        if rng.random() < 0.1:
            name = rng.choice(list(requests))
            if engine.abort(name):
                aborted.add(name)
        for output in engine.step():
            assert output.request_id not in aborted
            tokens[output.request_id] += output.new_token_ids
        engine.check_integrity()
    assert 2 < len(aborted) < 20
    for name in requests:
        assert tokens[name] == expected[name][: len(tokens[name])]
        assert name in aborted or len(tokens[name]) == 16
    stats = engine.stats()
    assert stats.num_blocks_used == 0
    assert (stats.num_finished, stats.num_aborted) == (24 - len(aborted), len(aborted))


def test_end_of_sequence_and_stop_tokens_end_a_request(make_engine: MakeEngine, drain: Drain) -> None:
    engine = make_engine()
    prompt = [4, 9, 16, 25]
    full = run(engine, drain, {"a": (prompt, SamplingParams(max_tokens=12, temperature=0, ignore_eos=True))})["a"]
    third = next(token for token in full[2:] if token not in full[:2])
    cut = full[: full.index(third) + 1]

    def outputs(params: SamplingParams) -> tuple[list[int], str | None]:
        engine.add_request("x", prompt, params)
        seen: list[int] = []
        reason = None
        while engine.has_work():
            for output in engine.step():
                assert reason is None
                seen += output.new_token_ids
                reason = output.finish_reason
        return seen, reason

    base = {"max_tokens": 12, "temperature": 0}
    assert outputs(SamplingParams(**base, ignore_eos=True)) == (full, "length")
    assert outputs(SamplingParams(**base, ignore_eos=True, stop_token_ids=(third,))) == (cut, "stop")
    engine.eos_token_ids = frozenset([third])
    assert outputs(SamplingParams(**base)) == (cut, "stop")
    assert outputs(SamplingParams(**base, ignore_eos=True)) == (full, "length")
    held_off, _ = outputs(SamplingParams(**base, min_tokens=12))
    assert third not in held_off


def test_finish_from_outside_frees_the_blocks(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add_request("a", [1, 2, 3], GREEDY)
    engine.step()
    assert engine.stats().num_blocks_used > 0
    assert engine.finish("a", "stop")
    assert not engine.finish("a", "stop")
    assert not engine.abort("never")
    assert not engine.has_work()
    assert engine.step() == []
    stats = engine.stats()
    assert (stats.num_blocks_used, stats.num_finished, stats.num_aborted) == (0, 1, 0)
    engine.add_request("a", [1, 2, 3], GREEDY)  # the id is free again


def test_logprobs_come_with_each_token(make_engine: MakeEngine) -> None:
    engine = make_engine()
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, logprobs=3)
    engine.add_request("a", [5, 6], params)
    engine.add_request("b", [5, 6], GREEDY)
    while engine.has_work():
        for output in engine.step():
            if output.request_id == "b":
                assert output.logprobs is None
                continue
            assert output.logprobs is not None
            (entry,) = output.logprobs
            assert [entry.token_id] == output.new_token_ids
            assert entry.top[0] == (entry.token_id, entry.logprob)  # greedy: the chosen token is the best
            assert len(entry.top) == 3


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([], GREEDY, "prompt is empty"),
        ([1] * 250, GREEDY, "context length is 256 tokens; 250 prompt tokens and max_tokens = 8 make 258"),
        ([1, 320], GREEDY, "Token id 320 is outside the vocabulary of 320 tokens"),
        ([-1, 3], GREEDY, "Token id -1 is outside"),
        ([1], SamplingParams(stop_token_ids=(999,)), "Token id 999 is outside"),
    ],
)
def test_requests_that_cannot_be_served(
    make_engine: MakeEngine, prompt: list[int], params: SamplingParams, message: str
) -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.add_request("a", prompt, params)
    assert not engine.has_work()


def test_request_that_fills_the_context_and_the_cache_is_served(make_engine: MakeEngine, drain: Drain) -> None:
    engine = make_engine(num_blocks=16)
    assert engine.max_model_len == 64
    tokens = run(engine, drain, {"a": ([1] * 60, SamplingParams(max_tokens=4, ignore_eos=True))})
    assert len(tokens["a"]) == 4


def test_duplicate_request_id_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.add_request("a", [1], GREEDY)
    with pytest.raises(RequestError, match="'a' is already being served"):
        engine.add_request("a", [1], GREEDY)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block_size": 0}, "block_size must be at least 1; 0 was given"),
        ({"dtype": "float16"}, "dtype must be one of float32, bfloat16; 'float16' was given"),
        ({"num_blocks": 4, "kv_cache_gib": 1.0}, "give one of them, not both"),
        ({"kv_cache_gib": float("nan")}, "finite number above 0"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, r"\(32\) must be at least max_num_seqs \(64\)"),
    ],
)
def test_settings_that_no_model_could_run_with(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EngineConfig(model_path=Path("anywhere"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_model_len": 257}, "max_model_len is 257, but the model's is 256"),
        ({"max_model_len": 256, "num_blocks": 8}, "holds 8 blocks of 4 tokens, too few"),
        ({"kv_cache_gib": 1e-9}, "= 1e-09 is too small for one block of 4 tokens, which takes 1.9e-06 GiB"),
        ({"block_size": 10**9}, r"= 1 \(the default\) is too small .* 476.8 GiB; .* or a smaller block_size"),
        ({"block_size": 10**9, "max_model_len": 9}, "too small for one block of 1000000000 tokens"),
        (
            {"num_blocks": 10**10},
            "10000000000 blocks of 4 tokens take 19,073.5 GiB, .* smaller num_blocks or block_size",
        ),
        ({"kv_cache_gib": 1e9, "max_num_seqs": 10**9, "max_num_batched_tokens": 10**9}, "give a smaller kv_cache_gib"),
        (
            {"preemption": "swap", "num_swap_blocks": 10**10},
            "10000000000 of them for preemption = swap, .* num_swap_bl",
        ),
        ({"kernels": "cuda"}, "kernels must be one of auto, torch, cpp, triton; 'cuda' was given"),
    ],
)
def test_settings_that_this_model_cannot_run_with(
    make_engine: MakeEngine, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_engine(**settings)


@pytest.mark.parametrize("is_lazy", [False, sys.platform == "linux"])
def test_memory_that_the_system_refuses_is_a_sentence(checkpoint: Callable[[str], Path], is_lazy: bool) -> None:
    """Of a draft model, say, whose cache is planned with its target's sizes: beyond every address space."""
    model = read_model_config(checkpoint("gqa"))
    with pytest.raises(ConfigError, match=r"0 blocks of 4 tokens take 19,073,486\.3 GiB .* not to be had; .* num_"):
        KVCache(model, 10**13, 4, torch.float32, is_lazy=is_lazy)


def test_cache_size_follows_the_asked_memory(make_engine: MakeEngine) -> None:
    # 2 (k, v) × 2 layers × 2 heads × 16 × 4 bytes = 512 bytes per token, 2 KiB per block of 4
    assert make_engine(kv_cache_gib=1 / 2**10).config.num_blocks == 512
    # never more than max_num_seqs sequences of the full context can use
    assert make_engine(max_num_seqs=3).config.num_blocks == 3 * 64
