"""The table of metrics: what is reported, in which unit, which way is better, and by what formula.

Stamps: due, sent, first and last (chunks with generated content), end. N is the number of generated tokens. A failed
request counts as infinitely slow in every latency, so that no engine gets faster by failing.
"""

from __future__ import annotations

from functools import lru_cache

from llmbench.results.contributions import all_tokens, answered, attempts, good, met, output_tokens, retried, successes
from llmbench.results.costs import cost_per_million, energy_per_token
from llmbench.results.latencies import count, itl, itl_chunk, latency, send_lag, tokens_per_chunk, tpot
from llmbench.results.metric import MetricSpec, RatioMetric, SampleMetric, TotalMetric, Values
from llmbench.results.samples import Samples
from llmbench.results.statistics import Ordered, order


def _cost(samples: Samples) -> float | None:
    rate = BY_NAME["output_throughput"]
    assert isinstance(rate, TotalMetric)
    return cost_per_million(samples, rate.value(samples))


METRICS: tuple[MetricSpec, ...] = (
    SampleMetric("ttft", "TTFT", "ms", "lower", "first − due", latency("due_ns", "first_token_ns")),
    SampleMetric("ttft_send", "TTFT from send", "ms", "lower", "first − sent", latency("sent_ns", "first_token_ns")),
    SampleMetric("tpot", "TPOT", "ms", "lower", "(last − first) / (N − 1), for N ≥ 2", tpot),
    SampleMetric(
        "itl",
        "ITL",
        "ms",
        "lower",
        "gap to the chunk before ÷ tokens in this chunk, counted once per token",
        itl,
    ),
    SampleMetric("itl_chunk", "ITL by chunk", "ms", "lower", "gap to the chunk before, counted per chunk", itl_chunk),
    SampleMetric("e2e", "E2E", "ms", "lower", "end − due", latency("due_ns", "end_ns")),
    SampleMetric("e2e_send", "E2E from send", "ms", "lower", "end − sent", latency("sent_ns", "end_ns")),
    SampleMetric(
        "send_lag",
        "send lag",
        "ms",
        None,
        "sent − due of the attempt: the instrument's delay, a slot's, or connecting",
        send_lag,
    ),
    SampleMetric("prompt_tokens", "prompt", "tokens", None, "tokens of each prompt", count("prompt_tokens")),
    SampleMetric("output_tokens", "output", "tokens", None, "tokens of each answer", count("output_tokens")),
    SampleMetric("tokens_per_chunk", "burst", "tokens", None, "tokens of each chunk that has any", tokens_per_chunk),
    TotalMetric(
        "output_throughput",
        "output",
        "tokens/s",
        "higher",
        "generated tokens of successful requests that came in the window ÷ its length, summed over rounds; without "
        "warm-up and cool-down, from first due to last end",
        "second",
        output_tokens,
    ),
    TotalMetric(
        "total_throughput",
        "prompt and output",
        "tokens/s",
        "higher",
        "the same with prompt tokens, which count when the first token came ÷ the same time",
        "second",
        all_tokens,
    ),
    TotalMetric(
        "request_throughput",
        "requests",
        "requests/s",
        "higher",
        "successful requests that ended in the window ÷ the same time",
        "second",
        answered,
    ),
    TotalMetric(
        "goodput",
        "goodput",
        "requests/s",
        "higher",
        "requests that meet every SLO and ended in the window ÷ the same time",
        "second",
        good,
    ),
    TotalMetric(
        "slo_attainment",
        "SLO attainment",
        "share",
        "higher",
        "requests that meet every SLO ÷ all sent",
        "request",
        met,
    ),
    TotalMetric("success_share", "success", "share", "higher", "successful requests ÷ all sent", "request", successes),
    TotalMetric("attempts", "attempts", "attempts", None, "attempts ÷ requests", "request", attempts),
    TotalMetric("retried_share", "retried", "share", None, "requests sent again ÷ all", "request", retried),
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
