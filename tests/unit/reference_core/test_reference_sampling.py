"""Sampled tokens against independent formulas, and their independence of the batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampler import TOP_P_CANDIDATES, sample, sample_rows, uniform
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sequence import Sequence


def reference_distribution(logits: np.ndarray, temperature: float, top_k: int | None, top_p: float) -> np.ndarray:
    """Probabilities in float64, one token after the other as the definitions read."""
    scaled = logits.astype(np.float64) / temperature
    probs = np.exp(scaled - scaled.max())
    order = np.argsort(-probs, kind="stable")
    kept = order[: top_k or len(order)]
    probs = probs / probs[kept].sum()
    result = np.zeros_like(probs)
    mass = 0.0
    for token in kept:
        result[token] = probs[token]
        mass += probs[token]
        if top_p < 1 and mass >= top_p:  # at 1 no token is left out, though rounding may reach 1 before the last
            break
    return result / result.sum()


def draw_many(logits: torch.Tensor, params: SamplingParams, n: int, seed: int = 5) -> torch.Tensor:
    uniforms = torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return sample_rows(logits.expand(n, -1), [params] * n, uniforms)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=0.5),
        SamplingParams(temperature=1.3, top_k=5),
        SamplingParams(temperature=1.0, top_p=0.7),
        SamplingParams(temperature=0.8, top_k=7, top_p=0.9),
    ],
    ids=str,
)
def test_frequencies_follow_the_distribution(params: SamplingParams) -> None:
    """Chi-square at p = 1e-6 with fixed seeds: for a right sampler 5e-6 over the five cases, then settled for good."""
    logits = torch.randn(24, generator=torch.Generator().manual_seed(3))
    expected = reference_distribution(logits.numpy(), params.temperature, params.top_k, params.top_p)
    n = 4000
    counts = np.bincount(draw_many(logits, params, n).numpy(), minlength=24)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    rare = possible & (expected * n < 5)  # chi-square wants 5 expected per cell: the rare ones count together
    observed, wanted = list(counts[possible & ~rare]), list(expected[possible & ~rare] * n)
    if rare.any():
        observed.append(counts[rare].sum())
        wanted.append(expected[rare].sum() * n)
    assert stats.chisquare(observed, np.array(wanted, np.float64) * sum(observed) / sum(wanted)).pvalue > 1e-6


@given(
    logits=st.lists(st.integers(-60, 60), min_size=2, max_size=40, unique=True),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    top_k=st.none() | st.integers(1, 45),
    top_p=st.sampled_from([0.05, 0.4, 0.9, 0.999, 1.0]),
    u=st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
@settings(max_examples=300, deadline=None)
def test_each_draw_is_in_the_reference_support(
    logits: list[int], temperature: float, top_k: int | None, top_p: float, u: float
) -> None:
    values = np.array(logits, dtype=np.float32) / 8
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    token = int(sample_rows(torch.tensor(values)[None], [params], torch.tensor([u], dtype=torch.float64))[0])
    # A mass within float32 rounding of top_p may fall on either side of the line.
    expected = reference_distribution(values, temperature, top_k, min(1.0, top_p + 1e-5))
    assert expected[token] > 0


def test_top_p_beyond_the_first_candidates_falls_back_to_all_tokens() -> None:
    vocab_size = 4 * TOP_P_CANDIDATES
    logits = torch.zeros(vocab_size)  # uniform: half the mass needs half of the vocabulary
    tokens = draw_many(logits, SamplingParams(top_p=0.5), 3000)
    assert TOP_P_CANDIDATES < len(tokens.unique()) <= vocab_size // 2


def test_uniforms_are_uniform_and_reproducible() -> None:
    """Kolmogorov-Smirnov at p = 1e-6, fixed seeds."""
    over_positions = [uniform(11, index) for index in range(3000)]
    over_seeds = [uniform(seed, 0) for seed in range(3000)]
    for numbers in (over_positions, over_seeds):
        assert all(0 <= number < 1 for number in numbers)
        assert stats.kstest(numbers, "uniform").pvalue > 1e-6
    assert abs(np.corrcoef(over_positions[:-1], over_positions[1:])[0, 1]) < 0.1  # 5 sigma is 0.091
    assert over_positions[17] == uniform(11, 17)


def make_row(seed: int, params: SamplingParams, num_output: int = 0) -> Sequence:
    sequence = Sequence(str(seed), [1, 2], params, seed)
    sequence.token_ids += [3] * num_output
    return sequence


def test_a_row_does_not_depend_on_its_batch() -> None:
    generator = torch.Generator().manual_seed(1)
    choices = [
        SamplingParams(temperature=0),
        SamplingParams(temperature=1.0),
        SamplingParams(temperature=1.5, top_k=9),
        SamplingParams(temperature=1.5, top_p=0.8),
        SamplingParams(temperature=0.7, top_k=40, top_p=0.95, logprobs=2),
    ]
    rows = [make_row(seed, choices[seed % 5], num_output=seed % 3) for seed in range(40)]
    logits = torch.randn(40, 1000, generator=generator) * 3
    together = sample(logits, rows, ())
    alone = [sample(logits[index : index + 1], [row], ())[0] for index, row in enumerate(rows)]
    assert [t.token_id for t in together] == [t.token_id for t in alone]
    backwards = sample(logits.flip(0), rows[::-1], ())[::-1]
    assert [t.token_id for t in together] == [t.token_id for t in backwards]


def test_tiny_temperature_is_greedy_and_finite() -> None:
    logits = torch.randn(1, 500, generator=torch.Generator().manual_seed(2)) * 1000
    for temperature in (0.0, 1e-30, 1e-5, 1e-4):
        token = sample(logits, [make_row(0, SamplingParams(temperature=temperature))], ())[0]
        assert token.token_id == int(logits.argmax())


def test_min_tokens_forbids_ending_until_reached() -> None:
    logits = torch.zeros(1, 6)
    logits[0, 2], logits[0, 4], logits[0, 5] = 9, 8, 7
    params = SamplingParams(temperature=0, max_tokens=9, min_tokens=2, stop_token_ids=(4,))
    before = logits.clone()
    assert sample(logits, [make_row(0, params, num_output=1)], {2})[0].token_id == 5
    assert torch.equal(logits, before)
    assert sample(logits, [make_row(0, params, num_output=2)], {2})[0].token_id == 2


def test_logprobs_are_of_the_unfiltered_distribution() -> None:
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]])
    params = SamplingParams(temperature=0, min_tokens=1, stop_token_ids=(2,), logprobs=2)
    token = sample(logits, [make_row(0, params)], ())[0]
    assert token.token_id == 1
    assert token.logprobs is not None
    assert token.logprobs.logprob == pytest.approx(math.log(2 / 8), abs=1e-6)
    assert [entry[0] for entry in token.logprobs.top] == [2, 1]
    assert token.logprobs.top[0][1] == pytest.approx(math.log(5 / 8), abs=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"temperature": -0.1}, "temperature must be a finite number"),
        ({"temperature": math.nan}, "temperature must be a finite number"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\]"),
        ({"top_p": math.nan}, r"top_p must lie in \(0, 1\]"),
        ({"min_tokens": 17}, r"min_tokens must lie in \[0, max_tokens = 16\]"),
        ({"logprobs": -1}, "logprobs must be at least 0"),
        ({"seed": 2**64}, "seed must fit 64 bits"),
    ],
)
def test_meaningless_parameters_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**values)


@pytest.mark.parametrize("temperature", [0, 0.7, 1e300])
@pytest.mark.parametrize("factor", [1e-87, 1e300])
def test_no_penalty_is_too_large_for_float32(temperature: float, factor: float) -> None:
    params = SamplingParams(temperature=temperature, repetition_penalty=factor)
    rows = [Sequence("a", [0, 1, 2], params, seed=seed) for seed in range(20)]
    tokens = sample(torch.tensor([[3.0, -2.0, 1.0, 0.5]]).repeat(20, 1), rows, ())
    # Divided or multiplied until the float's end, 0 and 2 are far above the others, and 1 below; or the reverse.
    likely = {0, 1, 2, 3} if temperature > 1 else {0, 2} if factor < 1 else {0, 2, 3}
    assert {token.token_id for token in tokens} <= likely


def test_a_row_without_a_token_to_choose_ends_no_engine() -> None:
    params = SamplingParams(min_tokens=1, stop_token_ids=(0, 1, 2))
    (token,) = sample(torch.tensor([[1.0, 2.0, 3.0]]), [Sequence("a", [0], params, seed=1)], ())
    assert token.token_id in (0, 1, 2)


def test_stop_tokens_named_twice_are_one() -> None:
    assert SamplingParams(stop_token_ids=[4, 4, 7] * 1000).stop_token_ids == {4, 7}
