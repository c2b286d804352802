"""What servers, processes and devices said of themselves while they were measured: `telemetry.parquet`.

A table of one value per row. While the run goes it is `telemetry.jsonl`, one line of JSON per reading, so that whatever
was read before a crash can be read after it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmbench.results.schema import Column, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

TELEMETRY = "telemetry.parquet"
TELEMETRY_JOURNAL = "telemetry.jsonl"

Source = Literal["metrics", "process", "gpu", "cpu", "sampler"]
Kind = Literal["gauge", "share", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class TelemetrySpec:
    """One quantity by the name that all engines share. A counter only rises; a histogram is one of latencies in s."""

    name: str
    title: str
    unit: str
    kind: Kind
    source: Source


SPECS: tuple[TelemetrySpec, ...] = (
    TelemetrySpec("requests_running", "requests in the batch", "requests", "gauge", "metrics"),
    TelemetrySpec("requests_waiting", "requests queued", "requests", "gauge", "metrics"),
    TelemetrySpec("kv_cache_usage", "KV cache in use", "share", "share", "metrics"),
    TelemetrySpec("prefix_cache_queries", "prompt tokens looked up", "tokens", "counter", "metrics"),
    TelemetrySpec("prefix_cache_hits", "prompt tokens found in the prefix cache", "tokens", "counter", "metrics"),
    TelemetrySpec("preemptions", "preemptions", "requests", "counter", "metrics"),
    TelemetrySpec("draft_tokens", "tokens drafted", "tokens", "counter", "metrics"),
    TelemetrySpec("accepted_tokens", "drafted tokens accepted", "tokens", "counter", "metrics"),
    TelemetrySpec("prompt_tokens", "prompt tokens taken in", "tokens", "counter", "metrics"),
    TelemetrySpec("generated_tokens", "tokens generated", "tokens", "counter", "metrics"),
    TelemetrySpec("requests_finished", "requests finished", "requests", "counter", "metrics"),
    TelemetrySpec("queue_seconds", "time in the queue, all requests together", "s", "counter", "metrics"),
    TelemetrySpec("ttft", "time to first token", "s", "histogram", "metrics"),
    TelemetrySpec("queue_time", "time in the queue", "s", "histogram", "metrics"),
    TelemetrySpec("prefill_time", "time from the queue to the first token", "s", "histogram", "metrics"),
    TelemetrySpec("decode_time", "time from the first token to the last", "s", "histogram", "metrics"),
    TelemetrySpec("inference_time", "time from the queue to the last token", "s", "histogram", "metrics"),
    TelemetrySpec("cpu_seconds", "CPU time of the engine's processes", "s", "counter", "process"),
    TelemetrySpec("rss", "resident memory of the engine's processes, shared pages counted in each", "bytes", "gauge",
                  "process"),
    TelemetrySpec("num_processes", "processes of the engine", "processes", "gauge", "process"),
    TelemetrySpec("power", "power", "W", "gauge", "gpu"),
    TelemetrySpec("energy", "energy", "J", "counter", "gpu"),
    TelemetrySpec("sm_clock", "clock of the multiprocessors", "Hz", "gauge", "gpu"),
    TelemetrySpec("memory_clock", "clock of the memory", "Hz", "gauge", "gpu"),
    TelemetrySpec("memory_used", "memory in use", "bytes", "gauge", "gpu"),
    TelemetrySpec("utilisation", "share of time with a kernel running", "share", "share", "gpu"),
    TelemetrySpec("cpu_energy", "energy of the processor packages", "J", "counter", "cpu"),
    TelemetrySpec("sampler_cpu", "CPU time of the telemetry process itself", "s", "counter", "sampler"),
)  # fmt: skip
SPEC_BY_NAME: Mapping[str, TelemetrySpec] = {spec.name: spec for spec in SPECS}
assert len(SPEC_BY_NAME) == len(SPECS)
# What a histogram's metric is called in the table.
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")

COLUMNS = (
    Column("t_ns", "int64", "ns on the clock of the manifest", "when the reading was complete", nullable=False),
    Column("took_ns", "int64", "ns", "how long the reading took", nullable=False),
    Column("engine", "string", "", "label of the engine that was being measured", nullable=False),
    Column("source", "string", "", "metrics, process, gpu, cpu or sampler", nullable=False),
    Column("instance", "string", "", "which of several, such as the number of a GPU; empty for all", nullable=False),
    Column("metric", "string", "", "shared name, see SPECS; of a histogram with _bucket, _sum or _count"),
    Column("le", "double", "s", "upper bound of a histogram's bucket"),
    Column("value", "double", "that of the metric", "what was read; a counter counts since its engine's start"),
    Column("gap", "string", "", "why nothing was read, in a sentence; the row has no metric and no value"),
)


class Value(NamedTuple):
    """`le` is the upper bound of a histogram's bucket, in s, and None for everything else."""

    metric: str
    value: float
    le: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What one source said at `t_ns`. Without values `gap` says why, as a sentence."""

    t_ns: int
    took_ns: int
    engine: str
    source: Source
    instance: str = ""
    values: Sequence[Value] = ()
    gap: str | None = None


class TelemetryJournal:
    """Appends readings to `path`; each survives the death of this process, as the kernel has it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def append(self, readings: Sequence[Reading]) -> None:
        lines = [json.dumps(astuple(each), separators=(",", ":")) for each in readings]
        self._file.write("".join(f"{line}\n" for line in lines).encode())

    def close(self) -> None:
        self._file.close()


def spec_of(metric: str | None) -> TelemetrySpec | None:
    """The quantity that the table calls `metric`, a histogram's parts included; None for a gap or an unknown one."""
    if metric is None or metric in SPEC_BY_NAME:
        return None if metric is None else SPEC_BY_NAME[metric]
    return next(
        (SPEC_BY_NAME.get(metric.removesuffix(part)) for part in HISTOGRAM_PARTS if metric.endswith(part)), None
    )


def telemetry_schema() -> pa.Schema:
    """Rows in the order in which they were read."""
    return schema_of(COLUMNS)


def journalled(path: Path) -> pa.Table:
    """The readings in the journal at `path`, none where there is no journal; what cannot be understood is left out."""
    import pyarrow as pa

    rows = list(_rows(path))
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in COLUMNS]
    return pa.table(
        [pa.array(values, field.type) for values, field in zip(columns, telemetry_schema(), strict=True)],
        schema=telemetry_schema(),
    )


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for line in lines:
            try:
                *head, values, gap = json.loads(line)
                told = [(*head, metric, le, float(value), None) for metric, value, le in values]
            except (ValueError, TypeError):
                continue  # torn by a crash or a full disk: a hole in the telemetry costs no request
            yield from told
            if gap is not None:
                yield (*head, None, None, None, gap)
