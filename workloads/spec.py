"""The workload schema: everything that is asked, on which engines, when, and what is measured."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, Strict, model_validator

from llmbench.workloads.arrivals import Arrivals, ClosedArrivals, StagedArrivals
from llmbench.workloads.base import MAX_REQUESTS, Count, CountOrZero, Flag, Frozen, Positive, Rate, Seed, Text, refuse
from llmbench.workloads.engine_spec import Engine, EngineSpec
from llmbench.workloads.prompt_specs import PromptsSpec, SyntheticPrompts
from llmbench.workloads.retry_spec import RetrySpec
from llmbench.workloads.truncation import Truncation, amount_of

__all__ = [
    "EngineSpec",
    "MeasureSpec",
    "PromptsSpec",
    "RequestSpec",
    "RetrySpec",
    "SeedSpec",
    "SloSpec",
    "TimeoutSpec",
    "TrafficSpec",
    "WorkloadSpec",
]


class SeedSpec(Frozen):
    """Prompts and schedule are random apart: one can be held while the other changes."""

    prompts: Seed = Field(default=0, description="Seed of lengths, contents and salts; default 0.")
    schedule: Seed = Field(default=0, description="Seed of the arrival process; default 0.")


class RequestSpec(Frozen):
    """How each question is put to an engine."""

    api: Literal["completions", "chat"] = Field(
        default="completions", description="`completions` sends the prompt as it is, `chat` as a user's message."
    )
    stream: Flag = Field(default=True, description="Ask for tokens as they come; default true.")
    ignore_eos: Flag = Field(
        default=True, description="Ask the engine to go on to the full answer length in any case; default true."
    )
    token_ids: Flag | None = Field(
        default=None,
        description="Ask for the ids of an answer's tokens, where the engine can tell them, so that answers are held "
        "against each other token by token; default null, no.",
    )
    temperature: Annotated[float, Strict(), Field(ge=0, le=100)] = Field(
        default=0.0, description="0 is greedy; default 0."
    )
    top_p: Annotated[float, Strict(), Field(gt=0, le=1)] = Field(
        default=1.0, description="Sample from the most probable tokens with this much probability; default 1, all."
    )
    top_k: Annotated[int, Strict(), Field(ge=1)] | None = Field(
        default=None, description="Sample from this many of the most probable tokens; default null, all."
    )
    seed: Seed | None = Field(default=None, description="Seed of the engine's sampling; default null, its own choice.")
    stop: tuple[Text, ...] = Field(default=(), description="An answer ends before any of these texts; default none.")


# What a sweep changes, for each kind of arrivals that has one number to change.
SWEPT_FIELDS: Mapping[str, str] = {
    "closed": "concurrency",
    "constant": "rate",
    "poisson": "rate",
    "gamma": "rate",
    "trace": "speed",
}
DEFAULT_REQUESTS = 64


def _implied_requests(data: dict[str, Any]) -> int:
    """How many requests there are where a workload does not say; `data` is the fields before `requests`."""
    arrivals, duration_s = data.get("arrivals"), data.get("duration_s")
    if isinstance(arrivals, StagedArrivals):
        return arrivals.expected_requests
    rate: float | None = getattr(arrivals, "rate", None)
    if duration_s is not None and rate is not None:
        return min(max(1, round(rate * float(duration_s))), MAX_REQUESTS)
    return DEFAULT_REQUESTS


class TrafficSpec(Frozen):
    """How many requests are sent, and when."""

    arrivals: Arrivals = Field(default=ClosedArrivals(concurrency=4), description="When requests are sent.")
    duration_s: Annotated[Positive, Field(le=1e6)] | None = Field(
        default=None,
        description="In place of `requests`: as many as the arrivals' rate brings in this time, in s; default null.",
    )
    requests: Count = Field(
        default_factory=_implied_requests,
        description="Requests in each trial; default 64, or what duration_s or the stages hold.",
    )
    warmup_requests: CountOrZero = Field(
        default=4, description="Requests sent before, one after the other, and left out of all results; default 4."
    )
    max_concurrency: Count | None = Field(
        default=None,
        description="At most this many requests are under way; others wait, and their latency counts from when they "
        "were due. Default null, no limit.",
    )
    sweep: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=100)] | None = Field(
        default=None,
        description="Load levels, each asked in every round in place of the arrivals' own: rates, the concurrencies of "
        "a closed loop, or the speeds of a trace. Default null, the one level of `arrivals`.",
    )

    @model_validator(mode="after")
    def _check_concurrency(self) -> Self:
        if self.max_concurrency is not None and isinstance(self.arrivals, ClosedArrivals):
            refuse("max_concurrency", "a closed loop has its limit in arrivals.concurrency; leave max_concurrency out")
        return self

    @model_validator(mode="after")
    def _check_duration(self) -> Self:
        if self.duration_s is None:
            return self
        if getattr(self.arrivals, "rate", None) is None:
            refuse("duration_s", f"arrivals of kind {self.arrivals.kind} have no rate; give `requests` instead")
        implied = _implied_requests(dict(self))
        if self.requests != implied:
            refuse("requests", f"given {self.requests}, and duration_s makes it {implied}; leave one of the two out")
        return self

    @model_validator(mode="after")
    def _check_sweep(self) -> Self:
        if self.sweep is None:
            return self
        kind = self.arrivals.kind
        if kind not in SWEPT_FIELDS:
            refuse("sweep", f"arrivals of kind {kind} cannot be swept, allowed: {', '.join(SWEPT_FIELDS)}")
        for place, level in enumerate(self.sweep):
            if kind == "closed" and not (level.is_integer() and level <= MAX_REQUESTS):
                refuse(f"sweep.{place}", f"given {level:g}, allowed for a closed loop: a whole number from 1")
            if level in self.sweep[:place]:
                refuse(f"sweep.{place}", f"the level {level:g} is given twice")
        return self

    def at_level(self, level: float) -> TrafficSpec:
        """This traffic at one level of load, without a sweep; with `duration_s`, as many requests as the level brings.

        Raises ValueError for a level that the arrivals cannot have.
        """
        swept = SWEPT_FIELDS[self.arrivals.kind]
        value = int(level) if swept == "concurrency" else level
        fields = {name: getattr(self, name) for name in type(self).model_fields if name != "sweep"}
        fields["arrivals"] = {**dict(self.arrivals), swept: value}
        if self.duration_s is not None:
            del fields["requests"]
        return TrafficSpec.model_validate(fields)

    def levels(self) -> tuple[TrafficSpec, ...]:
        """One traffic for each level of the sweep, in its order; this one alone where there is none."""
        return (self,) if self.sweep is None else tuple(self.at_level(level) for level in self.sweep)


class SloSpec(Frozen):
    """What a request must meet to count as good, in ms; null does not matter."""

    ttft_ms: Positive | None = Field(default=None, description="Time to first token, in ms; default null, any.")
    tpot_ms: Positive | None = Field(default=None, description="Time per output token, in ms; default null, any.")
    e2e_ms: Positive | None = Field(default=None, description="End-to-end latency, in ms; default null, any.")


class TimeoutSpec(Frozen):
    """When a request is given up and recorded as failed, in s."""

    connect_s: Positive = Field(default=10.0, description="Until connected, in s; default 10.")
    first_token_s: Positive = Field(default=120.0, description="From sent until the first token, in s; default 120.")
    idle_s: Positive = Field(default=60.0, description="Between two reads after the first token, in s; default 60.")
    total_s: Positive = Field(default=600.0, description="From sent until the end, in s; default 600.")


class MeasureSpec(Frozen):
    """How often the load is repeated, what counts as good, and when a request is given up."""

    rounds: Annotated[int, Strict(), Field(ge=1, le=10_000)] = Field(
        default=1, description="How often each engine gets the whole load; default 1."
    )
    slo: SloSpec = Field(default=SloSpec(), description="What a request must meet to count as good; default anything.")
    timeouts: TimeoutSpec = Field(default=TimeoutSpec(), description="When a request is given up.")
    retries: RetrySpec | None = Field(
        default=None, description="When a request that failed is sent again; default null, never."
    )
    clock: Literal["auto", "packet", "kernel", "user"] | None = Field(
        default=None,
        description="What stamps the chunks: `kernel` stamps as they arrive, `user` as they are read, `packet` tells "
        "merged segments apart and needs CAP_NET_RAW. Default null or `auto`: kernel where there is one, else user.",
    )
    answer_bytes: Annotated[int, Strict(), Field(ge=0, le=2**40)] | None = Field(
        default=None,
        description="How many bytes of the answers' texts are kept, so that engines' answers can be held against each "
        "other; 0 none. Default null, 67108864 (64 MiB).",
    )
    telemetry_s: Annotated[float, Strict(), Field(ge=0, le=3600)] | None = Field(
        default=None,
        description="How often the engine's own metrics, its processes and the GPUs are read, in s; 0 never. Default "
        "null, every second.",
    )
    warmup: Truncation = Field(
        default=None,
        description="What is left out of the figures at the start of each round: `none`, a share of the time in which "
        "requests are due such as `10%`, a time such as `5 s`, a count such as `20 requests`, or `auto`, what MSER-5 "
        "finds in the latencies. Default null, none.",
    )
    cooldown: Truncation = Field(
        default=None,
        description="The same at its end, counted back from when the last request is due. Default null, none.",
    )

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        warmup, cooldown = amount_of(self.warmup), amount_of(self.cooldown)
        if warmup and cooldown and warmup.unit == cooldown.unit == "%" and warmup.value + cooldown.value >= 100:
            refuse("cooldown", f"given {self.cooldown}, and warmup {self.warmup}: together they leave nothing")
        return self


class WorkloadSpec(Frozen):
    """A workload: one YAML file."""

    name: Annotated[str, Field(max_length=80, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = Field(
        description="Names the results: letters, digits, dot, underscore and hyphen."
    )
    description: str = Field(default="", description="One sentence for lists and reports; default empty.")
    model: Text = Field(
        description="A checkpoint folder (relative to the workload), `bundled:<name>` for a small trained one, "
        "`synthetic:<preset>` for random weights that are created on first use, or the name by which a running server "
        "knows its model."
    )
    tokenizer: Text | None = Field(
        default=None,
        description="A folder with a tokenizer.json or tokenizer.model, relative to the workload; default the model's.",
    )
    engines: Annotated[tuple[Engine, ...], Field(min_length=1)] = Field(
        default=(EngineSpec(name="reference"),),
        description="The engines that are asked: names, or `name: {url, args, …}`; default the bundled one.",
    )
    seeds: SeedSpec = Field(default=SeedSpec(), description="The same seeds give the same requests, byte for byte.")
    prompts: PromptsSpec = Field(default=SyntheticPrompts(), description="What is asked; default synthetic prompts.")
    request: RequestSpec = Field(default=RequestSpec(), description="How it is asked.")
    traffic: TrafficSpec = Field(default=TrafficSpec(), description="How many requests are sent, and when.")
    measure: MeasureSpec = Field(default=MeasureSpec(), description="Repetitions, objectives and timeouts.")

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        seen: set[str] = set()
        for index, engine in enumerate(self.engines):
            if engine.label in seen:
                refuse(f"engines.{index}", f"a second engine is called {engine.label!r}: give each its own `label`")
            seen.add(engine.label)
        return self

    @model_validator(mode="after")
    def _check_truncation(self) -> Self:
        measure, traffic = self.measure, self.traffic
        given = {name: rule for name in ("warmup", "cooldown") if (rule := getattr(measure, name)) is not None}
        if given and traffic.arrivals.kind == "burst":
            name = next(iter(given))
            refuse(f"measure.{name}", f"given {given[name]}, but a burst is all due at once; allowed: none")
        for unit, most, what in (
            ("requests", float(traffic.requests), f"a round has {traffic.requests} requests"),
            ("s", traffic.duration_s or math.inf, f"a round lasts {traffic.duration_s} s"),
        ):
            sizes = [found for rule in given.values() if (found := amount_of(rule)) and found.unit == unit]
            if sum(size.value for size in sizes) >= most:
                name = list(given)[-1]
                refuse(f"measure.{name}", f"given {given[name]}, but {what}: nothing would be left")
        return self

    @model_validator(mode="after")
    def _check_currency(self) -> Self:
        priced = [(index, engine.price) for index, engine in enumerate(self.engines) if engine.price is not None]
        for index, price in priced:
            if price.currency != priced[0][1].currency:
                refuse(
                    f"engines.{index}.price.currency",
                    f"given {price.currency}, and an engine before it {priced[0][1].currency}: costs are compared, so "
                    "give all in one",
                )
        return self

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as hex. Two workloads with every field equal, defaults included, share it.

        Files are part of it by their path and not by their content. A field that is null is left out, so that a field
        which comes later and may be null changes no workload that does without it.
        """
        told = self.model_dump(mode="json", exclude_none=True)
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()
