"""Runs made by hand: every stamp is chosen, so that every figure can be checked with a subtraction."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llmbench.results.manifest import ClockManifest, EngineManifest, Manifest, TrialManifest
from llmbench.results.metric import TotalMetric
from llmbench.results.metrics import BY_NAME
from llmbench.results.records import ChunkRecord, RequestRecord
from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples

ORIGIN_NS = 7_000_000_000_000
MS = 1_000_000

Entry = tuple[RequestRecord, list[ChunkRecord]]


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "run_id": "r1",
        "created_utc": "2026-01-02T03:04:05Z",
        "command": ("llmbench", "run", "quickstart"),
        "workload": {"name": "quickstart", "measure": {"slo": {}}},
        "workload_digest": "0" * 64,
        "prompts_digest": "1" * 64,
        "seeds": {"prompts": 0, "schedule": 0},
        "engines": (EngineManifest(label="a", name="reference"),),
        "clock": ClockManifest(origin_ns=ORIGIN_NS, origin_utc="2026-01-02T03:04:05Z"),
        "trials": (TrialManifest(engine="a", level="closed 1", round=0, start_ns=0, end_ns=None, requests=1),),
    }
    return Manifest(**(fields | changes))


def entry(
    index: int = 0,
    *,
    due: float = 0,
    sent: float | None = 1,
    tokens: Iterable[tuple[float, int]] = ((10, 1), (20, 1)),
    end: float | None = None,
    ok: bool = True,
    **changes: Any,
) -> Entry:
    """A request with stamps in ms since the origin; `tokens` are (when, how many) of its chunks."""
    chunks = list(tokens)
    engine, number = changes.get("engine", "a"), changes.get("round", 0)
    request_id = f"{engine}-r{number}-{index:05d}" + (f"-{changes['level']}" if "level" in changes else "")

    def at(ms: float | None) -> int | None:
        return None if ms is None else ORIGIN_NS + round(ms * MS)

    content = [when for when, count in chunks if count]
    last = chunks[-1][0] if chunks else None
    fields: dict[str, Any] = {
        "request_id": request_id,
        "engine": engine,
        "level": "closed 1",
        "round": number,
        "index": index,
        "warmup": False,
        "due_ns": at(due),
        "connect_ns": at(due),
        "sent_ns": at(sent),
        "first_byte_ns": at(chunks[0][0]) if chunks else None,
        "first_token_ns": at(content[0]) if content else None,
        "last_token_ns": at(content[-1]) if content else None,
        "end_ns": at(end if end is not None else last),
        "prompt_tokens": 8,
        "output_tokens": sum(count for _, count in chunks) or None,
        "requested_tokens": 2,
        "token_source": "server_count",
        "finish_reason": "length",
        "status": "ok" if ok else "failed",
        "http_status": 200,
        "error_kind": None if ok else "truncated",
        "error": None if ok else "The stream ended early.",
        "output_sha256": None,
    }
    records = [
        ChunkRecord(request_id, place, ORIGIN_NS + round(when * MS), count, count)
        for place, (when, count) in enumerate(chunks)
    ]
    return RequestRecord(**(fields | changes)), records


MakeRun = Callable[..., Run]


def only(run: Run) -> Samples:
    """Of a run of one engine at one load."""
    [samples] = each_samples(run)
    return samples


def total(run: Run, name: str) -> float | None:
    """The metric of this name over that one."""
    metric = BY_NAME[name]
    assert isinstance(metric, TotalMetric)
    return metric.value(only(run))
