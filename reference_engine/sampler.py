"""From logits to tokens: greedy, temperature, top-k, top-p and min-p, a whole batch at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from collections.abc import Sequence as SequenceOf
from typing import NamedTuple

import numpy as np
import torch

from llmbench.reference_engine.logit_adjustments import Row, adjust, keep_form
from llmbench.reference_engine.sampling import SamplingParams, TokenLogprobs
from llmbench.reference_engine.sequence import Sequence

# A top-p set is nearly always among this many most probable tokens; finding them is ~10x cheaper than a full sort.
TOP_P_CANDIDATES = 512

# At this temperature every token that may be chosen is as probable as any other; float32 has no much larger one.
_HOTTEST = 1e30


class SampledToken(NamedTuple):
    token_id: int
    logprobs: TokenLogprobs | None


def argmax_of_rows(logits: torch.Tensor) -> torch.Tensor:
    return logits.argmax(dim=-1)


def sample(
    logits: torch.Tensor,
    sequences: SequenceOf[Sequence],
    eos_token_ids: Collection[int],
    argmax: Callable[[torch.Tensor], torch.Tensor] = argmax_of_rows,
    drafts: SequenceOf[SequenceOf[int]] | None = None,
) -> list[SampledToken]:
    """One token per row of logits, [n, vocab_size], which is not modified.

    A row per sequence; or, with drafts, 1 + len(drafts[i]) rows for sequence i: the token after its last one, and the
    token after each of its drafts. A row's token depends on that row, the sequence's parameters, its seed and the
    number of output tokens before it, and on nothing else in the batch.
    """
    if not sequences:
        return []
    if all(sequence.params.is_plain for sequence in sequences):
        return [SampledToken(token_id, None) for token_id in argmax(logits.float()).tolist()]
    rows = _rows(sequences, drafts)
    raw = logits.float()
    allowed = keep_form(adjust(raw, rows, eos_token_ids), rows)
    tokens = argmax(allowed)
    random_rows = [index for index, row in enumerate(rows) if not row.sequence.params.is_greedy]
    if random_rows:
        chosen = [rows[index] for index in random_rows]
        uniforms = torch.tensor(
            [uniform(row.sequence.seed, row.num_output_tokens) for row in chosen], dtype=torch.float64
        )
        tokens[random_rows] = sample_rows(allowed[random_rows], [row.sequence.params for row in chosen], uniforms)
    token_ids: list[int] = tokens.tolist()
    return [
        SampledToken(token_id, _logprobs(raw[index], token_id, row.sequence.params.logprobs))
        for index, (token_id, row) in enumerate(zip(token_ids, rows, strict=True))
    ]


def _rows(sequences: SequenceOf[Sequence], drafts: SequenceOf[SequenceOf[int]] | None) -> list[Row]:
    if drafts is None:
        return [Row(sequence, ()) for sequence in sequences]
    return [
        Row(sequence, ahead[:length])
        for sequence, ahead in zip(sequences, drafts, strict=True)
        for length in range(len(ahead) + 1)
    ]


def uniform(seed: int, index: int) -> float:
    """The index-th number in [0, 1) of a seed's stream, computed without the ones before it.

    Counter-based (Philox, Salmon et al. 2011): the n-th token of a request gets the same number after a
    preemption and in any batch.
    """
    word = int(np.random.Philox(key=seed % 2**64, counter=[index, 0, 0, 0]).random_raw())
    return (word >> 11) * 2.0**-53


def sample_rows(logits: torch.Tensor, params: SequenceOf[SamplingParams], uniforms: torch.Tensor) -> torch.Tensor:
    """Inverse-CDF sampling of each row's filtered distribution: token ids [n].

    logits [n, vocab_size] float32; uniforms [n] float64 in [0, 1). Temperature first, then top-k, top-p and min-p.
    """
    n, vocab_size = logits.shape
    temperatures = torch.tensor([min(p.temperature, _HOTTEST) for p in params]).unsqueeze(1)
    # The maximum is subtracted before dividing, so that a tiny temperature cannot overflow.
    scaled = (logits - logits.amax(dim=-1, keepdim=True)) / temperatures
    tokens = torch.empty(n, dtype=torch.long)
    top_ks = [vocab_size if p.top_k is None else min(p.top_k, vocab_size) for p in params]
    # The most probable token is at 0, so that a token's distance to it is its own value.
    floors = [math.log(p.min_p) if p.min_p > 0 else -math.inf for p in params]
    is_plain = [top_k == vocab_size and p.top_p >= 1.0 for top_k, p in zip(top_ks, params, strict=True)]
    plain = [row for row in range(n) if is_plain[row]]
    if plain:
        values = scaled[plain]
        if any(params[row].min_p > 0 for row in plain):
            values = values.masked_fill(values < torch.tensor([floors[row] for row in plain]).unsqueeze(1), -torch.inf)
        tokens[plain] = _invert_cdf(values.softmax(dim=-1), uniforms[plain])
    for row in range(n):
        if not is_plain[row]:
            tokens[row] = _sample_filtered(scaled[row], top_ks[row], params[row].top_p, floors[row], uniforms[row])
    return tokens


def _sample_filtered(scaled: torch.Tensor, top_k: int, top_p: float, floor: float, u: torch.Tensor) -> torch.Tensor:
    """One row through top-k, top-p and min-p. Row by row: each request has a different number of candidates."""
    vocab_size = scaled.shape[0]
    limit = min(top_k, vocab_size)
    num_candidates = limit if limit < vocab_size else min(TOP_P_CANDIDATES, vocab_size)
    values, ids = scaled.topk(num_candidates)
    # Mass is relative to what top-k keeps: top-p is applied to the renormalised distribution.
    total = values.logsumexp(0) if num_candidates == limit else scaled.logsumexp(0)
    probs = (values - total).exp()
    if num_candidates < limit and float(probs.sum()) < top_p and float(values[-1]) >= floor:
        values, ids = scaled.sort(descending=True)
        probs = (values - total).exp()
    # A token stays while the mass before it is below top_p: the one that crosses the line stays too.
    kept = probs * ((probs.cumsum(0) - probs) < top_p) * (values >= floor)
    return ids[_invert_cdf(kept.unsqueeze(0), u.unsqueeze(0))[0]]


def _invert_cdf(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first index whose cumulative weight exceeds u times the row's sum; weights [n, m] need not sum to 1.

    The last index of a row without a sum, in which no token may be chosen, or of which the model made no numbers.
    """
    cdf = weights.double().cumsum(dim=-1)
    total = cdf[:, -1:].contiguous()
    index = torch.searchsorted(cdf, uniforms.unsqueeze(1) * total, right=True)
    # u * total may round up to total, which no cumulative weight exceeds; the last index with weight is meant then.
    return index.minimum(torch.searchsorted(cdf, total)).clamp(max=weights.shape[1] - 1).squeeze(1)


def _logprobs(logits: torch.Tensor, token_id: int, num_top: int | None) -> TokenLogprobs | None:
    if num_top is None:
        return None
    logprobs = logits.log_softmax(dim=-1)
    values, ids = logprobs.topk(min(num_top, logits.shape[0]))
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token_id, float(logprobs[token_id]), top)
