"""Penalties and min-p against transformers' logits processors, and what they do to a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.logit_adjustments import Row, adjust
from llmbench.reference_engine.sampler import sample, sample_rows
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sequence import Sequence

transformers = pytest.importorskip("transformers")

VOCAB_SIZE = 40


def make_sequence(prompt: list[int], output: list[int], **params: Any) -> Sequence:
    sequence = Sequence("s", prompt, SamplingParams(**params), seed=0)
    sequence.token_ids += output
    return sequence


def random_logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


tokens = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=20)


@given(prompt=tokens.filter(bool), output=tokens, factor=st.sampled_from([0.5, 1.3, 4.0]))
@settings(max_examples=60, deadline=None)
def test_repetition_penalty_is_that_of_transformers(prompt: list[int], output: list[int], factor: float) -> None:
    logits = random_logits(1, VOCAB_SIZE)
    expected = transformers.RepetitionPenaltyLogitsProcessor(factor)(torch.tensor([prompt + output]), logits)
    before = logits.clone()
    got = adjust(logits, [Row(make_sequence(prompt, output, repetition_penalty=factor), ())], ())
    torch.testing.assert_close(got, expected)
    assert torch.equal(logits, before)


@given(output=tokens, presence=st.sampled_from([-2.0, 0.0, 0.7]), frequency=st.sampled_from([-1.0, 0.0, 0.3]))
@settings(max_examples=60, deadline=None)
def test_presence_and_frequency_follow_openai_s_formula(output: list[int], presence: float, frequency: float) -> None:
    """logit - count * frequency_penalty - (count > 0) * presence_penalty, over the output alone."""
    logits = random_logits(1, VOCAB_SIZE)
    sequence = make_sequence([1, 2, 3], output, presence_penalty=presence, frequency_penalty=frequency)
    expected = logits[0].numpy().copy()
    for token in range(VOCAB_SIZE):
        count = output.count(token)
        expected[token] -= count * frequency + (count > 0) * presence
    np.testing.assert_allclose(adjust(logits, [Row(sequence, ())], ())[0].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_bias_comes_before_penalties_and_leaves_other_rows_alone() -> None:
    logits = random_logits(2, VOCAB_SIZE)
    biased = make_sequence([5], [], logit_bias={5: 100.0, 7: -100.0}, repetition_penalty=2.0)
    got = adjust(logits, [Row(biased, ()), Row(make_sequence([5], []), ())], ())
    assert got[0, 5] == pytest.approx(float(logits[0, 5] + 100) / 2)
    assert got[0, 7] == pytest.approx(float(logits[0, 7] - 100))
    assert torch.equal(got[1], logits[1])


def test_drafts_count_as_output() -> None:
    """The row after some drafts is what it would be had they been generated: penalties, min_tokens and randomness."""
    params = {
        "max_tokens": 9,
        "frequency_penalty": 0.9,
        "presence_penalty": 0.5,
        "repetition_penalty": 1.2,
        "min_tokens": 4,
        "stop_token_ids": (3,),
    }
    drafts, logits = [8, 8, 3], random_logits(4, VOCAB_SIZE)
    logits[:, [3, 8]] += 20
    with_drafts = sample(logits, [make_sequence([1], [9], **params)], (), drafts=[drafts])
    one_by_one = [
        sample(logits[length : length + 1], [make_sequence([1], [9, *drafts[:length]], **params)], ())[0]
        for length in range(4)
    ]
    assert with_drafts == one_by_one


FILTERS = [
    {"min_p": 0.1},
    {"min_p": 0.02, "top_k": 6},
    {"min_p": 0.15, "top_p": 0.9},
    {"min_p": 0.02, "top_p": 0.6, "top_k": 9},
    {"min_p": 1.0},
]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_min_p_draws_from_transformers_distribution(filters: dict[str, Any]) -> None:
    """Chi-square at p = 1e-6 with fixed seeds: 5e-6 for a right sampler over the five cases, then settled for good."""
    logits = random_logits(1, VOCAB_SIZE, seed=6) / 2
    warped = logits.clone()
    for name, warper in (
        ("top_k", transformers.TopKLogitsWarper),
        ("top_p", transformers.TopPLogitsWarper),
        ("min_p", transformers.MinPLogitsWarper),
    ):
        if name in filters:
            warped = warper(filters[name])(torch.tensor([[0]]), warped)
    expected = warped.softmax(-1)[0].double().numpy()
    n = 4000
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    drawn = sample_rows(logits.expand(n, -1), [SamplingParams(**filters)] * n, uniforms)
    counts = np.bincount(drawn.numpy(), minlength=VOCAB_SIZE)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    rare = possible & (expected * n < 5)
    observed, wanted = list(counts[possible & ~rare]), list(expected[possible & ~rare] * n)
    if rare.any():
        observed.append(counts[rare].sum())
        wanted.append(expected[rare].sum() * n)
    if len(observed) > 1:
        assert stats.chisquare(observed, np.array(wanted, np.float64) * sum(observed) / sum(wanted)).pvalue > 1e-6


def test_min_p_over_a_vocabulary_larger_than_the_candidates() -> None:
    logits = torch.zeros(1, 3000)
    logits[0, 2000:] = -1  # e^-1 = 0.37 of the most probable
    uniforms = torch.rand(800, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for top_p, highest in ((1.0, 2000), (0.999, 2000)):
        drawn = sample_rows(logits.expand(800, -1), [SamplingParams(min_p=0.5, top_p=top_p)] * 800, uniforms)
        assert highest - 100 < int(drawn.max()) < highest


def test_a_request_feels_its_penalties(
    tiny_engine: Callable[..., Engine], serve: Callable[..., dict[str, list[int]]]
) -> None:
    def run(**params: Any) -> list[int]:
        chosen = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True, **params)
        return serve(tiny_engine(), {"a": ([1, 2, 3, 1, 2, 3], chosen)})["a"]

    plain = run()
    assert len(set(run(presence_penalty=2.0, frequency_penalty=2.0, repetition_penalty=5.0))) > len(set(plain))
    assert set(run(logit_bias={11: 100.0})) == {11}
    assert plain[0] not in run(logit_bias={plain[0]: -100.0})


def test_a_bias_outside_the_vocabulary_is_refused(tiny_engine: Callable[..., Engine]) -> None:
    with pytest.raises(RequestError, match="Token id 64 is outside the vocabulary of 64 tokens"):
        tiny_engine().add_request("a", [1], SamplingParams(logit_bias={64: 1.0}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_p": 1.1}, r"min_p must lie in \[0, 1\]; 1.1 was given"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be a finite number above 0"),
        ({"presence_penalty": 2.5}, r"presence_penalty must lie in \[-2, 2\]; 2.5 was given"),
        ({"frequency_penalty": float("nan")}, r"frequency_penalty must lie in \[-2, 2\]"),
        ({"logit_bias": {3: 101.0}}, r"logit_bias must lie in \[-100, 100\]; 101.0 was given for token 3"),
    ],
)
def test_meaningless_adjustments_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**values)


def test_what_a_request_changes_at_every_token_is_made_once() -> None:
    """There may be thousands of stop tokens and biases, and everybody's step waits for it."""
    sequence = make_sequence([5], [], logit_bias={5: 1.0}, min_tokens=9, max_tokens=9, stop_token_ids=(3,))
    logits = random_logits(1, VOCAB_SIZE)
    first = adjust(logits, [Row(sequence, ())], (7,))
    made = sequence.changes
    assert made is not None
    assert made.ending_token_ids.tolist() == [3, 7]
    assert torch.equal(adjust(logits, [Row(sequence, ())], (7,)), first)
    assert sequence.changes is made
