"""Same question, same answer: how far engines agree that were asked the same, token for token where they do not.

Whether two answers are equal is known of every pair, by the digests of their texts; where they part, of those whose
texts were kept (`answers.parquet`). Greedy answers alone are compared: sampled ones differ by chance.

The token in which they part is found by the best ruler at hand (`Ruler`): the ids that both engines told; else the
reads, where each brought one token by the engine's own count; else the ids that a tokenizer gives the texts, which need
not be the ones that were generated; else the reads as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples

if TYPE_CHECKING:
    import pyarrow as pa

Ruler = Literal["token ids", "the engines' counts", "retokenised text", "reads"]

# How much of an answer is quoted before and after the place where it parts from another, in characters.
_CONTEXT = 60


# Sources by which a read of one token is known to be one, whatever the other reads brought.
_EXACT_SOURCES = frozenset({"token_ids", "usage_delta", "logprobs"})


class Place(NamedTuple):
    """Where in one answer it parts from the other: the token's number, counted from 0, and the text from there on to
    the end of the read that brought it. `is_exact` is false where that read brought several tokens, the first of which
    is counted. An answer that ends there has the text "". `token_id` is that token's, where ids are the ruler."""

    token: int
    text: str
    is_exact: bool
    token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first place where two answers to one question differ: after `character` characters in common, the last of
    which are `before`. `rest` is how each goes on. `ruler` is what the tokens of `places` were counted by; `same_ids`
    says that both engines told the same tokens, so that it is their texts alone that differ."""

    round: int
    index: int
    character: int
    before: str
    places: tuple[Place, Place]
    rests: tuple[str, str]
    ruler: Ruler = "reads"
    same_ids: bool = False


@dataclass(frozen=True, slots=True)
class Equality:
    """The answers of `engine` beside those of `baseline` to the same questions at one level.

    Of `num_asked` questions both answered `num_both`; `num_failed` has how many each did not. Of those both answered,
    `num_identical` have equal texts, `num_longer` an answer of another number of tokens, of which the mean difference
    in tokens is `extra_tokens` (of `engine` over `baseline`; None where nobody counted). `divergences` are those of
    kept texts, `num_kept` of which both were kept.
    """

    level: str
    baseline: str
    engine: str
    num_asked: int
    num_failed: tuple[int, int]
    num_both: int
    num_identical: int
    num_lengths_differ: int
    extra_tokens: float | None
    num_kept: int
    divergences: tuple[Divergence, ...]

    @property
    def share(self) -> float | None:
        """The share of identical answers; None where no question was answered by both."""
        return self.num_identical / self.num_both if self.num_both else None


def why_not_compared(run: Run) -> str | None:
    """Why answers cannot be held against each other, as a sentence; None where they can."""
    if len({samples.engine for samples in each_samples(run)}) < 2:
        return "One engine was asked: there is nothing to compare its answers with."
    request = run.manifest.workload.get("request")
    temperature = request.get("temperature") if isinstance(request, dict) else None
    if isinstance(temperature, int | float) and temperature > 0:
        return f"The answers were sampled (temperature {temperature:g}), so they differ by chance and are not compared."
    return None


@lru_cache(maxsize=4)
def equalities(run: Run) -> tuple[Equality, ...]:
    """Each engine against the first one asked at the same level, in the workload's order; empty where answers cannot
    be compared (`why_not_compared`)."""
    if why_not_compared(run) is not None:
        return ()
    levels: dict[str, list[Samples]] = {}
    for samples in each_samples(run):
        levels.setdefault(samples.level, []).append(samples)
    kept = _Kept.of(run.answers)
    return tuple(_equality(members[0], other, kept) for members in levels.values() for other in members[1:])


def agreement(run: Run) -> tuple[str, ...]:
    """One sentence for each pair of engines on how many of their answers are identical, all levels together."""
    pairs: dict[tuple[str, str], list[Equality]] = {}
    for each in equalities(run):
        pairs.setdefault((each.engine, each.baseline), []).append(each)
    sentences = []
    for (engine, baseline), found in pairs.items():
        both, identical = sum(each.num_both for each in found), sum(each.num_identical for each in found)
        if both == 0:
            sentences.append(f"{engine} and {baseline} have no question that both answered.")
            continue
        share = f"{100 * identical / both:.1f} %"
        told = f"{engine} gave the same answer as {baseline} to {identical} of {both} questions ({share})"
        tokens = [divergence.places[0].token for each in found for divergence in each.divergences]
        parts = f"; where they part, it is at token {np.median(tokens):.0f} at the median" if tokens else ""
        sentences.append(f"{told}{parts}.")
    return tuple(sentences)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Answers that were kept, by request id; ids of tokens are read one answer at a time, as few are asked for."""

    table: pa.Table
    rows: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pa.Table) -> _Kept:
        return cls(table, {name: row for row, name in enumerate(table.column("request_id").to_pylist())})

    def __contains__(self, request_id: str | None) -> bool:
        return request_id in self.rows

    def text(self, request_id: str) -> str:
        found: str = self.table.column("text")[self.rows[request_id]].as_py()
        return found

    def ids(self, column: str, request_id: str) -> list[int] | None:
        found: list[int] | None = self.table.column(column)[self.rows[request_id]].as_py()
        return found


