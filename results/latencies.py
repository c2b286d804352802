"""What each request took, and each gap between its tokens: the values behind metrics with a distribution."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmbench.results.duration import NS_PER_MS
from llmbench.results.gaps import Gaps
from llmbench.results.metric import Values
from llmbench.results.samples import Floats, Samples

_NONE = Values(np.empty(0), np.empty(0, np.int64))


def is_streamed(samples: Samples) -> bool:
    """Whether answers came token by token; if not, nothing is known of when a token came."""
    engines = {engine.label: engine for engine in samples.run.manifest.engines}
    if samples.engine in engines and engines[samples.engine].details.get("streaming") is False:
        return False
    request = samples.run.manifest.workload.get("request")
    return not (isinstance(request, dict) and request.get("stream") is False)


def latency(start: str, end: str) -> Callable[[Samples], Values]:
    """Of each request `end` − `start`, two stamps, in ms; a failed one took for ever."""

    def values(samples: Samples) -> Values:
        if end == "first_token_ns" and not is_streamed(samples):
            return _NONE
        ms = (samples.ns(end) - samples.ns(start)) / NS_PER_MS
        return _per_request(np.where(samples.ok, ms, np.inf))

    return values


def count(column: str) -> Callable[[Samples], Values]:
    """Of each request that ended well the count in `column`."""

    def values(samples: Samples) -> Values:
        return _per_request(np.where(samples.ok, samples.counts(column), np.nan))

    return values


def tpot(samples: Samples) -> Values:
    """`tpot_ms` of each request; a failed one took for ever."""
    if not is_streamed(samples):
        return _NONE
    return _per_request(np.where(samples.ok, tpot_ms(samples), np.inf))


def tpot_ms(samples: Samples) -> Floats:
    """(last − first) / (N − 1) of every request in ms; NaN below two tokens, or where stamps are missing."""
    tokens = samples.counts("output_tokens")
    decode_ms = (samples.ns("last_token_ns") - samples.ns("first_token_ns")) / NS_PER_MS
    per_token_ms: Floats = np.divide(decode_ms, tokens - 1, out=np.full(len(samples), np.nan), where=tokens >= 2)
    return per_token_ms


def send_lag(samples: Samples) -> Values:
    """How late each was sent, in ms."""
    return _per_request((samples.ns("sent_ns") - samples.attempt_due_ns) / NS_PER_MS)


def itl_chunk(samples: Samples) -> Values:
    """The gaps between chunks, in ms."""
    return _with_failures(samples, samples.gaps.by_chunk) if is_streamed(samples) else _NONE


def itl(samples: Samples) -> Values:
    """The gaps between chunks ÷ the tokens they brought, in ms, each as often as it brought tokens."""
    return _with_failures(samples, samples.gaps.by_token) if is_streamed(samples) else _NONE


def tokens_per_chunk(samples: Samples) -> Values:
    """The tokens of each chunk that has any."""
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
