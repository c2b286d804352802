"""A run in the words of `vllm bench serve`: its keys, its units and its definitions, which differ from ours.

There latencies count from when a request was sent, only successful requests enter them, and ITL is by chunk. A request
that failed has zeros in the lists per request and its message in `errors`. Source: the JSON that vLLM 0.32 writes with
`--save-result --save-detailed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from llmbench.reports.load_level import OfferedLoad, offered_load
from llmbench.results.metrics import duration_s, meets_slo, tpot_ms
from llmbench.results.samples import Floats, Samples

_PERCENTILES = (50, 90, 95, 99)
_NS_PER_S = 1e9


def vllm_bench(samples: Samples) -> dict[str, Any]:
    """One engine at one level. Texts of answers are not kept by a run: `generated_texts` is null for each request."""
    workload, manifest = samples.run.manifest.workload, samples.run.manifest
    engine = next((engine for engine in manifest.engines if engine.label == samples.engine), None)
    model = (engine and engine.model) or workload.get("model")
    ok = samples.ok
    sent_s, first_s, end_s = (samples.ns(name) / _NS_PER_S for name in ("sent_ns", "first_token_ns", "end_ns"))
    ttft_s, e2e_s = first_s - sent_s, end_s - sent_s
    queue_s = sent_s - samples.ns("due_ns") / _NS_PER_S
    gaps = _gaps_s(samples)
    output, prompt = (np.nan_to_num(samples.counts(name)).astype(np.int64) for name in _COUNTS)
    seconds, met = duration_s(samples), meets_slo(samples)
    peak_tokens, peak_requests = _peaks(samples, sent_s, end_s)
    return {
        "date": _compact(manifest.created_utc),
        "endpoint_type": "openai",
        "backend": engine.name if engine is not None else samples.engine,
        "label": f"{samples.engine}, {samples.level}",
        "model_id": model,
        "tokenizer_id": workload.get("tokenizer") or model,
        "num_prompts": len(samples),
        **_arrivals(workload, offered_load(samples.level)),
        "duration": seconds,
        "completed": int(ok.sum()),
        "failed": int((~ok).sum()),
        "total_input_tokens": int(prompt[ok].sum()),
        "total_output_tokens": int(output[ok].sum()),
        "request_throughput": _rate(float(ok.sum()), seconds),
        "request_goodput": None if met is None else _rate(float(met.sum()), seconds),
        "output_throughput": _rate(float(output[ok].sum()), seconds),
        "total_token_throughput": _rate(float((output + prompt)[ok].sum()), seconds),
        "input_lens": prompt.tolist(),
        "output_lens": np.where(ok, output, 0).tolist(),
        "ttfts": _zeroed(ttft_s, ok),
        "itls": [gap.tolist() for gap in gaps],
        "latencies": _zeroed(e2e_s, ok),
        "start_times": ((samples.ns("sent_ns") + samples.origin_ns) / _NS_PER_S).tolist(),
        "queue_times": queue_s.tolist(),
        "generated_texts": [None] * len(samples),
        "errors": [error or "" for error in samples.texts("error")],
        "max_output_tokens_per_s": peak_tokens,
        "max_concurrent_requests": peak_requests,
        "rtfx": 0.0,
        **_statistics("ttft", ttft_s[ok] * 1e3),
        **_statistics("tpot", tpot_ms(samples)[ok]),
        **_statistics("itl", np.concatenate([gap for gap, fine in zip(gaps, ok, strict=True) if fine] or [_NO]) * 1e3),
        **_statistics("e2el", e2e_s[ok] * 1e3),
    }


_COUNTS = ("output_tokens", "prompt_tokens")
_NO = np.empty(0)


def _arrivals(workload: Mapping[str, Any], load: OfferedLoad | None) -> dict[str, Any]:
    """`inf` stands for "all at once, as far as max_concurrency lets them"."""
    traffic = workload.get("traffic")
    traffic = traffic if isinstance(traffic, dict) else {}
    arrivals = traffic.get("arrivals")
    arrivals = arrivals if isinstance(arrivals, dict) else {}
    kind = arrivals.get("kind")
    burstiness: float | str = float(arrivals.get("shape", 1.0)) if kind == "gamma" else 1.0
    return {
        "request_rate": load.amount if load is not None and load.kind == "rate" else "inf",
        # Evenly spaced arrivals are the limit of gamma's.
        "burstiness": "inf" if kind == "constant" else burstiness,
        "max_concurrency": (
            int(load.amount) if load is not None and load.kind == "concurrency" else traffic.get("max_concurrency")
        ),
    }


def _gaps_s(samples: Samples) -> list[Floats]:
    """Gaps between a request's content chunks, in s, for each request."""
    content = (samples.chunk_tokens > 0) | (samples.chunk_chars > 0)
    owner, stamps = samples.chunk_request[content], samples.chunk_ns[content] / _NS_PER_S
    order = np.argsort(owner, kind="stable")
    places = np.searchsorted(owner[order], np.arange(len(samples) + 1))
    ordered = stamps[order]
    return [np.diff(ordered[start:end]) for start, end in pairwise(places)]


def _peaks(samples: Samples, sent_s: Floats, end_s: Floats) -> tuple[float | None, int | None]:
    """The fullest second by generated tokens and by requests under way; seconds count from the first request sent."""
    known = samples.ok & ~np.isnan(sent_s) & ~np.isnan(end_s)
    if not known.any():
        return None, None
    zero = float(sent_s[known].min())
    begin = (sent_s[known] - zero).astype(np.int64)
    finish = (end_s[known] - zero).astype(np.int64)
    steps = np.zeros(int(finish.max()) + 2, np.int64)
    np.add.at(steps, begin, 1)
    np.add.at(steps, finish + 1, -1)
    counted = known[samples.chunk_request]
    seconds = (samples.chunk_ns[counted] / _NS_PER_S - zero).astype(np.int64)
    tokens = np.bincount(np.maximum(seconds, 0), samples.chunk_tokens[counted]) if seconds.size else _NO
    return (float(tokens.max()) if tokens.size else None), int(np.cumsum(steps).max())


def _statistics(name: str, values_ms: Floats) -> dict[str, float | None]:
    values = values_ms[~np.isnan(values_ms)]
    empty = not values.size
    return {
        f"mean_{name}_ms": None if empty else float(values.mean()),
        f"median_{name}_ms": None if empty else float(np.median(values)),
        f"std_{name}_ms": None if empty else float(values.std()),
        **{f"p{share}_{name}_ms": None if empty else float(np.percentile(values, share)) for share in _PERCENTILES},
    }


def _rate(amount: float, seconds: float | None) -> float | None:
    return None if seconds is None else amount / seconds


def _zeroed(values: Floats, ok: Any) -> list[float]:
    zeroed: list[float] = np.where(ok & ~np.isnan(values), values, 0.0).tolist()
    return zeroed


def _compact(utc: str) -> str:
    """`2026-01-02T03:04:05…` as `20260102-030405`."""
    return utc[:19].replace("-", "").replace(":", "").replace("T", "-")
