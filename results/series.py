"""What pictures are drawn from, thinned out to what a screen can show."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from llmbench.results.duration import NS_PER_S
from llmbench.results.metrics import ordered_of
from llmbench.results.run import Run
from llmbench.results.samples import Floats, Samples, each_samples

MAX_POINTS = 1000
MAX_TOKEN_MARKS = 400


@dataclass(frozen=True, slots=True)
class Cdf:
    """Share `y` of all samples that are at most `x`. With failures the curve ends below 1."""

    x: Floats
    y: Floats
    n: int
    num_failed: int


def cdf(samples: Samples, metric: str) -> Cdf | None:
    """The cumulative distribution of a metric, at most MAX_POINTS points; None without samples."""
    ordered = ordered_of(samples, metric)
    if ordered is None:
        return None
    cumulative, n = ordered.cumulative, ordered.n
    finite = int(np.isfinite(ordered.values).sum())
    # Evenly in the share, with the last few values exact: tails are what a reader looks for.
    steps = np.linspace(0, max(0, finite - 1), min(finite, MAX_POINTS)).astype(np.int64)
    tail = np.arange(max(0, finite - 100), finite)
    kept = np.unique(np.concatenate([steps, tail]))
    num_finite = int(cumulative[finite - 1]) if finite else 0
    return Cdf(ordered.values[kept], cumulative[kept] / n, n, n - num_finite)


@dataclass(frozen=True, slots=True)
class WaterfallRow:
    """The life of one attempt, in s since its trial's first due request; None for a stamp that never came.

    `line` counts requests from 0: the attempts of one follow each other with the same. `due_s` is when this attempt was
    to be sent.
    """

    request_id: str
    line: int
    attempt: int
    round: int
    due_s: float
    sent_s: float | None
    first_token_s: float | None
    end_s: float | None
    token_s: Floats
    status: str


def waterfall(samples: Samples, limit: int = 60, round_index: int | None = None) -> list[WaterfallRow]:
    """Every attempt of the first `limit` requests of one round (default the first there is), in the order in which the
    requests were due; token stamps are thinned.

    Like all that is drawn over time, with what lies outside the window.
    """
    samples = samples.whole.attempts
    rounds = samples.round
    wanted = int(rounds.min()) if round_index is None else round_index
    in_round = np.flatnonzero(rounds == wanted)
    due_ns, index = samples.ns("due_ns"), samples.counts("index")[in_round]
    # Attempts of one request stand together.
    line_of = np.cumsum(np.concatenate([[0], index[1:] != index[:-1]]))
    members = in_round[line_of < limit]
    zero_ns = due_ns[in_round].min()
    stamps = {name: samples.ns(name) for name in ("sent_ns", "first_token_ns", "end_ns")}
    ids, statuses, attempts = samples.texts("request_id"), samples.texts("status"), samples.counts("attempt")
    stamps_ns: dict[int, list[Floats]] = {int(member): [] for member in members}
    for piece in samples.pieces(members):
        content = (piece.tokens > 0) | (piece.chars > 0)
        for member in np.unique(piece.request[content]):
            stamps_ns[int(member)].append(piece.ns[content & (piece.request == member)])

    def seconds(name: str, member: int) -> float | None:
        stamp = float(stamps[name][member])
        return None if np.isnan(stamp) else (stamp - zero_ns) / NS_PER_S

    rows = []
    for line, member in zip(line_of.tolist(), members.tolist(), strict=False):
        tokens = np.concatenate([*stamps_ns[member], np.empty(0)])
        thinned = tokens[:: max(1, -(-len(tokens) // MAX_TOKEN_MARKS))]
        rows.append(
            WaterfallRow(
                request_id=str(ids[member]),
                line=line,
                attempt=int(attempts[member]),
                round=wanted,
                due_s=float(samples.attempt_due_ns[member] - zero_ns) / NS_PER_S,
                sent_s=seconds("sent_ns", member),
                first_token_s=seconds("first_token_ns", member),
                end_s=seconds("end_ns", member),
                token_s=(thinned - zero_ns) / NS_PER_S,
                status=str(statuses[member]),
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Throughput:
    """Rates in bins of equal width, over s since the first due request of the round; averaged over rounds."""

    t_s: Floats
    tokens_per_s: Floats
    requests_per_s: Floats
    bin_s: float


def throughput(samples: Samples, num_bins: int = 60) -> Throughput | None:
    """Output tokens and finished requests per second over the time of a round; None if nothing ended.

    Tokens of attempts that failed are among them.
    """
    samples = samples.whole.attempts
    due_ns, end_ns = samples.ns("due_ns"), samples.ns("end_ns")
    rounds = np.unique(samples.round)
    zero_ns = np.array([due_ns[samples.round == number].min() for number in rounds])
    start_of = zero_ns[np.searchsorted(rounds, samples.round)]
    ended = ~np.isnan(end_ns)
    if not ended.any():
        return None
    end_s = ((end_ns - start_of) / NS_PER_S)[ended & samples.ok]
    last_s = float(((end_ns - start_of) / NS_PER_S)[ended].max())
    edges = np.linspace(0, max(last_s, 1e-6), num_bins + 1)
    width = float(edges[1])
    scale = width * len(rounds)
    tokens = np.zeros(num_bins)
    for piece in samples.pieces():
        # Not np.histogram, which sorts: bins of equal width take a division.
        bins = ((piece.ns - start_of[piece.request]) / (width * NS_PER_S)).astype(np.int64)
        tokens += np.bincount(np.clip(bins, 0, num_bins - 1), piece.tokens, num_bins)
    requests, _ = np.histogram(end_s, edges)
    return Throughput(edges[:-1] + width / 2, tokens / scale, requests / scale, width)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When attempts were due and when they were sent, in s since the round's first due request, each sorted;
    `num_again` of them were not their request's first."""

    asked_s: Floats
    sent_s: Floats
    num_again: int


def arrivals(samples: Samples) -> Arrivals:
    """The arrival process of the first round as asked and as achieved, with what was sent again."""
    samples = samples.whole.attempts
    members = samples.round == samples.round.min()
    due_ns, sent_ns = samples.attempt_due_ns[members], samples.ns("sent_ns")[members]
    zero_ns = samples.ns("due_ns")[members].min()
    asked = np.sort((due_ns - zero_ns) / NS_PER_S)
    sent = np.sort((sent_ns[~np.isnan(sent_ns)] - zero_ns) / NS_PER_S)
    num_again = int((samples.counts("attempt")[members] > 1).sum())
    return Arrivals(asked, sent, num_again)


@dataclass(frozen=True, slots=True)
class FailureCount:
    """Failures of one kind; `example` is the sentence of the first."""

    engine: str
    level: str
    kind: str
    num: int
    example: str


def failures(run: Run) -> list[FailureCount]:
    """Failures by engine, level and kind, the most frequent first within each engine."""
    found = []
    for samples in (each.whole for each in each_samples(run)):
        said = list(zip(samples.texts("error_kind"), samples.texts("error"), strict=True))
        failed = [
            (kind or "unknown", error or "") for (kind, error), ok in zip(said, samples.ok, strict=True) if not ok
        ]
        examples = dict(reversed(failed))
        for kind, num in Counter(kind for kind, _ in failed).most_common():
            found.append(FailureCount(samples.engine, samples.level, kind, num, examples[kind]))
    return found