def _equality(baseline: Samples, engine: Samples, answers: _Kept) -> Equality:
    pairs = list(_pairs(baseline, engine))
    digests = [samples.texts("output_sha256") for samples in (baseline, engine)]
    ids = [samples.texts("request_id") for samples in (baseline, engine)]
    lengths = [samples.counts("output_tokens") for samples in (baseline, engine)]
    both = [(here, there) for here, there in pairs if baseline.ok[here] and engine.ok[there]]
    differ = [(here, there) for here, there in both if digests[0][here] != digests[1][there]]
    extra = np.array([lengths[1][there] - lengths[0][here] for here, there in both])
    known = extra[~np.isnan(extra)]
    kept = [(here, there) for here, there in both if ids[0][here] in answers and ids[1][there] in answers]
    known_texts = set(kept)
    return Equality(
        level=baseline.level,
        baseline=baseline.engine,
        engine=engine.engine,
        num_asked=len(pairs),
        num_failed=(
            sum(not baseline.ok[here] for here, _ in pairs),
            sum(not engine.ok[there] for _, there in pairs),
        ),
        num_both=len(both),
        num_identical=len(both) - len(differ),
        num_lengths_differ=int((known != 0).sum()),
        extra_tokens=float(known.mean()) if known.size else None,
        num_kept=len(kept),
        divergences=tuple(_divergences(baseline, engine, [pair for pair in differ if pair in known_texts], answers)),
    )


def _pairs(baseline: Samples, engine: Samples) -> Iterator[tuple[int, int]]:
    """Indices into the two of each question that both were asked."""
    there = {key: place for place, key in enumerate(engine.keys)}
    for here, key in enumerate(baseline.keys):
        if key in there:
            yield here, there[key]


def _divergences(
    baseline: Samples, engine: Samples, pairs: list[tuple[int, int]], answers: _Kept
) -> Iterator[Divergence]:
    sides = (baseline, engine)
    reads = [_reads(samples, {pair[side] for pair in pairs}) for side, samples in enumerate(sides)]
    names = [samples.texts("request_id") for samples in sides]
    sources = [samples.texts("token_source") for samples in sides]
    for pair in pairs:
        ids = [names[side][place] or "" for side, place in enumerate(pair)]
        texts = [answers.text(each) for each in ids]
        common = _num_common(*texts)
        told = [answers.ids("token_ids", each) for each in ids]
        first, second = (_place(texts[side], common, reads[side][place]) for side, place in enumerate(pair))
        counted = all(_is_counted(sources[side][place], reads[side][place]) for side, place in enumerate(pair))
        ruler: Ruler = "the engines' counts" if counted and first.is_exact and second.is_exact else "reads"
        if (found := _by_ids(told)) is not None:
            ruler = "token ids"
            first, second = (
                _read_at(each, texts[side], reads[side][place])
                for side, (each, place) in enumerate(zip(found, pair, strict=True))
            )
        elif ruler == "reads" and (found := _by_ids([answers.ids("retokenised", each) for each in ids])) is not None:
            ruler = "retokenised text"
            first, second = (each._replace(text=texts[side][common:]) for side, each in enumerate(found))
        number, index = baseline.keys[pair[0]]
        yield Divergence(
            round=number,
            index=index,
            character=common,
            before=texts[0][max(0, common - _CONTEXT) : common],
            places=(first, second),
            rests=(texts[0][common : common + _CONTEXT], texts[1][common : common + _CONTEXT]),
            ruler=ruler,
            same_ids=told[0] is not None and told[0] == told[1],
        )


def _is_counted(source: str | None, reads: _Reads) -> bool:
    # A mere total is shared out among the reads; where there are as many of them as tokens, each brought one.
    return source in _EXACT_SOURCES or (source == "server_count" and max(reads.tokens, default=0) <= 1)


def _by_ids(ids: Sequence[Sequence[int] | None]) -> tuple[Place, Place] | None:
    """The first token in which two lists of ids differ, without its text; None where one is missing, or none does."""
    ours, theirs = ids
    if ours is None or theirs is None or ours == theirs:
        return None
    token = _num_common(ours, theirs)
    first, second = (
        Place(token, "", True, listed[token] if token < len(listed) else None) for listed in (ours, theirs)
    )
    return first, second


def _read_at(place: Place, text: str, reads: _Reads) -> Place:
    """`place` with the text of the read that brought its token; half a character has none yet."""
    before = 0
    for tokens, (start, end) in zip(reads.tokens, pairwise([0, *reads.ends]), strict=True):
        if before <= place.token < before + tokens:
            return place._replace(text=text[start:end])
        before += tokens
    return place


class _Reads(NamedTuple):
    """Of one answer: tokens of each read, and where in its text each ends."""

    tokens: list[int]
    ends: list[int]


def _reads(samples: Samples, members: set[int]) -> dict[int, _Reads]:
    found = {member: _Reads([], []) for member in members}
    for piece in samples.pieces(np.array(sorted(members), np.int64)):
        for member, tokens, chars in zip(
            piece.request.tolist(), piece.tokens.tolist(), piece.chars.tolist(), strict=True
        ):
            reads = found[member]
            reads.tokens.append(tokens)
            reads.ends.append((reads.ends[-1] if reads.ends else 0) + chars)
    return found


def _num_common(first: Sequence[object], second: Sequence[object]) -> int:
    """How many characters, or tokens, both begin with."""
    unlike = (place for place, (here, there) in enumerate(zip(first, second, strict=False)) if here != there)
    return next(unlike, min(len(first), len(second)))


def _place(text: str, common: int, reads: _Reads) -> Place:
    before = 0
    for tokens, (start, end) in zip(reads.tokens, pairwise([0, *reads.ends]), strict=True):
        if end > common:
            return Place(before, text[common if tokens > 1 else start : end], tokens <= 1)
        before += tokens
    return Place(before, text[common:], not text[common:])
