"""The table of metrics: what is reported, in which unit, which way is better, and by what formula.

Stamps: due, sent, first and last (chunks with generated content), end. N is the number of generated tokens. A failed
request counts as infinitely slow in every latency, so that no engine gets faster by failing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np

from llmbench.results.costs import cost_per_million, energy_per_token
from llmbench.results.gaps import Gaps
from llmbench.results.samples import Bools, Floats, Ints, Samples
from llmbench.results.statistics import Ordered, order

Better = Literal["lower", "higher"] | None
NS_PER_MS = 1e6
NS_PER_S = 1e9


class Values(NamedTuple):
    """Samples of a metric. `request` is the index of the request each belongs to; `weights` says how often each counts,
    None for once. +inf stands for a failed request; what is not defined for a request is left out."""

    values: Floats
    request: Ints
    weights: Ints | None = None


_NONE = Values(np.empty(0), np.empty(0, np.int64))


@dataclass(frozen=True, slots=True)
class SampleMetric:
    """A metric with a distribution: one value per request, gap or chunk."""

    name: str
    title: str
    unit: str
    better: Better
    formula: str
    values: Callable[[Samples], Values]


@dataclass(frozen=True, slots=True)
class TotalMetric:
    """A metric with one value for all requests together: what each contributes, summed, per second or per request.

    `amounts` is None for the duration itself, and gives None where the metric is not defined.
    """

    name: str
    title: str
    unit: str
    better: Better
    formula: str
    per: Literal["second", "request"]
    amounts: Callable[[Samples], Floats | None] | None

    def over(self, samples: Samples) -> Samples:
        """The requests that contribute: to a rate all, each with what of it lies in the window; else those that are
        due there."""
        return samples.whole if self.per == "second" else samples

    def value(self, samples: Samples) -> float | None:
        """The total; None where it is not defined."""
        if self.amounts is None:
            return duration_s(samples)
        amounts = self.amounts(self.over(samples))
        size = duration_s(samples) if self.per == "second" else float(len(samples))
        return None if amounts is None or size is None else float(amounts.sum()) / size


@dataclass(frozen=True, slots=True)
class RatioMetric:
    """A metric with one value for all requests together that no request has a part of of its own."""

    name: str
    title: str
    unit: str
    better: Better
    formula: str
    value: Callable[[Samples], float | None]


MetricSpec = SampleMetric | TotalMetric | RatioMetric


def is_streamed(samples: Samples) -> bool:
    """Whether answers came token by token; if not, nothing is known of when a token came."""
    engines = {engine.label: engine for engine in samples.run.manifest.engines}
    if samples.engine in engines and engines[samples.engine].details.get("streaming") is False:
        return False
    request = samples.run.manifest.workload.get("request")
    return not (isinstance(request, dict) and request.get("stream") is False)


def _latency(start: str, end: str) -> Callable[[Samples], Values]:
    def values(samples: Samples) -> Values:
        if end == "first_token_ns" and not is_streamed(samples):
            return _NONE
        ms = (samples.ns(end) - samples.ns(start)) / NS_PER_MS
        return _per_request(np.where(samples.ok, ms, np.inf))

    return values


def _count(column: str) -> Callable[[Samples], Values]:
    def values(samples: Samples) -> Values:
        return _per_request(np.where(samples.ok, samples.counts(column), np.nan))

    return values


def _tpot(samples: Samples) -> Values:
    if not is_streamed(samples):
        return _NONE
    return _per_request(np.where(samples.ok, tpot_ms(samples), np.inf))


def tpot_ms(samples: Samples) -> Floats:
    """(last − first) / (N − 1) of every request in ms; NaN below two tokens, or where stamps are missing."""
    tokens = samples.counts("output_tokens")
    decode_ms = (samples.ns("last_token_ns") - samples.ns("first_token_ns")) / NS_PER_MS
    per_token_ms: Floats = np.divide(decode_ms, tokens - 1, out=np.full(len(samples), np.nan), where=tokens >= 2)
    return per_token_ms


def _send_lag(samples: Samples) -> Values:
    return _per_request((samples.ns("sent_ns") - samples.attempt_due_ns) / NS_PER_MS)


def _itl_chunk(samples: Samples) -> Values:
    return _with_failures(samples, samples.gaps.by_chunk) if is_streamed(samples) else _NONE


def _itl(samples: Samples) -> Values:
    return _with_failures(samples, samples.gaps.by_token) if is_streamed(samples) else _NONE


def _tokens_per_chunk(samples: Samples) -> Values:
    return Values(*samples.gaps.burst)


def _with_failures(samples: Samples, gaps: Gaps) -> Values:
    # A failed request waits for its next token for ever: one infinite gap each.
    failed = np.flatnonzero(~samples.ok)
    values = np.concatenate([gaps.ms, np.full(len(failed), np.inf)])
    request = np.concatenate([gaps.request, failed])
    weights = gaps.weights
    if weights is not None:
        weights = np.concatenate([weights, np.ones(len(failed), np.int64)])
    return Values(values, request, weights)


def _per_request(values: Floats) -> Values:
    defined = ~np.isnan(values)
    return Values(values[defined], np.flatnonzero(defined))


@lru_cache(maxsize=16)
def round_seconds(samples: Samples) -> dict[int, float]:
    """For each round, the seconds of its window, by default from its first due request to its last answer; 0 where no
    answer ended."""
    return {number: window.seconds for number, window in samples.windows.items()}


def duration_s(samples: Samples) -> float | None:
    """Seconds of the windows of all rounds together; None before any answer ended."""
    return sum(round_seconds(samples).values()) or None


@lru_cache(maxsize=8)
def _share_inside(whole: Samples) -> Floats:
    """Of each request, the share of its generated tokens whose chunks are stamped inside the window of its round.

    An answer that nobody counted by chunk, as one that was not streamed, is inside when its end is.
    """
    ended_inside = whole.in_window(whole.ns("end_ns"))
    share = ended_inside.astype(np.float64)
    # Of a request that lies inside altogether, no chunk need be read.
    cut = np.flatnonzero(~(ended_inside & whole.in_window(whole.ns("due_ns"))))
    tokens, inside = np.zeros(len(whole)), np.zeros(len(whole))
    for piece in whole.pieces(cut):
        amounts = piece.tokens.astype(np.float64)
        tokens += np.bincount(piece.request, amounts, len(whole))
        held = whole.in_window(piece.ns, piece.request)
        inside += np.bincount(piece.request[held], amounts[held], len(whole))
    return np.divide(inside, tokens, out=share, where=tokens > 0)


def _output_tokens(whole: Samples) -> Floats:
    tokens = np.where(whole.ok, np.nan_to_num(whole.counts("output_tokens")), 0.0)
    return tokens * _share_inside(whole)


def _all_tokens(whole: Samples) -> Floats:
    # A prompt has been read when its answer begins.
    read = whole.ok & whole.in_window(whole.ns("first_token_ns" if is_streamed(whole) else "end_ns"))
    return _output_tokens(whole) + np.where(read, np.nan_to_num(whole.counts("prompt_tokens")), 0.0)


def _answered(whole: Samples) -> Floats:
    return (whole.ok & whole.in_window(whole.ns("end_ns"))).astype(np.float64)


def _good(whole: Samples) -> Floats | None:
    met = meets_slo(whole)
    return None if met is None else (met & whole.in_window(whole.ns("end_ns"))).astype(np.float64)


def _successes(samples: Samples) -> Floats:
    return samples.ok.astype(np.float64)


def _attempts(samples: Samples) -> Floats | None:
    measure = samples.run.manifest.workload.get("measure")
    asked = isinstance(measure, dict) and measure.get("retries") is not None
    return samples.counts("attempt") if asked else None


def _retried(samples: Samples) -> Floats | None:
    attempts = _attempts(samples)
    return None if attempts is None else (attempts > 1).astype(np.float64)


def meets_slo(samples: Samples) -> Bools | None:
    """Whether each request met every limit of the workload's `measure.slo`; None if it sets none.

    A failed request meets none. A request for which a limited latency is not defined misses it, but a one-token answer
    has no TPOT to miss. None too where a limit cannot be judged: TTFT and TPOT of answers that were not streamed.
    """
    slo = slo_ms(samples)
    if not slo or (not is_streamed(samples) and slo.keys() & {"ttft_ms", "tpot_ms"}):
        return None
    met = samples.ok.copy()
    ttft_ms = (samples.ns("first_token_ns") - samples.ns("due_ns")) / NS_PER_MS
    e2e_ms = (samples.ns("end_ns") - samples.ns("due_ns")) / NS_PER_MS
    if "ttft_ms" in slo:
        met &= ttft_ms <= slo["ttft_ms"]
    if "e2e_ms" in slo:
        met &= e2e_ms <= slo["e2e_ms"]
    if "tpot_ms" in slo:
        met &= (tpot_ms(samples) <= slo["tpot_ms"]) | (samples.counts("output_tokens") < 2)
    return met


def slo_ms(samples: Samples) -> dict[str, float]:
    """The limits of the workload's `measure.slo` that are set, in ms."""
    measure = samples.run.manifest.workload.get("measure")
    slo = measure.get("slo") if isinstance(measure, dict) else None
    if not isinstance(slo, dict):
        return {}
    return {name: float(limit) for name, limit in slo.items() if isinstance(limit, int | float)}


