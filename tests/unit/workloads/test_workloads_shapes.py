"""Load shapes beyond one rate: stages, durations, sweeps, conversations and mixed populations."""

from __future__ import annotations

from collections import Counter
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmbench.workloads.arrivals import StagedArrivals, arrival_offsets_ns
from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import loads
from llmbench.workloads.prompts import SALT_TOKENS, build_prompts, build_warmup_prompts
from llmbench.workloads.sources.mixed import apportion
from llmbench.workloads.spec import TrafficSpec, WorkloadSpec
from llmbench.workloads.tokenizer import FileTokenizer


def staged(*stages: dict[str, float], spacing: str = "even") -> StagedArrivals:
    return StagedArrivals.model_validate({"kind": "stages", "stages": stages, "spacing": spacing})


def times_s(arrivals: StagedArrivals, num_requests: int, seed: int = 0) -> np.ndarray:
    offsets = arrival_offsets_ns(arrivals, num_requests, seed)
    assert offsets is not None
    return np.array(offsets) / 1e9


# ------------------------------------------------------------------------------------------------------------- stages


def test_steps_hold_their_rates() -> None:
    arrivals = staged({"rate": 2, "duration_s": 5}, {"rate": 10, "duration_s": 2}, {"rate": 1, "duration_s": 10})
    assert arrivals.expected_requests == 40
    times = times_s(arrivals, 40)
    assert [np.count_nonzero((start <= times) & (times < end)) for start, end in ((0, 5), (5, 7), (7, 17))] == [
        10,
        20,
        10,
    ]
    assert np.diff(times[:10]) == pytest.approx(0.5)
    assert np.diff(times[10:30]) == pytest.approx(0.1)


def test_a_stage_may_ramp_and_pause() -> None:
    arrivals = staged(
        {"rate": 0, "end_rate": 8, "duration_s": 5}, {"rate": 0, "duration_s": 3}, {"rate": 4, "duration_s": 5}
    )
    times = times_s(arrivals, arrivals.expected_requests)
    ramp = times[times <= 5]
    assert 0.8 * ramp**2 == pytest.approx(np.arange(len(ramp)), abs=1e-6)
    assert not np.any((times > 5 + 1e-9) & (times < 8))
    assert np.all(np.diff(times) >= 0)


def test_requests_beyond_the_stages_go_on_at_the_last_rate() -> None:
    times = times_s(staged({"rate": 5, "duration_s": 1}, {"rate": 2, "end_rate": 4, "duration_s": 2}), 31)
    assert times[-1] == pytest.approx(3 + (30 - 11) / 4)


def test_poisson_stages_are_poisson_in_each_stage() -> None:
    """Counts per stage over 200 seeds against their Poisson law. False-failure chance 6 × 1e-6."""
    arrivals = staged(
        {"rate": 2, "duration_s": 5}, {"rate": 30, "duration_s": 1}, {"rate": 5, "duration_s": 4}, spacing="poisson"
    )
    edges = [0, 5, 6, 10]
    counts = np.array([np.histogram(times_s(arrivals, 150, seed), bins=edges)[0] for seed in range(200)])
    for stage, mean in enumerate((10, 30, 20)):
        assert abs(counts[:, stage].mean() - mean) < stats.norm.ppf(1 - 5e-7) * np.sqrt(mean / 200)
        low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], 199) / 199
        assert low < counts[:, stage].var(ddof=1) / mean < high


