"""What servers and devices said over whole rounds, as text, for page and terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from llmbench.reports.numbers import NO_BREAK, bytes_, count, digits, percent
from llmbench.results.costs import currency_of, price_of
from llmbench.results.metric import RatioMetric
from llmbench.results.metrics import BY_NAME, values_of
from llmbench.results.samples import Samples
from llmbench.results.server_side import ServerSide, interval_s, server_side


@dataclass(frozen=True, slots=True)
class Quantity:
    """`note` says what the number is, for those who have not seen it before. `text` is None where nothing was read.

    `brief` is how a terminal says it, with {} for the number; None leaves it to the report.
    """

    title: str
    unit: str
    note: str
    text: Callable[[ServerSide], str | None]
    brief: str | None = None


@dataclass(frozen=True, slots=True)
class QuantityRow:
    """One quantity, with a text for each engine and level in the order of the report's samples."""

    quantity: Quantity
    texts: tuple[str | None, ...]


def quantity_rows(members: tuple[Samples, ...]) -> tuple[QuantityRow, ...]:
    """What was read over all measured rounds; quantities of which nobody read anything are left out."""
    sides = [server_side(samples) for samples in members]
    rows = (QuantityRow(quantity, tuple(quantity.text(side) for side in sides)) for quantity in _QUANTITIES)
    return tuple(row for row in rows if row.texts != (None,) * len(sides))


def unread(members: tuple[Samples, ...]) -> Iterator[str]:
    """A sentence for each thing that was not read, and why."""
    if not members:
        return
    run = members[0].run
    without_price = [engine for engine in {each.engine: None for each in members} if price_of(run, engine) is None]
    if without_price:
        yield f"{', '.join(without_price)}: no price is given (engines[].price), so nothing is known of the cost."
    if not interval_s(run):
        yield "Nothing was read: the workload switches it off (measure.telemetry_s: 0)."
        return
    if not run.telemetry.num_rows:
        yield "Nothing was read: this run keeps no telemetry."
        return
    for side in map(server_side, members):
        for reason, num in side.gaps.items():
            times = "once" if num == 1 else f"{num} times"
            yield f"{side.samples.engine} at {side.samples.level}, {times}: {reason}"
    sources: dict[str, frozenset[str]] = {side.samples.engine: side.sources for side in map(server_side, members)}
    for lacking, sentence in (
        ({"metrics"}, "no metrics were read; engines[].metrics_url says where a server has them."),
        ({"process"}, "not started here, so nothing is known of the processes."),
        ({"gpu", "cpu"}, "neither GPUs (NVML) nor the processor's energy counters (RAPL) could be read, so nothing is "
                         "known of power and energy."),
    ):  # fmt: skip
        without = [engine for engine, found in sources.items() if not found & lacking]
        if without:
            yield f"{', '.join(without)}: {sentence}"


def _mean_ms(metric: str) -> Callable[[ServerSide], str | None]:
    def text(side: ServerSide) -> str | None:
        mean_s = side.histogram_mean(metric)
        return None if mean_s is None else digits(1e3 * mean_s)

    return text


def _ttft_median(side: ServerSide) -> str | None:
    found = side.histogram_median("ttft")
    return None if found is None else f"{digits(1e3 * found.low)}–{digits(1e3 * found.high)}"


def _our_ttft(side: ServerSide) -> str | None:
    if side.histogram_mean("ttft") is None:
        return None
    ms = values_of(side.samples.whole, "ttft_send").values
    answered = ms[np.isfinite(ms)]
    return digits(float(answered.mean())) if answered.size else None


def _queue(side: ServerSide) -> str | None:
    mean_s = side.histogram_mean("queue_time")
    if mean_s is None:
        total_s, num = side.increase("queue_seconds"), side.increase("requests_finished")
        mean_s = total_s / num if total_s is not None and num else None
    return None if mean_s is None else digits(1e3 * mean_s)


def _ratio(part: str, whole: str) -> Callable[[ServerSide], str | None]:
    def text(side: ServerSide) -> str | None:
        above, below = side.increase(part), side.increase(whole)
        return percent(above / below) if above is not None and below else None

    return text


def _number(metric: str) -> Callable[[ServerSide], str | None]:
    def text(side: ServerSide) -> str | None:
        value = side.increase(metric)
        return None if value is None else count(round(value))

    return text


def _peak(metric: str, wording: Callable[[float], str]) -> Callable[[ServerSide], str | None]:
    def text(side: ServerSide) -> str | None:
        value = side.peak(metric)
        return None if value is None else wording(value)

    return text


def _whole(value: float) -> str:
    return count(round(value))