def _met(samples: Samples) -> Floats | None:
    met = meets_slo(samples)
    return None if met is None else met.astype(np.float64)


def _cost(samples: Samples) -> float | None:
    rate = BY_NAME["output_throughput"]
    assert isinstance(rate, TotalMetric)
    return cost_per_million(samples, rate.value(samples))


METRICS: tuple[MetricSpec, ...] = (
    SampleMetric("ttft", "TTFT", "ms", "lower", "first − due", _latency("due_ns", "first_token_ns")),
    SampleMetric("ttft_send", "TTFT from send", "ms", "lower", "first − sent", _latency("sent_ns", "first_token_ns")),
    SampleMetric("tpot", "TPOT", "ms", "lower", "(last − first) / (N − 1), for N ≥ 2", _tpot),
    SampleMetric(
        "itl",
        "ITL",
        "ms",
        "lower",
        "gap to the chunk before ÷ tokens in this chunk, counted once per token",
        _itl,
    ),
    SampleMetric("itl_chunk", "ITL by chunk", "ms", "lower", "gap to the chunk before, counted per chunk", _itl_chunk),
    SampleMetric("e2e", "E2E", "ms", "lower", "end − due", _latency("due_ns", "end_ns")),
    SampleMetric("e2e_send", "E2E from send", "ms", "lower", "end − sent", _latency("sent_ns", "end_ns")),
    SampleMetric(
        "send_lag",
        "send lag",
        "ms",
        None,
        "sent − due of the attempt: the instrument's delay, a slot's, or connecting",
        _send_lag,
    ),
    SampleMetric("prompt_tokens", "prompt", "tokens", None, "tokens of each prompt", _count("prompt_tokens")),
    SampleMetric("output_tokens", "output", "tokens", None, "tokens of each answer", _count("output_tokens")),
    SampleMetric("tokens_per_chunk", "burst", "tokens", None, "tokens of each chunk that has any", _tokens_per_chunk),
    TotalMetric(
        "output_throughput",
        "output",
        "tokens/s",
        "higher",
        "generated tokens of successful requests that came in the window ÷ its length, summed over rounds; without "
        "warm-up and cool-down, from first due to last end",
        "second",
        _output_tokens,
    ),
    TotalMetric(
        "total_throughput",
        "prompt and output",
        "tokens/s",
        "higher",
        "the same with prompt tokens, which count when the first token came ÷ the same time",
        "second",
        _all_tokens,
    ),
    TotalMetric(
        "request_throughput",
        "requests",
        "requests/s",
        "higher",
        "successful requests that ended in the window ÷ the same time",
        "second",
        _answered,
    ),
    TotalMetric(
        "goodput",
        "goodput",
        "requests/s",
        "higher",
        "requests that meet every SLO and ended in the window ÷ the same time",
        "second",
        _good,
    ),
    TotalMetric(
        "slo_attainment",
        "SLO attainment",
        "share",
        "higher",
        "requests that meet every SLO ÷ all sent",
        "request",
        _met,
    ),
    TotalMetric("success_share", "success", "share", "higher", "successful requests ÷ all sent", "request", _successes),
    TotalMetric("attempts", "attempts", "attempts", None, "attempts ÷ requests", "request", _attempts),
    TotalMetric("retried_share", "retried", "share", None, "requests sent again ÷ all", "request", _retried),
    RatioMetric(
        "cost",
        "cost",
        "currency/1M tokens",
        "lower",
        "the engine's price per hour ÷ million output tokens per hour at the output rate; starting, warming up and "
        "idling are not in it",
        _cost,
    ),
    RatioMetric(
        "gpu_energy",
        "GPU energy",
        "J/token",
        "lower",
        "energy of the GPUs that the engine may use (NVML), from right before to right after each round ÷ generated "
        "tokens of successful requests; the rest of the machine is not in it; 1 J/token is 0.278 kWh per million",
        energy_per_token("energy"),
    ),
    RatioMetric(
        "cpu_energy",
        "CPU energy",
        "J/token",
        "lower",
        "energy of the processor packages (RAPL), whoever used them, over the same time ÷ the same tokens; memory and "
        "the rest of the machine are not in it",
        energy_per_token("cpu_energy"),
    ),
    TotalMetric(
        "duration",
        "duration",
        "s",
        None,
        "length of the window, by default first due to last end, summed over rounds",
        "second",
        None,
    ),
)

BY_NAME = {metric.name: metric for metric in METRICS}
assert len(BY_NAME) == len(METRICS)


def values_of(samples: Samples, name: str) -> Values:
    """The samples of the metric called `name`, which must be a SampleMetric."""
    metric = BY_NAME[name]
    assert isinstance(metric, SampleMetric)
    return metric.values(samples)


# Sorting is most of the work on a large run, and tables, comparisons and pictures all want the same order.
@lru_cache(maxsize=64)
def ordered_of(samples: Samples, name: str) -> Ordered | None:
    """The samples of the metric called `name` in ascending order; None if there are none."""
    values, request, weights = values_of(samples, name)
    return order(values, weights, request, samples.units) if values.size else None
