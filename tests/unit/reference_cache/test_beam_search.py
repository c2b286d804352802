"""Beam search against transformers', and what it leaves of the KV cache."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmbench.reference_engine.beam_search import Beam, BeamGroup, BeamParams
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.models.bundled import bundled_folder
from llmbench.reference_engine.sampling import SamplingParams

BUNDLED = bundled_folder("bundled:python-target")
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
    pytest.importorskip("transformers")
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
        beams = search(engine, prompt, params)
        answers = [row[len(prompt) :].tolist() for row in expected.sequences]
        assert [beam.token_ids for beam in beams] == [
            answer[: answer.index(ends) + 1] if ends in answer else answer for answer in answers
        ]
        if params.width > 1:  # with one beam transformers decodes greedily, and has no scores
            torch.testing.assert_close(torch.tensor([beam.score for beam in beams]), expected.sequences_scores)
        engine.check_integrity()
        assert engine.stats().num_blocks_used == 0


@pytest.mark.parametrize(
    ("prompt", "width", "ends"),
    [
        ("def read(self", 4, {"stop": ("):",)}),
        ("    for name in", 3, {"stop": ("self", "\n")}),
        ("import os\nimport", 2, {"stop": ("s\nim",)}),
        ("    return", 3, {"stop_token_ids": (403, 203, 18)}),
    ],
)
def test_beams_end_at_stop_texts_and_stop_tokens_as_transformers_do(
    trained: tuple[Engine, Any, Any], prompt: str, width: int, ends: dict[str, Any]
) -> None:
    """Stop texts of several tokens too, and such as begin and end within tokens."""
    engine, oracle, tokenizer = trained
    params = BeamParams(width=width, max_tokens=12, ignore_eos=True, **ends)
    prompt_ids = tokenizer.encode(prompt)
    expected = oracle.generate(
        torch.tensor([prompt_ids]),
        attention_mask=torch.ones(1, len(prompt_ids), dtype=torch.long),
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=list(params.stop_token_ids) or None,
        stop_strings=list(params.stop) or None,
        tokenizer=tokenizer,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    beams = search(engine, prompt_ids, params)
    answers = [row[len(prompt_ids) :].tolist() for row in expected.sequences]
    assert [beam.token_ids for beam in beams] == [
        answer[: len(beam.token_ids)] for answer, beam in zip(answers, beams, strict=True)
    ]
    torch.testing.assert_close(torch.tensor([beam.score for beam in beams]), expected.sequences_scores)
    assert any(beam.finish_reason == "stop" for beam in beams)
    for beam in beams:
        before, whole = tokenizer.decode(beam.token_ids[:-1]), tokenizer.decode(beam.token_ids)
        has_ended = any(stop in whole for stop in params.stop) or beam.token_ids[-1] in params.stop_token_ids
        assert has_ended == (beam.finish_reason == "stop")
        assert not any(stop in before for stop in params.stop)
    assert engine.stats().num_blocks_used == 0


@pytest.fixture(scope="module")
def trained() -> tuple[Engine, Any, Any]:
    """The bundled model here and in transformers, and its tokenizer."""
    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    engine = Engine(EngineConfig(model_path=BUNDLED, kernels="torch", num_blocks=64))
    oracle = AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()
    return engine, oracle, AutoTokenizer.from_pretrained(BUNDLED)


def test_seats_stay_taken_while_stop_texts_leave_fewer_beams() -> None:
    """All but one of the best end at once: the others' seats are not given away, for the one branches again."""
    group = BeamGroup("a", [1], BeamParams(width=3, max_tokens=8), (), 0, has_stop=lambda tokens: tokens[-1] != 5)
    ((_, child),) = group.advance([[(5, -0.1), (2, -0.2), (3, -0.3), (4, -0.4), (6, -0.5), (7, -0.6)]])
    assert (child.token_ids, child.num_seats) == ([1, 5], 3)
    group._has_stop = lambda tokens: False
    children = [child for _, child in group.advance([[(2, -0.1), (3, -0.2), (4, -0.3), (5, -0.4)]])]
    assert [child.num_seats for child in children] == [1, 1, 1]


def test_beams_share_the_blocks_of_their_common_beginning(tiny_engine: MakeEngine) -> None:
    """Four beams of 40 + 8 tokens need 48 blocks of 4 without sharing; the prompt's ten exist once."""
    engine = tiny_engine(prefix_cache=False)
    pool, seen = engine._pool, []
    execute = engine._runner.execute
    engine._runner.execute = lambda plan: (seen.append(pool.num_used), execute(plan))[1]  # type: ignore[method-assign]
    search(engine, list(range(8, 48)), BeamParams(width=4, max_tokens=8, ignore_eos=True))
    assert 10 + 4 <= max(seen) <= 10 + 4 * 2


