"""How many tokens each read of an answer carried, and where that number came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from llmbench.engines.adapter import CountTokens
from llmbench.engines.wire import TokenEvent, TokenSource


@dataclass(slots=True)
class Delta:
    """One server event, in the read `chunk` that completed it.

    `generated` is false for what can hold no token: a role, a usage report. A generated delta may have empty text: half
    a character, or only a finish reason. `token_ids` are the ids that the server sent with it, `num_logprobs` is the
    length of such a list; `total_so_far` is its count of output tokens up to here.
    """

    chunk: int
    text: str = ""
    generated: bool = True
    finishes: bool = False
    token_ids: Sequence[int] | None = None
    num_logprobs: int | None = None
    total_so_far: int | None = None


class Attribution(NamedTuple):
    """`events` has one entry per read. `source` is None where nobody gave a count: then every event says 0 tokens."""

    events: tuple[TokenEvent, ...]
    output_tokens: int | None
    source: TokenSource | None


def attribute(
    deltas: Sequence[Delta], num_reads: int, total: int | None, count_tokens: CountTokens | None, *, streamed: bool
) -> Attribution:
    """Tokens per read from the best source at hand, in the order of `TokenSource`.

    `total` is the server's final count of output tokens. Token ids and growing counts are exact per read. Log
    probabilities are, unless their number is not the server's total. A total alone is exact per read when there are as
    many deltas as tokens; otherwise each delta gets one and the rest follows the lengths of their texts, in tokens if
    a tokenizer is at hand, so that the sum is exact and the share of a read is an estimate. The same holds for text
    counted again by a tokenizer. With no source left a streamed delta is assumed to be one token; the length of an
    answer in one piece stays unknown.
    """
    texts = [""] * num_reads
    for delta in deltas:
        texts[delta.chunk] += delta.text
    counts, source = _count(deltas, total, count_tokens, streamed)
    tokens = [0] * num_reads
    for delta, count in zip(deltas, counts, strict=True):
        tokens[delta.chunk] += count
    events = tuple(TokenEvent(chunk, tokens[chunk], texts[chunk]) for chunk in range(num_reads))
    return Attribution(events, None if source is None else sum(tokens), source)


def _count(
    deltas: Sequence[Delta], total: int | None, count_tokens: CountTokens | None, streamed: bool
) -> tuple[list[int], TokenSource | None]:
    if not deltas:
        return [], None
    generated = [delta for delta in deltas if delta.generated]
    ids = _lengths(generated, lambda delta: None if delta.token_ids is None else len(delta.token_ids))
    if ids is not None and sum(ids) > 0:
        return _spread(deltas, generated, ids), TokenSource.TOKEN_IDS
    growth = _growth(deltas)
    if growth is not None and streamed:
        return growth, TokenSource.USAGE_DELTA
    logprobs = _lengths(generated, lambda delta: delta.num_logprobs)
    if logprobs is not None and sum(logprobs) > 0 and total in (None, sum(logprobs)):
        return _spread(deltas, generated, logprobs), TokenSource.LOGPROBS
    if total is not None:
        return _share_total(deltas, total, count_tokens or len), TokenSource.SERVER_COUNT
    with_text = [delta for delta in generated if delta.text]
    if count_tokens is not None:
        recounted = count_tokens("".join(delta.text for delta in with_text)) if with_text else 0
        weights = [count_tokens(delta.text) for delta in with_text]
        return _spread(deltas, with_text, apportion(recounted, weights)), TokenSource.RETOKENISED
    if streamed:
        return _spread(deltas, with_text, [1] * len(with_text)), TokenSource.ASSUMED_ONE
    return [0] * len(deltas), None


def _lengths(deltas: Sequence[Delta], length: Callable[[Delta], int | None]) -> list[int] | None:
    # A closing delta without text (only a finish reason) need not carry a list; any other without one spoils the count.
    lengths: list[int] = []
    for delta in deltas:
        found = length(delta)
        if found is None:
            if delta.text or not delta.finishes:
                return None
            found = 0
        lengths.append(found)
    return lengths


def _growth(deltas: Sequence[Delta]) -> list[int] | None:
    """Tokens per delta if the server's count grew along with the text; None if it said its total only once or twice."""
    totals: list[int] = []
    for delta in deltas:
        if delta.total_so_far is None and delta.text:
            return None
        totals.append((totals[-1] if totals else 0) if delta.total_so_far is None else delta.total_so_far)
    told = {delta.total_so_far for delta in deltas if delta.generated and delta.text}
    stands_still = len(told) == 1 and sum(1 for delta in deltas if delta.text) > 1
    if not totals or totals[-1] == 0 or stands_still or any(after < before for before, after in pairwise(totals)):
        return None
    if not told and not any(delta.generated and delta.total_so_far for delta in deltas):
        return None
    return [after - before for before, after in pairwise([0, *totals])]


def _share_total(deltas: Sequence[Delta], total: int, length: Callable[[str], int]) -> list[int]:
    with_text = [delta for delta in deltas if delta.generated and delta.text]
    not_closing = [delta for delta in deltas if delta.generated and (delta.text or not delta.finishes)]
    generated = [delta for delta in deltas if delta.generated]
    # Engines differ in whether an empty delta is a token: half a character is one, a bare finish reason often is not.
    for candidates in (with_text, not_closing, generated):
        if len(candidates) == total:
            return _spread(deltas, candidates, [1] * total)
    candidates = with_text or generated or list(deltas)
    return _spread(deltas, candidates, apportion(total, [length(delta.text) for delta in candidates]))


def _spread(deltas: Sequence[Delta], chosen: Sequence[Delta], counts: Sequence[int]) -> list[int]:
    count_of = {id(delta): count for delta, count in zip(chosen, counts, strict=True)}
    return [count_of.get(id(delta), 0) for delta in deltas]


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """`total` split into whole numbers along `weights`: at least 1 each where the total allows it, the rest in
    proportion. The parts sum to `total`; without weights to go by they are as equal as they can be."""
    if not weights:
        return []
    each = 1 if total >= len(weights) else 0
    rest = total - each * len(weights)
    # At least 1 each is given already, so the rest follows what a weight has beyond that.
    excess = [max(weight - each, 0) for weight in weights]
    if sum(excess) == 0:
        excess = [1] * len(weights)
    whole, parts, seen, given = sum(excess), [], 0, 0
    for share in excess:
        seen += share
        # Rounding the running sum, not each part, keeps the sum exact and no part more than one token off.
        upto = (rest * seen * 2 + whole) // (2 * whole)
        parts.append(each + upto - given)
        given = upto
    return parts
