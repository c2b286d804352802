"""When requests are sent: arrival processes, as offsets from the start of the load.

Offsets are absolute: each is computed from the start and not from the one before, so nothing drifts. Kinds at a fixed
spacing (`constant`, `burst`, an even `ramp`) send the first request at 0. Random kinds (`poisson`, `gamma`, a Poisson
`ramp`) send the first after one random gap, so that the count in any window from 0 follows the process. The last
offset is not scaled to a round duration; the achieved mean rate differs from the asked one as chance has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from llmbench.workloads.base import Count, Frozen, Positive, Rate
from llmbench.workloads.seeds import stream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NS_PER_S = 1_000_000_000


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
    start_rate: Annotated[float, Field(ge=0, le=1e7, strict=True)] = Field(
        description="Requests per second at the start; 0 or more."
    )
    end_rate: Rate = Field(description="Requests per second at the end.")
    spacing: Literal["even", "poisson"] = Field(
        default="even", description="`even` follows the ramp exactly, `poisson` at random. Default even."
    )


Arrivals = Annotated[
    ClosedArrivals | ConstantArrivals | PoissonArrivals | GammaArrivals | BurstArrivals | RampArrivals,
    Field(discriminator="kind"),
]


def arrival_offsets_ns(arrivals: Arrivals, num_requests: int, seed: int) -> tuple[int, ...] | None:
    """When each request is due, in ns after the start of the load, ascending; None for a closed loop.

    The same arguments give the same offsets in any process. `num_requests` more requests extend the list and leave its
    beginning as it is, except in a ramp, whose duration depends on their number.
    """
    import numpy as np

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
        case _:
            even = arrivals.spacing == "even"
            counts = steps if even else np.cumsum(generator.standard_exponential(num_requests))
            seconds = _ramp_seconds(arrivals, counts)
    return tuple(round(offset * NS_PER_S) for offset in seconds.tolist())


def _ramp_seconds(ramp: RampArrivals, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The time at which the expected count of the ramp reaches each of `counts`; len(counts) requests in all."""
    import numpy as np

    start, end, total = ramp.start_rate, ramp.end_rate, float(len(counts))
    duration = total / ((start + end) / 2)
    slope = (end - start) / duration if duration > 0 else 0.0
    inside = np.minimum(counts, total)
    # The root of slope/2·t² + start·t − count = 0 in the form that stays exact when the slope is near zero. The square
    # root is 0 only where the rate and the count are both 0; the time is 0 there.
    root = np.sqrt(np.maximum(start * start + 2 * slope * inside, 0.0))
    divisor = start + root
    seconds: NDArray[np.float64] = np.divide(2 * inside, divisor, out=np.zeros_like(inside), where=divisor > 0)
    beyond: NDArray[np.float64] = np.maximum(counts - total, 0.0) / end
    return seconds + beyond