def test_beams_run_beside_other_requests_and_change_none(tiny_engine: MakeEngine) -> None:
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    beam_params = BeamParams(width=3, max_tokens=6, ignore_eos=True)
    alone = tiny_engine()
    expected_beams = search(alone, [9, 9, 8, 7, 6], beam_params)
    alone.add_request("a", [9, 9, 8, 7, 5], params)
    expected = [token for _ in range(12) for output in alone.step() for token in output.new_token_ids]
    engine = tiny_engine(max_num_seqs=4)
    engine.add_request("a", [9, 9, 8, 7, 5], params)
    tokens, beams, num_running = [], None, set()
    for step in range(12):
        if step == 4:
            engine.add_request("b", [9, 9, 8, 7, 6], beam_params)
        outputs = {output.request_id: output for output in engine.step()}
        tokens += outputs["a"].new_token_ids  # in every step: it never stands still
        beams = outputs["b"].beams if "b" in outputs else beams
        num_running.add(engine.stats().num_running)
        engine.check_integrity()
    assert tokens == expected
    assert [beam.token_ids for beam in beams] == [beam.token_ids for beam in expected_beams]
    assert max(num_running) == 4


@pytest.mark.parametrize(
    "settings", [{}, {"prefix_cache": False}, {"preemption": "swap"}, {"step_order": "prefill-first"}]
)
def test_preempted_beams_begin_again_and_end_the_same(tiny_engine: MakeEngine, settings: dict[str, Any]) -> None:
    """Few blocks: older requests take those of the beams, and beams those of younger ones."""
    asked = prompts(9)
    beam_params = BeamParams(width=3, max_tokens=10, ignore_eos=True)
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    roomy = tiny_engine()
    expected: dict[str, Any] = {str(index): search(roomy, asked[index], beam_params) for index in (2, 3, 6)}
    for index in (0, 1, 4, 5, 7, 8):
        expected[str(index)] = generate(roomy, asked[index], params)
    engine = tiny_engine(num_blocks=24, max_num_seqs=8, **settings)
    for index, prompt in enumerate(asked):
        engine.add_request(str(index), prompt, beam_params if index in (2, 3, 6) else params)
    found: dict[str, Any] = {str(index): [] for index in range(len(asked))}
    for _ in range(600):
        for output in engine.step():
            found[output.request_id] = output.beams or found[output.request_id] + output.new_token_ids
        engine.check_integrity()
        if not engine.has_work():
            break
    assert engine.stats().num_preemptions > 3
    for index in ("2", "3", "6"):
        assert [beam.token_ids for beam in found[index]] == [beam.token_ids for beam in expected[index]]
    assert {name: found[name] for name in "014578"} == {name: expected[name] for name in "014578"}
    assert engine.stats().num_blocks_used == 0


def test_seats_are_kept_for_the_beams_to_come(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine(max_num_seqs=4, max_num_batched_tokens=8)
    engine.add_request("beams", list(range(8, 40)), BeamParams(width=3, max_tokens=6, ignore_eos=True))
    for name in "abc":
        engine.add_request(name, [9], SamplingParams(max_tokens=30, ignore_eos=True))
    while engine.has_work():
        engine.step()
        assert engine.stats().num_running <= 4


def test_a_search_that_is_given_up_leaves_nothing(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine()
    engine.add_request("a", [9, 8, 7], BeamParams(width=3, max_tokens=50, ignore_eos=True))
    for _ in range(5):
        engine.step()
    assert engine.stats().num_running == 3
    assert engine.abort("a")
    assert not engine.has_work()
    assert engine.stats().num_blocks_used == 0
    engine.check_integrity()


def test_what_cannot_be_searched_is_refused(tiny_engine: MakeEngine) -> None:
    engine = tiny_engine(num_blocks=10, max_model_len=40, max_num_seqs=16)
    with pytest.raises(RequestError, match="8 beams may need 17 KV blocks; there are 10"):
        engine.add_request("a", [1], BeamParams(width=8, max_tokens=4))
    with pytest.raises(RequestError, match="17 beams take a seat each; the engine computes 16 sequences at once"):
        engine.add_request("a", [1], BeamParams(width=17, max_tokens=4))
    with pytest.raises(RequestError, match="width must be at least 1; 0 was given"):
        BeamParams(width=0, max_tokens=4)
    with pytest.raises(RequestError, match="The prompt is empty"):
        engine.add_request("a", [], BeamParams(width=1, max_tokens=4))
    assert not engine.has_work()


def search(engine: Engine, prompt: list[int], params: BeamParams) -> list[Beam]:
    engine.add_request("beams", prompt, params)
    while True:
        for output in engine.step():
            assert output.beams is not None
            return output.beams


def generate(engine: Engine, prompt: list[int], params: SamplingParams) -> list[int]:
    engine.add_request("tokens", prompt, params)
    tokens: list[int] = []
    while engine.has_work():
        tokens += [token for output in engine.step() for token in output.new_token_ids]
    return tokens


@pytest.mark.parametrize("length_penalty", [10.5, -11.0, 1e308, float("inf"), float("nan")])
def test_powers_of_a_length_that_are_no_numbers_are_refused(length_penalty: float) -> None:
    with pytest.raises(RequestError, match=r"length_penalty must lie in \[-10, 10\]"):
        BeamParams(width=2, max_tokens=4, length_penalty=length_penalty)


@pytest.mark.parametrize("length_penalty", [-10, 10])
def test_the_largest_length_penalties_rank_long_answers(length_penalty: float) -> None:
    params = BeamParams(width=2, max_tokens=40_000, length_penalty=length_penalty)
    group = BeamGroup("a", [1], params, (), 0)
    group._keep([3] * 40_000, -90_000.0, "length")
    group._keep([3], -1.0, "stop")
    first, second = group.answers()
    assert len(first.token_ids) == (40_000 if length_penalty > 0 else 1)
    assert first.score > second.score
