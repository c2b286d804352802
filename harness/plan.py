"""A run laid out before anything is sent: pure and seeded, so the same workload gives the same plan in any process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmbench.engines.wire import ChatMessage, GenerationRequest
from llmbench.workloads.arrivals import Arrivals, arrival_offsets_ns
from llmbench.workloads.prompts import (
    PlannedPrompt,
    TextTokenizer,
    build_prompts,
    build_warmup_prompts,
    prompts_digest,
)
from llmbench.workloads.spec import EngineSpec, WorkloadSpec

# A level's name is a column of every table: more rates than this are summed up.
MAX_STAGES_NAMED = 6


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request to come. `request_id` is unique within the run and safe in an HTTP header.

    `due_offset_ns` counts from the trial's start; None means "when a slot is free" (closed loop).

    A later turn of a conversation has the id of the turn before in `after`: it is due `think_ns` after that answer's
    end, whatever the schedule, and its `generation` holds the turn's own words alone (`conversation.continued` puts
    the words and answers so far in front). `prompt_tokens` is None then, as nobody knows the answers beforehand.
    """

    request_id: str
    index: int
    due_offset_ns: int | None
    generation: GenerationRequest
    warmup: bool
    prompt_tokens: int | None
    population: str | None = None
    after: str | None = None
    think_ns: int = 0