@settings(max_examples=100, deadline=None)
@given(
    stages=st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.floats(0.01, 20)), min_size=1, max_size=5),
    spacing=st.sampled_from(["even", "poisson"]),
    num_requests=st.integers(1, 100),
)
def test_any_stages_ascend(stages: list[tuple[float, float, float]], spacing: str, num_requests: int) -> None:
    fields = [{"rate": rate, "end_rate": end, "duration_s": duration} for rate, end, duration in stages]
    arrivals = staged(*fields, {"rate": 1, "duration_s": 1}, spacing=spacing)
    times = times_s(arrivals, num_requests)
    assert times[0] >= 0
    assert np.all(np.diff(times) >= 0)
    assert np.all(np.isfinite(times))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[]", "4:5: field 'traffic.arrivals.stages': given [], allowed: a list […] with at least one entry"),
        ("[{rate: 1}]", "field 'traffic.arrivals.stages.0.duration_s': this field is required"),
        ("[{rate: -1, duration_s: 1}]", "field 'traffic.arrivals.stages.0.rate': given -1, allowed: a number from 0"),
        ("[{rate: 0.1, duration_s: 1}]", "field 'traffic.arrivals.stages': the stages hold less than one request"),
        ("[{rate: 5, end_rate: 0, duration_s: 1}]", "stages.0': the last stage must end at a rate above 0"),
        ("[{rate: 1e6, duration_s: 1e6}]", "the stages hold 1000000000000 requests, allowed: at most 1000000"),
        (
            "[{rate: 1, duration: 1}]",
            "field 'traffic.arrivals.stages.0.duration': unknown field; did you mean 'duration_s'",
        ),
    ],
)
def test_stages_that_cannot_be_are_refused(stages: str, message: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        loads(f"name: t\nmodel: m\ntraffic: {{arrivals: {{kind: stages, stages:\n    {stages}}}}}\n", "w.yaml")
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------- how many, and which levels


def traffic(text: str) -> TrafficSpec:
    return loads(f"name: t\nmodel: m\ntraffic: {text}\n", "w.yaml").traffic


def test_requests_follow_from_the_duration_or_the_stages_where_they_are_left_out() -> None:
    assert traffic("{}").requests == 64
    assert traffic("{arrivals: {kind: poisson, rate: 2.5}, duration_s: 30}").requests == 75
    assert traffic("{arrivals: {kind: constant, rate: 0.001}, duration_s: 30}").requests == 1
    stages = "{kind: stages, stages: [{rate: 3, duration_s: 4}, {rate: 1, duration_s: 4.5}]}"
    assert traffic(f"{{arrivals: {stages}}}").requests == 16
    assert traffic(f"{{arrivals: {stages}, requests: 5}}").requests == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "{arrivals: {kind: poisson, rate: 2}, duration_s: 30, requests: 5}",
            "w.yaml:3:73: field 'traffic.requests': given 5, and duration_s makes it 60; leave one of the two out",
        ),
        (
            "{duration_s: 30}",
            "field 'traffic.duration_s': arrivals of kind closed have no rate; give `requests` instead",
        ),
        ("{sweep: [1, 2.5]}", "field 'traffic.sweep.1': given 2.5, allowed for a closed loop: a whole number from 1"),
        ("{sweep: [4, 8, 4]}", "w.yaml:3:25: field 'traffic.sweep.2': the level 4 is given twice"),
        ("{sweep: []}", "field 'traffic.sweep': given [], allowed: a list […] with at least one entry"),
        ("{sweep: [0]}", "field 'traffic.sweep.0': given 0, allowed: a number > 0"),
        (
            "{arrivals: {kind: burst}, sweep: [1]}",
            "arrivals of kind burst cannot be swept, allowed: closed, constant, ",
        ),
    ],
)
def test_durations_and_sweeps_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(WorkloadError) as caught:
        traffic(text)
    assert message in str(caught.value)


def test_a_sweep_is_one_traffic_per_level() -> None:
    [slow, fast] = traffic("{arrivals: {kind: gamma, rate: 1, shape: 2}, duration_s: 20, sweep: [2, 8]}").levels()
    assert [(level.arrivals.model_dump(), level.requests, level.sweep) for level in (slow, fast)] == [
        ({"kind": "gamma", "rate": 2.0, "shape": 2.0}, 40, None),
        ({"kind": "gamma", "rate": 8.0, "shape": 2.0}, 160, None),
    ]
    closed = traffic("{arrivals: {kind: closed, concurrency: 1}, requests: 9, sweep: [1, 16]}").levels()
    assert [(level.arrivals.model_dump()["concurrency"], level.requests) for level in closed] == [(1, 9), (16, 9)]
    alone = traffic("{requests: 9}")
    assert alone.levels() == (alone,)


