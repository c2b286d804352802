"""Beams, drafts, a window, cached beginnings, moved and too few blocks, aborts, all at once: no answer changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.sampling import SamplingParams

MakeEngine = Callable[..., Engine]
Request = tuple[list[int], SamplingParams | BeamParams, int]
NUM_SEEDS = 8


def draw_requests(rng: random.Random) -> dict[str, Request]:
    """Prompts with common beginnings; greedy, drawn and penalised answers, and beams."""
    common = [rng.randrange(8, 64) for _ in range(24)]
    phrase = [rng.randrange(8, 64) for _ in range(3)]
    requests: dict[str, Request] = {}
    for index in range(14):
        prompt = common[: rng.choice([0, 5, 8, 16, 24])] + phrase * rng.randint(0, 3)
        prompt += [rng.randrange(8, 64) for _ in range(rng.randint(1, 6))]
        length = rng.randint(1, 24)
        params: SamplingParams | BeamParams
        match rng.randrange(6):
            case 0:
                params = BeamParams(width=rng.randint(1, 3), max_tokens=min(length, 10), ignore_eos=True)
            case 1:
                params = SamplingParams(max_tokens=length, temperature=1.0, seed=index, ignore_eos=True, top_p=0.9)
            case 2:
                params = SamplingParams(
                    max_tokens=length, temperature=0.8, seed=index, repetition_penalty=1.2, frequency_penalty=0.2
                )
            case 3:
                params = SamplingParams(max_tokens=length, temperature=0, stop_token_ids=(rng.randrange(64),))
            case _:
                params = SamplingParams(max_tokens=length, temperature=0, ignore_eos=True)
        requests[f"r{index}"] = (prompt, params, rng.choice([0, 0, 0, -1, 3]))
    return requests


def draw_settings(rng: random.Random, drafts: list[Path]) -> dict[str, Any]:
    preemption = rng.choice(["recompute", "swap"])
    settings = {
        "num_blocks": rng.randint(19, 30),
        "max_model_len": 76,
        "max_num_seqs": rng.randint(3, 8),
        "max_num_batched_tokens": rng.choice([8, 16, 48]),
        "prefix_cache": rng.random() < 0.7,
        "eviction": rng.choice(["lru", "fifo", "age"]),
        "preemption": preemption,
        "num_swap_blocks": rng.choice([None, 6]) if preemption == "swap" else None,
        "batching": rng.choice(["continuous", "continuous", "static", "dynamic"]),
        "max_batch_delay_ms": 0.1,
        "step_order": rng.choice(["decode-first", "prefill-first"]),
        "speculative": rng.choice([None, "ngram", *drafts]),
        "speculative_max_seqs": rng.choice([None, 3]),
        "fairness": rng.choice(["fcfs", "vtc"]),
    }
    if rng.random() < 0.7:
        settings |= {"compaction": "idle", "num_kept_blocks": rng.randint(4, 9)}
    return settings


def alone(engine: Engine, requests: dict[str, Request]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    for name, (prompt, params, _) in requests.items():
        engine.add_request(name, prompt, params)
        tokens: list[int] = []
        while engine.has_work():
            for output in engine.step():
                tokens += output.new_token_ids
                if output.beams is not None:
                    answers[name] = [beam.token_ids for beam in output.beams]
        answers.setdefault(name, tokens)
    return answers


@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_no_combination_changes_an_answer(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], seed: int, window: int | None
) -> None:
    rng = random.Random(seed)
    requests = draw_requests(rng)
    settings = draw_settings(rng, [tiny_checkpoint(window=window), tiny_checkpoint(21)])
    expected = alone(tiny_engine(window=window, prefix_cache=False), requests)
    engine = tiny_engine(window=window, **settings)
    todo, answers, aborted = list(requests.items()), {name: [] for name in requests}, set()
    for _ in range(5_000):
        if not todo and not engine.has_work():
            break
        while todo and rng.random() < 0.3:
            name, (prompt, params, priority) = todo.pop(0)
            engine.add_request(name, prompt, params, priority, rng.choice([None, "ann", "bob"]))
        if rng.random() < 0.02 and engine.abort(name := rng.choice(list(requests))):
            aborted.add(name)
        for output in engine.step():
            assert output.request_id not in aborted
            if output.beams is not None:
                answers[output.request_id] = [beam.token_ids for beam in output.beams]
            else:
                answers[output.request_id] += output.new_token_ids
        engine.check_integrity()
    assert not engine.has_work()
    for name in requests:
        told = answers[name]
        assert told == (expected[name] if name not in aborted else expected[name][: len(told)]), (name, settings)
    assert engine.stats().num_blocks_used == 0