@dataclass(frozen=True, slots=True)
class Trial:
    """One engine asked everything once, at one level of load.

    `concurrency` bounds the requests in flight; None leaves them unbounded. In a closed loop a conversation holds its
    slot from its first turn to the end of its last, think times included.
    """

    engine: EngineSpec
    level: str
    arrivals: Arrivals
    round: int
    requests: tuple[PlannedRequest, ...]
    warmup: tuple[PlannedRequest, ...]
    concurrency: int | None

    @property
    def scheduled_ns(self) -> int | None:
        """When the last scheduled request is due, from the trial's start; None for a closed loop.

        Later turns of conversations come on top.
        """
        due = [request.due_offset_ns for request in self.requests if request.due_offset_ns is not None]
        return max(due) if due else None


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Trials in the order they are run. `prompts_digest` is the sha256 of every prompt and length asked, in order."""

    trials: tuple[Trial, ...]
    prompts_digest: str

    @property
    def num_requests(self) -> int:
        return sum(len(trial.requests) for trial in self.trials)


def plan(
    spec: WorkloadSpec,
    engines: Sequence[EngineSpec],
    tokenizer: TextTokenizer | None,
    model_name: str,
) -> RunPlan:
    """Trials with rounds and levels interleaved A B, B A, A B, …, so that a drift of the machine meets all alike.

    Within a round and level each engine gets byte-identical prompts on the same schedule. Rounds and levels differ in
    the prompts' salt, rounds in the schedule too; levels have the same one, faster or slower, so that they differ in
    load and not in luck. `model_name` is what an engine is asked for unless it names its own.
    """
    slugs = _slugs([engine.label for engine in engines])
    levels = spec.traffic.levels()
    trials: list[Trial] = []
    asked: list[PlannedPrompt] = []
    for round_index in range(spec.measure.rounds):
        for level_index, traffic in enumerate(levels):
            at_level = spec.model_copy(update={"traffic": traffic})
            repetition = round_index * len(levels) + level_index
            questions = _Questions.of(at_level, tokenizer, repetition, round_index)
            asked += (*questions.warmup, *questions.measured)
            level_tag = f"-l{level_index}" if len(levels) > 1 else ""
            same_questions = [
                questions.trial(engine, f"{slug}-r{round_index}{level_tag}", engine.model or model_name)
                for engine, slug in zip(engines, slugs, strict=True)
            ]
            trials += same_questions if repetition % 2 == 0 else same_questions[::-1]
    return RunPlan(trials=tuple(trials), prompts_digest=prompts_digest(asked))


def trial_at(
    spec: WorkloadSpec, engine: EngineSpec, tokenizer: TextTokenizer | None, model_name: str, number: int, repeat: int
) -> Trial:
    """One trial of `spec` as it is, for who decides from trial to trial what to ask next.

    `number` tells apart all trials of the engine in a run, and their prompts; `repeat`, its round, those at one load
    level, and their schedules.
    """
    questions = _Questions.of(spec, tokenizer, number, repeat)
    labels = [each.label for each in spec.engines]
    slug = dict(zip(labels, _slugs(labels), strict=True))[engine.label]
    return questions.trial(engine, f"{slug}-t{number}", engine.model or model_name)


@dataclass(frozen=True, slots=True)
class _Questions:
    """What every engine is asked in one round at one level. `offsets_ns` has one entry per scheduled question."""

    spec: WorkloadSpec
    round_index: int
    measured: tuple[PlannedPrompt, ...]
    warmup: tuple[PlannedPrompt, ...]
    offsets_ns: tuple[int, ...] | None

    @classmethod
    def of(cls, spec: WorkloadSpec, tokenizer: TextTokenizer | None, repetition: int, round_index: int) -> _Questions:
        measured = build_prompts(spec, tokenizer, repetition)
        num_scheduled = sum(prompt.turn == 0 for prompt in measured)
        seed = _round_seed(spec.seeds.schedule, round_index)
        return cls(
            spec=spec,
            round_index=round_index,
            measured=measured,
            warmup=build_warmup_prompts(spec, tokenizer, repetition),
            offsets_ns=arrival_offsets_ns(spec.traffic.arrivals, num_scheduled, seed),
        )

    def trial(self, engine: EngineSpec, id_stem: str, model: str) -> Trial:
        requests: list[PlannedRequest] = []
        offsets = iter(self.offsets_ns or ())
        for prompt in self.measured:
            request = _request(f"{id_stem}-{prompt.index:05d}", prompt, self.spec, model)
            if prompt.turn > 0:
                request = replace(request, after=requests[-1].request_id, think_ns=prompt.think_ns)
            else:
                request = replace(request, due_offset_ns=next(offsets, None))
            requests.append(request)
        warmup = (
            _request(f"{id_stem}-warmup-{prompt.index:05d}", prompt, self.spec, model, warmup=True)
            for prompt in self.warmup
        )
        return Trial(
            engine=engine,
            level=level_name(self.spec),
            arrivals=self.spec.traffic.arrivals,
            round=self.round_index,
            requests=tuple(requests),
            warmup=tuple(warmup),
            concurrency=_concurrency(self.spec),
        )


def level_name(spec: WorkloadSpec) -> str:
    """The load level in a few words: `poisson 8/s`, `closed 4`, `ramp 1-16/s`, `stages 1-8-2/s`, `trace azure x2`."""
    arrivals = spec.traffic.arrivals
    match arrivals.kind:
        case "closed":
            return f"closed {arrivals.concurrency}"
        case "burst":
            return "burst"
        case "ramp":
            return f"ramp {arrivals.start_rate:g}-{arrivals.end_rate:g}/s"
        case "stages":
            rates = [rate for stage in arrivals.stages for rate in (stage.rate, stage.last_rate)]
            turns = [f"{rate:g}" for rate, before in zip(rates, [None, *rates], strict=False) if rate != before]
            return f"stages {'-'.join(turns) if len(turns) <= MAX_STAGES_NAMED else f'up to {max(rates):g}'}/s"
        case "trace":
            return f"trace {arrivals.layout} x{arrivals.speed:g}"
        case _:
            return f"{arrivals.kind} {arrivals.rate:g}/s"


def _request(
    request_id: str,
    prompt: PlannedPrompt,
    spec: WorkloadSpec,
    model: str,
    warmup: bool = False,
) -> PlannedRequest:
    request = spec.request
    messages = None
    if prompt.messages is not None:
        messages = tuple(ChatMessage(role=role, content=content) for role, content in prompt.messages)
    generation = GenerationRequest(
        request_id=request_id,
        model=model,
        max_tokens=prompt.max_tokens,
        prompt=prompt.prompt,
        messages=messages,
        stream=request.stream,
        ignore_eos=request.ignore_eos,
        token_ids=bool(request.token_ids),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        stop=tuple(request.stop),
    )
    return PlannedRequest(
        request_id=request_id,
        index=prompt.index,
        due_offset_ns=None,
        generation=generation,
        warmup=warmup,
        prompt_tokens=prompt.prompt_tokens,
        population=prompt.population,
    )


def _concurrency(spec: WorkloadSpec) -> int | None:
    arrivals, cap = spec.traffic.arrivals, spec.traffic.max_concurrency
    if arrivals.kind != "closed":
        return cap
    return arrivals.concurrency if cap is None else min(cap, arrivals.concurrency)


def _round_seed(seed: int, round_index: int) -> int:
    # Not seed + round: then round 1 of seed 0 would repeat round 0 of seed 1.
    return int(np.random.SeedSequence([seed, round_index]).generate_state(1)[0])


def _slugs(labels: Sequence[str]) -> list[str]:
    # Labels are free text; request ids travel in a header, so they keep only what every server and log accepts.
    slugs: list[str] = []
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-") or "engine"
        slug, number = stem, 2
        while slug in slugs:
            slug, number = f"{stem}-{number}", number + 1
        slugs.append(slug)
    return slugs