def test_the_same_luck_at_every_level() -> None:
    """A level's schedule is another's, faster: levels differ in load and not in what was drawn."""
    slow, fast = traffic("{arrivals: {kind: poisson, rate: 1}, requests: 50, sweep: [2, 8]}").levels()
    offsets = [arrival_offsets_ns(level.arrivals, 50, 3) for level in (slow, fast)]
    assert np.array(offsets[0]) == pytest.approx(np.array(offsets[1]) * 4, abs=4)


# -------------------------------------------------------------------------------------------------------- conversations


def spec(prompts: dict[str, Any], requests: int = 12, **changes: Any) -> WorkloadSpec:
    fields = {"name": "t", "model": "m", "prompts": prompts, "traffic": {"requests": requests, "warmup_requests": 3}}
    return WorkloadSpec.model_validate(fields | changes)


TALK = {
    "kind": "conversations",
    "turns": {"kind": "uniform", "min": 1, "max": 5},
    "prompt_tokens": {"kind": "uniform", "min": 4, "max": 20},
    "output_tokens": 7,
    "think_s": {"kind": "exponential", "mean": 2.0},
}


@pytest.mark.parametrize("api", ["chat", "completions"])
@pytest.mark.parametrize("requests", [1, 2, 12, 31])
def test_turns_follow_one_another_and_add_up_to_the_requests(tokenizer: FileTokenizer, api: str, requests: int) -> None:
    planned = build_prompts(spec(TALK, requests, request={"api": api}), tokenizer)
    assert [one.index for one in planned] == list(range(requests))
    by_conversation = [list(turns) for _, turns in groupby(planned, key=lambda one: one.conversation)]
    assert [turns[0].conversation for turns in by_conversation] == list(range(len(by_conversation)))
    for turns in by_conversation:
        assert [one.turn for one in turns] == list(range(len(turns)))
        assert len(turns) <= 5
        assert turns[0].prompt_tokens is not None
        assert (turns[0].think_ns, {one.prompt_tokens for one in turns[1:]} <= {None}) == (0, True)
        for one in turns:
            text = one.prompt if api == "completions" else one.messages[0][1] if one.messages else None
            assert text is not None
            special = 1 if one.turn == 0 and api == "completions" else 0
            assert 4 <= len(tokenizer.encode(text)) + special <= 20


def test_a_shared_beginning_comes_on_top_of_the_first_question(tokenizer: FileTokenizer) -> None:
    talk = {**TALK, "turns": 2, "prompt_tokens": 10, "shared_prefix": {"tokens": 40, "groups": 2}}
    planned = build_prompts(spec(talk, 12), tokenizer)
    firsts = [one for one in planned if one.turn == 0]
    assert [one.prompt_tokens for one in firsts] == [50] * 6
    heads = {(one.prefix_group, tuple(tokenizer.encode(one.prompt or "")[:40])) for one in firsts}
    assert len(heads) == 2


def test_thinking_takes_the_time_asked_for(tokenizer: FileTokenizer) -> None:
    """Exponential against scipy's law: false-failure chance 1e-6."""
    planned = build_prompts(spec({**TALK, "turns": 5, "prompt_tokens": 4}, 400), tokenizer)
    thought_s = [one.think_ns / 1e9 for one in planned if one.turn > 0]
    assert stats.kstest(thought_s, "expon", args=(0, 2.0)).pvalue > 1e-6
    fixed = build_prompts(spec({**TALK, "think_s": 0.25}), tokenizer)
    assert {one.think_ns for one in fixed if one.turn > 0} == {250_000_000}


def test_a_warm_up_converses_with_nobody(tokenizer: FileTokenizer) -> None:
    warmup = build_warmup_prompts(spec(TALK), tokenizer)
    assert [(one.turn, one.think_ns) for one in warmup] == [(0, 0)] * 3


