"""What each request contributes to a total: tokens and answers that came in the window, and what counts as good."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from llmbench.results.latencies import is_streamed
from llmbench.results.objectives import meets_slo
from llmbench.results.samples import Floats, Samples


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


def output_tokens(whole: Samples) -> Floats:
    """Of each request that ended well, its generated tokens that came in the window."""
    tokens = np.where(whole.ok, np.nan_to_num(whole.counts("output_tokens")), 0.0)
    return tokens * _share_inside(whole)


def all_tokens(whole: Samples) -> Floats:
    """The same with the tokens of its prompt."""
    # A prompt has been read when its answer begins.
    read = whole.ok & whole.in_window(whole.ns("first_token_ns" if is_streamed(whole) else "end_ns"))
    return output_tokens(whole) + np.where(read, np.nan_to_num(whole.counts("prompt_tokens")), 0.0)


def answered(whole: Samples) -> Floats:
    """1 for each request that ended well in the window."""
    return (whole.ok & whole.in_window(whole.ns("end_ns"))).astype(np.float64)


def good(whole: Samples) -> Floats | None:
    """1 for each that met every objective besides; None without any."""
    met = meets_slo(whole)
    return None if met is None else (met & whole.in_window(whole.ns("end_ns"))).astype(np.float64)


def successes(samples: Samples) -> Floats:
    """1 for each request that ended well."""
    return samples.ok.astype(np.float64)


def attempts(samples: Samples) -> Floats | None:
    """How often each request was sent; None where it was not to be sent again."""
    measure = samples.run.manifest.workload.get("measure")
    asked = isinstance(measure, dict) and measure.get("retries") is not None
    return samples.counts("attempt") if asked else None


def retried(samples: Samples) -> Floats | None:
    """1 for each that was sent again."""
    times = attempts(samples)
    return None if times is None else (times > 1).astype(np.float64)


def met(samples: Samples) -> Floats | None:
    """1 for each request that met every objective; None without any."""
    good = meets_slo(samples)
    return None if good is None else good.astype(np.float64)
