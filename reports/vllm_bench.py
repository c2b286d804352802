"""A run in the words of `vllm bench serve`: its keys, its units and its definitions, which differ from ours.

There latencies count from when a request was sent, only successful requests enter them, and ITL is by chunk. A request
that failed has zeros in the lists per request and its message in `errors`. Source: the JSON that vLLM 0.32 writes with
`--save-result --save-detailed`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np

from llmbench.reports.load_level import OfferedLoad, offered_load
from llmbench.results.latencies import tpot_ms
from llmbench.results.objectives import meets_slo
from llmbench.results.samples import Bools, Floats, Ints, Samples

_PIECE = 1000  # requests whose gaps are made text at a time
_PERCENTILES = (50, 90, 95, 99)
_NS_PER_S = 1e9


def write_document(samples: Samples, file: TextIO) -> None:
    """One engine at one level as one line of JSON, in which a value that is not finite is null.

    The gaps of all requests are most of it: they become text some requests at a time.
    """
    separator = "{"
    for key, value in _document(samples).items():
        file.write(f"{separator}{json.dumps(key)}: ")
        separator = ", "
        if isinstance(value, _RequestGaps):
            for index, lists in enumerate(value.texts()):
                file.write(f"{', ' if index else '['}{lists}")
            file.write("]" if len(value.counts) else "[]")
        else:
            file.write(json.dumps(_finite(value), allow_nan=False))
    file.write("}\n")


def _document(samples: Samples) -> dict[str, Any]:
    """Texts of answers are not kept by a run: `generated_texts` is null for each request."""
    workload, manifest = samples.run.manifest.workload, samples.run.manifest
    engine = next((engine for engine in manifest.engines if engine.label == samples.engine), None)
    model = (engine and engine.model) or workload.get("model")
    ok = samples.ok
    sent_s, first_s, end_s = (samples.ns(name) / _NS_PER_S for name in ("sent_ns", "first_token_ns", "end_ns"))
    ttft_s, e2e_s = first_s - sent_s, end_s - sent_s
    queue_s = sent_s - samples.ns("due_ns") / _NS_PER_S
    zero_s = float(sent_s[ok & ~np.isnan(sent_s)].min()) if (ok & ~np.isnan(sent_s)).any() else 0.0
    gaps, tokens = _gaps_and_tokens(samples, zero_s)
    output, prompt = (np.nan_to_num(samples.counts(name)).astype(np.int64) for name in _COUNTS)
    seconds = sum(window.whole_seconds for window in samples.windows.values()) or None
    met = meets_slo(samples)
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
        "itls": gaps,
        "latencies": _zeroed(e2e_s, ok),
        "start_times": ((samples.ns("sent_ns") + samples.origin_ns) / _NS_PER_S).tolist(),
        "queue_times": queue_s.tolist(),
        "generated_texts": [None] * len(samples),
        "errors": [error or "" for error in samples.texts("error")],
        "max_output_tokens_per_s": float(tokens.max()) if tokens.size else None,
        "max_concurrent_requests": _most_at_once(samples, sent_s, end_s),
        "rtfx": 0.0,
        **_statistics("ttft", ttft_s[ok] * 1e3),
        **_statistics("tpot", tpot_ms(samples)[ok]),
        **_statistics("itl", gaps.successful_ms()),
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


@dataclass(frozen=True, eq=False)
class _RequestGaps:
    """Gaps between the content chunks of each request, in s: `counts[i]` of them from `s[starts[i]]` on."""

    s: Floats
    starts: Ints
    counts: Ints
    of_success: Bools  # of the places in `s`

    def texts(self) -> Iterator[str]:
        """The inside of a JSON list with a list for each request, in pieces."""
        for first in range(0, len(self.counts), _PIECE):
            places = zip(self.starts[first : first + _PIECE], self.counts[first : first + _PIECE], strict=True)
            yield json.dumps([self.s[start : start + count].tolist() for start, count in places])[1:-1]

    def successful_ms(self) -> Floats:
        return self.s[self.of_success] * 1e3


def _gaps_and_tokens(samples: Samples, zero_s: float) -> tuple[_RequestGaps, Floats]:
    """The gaps of all requests, and the generated tokens of successful ones in each second since `zero_s`."""
    most = np.maximum(0, samples.counts("num_chunks").astype(np.int64) - 1)
    starts, counts = np.cumsum(most) - most, np.zeros(len(samples), np.int64)
    gaps_s, of_success = np.empty(int(most.sum())), np.zeros(int(most.sum()), bool)
    tokens: Floats = _NO
    for piece in samples.pieces():
        content = (piece.tokens > 0) | (piece.chars > 0)
        owner, at_ns = piece.request[content], piece.ns[content]
        same = owner[1:] == owner[:-1]
        owner = owner[1:][same]
        owners, firsts, nums = np.unique(owner, return_index=True, return_counts=True)
        # A request's reads lie together, so its gaps do too.
        counts[owners] = nums
        offset = np.zeros(len(samples), np.int64)
        offset[owners] = starts[owners] - firsts
        places = offset[owner] + np.arange(len(owner))
        gaps_s[places] = np.diff(at_ns)[same] / _NS_PER_S
        of_success[places] = samples.ok[owner]
        counted = samples.ok[piece.request]
        if counted.any():
            seconds = np.maximum(0, (piece.ns[counted] / _NS_PER_S - zero_s).astype(np.int64))
            added = np.bincount(seconds, piece.tokens[counted], len(tokens)).astype(np.float64)
            added[: len(tokens)] += tokens
            tokens = added
    return _RequestGaps(gaps_s, starts, counts, of_success), tokens


def _most_at_once(samples: Samples, sent_s: Floats, end_s: Floats) -> int | None:
    """The most requests under way within one second; seconds count from the first request sent."""
    known = samples.ok & ~np.isnan(sent_s) & ~np.isnan(end_s)
    if not known.any():
        return None
    zero = float(sent_s[known].min())
    begin = (sent_s[known] - zero).astype(np.int64)
    finish = (end_s[known] - zero).astype(np.int64)
    steps = np.zeros(int(finish.max()) + 2, np.int64)
    np.add.at(steps, begin, 1)
    np.add.at(steps, finish + 1, -1)
    return int(np.cumsum(steps).max())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
