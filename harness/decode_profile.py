"""How evenly an engine decodes: each token's time against its place in the answer and what else went on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmbench.results.latencies import tpot_ms
from llmbench.results.samples import Samples

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# A gap this many times the median, and this much longer, is called a stall.
STALL_FACTOR = 5.0
STALL_MS = 5.0
SHARES = (0.5, 0.9, 0.99, 1.0)
_NS_PER_MS = 1e6


class Spread(NamedTuple):
    """p50, p90, p99 and the maximum in ms, of `n` values; None where there is no value."""

    n: int
    p50: float | None
    p90: float | None
    p99: float | None
    maximum: float | None


class Bin(NamedTuple):
    """The gaps of the tokens from `first` to `last` of a count, or of that many streams."""

    first: int
    last: int
    spread: Spread


@dataclass(frozen=True, slots=True)
class Stall:
    """One long gap: `token` is the place of the token that came after it, `at_s` counts from the first due request.

    `prefills` are the requests whose first token was awaited while it lasted.
    """

    request_id: str
    token: int
    at_s: float
    gap_ms: float
    prefills: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecodeProfile:
    """The decode of one engine at one level, over requests that ended well.

    `by_chunk`, `by_token` and `by_request` are the three customs of reporting ITL: the gap between reads; that gap
    divided by the tokens it brought, counted once for each; and (last − first) / (N − 1) once per request. `jitter` is,
    per request, how far its gaps stray: p95 − p5. `bursts` counts reads by the tokens in them. `by_place` bins gaps by
    the place of the token in its answer, `by_streams` by how many requests were decoding. `stalls` are the longest
    first; `num_gaps` counts all gaps, `prefill_share` the share of those that met another request's prefill.
    """

    engine: str
    level: str
    num_requests: int
    num_gaps: int
    by_chunk: Spread
    by_token: Spread
    by_request: Spread
    jitter: Spread
    bursts: dict[int, int]
    by_place: tuple[Bin, ...]
    by_streams: tuple[Bin, ...]
    stall_ms: float | None
    stalls: tuple[Stall, ...]
    prefill_share: float | None


class _Gaps(NamedTuple):
    """One entry per gap between reads with tokens: its request, its ends, its tokens and the place of the first."""

    request: Ints
    start_ns: Floats
    end_ns: Floats
    tokens: Ints
    place: Ints

    @property
    def ms(self) -> Floats:
        return (self.end_ns - self.start_ns) / _NS_PER_MS


def decode_profile(samples: Samples) -> DecodeProfile:
    """The profile of one engine at one level."""
    chosen = samples.ok[samples.chunk_request] & (samples.chunk_tokens > 0)
    gaps = _gaps(samples.chunk_request[chosen], samples.chunk_ns[chosen], samples.chunk_tokens[chosen])
    per_token_ms = gaps.ms / gaps.tokens
    sizes, counts = np.unique(samples.chunk_tokens[chosen], return_counts=True)
    request_ms = tpot_ms(samples)[samples.ok]
    meets_prefill = _meeting_prefills(samples, gaps)
    streams = _decoding_at(samples, gaps.end_ns)
    threshold_ms = _stall_threshold_ms(gaps.ms)
    return DecodeProfile(
        engine=samples.engine,
        level=samples.level,
        num_requests=int(samples.ok.sum()),
        num_gaps=len(gaps.request),
        by_chunk=spread(gaps.ms),
        by_token=spread(np.repeat(per_token_ms, gaps.tokens)),
        by_request=spread(request_ms[~np.isnan(request_ms)]),
        jitter=spread(_jitter_ms(gaps, per_token_ms)),
        bursts=dict(zip(sizes.tolist(), counts.tolist(), strict=True)),
        by_place=_binned(gaps.place, per_token_ms),
        by_streams=_binned(streams, per_token_ms),
        stall_ms=threshold_ms,
        stalls=_stalls(samples, gaps, threshold_ms),
        prefill_share=float(meets_prefill.mean()) if len(meets_prefill) else None,
    )


def spread(values_ms: Floats) -> Spread:
    if not len(values_ms):
        return Spread(0, None, None, None, None)
    return Spread(len(values_ms), *(float(value) for value in np.quantile(values_ms, SHARES)))


def _gaps(request: Ints, ns: Floats, tokens: Ints) -> _Gaps:
    same = request[1:] == request[:-1]
    begins = np.flatnonzero(np.r_[True, ~same]) if len(request) else np.empty(0, np.int64)
    so_far = np.cumsum(tokens) - tokens
    place = so_far - np.repeat(so_far[begins], np.diff(np.r_[begins, len(request)]))
    return _Gaps(request[1:][same], ns[:-1][same], ns[1:][same], tokens[1:][same], place[1:][same])


def _binned(keys: Ints, values_ms: Floats) -> tuple[Bin, ...]:
    """Bins that double in width: 1, 2-3, 4-7, …; empty ones are left out."""
    exponents = np.floor(np.log2(np.maximum(keys, 1))).astype(np.int64)
    return tuple(
        Bin(2**exponent, 2 ** (exponent + 1) - 1, spread(values_ms[exponents == exponent]))
        for exponent in np.unique(exponents).tolist()
    )


def _jitter_ms(gaps: _Gaps, per_token_ms: Floats) -> Floats:
    ranges = []
    for part in np.split(per_token_ms, np.flatnonzero(np.diff(gaps.request)) + 1):
        if len(part) >= 2:
            low, high = np.quantile(part, (0.05, 0.95))
            ranges.append(high - low)
    return np.array(ranges)


def _decoding_at(samples: Samples, at_ns: Floats) -> Ints:
    """How many requests had their first token and not yet their last, at each of `at_ns`."""
    first_ns, last_ns = (np.sort(_known(samples.ns(name))) for name in ("first_token_ns", "last_token_ns"))
    begun = np.searchsorted(first_ns, at_ns, side="right")
    return begun - np.searchsorted(last_ns, at_ns, side="left")


def _meeting_prefills(samples: Samples, gaps: _Gaps) -> NDArray[np.bool_]:
    """Whether a request was waiting for its first token at some time during each gap."""
    sent_ns, first_ns = samples.ns("sent_ns"), samples.ns("first_token_ns")
    both = ~np.isnan(sent_ns) & ~np.isnan(first_ns)
    sent_sorted, first_sorted = np.sort(sent_ns[both]), np.sort(first_ns[both])
    # Sent before the gap's end, less those that had their first token before its start: these were waiting.
    return np.searchsorted(sent_sorted, gaps.end_ns, "left") > np.searchsorted(first_sorted, gaps.start_ns, "right")


def _stall_threshold_ms(gaps_ms: Floats) -> float | None:
    if not len(gaps_ms):
        return None
    median = float(np.median(gaps_ms))
    return max(STALL_FACTOR * median, median + STALL_MS)


def _stalls(samples: Samples, gaps: _Gaps, threshold_ms: float | None) -> tuple[Stall, ...]:
    if threshold_ms is None:
        return ()
    ids = [str(request_id) for request_id in samples.texts("request_id")]
    sent_ns, first_ns = samples.ns("sent_ns"), samples.ns("first_token_ns")
    origin_ns = float(np.nanmin(samples.ns("due_ns")))
    long = np.flatnonzero(gaps.ms >= threshold_ms)
    found = []
    for index in long[np.argsort(-gaps.ms[long], kind="stable")].tolist():
        waiting = np.flatnonzero((sent_ns < gaps.end_ns[index]) & (first_ns > gaps.start_ns[index]))
        found.append(
            Stall(
                request_id=ids[gaps.request[index]],
                token=int(gaps.place[index]),
                at_s=float(gaps.start_ns[index] - origin_ns) / 1e9,
                gap_ms=float(gaps.ms[index]),
                prefills=tuple(ids[other] for other in waiting.tolist() if other != gaps.request[index]),
            )
        )
    return tuple(found)


def _known(values: Floats) -> Floats:
    return values[~np.isnan(values)]