def test_conversations_are_salted_by_their_first_turn(tokenizer: FileTokenizer) -> None:
    workload = spec({**TALK, "prompt_tokens": 20})
    first, second = (build_prompts(workload, tokenizer, index) for index in range(2))
    for one, other in zip(first, second, strict=True):
        if one.turn:
            assert one == other
        else:
            ids, other_ids = (tokenizer.encode(planned.prompt or "") for planned in (one, other))
            assert ids[:SALT_TOKENS] != other_ids[:SALT_TOKENS]
            assert ids[SALT_TOKENS:] == other_ids[SALT_TOKENS:]


# -------------------------------------------------------------------------------------------------- mixed populations

MIX = {
    "kind": "mixed",
    "populations": [
        {"name": "chat", "weight": 70, "prompts": TALK},
        {"name": "rag", "weight": 20, "prompts": {"kind": "synthetic", "prompt_tokens": 60, "output_tokens": 3}},
        {"name": "batch", "weight": 10, "prompts": {"kind": "synthetic", "prompt_tokens": 30, "output_tokens": 9}},
    ],
}


def test_populations_have_their_shares_in_random_order(tokenizer: FileTokenizer) -> None:
    planned = build_prompts(spec(MIX, 40), tokenizer)
    assert [one.index for one in planned] == list(range(40))
    assert Counter(one.population for one in planned) == {"chat": 28, "rag": 8, "batch": 4}
    assert {one.max_tokens for one in planned if one.population == "rag"} == {3}
    assert {one.prompt_tokens for one in planned if one.population == "batch"} == {30}
    order = [one.population for one in planned]
    assert order != sorted(order, key=order.index), "populations take turns"


def test_turns_stay_together_in_a_mix(tokenizer: FileTokenizer) -> None:
    planned = build_prompts(spec(MIX, 40), tokenizer)
    for before, one in pairwise(planned):
        if one.turn > 0:
            assert (before.conversation, before.turn, before.population) == (one.conversation, one.turn - 1, "chat")
    started = [one.conversation for one in planned if one.conversation is not None and one.turn == 0]
    assert len(set(started)) == len(started)


def test_a_population_does_not_repeat_another_s_words(tokenizer: FileTokenizer) -> None:
    same = {"kind": "synthetic", "prompt_tokens": 30}
    populations = [{"name": name, "weight": 1, "prompts": same} for name in ("a", "b")]
    planned = build_prompts(spec({"kind": "mixed", "populations": populations}, 10), tokenizer)
    assert len({one.prompt for one in planned}) == 10
    beginnings = {tuple(tokenizer.encode(one.prompt or "")[:SALT_TOKENS]) for one in planned}
    assert len(beginnings) == 10


@given(total=st.integers(0, 1000), weights=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=8))
def test_shares_add_up_and_are_exact_to_one(total: int, weights: list[float]) -> None:
    shares = apportion(total, weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1 + 1e-6


def test_a_population_of_two_names_or_of_a_mix_is_refused() -> None:
    with pytest.raises(WorkloadError, match=r"field 'prompts.populations.1.name': a second population is called 'a'"):
        loads(
            "name: t\nmodel: m\nprompts: {kind: mixed, populations: [{name: a, weight: 1, prompts: {kind: synthetic}}, "
            "{name: a, weight: 1, prompts: {kind: synthetic}}]}"
        )
    with pytest.raises(
        WorkloadError, match=r"prompts.populations.0.prompts.kind': given 'mixed'.*allowed: conversations"
    ):
        loads("name: t\nmodel: m\nprompts: {kind: mixed, populations: [{name: a, weight: 1, prompts: {kind: mixed}}]}")


def test_a_typo_deep_in_a_mix_is_named() -> None:
    with pytest.raises(WorkloadError) as caught:
        loads(
            "name: t\nmodel: m\nprompts:\n  kind: mixed\n  populations:\n  - name: a\n    weight: 1\n"
            "    prompts: {kind: conversations, turn: 3}\n",
            "w.yaml",
        )
    said = str(caught.value)
    assert "w.yaml:8:36: field 'prompts.populations.0.prompts.turn': unknown field; did you mean 'turns'?" in said