def _our_tokens(side: ServerSide) -> str | None:
    if side.increase("generated_tokens") is None:
        return None
    return count(round(float(np.nansum(side.samples.whole.counts("output_tokens")))))


def _cores(side: ServerSide) -> str | None:
    cpu_s = side.increase("cpu_seconds")
    return None if cpu_s is None else digits(cpu_s / side.seconds)


def _total(name: str) -> Callable[[ServerSide], str | None]:
    metric = BY_NAME[name]
    assert isinstance(metric, RatioMetric)

    def text(side: ServerSide) -> str | None:
        value = metric.value(side.samples)
        return None if value is None else digits(value)

    return text


def _cost(side: ServerSide) -> str | None:
    text = _total("cost")(side)
    return None if text is None else f"{text}{NO_BREAK}{currency_of(side.samples.run)}"


_QUANTITIES: tuple[Quantity, ...] = (
    Quantity("TTFT by the server", "ms, mean", "from when it took the request in, by its own clock", _mean_ms("ttft"),
             "mean TTFT {} ms by its own clock"),
    Quantity("its median lies in", "ms", "the bucket of its histogram", _ttft_median),
    Quantity("TTFT by us", "ms, mean", "from sent to first token, of requests that were answered", _our_ttft,
             "{} ms by ours"),
    Quantity("wait in its queue", "ms, mean", "until it worked on a request", _queue),
    Quantity("prefill", "ms, mean", "from the queue to the first token, of those that ended", _mean_ms("prefill_time")),
    Quantity("decoding", "ms, mean", "from the first token to the last, of those that ended", _mean_ms("decode_time")),
    Quantity("requests queued", "most", "that a reading saw", _peak("requests_waiting", _whole),
             "queue up to {}"),
    Quantity("requests in the batch", "most", "that a reading saw", _peak("requests_running", _whole),
             "batch up to {}"),
    Quantity("KV cache in use", "most", "that a reading saw", _peak("kv_cache_usage", percent),
             "KV cache up to {}"),
    Quantity("found in the prefix cache", "of prompt tokens", "computed before, and not again",
             _ratio("prefix_cache_hits", "prefix_cache_queries"), "{} of the prompts from the prefix cache"),
    Quantity("preemptions", "requests", "put back for want of KV cache", _number("preemptions"),
             "{} preemptions"),
    Quantity("drafts accepted", "of drafted tokens", "that the model agreed with",
             _ratio("accepted_tokens", "draft_tokens"), "{} of the drafts accepted"),
    Quantity("output by the server", "tokens", "generated, by its own count", _number("generated_tokens")),
    Quantity("output by us", "tokens", "seen in answers", _our_tokens),
    Quantity("processor cores busy", "mean", "CPU time of the engine's processes ÷ time measured", _cores,
             "{} cores busy"),
    Quantity("GPU energy", "J per output token", "of the GPUs it may use; 1 J/token is 0.278 kWh per million tokens",
             _total("gpu_energy"), "{} J of the GPUs per output token"),
    Quantity("processor energy", "J per output token", "of the processor packages, whoever used them",
             _total("cpu_energy"), "{} J of the processors per output token"),
    Quantity("cost", "per million output tokens", "price per hour ÷ tokens per hour at the output rate; starting, "
             "warming up and idling are not in it", _cost, "{} per million output tokens"),
    Quantity("resident memory", "most", "of all its processes; pages that they share count in each",
             _peak("rss", lambda value: bytes_(round(value)))),
)  # fmt: skip


def server_lines(members: tuple[Samples, ...]) -> Iterator[str]:
    """For a terminal: the most telling of what was read of each engine at each level, a line each."""
    rows = quantity_rows(members)
    for place, samples in enumerate(members):
        # What was 0 throughout is left to the report.
        told = [
            row.quantity.brief.format(text)
            for row in rows
            if row.quantity.brief and (text := row.texts[place]) is not None and text.strip("0.\u00a0%")
        ]
        if told:
            yield f"{samples.engine} at {samples.level}: {', '.join(told)}."


def unknown_costs(members: tuple[Samples, ...]) -> str | None:
    """A sentence on which of cost and energy nothing is known of any engine; None if something is of both."""
    sides = [server_side(samples) for samples in members]
    lacking = [
        told
        for names, told in (
            (("cost",), "cost (engines[].price gives one)"),
            (("gpu_energy", "cpu_energy"), "energy (no counter of a GPU or processor could be read)"),
        )
        if all(_total(name)(side) is None for name in names for side in sides)
    ]
    return f"Not known per output token: {' and '.join(lacking)}." if lacking and members else None
