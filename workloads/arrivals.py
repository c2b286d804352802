"""When requests are sent: arrival processes, as offsets from the start of the load.

Offsets are absolute: each is computed from the start and not from the one before, so nothing drifts. Kinds at a fixed
spacing (`constant`, `burst`, `trace`, an even `ramp` or `stages`) send the first request at 0. Random kinds (`poisson`,
`gamma`, a Poisson `ramp` or `stages`) send the first after one random gap, so that the count in any window from 0
follows the process. The last offset is not scaled to a round duration; the achieved mean rate differs from the asked
one as chance has it.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from llmbench.workloads.base import MAX_REQUESTS, Count, Frozen, Positive, Rate, RateOrZero, refuse
from llmbench.workloads.rate_profile import Slope, times_at
from llmbench.workloads.seeds import stream
from llmbench.workloads.traces import TraceFields, read_trace

NS_PER_S = 1_000_000_000

Spacing = Annotated[
    Literal["even", "poisson"],
    Field(description="`even` follows the rate exactly, `poisson` at random. Default even."),
]


class ClosedArrivals(Frozen):
    """Closed loop: `concurrency` streams, each sends its next request when its last one has ended.

    A slow server is asked less. Use an open loop (constant, poisson, gamma, ramp) to see queues grow.
    """

    kind: Literal["closed"] = "closed"
    concurrency: Count = Field(description="How many requests are under way at any time.")


class ConstantArrivals(Frozen):
    """One request every 1/rate seconds, the first at 0."""

    kind: Literal["constant"] = "constant"
    rate: Rate = Field(description="Requests per second.")


class PoissonArrivals(Frozen):
    """Independent exponential gaps with mean 1/rate: many users who do not know of each other."""

    kind: Literal["poisson"] = "poisson"
    rate: Rate = Field(description="Requests per second, on average.")


class GammaArrivals(Frozen):
    """Independent gamma gaps with mean 1/rate and coefficient of variation 1/√shape.

    `shape` is what `vllm bench serve` calls burstiness: 1 is Poisson, below 1 comes in bursts, above 1 is more even.
    """

    kind: Literal["gamma"] = "gamma"
    rate: Rate = Field(description="Requests per second, on average.")
    shape: Annotated[Positive, Field(ge=0.01, le=1e6)] = Field(
        default=1.0,
        description="1 is Poisson, below 1 is burstier, above 1 is more even; the gaps' coefficient of variation is "
        "1/sqrt(shape). Default 1.0.",
    )


class BurstArrivals(Frozen):
    """Every request at 0: how the server digests a pile."""

    kind: Literal["burst"] = "burst"


class RampArrivals(Frozen):
    """The rate goes in a straight line from `start_rate` to `end_rate` over the whole trial.

    The trial lasts T = requests / mean of both rates, and the expected count until t is
    start_rate·t + (end_rate − start_rate)·t²/(2T). `even` puts request i where that count is i; `poisson` draws a
    Poisson process with that rate, which goes on at `end_rate` if the requests last longer than T.
    """

    kind: Literal["ramp"] = "ramp"
    start_rate: RateOrZero = Field(description="Requests per second at the start; 0 or more.")
    end_rate: Rate = Field(description="Requests per second at the end.")
    spacing: Spacing = "even"


class Stage(Frozen):
    """One part of a staged load: a rate that is held, or that goes in a straight line to `end_rate`."""

    rate: RateOrZero = Field(description="Requests per second, at the beginning; 0 is a pause.")
    end_rate: RateOrZero | None = Field(
        default=None, description="Requests per second at the end of the stage; default the same as at its beginning."
    )
    duration_s: Annotated[Positive, Field(le=1e6)] = Field(description="How long the stage lasts, in s.")

    @property
    def last_rate(self) -> float:
        return self.rate if self.end_rate is None else self.end_rate


class StagedArrivals(Frozen):
    """Stages one after the other: steps, ramps, pauses, spikes.

    Where `traffic.requests` is left out there are as many as the stages hold; more go on at the last stage's last rate.
    """

    kind: Literal["stages"] = "stages"
    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=1000)] = Field(
        description="The stages, in order: each a rate and a duration."
    )
    spacing: Spacing = "even"

    @property
    def expected_requests(self) -> int:
        """How many requests the stages hold, on average where `spacing` is poisson."""
        return math.floor(sum(slope.count for slope in slopes_of(self, 0)) + 1e-9)

    @model_validator(mode="after")
    def _check_count(self) -> Self:
        if self.stages[-1].last_rate == 0:
            last = f"stages.{len(self.stages) - 1}"
            refuse(last, "the last stage must end at a rate above 0, as requests that are left over go on at it")
        if self.expected_requests < 1:
            refuse("stages", "the stages hold less than one request in all; raise a rate or a duration")
        if self.expected_requests > MAX_REQUESTS:
            refuse("stages", f"the stages hold {self.expected_requests} requests, allowed: at most {MAX_REQUESTS}")
        return self


class TraceArrivals(TraceFields):
    """The times of a recorded trace, the first at 0. Use prompts of kind `trace` to ask for its lengths too."""

    kind: Literal["trace"] = "trace"
    speed: Annotated[Positive, Field(ge=1e-3, le=1e6)] = Field(
        default=1.0, description="How many times faster than recorded; 2 halves every gap. Default 1."
    )


Arrivals = Annotated[
    ClosedArrivals
    | ConstantArrivals
    | PoissonArrivals
    | GammaArrivals
    | BurstArrivals
    | RampArrivals
    | StagedArrivals
    | TraceArrivals,
    Field(discriminator="kind"),
]


def arrival_offsets_ns(arrivals: Arrivals, num_requests: int, seed: int) -> tuple[int, ...] | None:
    """When each request is due, in ns after the start of the load, ascending; None for a closed loop.

    The same arguments give the same offsets in any process. More requests extend the list and leave its beginning as it
    is, except in a ramp, whose duration depends on their number. Raises WorkloadError when a trace cannot be read or
    has fewer requests.
    """
    import numpy as np

    if num_requests == 0:
        return None if isinstance(arrivals, ClosedArrivals) else ()
    generator = stream(seed, "arrivals", arrivals.kind)
    steps = np.arange(num_requests, dtype=np.float64)
    match arrivals:
        case ClosedArrivals():
            return None
        case BurstArrivals():
            return (0,) * num_requests
        case ConstantArrivals(rate=rate):
            seconds = steps / rate
        case PoissonArrivals(rate=rate):
            seconds = np.cumsum(generator.standard_exponential(num_requests)) / rate
        case GammaArrivals(rate=rate, shape=shape):
            seconds = np.cumsum(generator.standard_gamma(shape, num_requests)) / (shape * rate)
        case TraceArrivals(speed=speed):
            seconds = np.array([row.time_s for row in read_trace(arrivals, num_requests)]) / speed
        case _:
            even = arrivals.spacing == "even"
            counts = steps if even else np.cumsum(generator.standard_exponential(num_requests))
            seconds = times_at(counts, slopes_of(arrivals, num_requests))
    return tuple(round(offset * NS_PER_S) for offset in seconds.tolist())


def slopes_of(arrivals: RampArrivals | StagedArrivals, num_requests: int) -> list[Slope]:
    """The rate over time. A ramp is as long as `num_requests` need; stages say their own durations."""
    if isinstance(arrivals, RampArrivals):
        duration_s = num_requests / ((arrivals.start_rate + arrivals.end_rate) / 2)
        return [Slope(arrivals.start_rate, arrivals.end_rate, duration_s)]
    return [Slope(stage.rate, stage.last_rate, stage.duration_s) for stage in arrivals.stages]
