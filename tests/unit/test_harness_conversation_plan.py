"""What a plan says of conversations, populations and sweeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmbench.engines.wire import (
    ChatMessage,
    DecodedAnswer,
    Endpoint,
    Failure,
    FailureKind,
    GenerationRequest,
    Timeline,
    TokenEvent,
    WireRequest,
)
from llmbench.harness.conversation import Conversations, continued
from llmbench.harness.plan import PlannedRequest, RunPlan, plan, trial_at
from llmbench.workloads.loader import loads

TRACE = Path(__file__).parents[1] / "data" / "traces" / "azure_2023.csv"
TALK = "{kind: conversations, turns: 3, prompt_tokens: 5, think_s: 0.5}"


class Letters:
    """A tokenizer for which each letter is a token, in place of one that takes a file."""

    vocab_size = 512

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        return [ord(letter) for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(map(chr, ids))


def laid_out(traffic: str, prompts: str = "{kind: synthetic, prompt_tokens: 12}", rest: str = "") -> RunPlan:
    spec = loads(f"name: t\nmodel: m\nengines: [a, b]\nprompts: {prompts}\ntraffic: {traffic}\n{rest}")
    return plan(spec, spec.engines, Letters(), "m")


def own_words(request: PlannedRequest) -> str:
    assert request.generation.prompt is not None
    return request.generation.prompt


def test_a_turn_follows_the_one_before_and_only_the_first_has_a_due_time() -> None:
    trial = laid_out("{requests: 8, arrivals: {kind: constant, rate: 2}}", TALK).trials[0]
    assert [request.due_offset_ns for request in trial.requests] == [
        0, None, None, 500_000_000, None, None, 1_000_000_000, None,
    ]  # fmt: skip
    ids = [request.request_id for request in trial.requests]
    assert [request.after for request in trial.requests] == [
        None, ids[0], ids[1], None, ids[3], ids[4], None, ids[6],
    ]  # fmt: skip
    assert {request.think_ns for request in trial.requests if request.after} == {500_000_000}
    assert all((request.prompt_tokens is None) == (request.after is not None) for request in trial.requests)
    assert all(request.after is None for request in trial.warmup)
    assert trial.scheduled_ns == 1_000_000_000


def test_a_closed_loop_of_conversations_leaves_all_due_times_to_its_slots() -> None:
    trial = laid_out("{requests: 6, arrivals: {kind: closed, concurrency: 2}}", TALK).trials[0]
    assert {request.due_offset_ns for request in trial.requests} == {None}
    assert [request.after is None for request in trial.requests] == [True, False, False] * 2
    assert trial.concurrency == 2


def test_the_populations_of_a_mix_are_in_the_plan() -> None:
    mix = (
        "{kind: mixed, populations: [{name: chat, weight: 3, prompts: " + TALK + "}, "
        "{name: rag, weight: 1, prompts: {kind: synthetic, prompt_tokens: 30}}]}"
    )
    trial, other = laid_out("{requests: 16, arrivals: {kind: poisson, rate: 2}}", mix).trials
    populations = [request.population for request in trial.requests]
    assert (populations.count("chat"), populations.count("rag")) == (12, 4)
    assert {request.population for request in laid_out("{requests: 4}").trials[0].requests} == {None}
    asked = [[(one.due_offset_ns, own_words(one), one.think_ns) for one in each.requests] for each in (trial, other)]
    assert asked[0] == asked[1], "every engine is asked the same"


def test_a_sweep_is_a_trial_per_engine_level_and_round() -> None:
    trials = laid_out(
        "{arrivals: {kind: poisson, rate: 1}, duration_s: 4, sweep: [2, 6], warmup_requests: 1}",
        rest="measure: {rounds: 2}",
    ).trials
    assert [(trial.round, trial.level, trial.engine.label, len(trial.requests)) for trial in trials] == [
        (0, "poisson 2/s", "a", 8),
        (0, "poisson 2/s", "b", 8),
        (0, "poisson 6/s", "b", 24),
        (0, "poisson 6/s", "a", 24),
        (1, "poisson 2/s", "a", 8),
        (1, "poisson 2/s", "b", 8),
        (1, "poisson 6/s", "b", 24),
        (1, "poisson 6/s", "a", 24),
    ]
    ids = [request.request_id for trial in trials for request in (*trial.requests, *trial.warmup)]
    assert len(set(ids)) == len(ids)


def test_no_level_of_a_sweep_measures_the_prefix_cache_that_another_filled() -> None:
    trials = laid_out("{arrivals: {kind: closed, concurrency: 1}, requests: 3, sweep: [1, 2, 4]}").trials
    by_level: dict[str, set[str]] = {}
    for trial in trials:
        by_level.setdefault(trial.level, set()).update(own_words(request)[:6] for request in trial.requests)
    assert {level: len(beginnings) for level, beginnings in by_level.items()} == {
        "closed 1": 3,
        "closed 2": 3,
        "closed 4": 3,
    }
    assert len(set.union(*by_level.values())) == 9


def test_a_trace_is_replayed_at_its_times_and_lengths() -> None:
    source = f"path: {TRACE}, layout: azure"
    [trial, _] = laid_out(
        f"{{requests: 5, arrivals: {{kind: trace, {source}, speed: 2}}}}", f"{{kind: trace, {source}}}"
    ).trials
    assert trial.level == "trace azure x2"
    rows = [line.split(",") for line in TRACE.read_text().splitlines()[1:6]]
    assert [(one.prompt_tokens, one.generation.max_tokens) for one in trial.requests] == [
        (int(prompt), int(output)) for _, prompt, output in rows
    ]
    assert trial.requests[1].due_offset_ns == pytest.approx((46.908009 - 46.68059) / 2 * 1e9, abs=2000)


@pytest.mark.parametrize(
    ("stages", "level"),
    [
        ("[{rate: 1, duration_s: 9}, {rate: 8, duration_s: 1}, {rate: 2, duration_s: 9}]", "stages 1-8-2/s"),
        ("[{rate: 1, end_rate: 8, duration_s: 9}, {rate: 8, duration_s: 1}]", "stages 1-8/s"),
        ("[" + ", ".join(f"{{rate: {rate}, duration_s: 1}}" for rate in range(1, 9)) + "]", "stages up to 8/s"),
    ],
)
def test_stages_are_named_by_their_rates(stages: str, level: str) -> None:
    assert laid_out(f"{{arrivals: {{kind: stages, stages: {stages}}}, requests: 3}}").trials[0].level == level


def test_trials_chosen_one_by_one_ask_nothing_twice() -> None:
    spec = loads("name: t\nmodel: m\nengines: [a, b]\ntraffic: {requests: 3, arrivals: {kind: poisson, rate: 2}}\n")
    tokenizer = Letters()
    first, again, other = (
        trial_at(spec, spec.engines[engine], tokenizer, "m", number=number, repeat=repeat)
        for engine, number, repeat in ((0, 0, 0), (0, 1, 1), (1, 1, 1))
    )
    ids = [request.request_id for trial in (first, again, other) for request in (*trial.requests, *trial.warmup)]
    assert len(set(ids)) == len(ids)
    asked = [[(one.due_offset_ns, one.generation.prompt) for one in trial.requests] for trial in (first, again, other)]
    assert asked[1] == asked[2], "all engines are asked the same"
    assert not {due for due, _ in asked[0]} & {due for due, _ in asked[1]}
    assert not {text for _, text in asked[0]} & {text for _, text in asked[1]}
    assert again.round == 1


# ------------------------------------------------------------------------------------------------- the words so far


def generation(**fields: object) -> GenerationRequest:
    return GenerationRequest(request_id="r", model="m", max_tokens=4, **fields)  # type: ignore[arg-type]


def test_a_chat_goes_on_behind_its_own_answers() -> None:
    first, second, third = (generation(messages=(ChatMessage("user", text),)) for text in ("one?", "two?", "three?"))
    asked = continued(third, continued(second, first, "ONE"), "TWO")
    assert [(message.role, message.content) for message in asked.messages or ()] == [
        ("user", "one?"),
        ("assistant", "ONE"),
        ("user", "two?"),
        ("assistant", "TWO"),
        ("user", "three?"),
    ]
    assert asked.prompt is None


def test_a_completion_goes_on_in_the_same_text() -> None:
    first, second = generation(prompt="one?"), generation(prompt="two?")
    asked = continued(second, first, " ONE")
    assert asked.prompt == "one? ONE\ntwo?"
    assert asked.prompt.startswith("one? ONE"), "what the engine has cached is still the beginning"


def encode(request: GenerationRequest) -> WireRequest:
    return WireRequest("http", Endpoint("h", 1), (request.prompt or "").encode())


def decode(request: GenerationRequest, timeline: Timeline) -> DecodedAnswer:
    text = b"".join(timeline.chunk_bytes).decode()
    failure = Failure(FailureKind.TRUNCATED, "cut") if text == "cut" else None
    return DecodedAnswer(events=(TokenEvent(0, 1, text),), failure=failure)


def answered(text: str, end_ns: int, failure: Failure | None = None) -> Timeline:
    return Timeline(due_ns=0, end_ns=end_ns, chunk_ns=[end_ns], chunk_bytes=[text.encode()], failure=failure)


def talk() -> tuple[Conversations, list[PlannedRequest]]:
    requests = list(laid_out("{requests: 4, arrivals: {kind: burst}}", TALK).trials[0].requests)
    return Conversations(requests, encode, decode), requests


def test_turns_are_sent_behind_the_real_answers_after_thinking() -> None:
    conversations, [first, second, third, alone] = talk()
    turn = conversations.follow(first.request_id, answered(" ONE", 10))
    assert turn is not None
    assert (turn.request_id, turn.due_ns) == (second.request_id, 500_000_010)
    assert turn.wire.payload.decode() == f"{own_words(first)} ONE\n{own_words(second)}"
    turn = conversations.follow(second.request_id, answered(" TWO", 20))
    assert turn is not None
    assert turn.request_id == third.request_id
    assert turn.wire.payload.decode().endswith(f" ONE\n{own_words(second)} TWO\n{own_words(third)}")
    for last in (third, alone):
        assert conversations.follow(last.request_id, answered("END", 30)) is None
        assert conversations.abandoned(last.request_id, answered("END", 30)) == []


@pytest.mark.parametrize(
    "failed", [answered("cut", 10), answered("", 10, Failure(FailureKind.IDLE_TIMEOUT, "late"))], ids=["answer", "wire"]
)
def test_turns_behind_a_failure_are_failures_and_not_lost(failed: Timeline) -> None:
    conversations, [first, second, third, _] = talk()
    assert conversations.follow(first.request_id, failed) is None
    rows = conversations.abandoned(first.request_id, failed)
    assert [request_id for request_id, _ in rows] == [second.request_id, third.request_id]
    for _, timeline in rows:
        assert (timeline.due_ns, timeline.sent_ns, timeline.end_ns) == (10, None, 10)
        assert timeline.failure is not None
        assert timeline.failure.kind is FailureKind.CANCELLED
