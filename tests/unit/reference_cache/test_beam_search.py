"""Beam search against transformers', and what it leaves of the KV cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmbench.reference_engine.beam_search import BeamParams
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampling import SamplingParams

MakeEngine = Callable[..., Engine]
EOS = 7


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(8, 64) for _ in range(rng.randint(1, 20))] for _ in range(count)]


@pytest.mark.parametrize(
    ("params", "ends"),
    [
        (BeamParams(width=4, max_tokens=12, ignore_eos=True), None),
        (BeamParams(width=3, max_tokens=12), EOS),
        (BeamParams(width=5, max_tokens=9, length_penalty=0.3), EOS),
        (BeamParams(width=1, max_tokens=12, length_penalty=2.0), EOS),
    ],
    ids=["no end", "end", "short answers", "one beam"],
)
def test_answers_and_scores_are_those_of_transformers(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], params: BeamParams, ends: int | None
) -> None:
    from transformers import MistralForCausalLM

    oracle = MistralForCausalLM.from_pretrained(tiny_checkpoint(), dtype=torch.float32).eval()
    engine = tiny_engine(max_num_batched_tokens=32)
    engine.eos_token_ids = frozenset() if ends is None else frozenset([ends])
    for prompt in prompts(5):
        expected = oracle.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            num_beams=params.width,
            num_return_sequences=params.width,
            max_new_tokens=params.max_tokens,
            length_penalty=params.length_penalty,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_scores=True,
        )
        beams = engine.beam_search(prompt, params)
        answers = [row[len(prompt) :].tolist() for row in expected.sequences]
        assert [beam.token_ids for beam in beams] == [
            answer[: answer.index(ends) + 1] if ends in answer else answer for answer in answers
        ]
        if params.width > 1:  # with one beam transformers decodes greedily, and has no scores
            torch.testing.assert_close(torch.tensor([beam.score for beam in beams]), expected.sequences_scores)
        engine.check_integrity()
        assert engine.stats().num_blocks_used == 0


def test_beams_share_the_blocks_of_their_common_beginning(tiny_engine: MakeEngine) -> None:
    """Four beams of 40 + 8 tokens need 48 blocks of 4 without sharing; the prompt's ten exist once."""
    engine = tiny_engine(prefix_cache=False)
    pool, seen = engine._pool, []
    execute = engine._runner.execute
    engine._runner.execute = lambda plan: (seen.append(pool.num_used), execute(plan))[1]  # type: ignore[method-assign]
    engine.beam_search(list(range(8, 48)), BeamParams(width=4, max_tokens=8, ignore_eos=True))
    assert max(seen) <= 10 + 4 * 2


def test_search_beside_served_requests_changes_neither(tiny_engine: MakeEngine) -> None:
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    beam_params = BeamParams(width=3, max_tokens=6, ignore_eos=True)
    alone = tiny_engine()
    expected_beams = alone.beam_search([9, 9, 8, 7, 6], beam_params)
    alone.add_request("a", [9, 9, 8, 7, 5], params)
    expected = [token for _ in range(12) for output in alone.step() for token in output.new_token_ids]
    engine = tiny_engine()
    engine.add_request("a", [9, 9, 8, 7, 5], params)
    tokens = []
    for step in range(12):
        tokens += [token for output in engine.step() for token in output.new_token_ids]
        if step == 4:
            assert [beam.token_ids for beam in engine.beam_search([9, 9, 8, 7, 6], beam_params)] == [
                beam.token_ids for beam in expected_beams
            ]
    assert tokens == expected


def test_what_cannot_be_searched_is_refused(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine(num_blocks=10)
    with pytest.raises(RequestError, match="8 beams may need 33 KV blocks; 10 are free"):
        engine.beam_search([1], BeamParams(width=8, max_tokens=4))
    with pytest.raises(RequestError, match="width must be at least 1; 0 was given"):
        BeamParams(width=0, max_tokens=4)
    with pytest.raises(RequestError, match="The prompt is empty"):
        engine.beam_search([], BeamParams(width=1, max_tokens=4))
    assert engine.stats().num_blocks_used == 0
