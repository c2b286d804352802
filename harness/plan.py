"""A run laid out before anything is sent: pure and seeded, so the same workload gives the same plan in any process."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.engines.wire import ChatMessage, GenerationRequest
from llmbench.workloads.arrivals import arrival_offsets_ns
from llmbench.workloads.prompts import (
    PlannedPrompt,
    TextTokenizer,
    build_prompts,
    build_warmup_prompts,
    prompts_digest,
)
from llmbench.workloads.spec import EngineSpec, WorkloadSpec


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request to come. `request_id` is unique within the run and safe in an HTTP header.

    `due_offset_ns` counts from the trial's start; None means "when a slot is free" (closed loop).
    """

    request_id: str
    index: int
    due_offset_ns: int | None
    generation: GenerationRequest
    warmup: bool
    prompt_tokens: int | None


@dataclass(frozen=True, slots=True)
class Trial:
    """One engine asked everything once. `concurrency` bounds the requests in flight; None leaves them unbounded."""

    engine: EngineSpec
    level: str
    round: int
    requests: tuple[PlannedRequest, ...]
    warmup: tuple[PlannedRequest, ...]
    concurrency: int | None

    @property
    def scheduled_ns(self) -> int | None:
        """When the last request is due, from the trial's start; None for a closed loop."""
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
    spec: WorkloadSpec, engines: Sequence[EngineSpec], tokenizer: TextTokenizer | None, model_name: str
) -> RunPlan:
    """Trials with rounds interleaved A B, B A, A B, …, so that a drift of the machine meets every engine alike.

    Within a round each engine gets byte-identical prompts on the same schedule; rounds differ in both (the prompts by
    the workload's salt). `model_name` is what an engine is asked for unless it names its own.
    """
    slugs = _slugs([engine.label for engine in engines])
    by_round: list[list[Trial]] = []
    asked: list[PlannedPrompt] = []
    for round_index in range(spec.measure.rounds):
        measured = build_prompts(spec, tokenizer, round_index)
        warmup = build_warmup_prompts(spec, tokenizer, round_index)
        offsets = arrival_offsets_ns(
            spec.traffic.arrivals, len(measured), _round_seed(spec.seeds.schedule, round_index)
        )
        asked += (*warmup, *measured)
        trials = [
            Trial(
                engine=engine,
                level=level_name(spec),
                round=round_index,
                requests=tuple(
                    _request(
                        f"{slug}-r{round_index}-{prompt.index:05d}",
                        prompt,
                        None if offsets is None else offsets[position],
                        spec,
                        engine.model or model_name,
                    )
                    for position, prompt in enumerate(measured)
                ),
                warmup=tuple(
                    _request(
                        f"{slug}-r{round_index}-warmup-{prompt.index:05d}",
                        prompt,
                        None,
                        spec,
                        engine.model or model_name,
                        warmup=True,
                    )
                    for prompt in warmup
                ),
                concurrency=_concurrency(spec),
            )
            for engine, slug in zip(engines, slugs, strict=True)
        ]
        by_round.append(trials if round_index % 2 == 0 else trials[::-1])
    return RunPlan(
        trials=tuple(trial for trials in by_round for trial in trials),
        prompts_digest=prompts_digest(asked),
    )


def level_name(spec: WorkloadSpec) -> str:
    """The load level in a few words: `poisson 8/s`, `closed 4`, `ramp 1-16/s`, `burst`."""
    arrivals = spec.traffic.arrivals
    match arrivals.kind:
        case "closed":
            return f"closed {arrivals.concurrency}"
        case "burst":
            return "burst"
        case "ramp":
            return f"ramp {arrivals.start_rate:g}-{arrivals.end_rate:g}/s"
        case _:
            return f"{arrivals.kind} {arrivals.rate:g}/s"


def _request(
    request_id: str,
    prompt: PlannedPrompt,
    due_offset_ns: int | None,
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
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        stop=tuple(request.stop),
    )
    return PlannedRequest(
        request_id=request_id,
        index=prompt.index,
        due_offset_ns=due_offset_ns,
        generation=generation,
        warmup=warmup,
        prompt_tokens=prompt.prompt_tokens,
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
