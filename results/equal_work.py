"""Whether the engines of a run did the same work: what else may explain a difference between their figures.

Each is a sentence with numbers; none means that nothing unequal was seen, not that nothing is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from llmbench.results.manifest import EngineManifest
from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples
from llmbench.results.server_side import server_side
from llmbench.results.units import Floats

# Of prompt tokens; below it a hit is a common beginning of a block or two.
_MIN_HIT_SHARE = 0.02
# Both are counts of the same answers: one in a hundred may have met its end token.
_MAX_SHARE_OF_OTHER_LENGTHS = 0.01
_SETUP = (
    ("model", "model"),
    ("model_digest", "weights (digest of the checkpoint)"),
    ("dtype", "dtype"),
    ("kv_cache_dtype", "dtype of the KV cache"),
    ("quantization", "quantisation"),
)


@lru_cache(maxsize=4)
def unequal_work(run: Run) -> tuple[str, ...]:
    """What was unlike about the work of the engines that were asked; empty for one engine."""
    by_engine: dict[str, list[Samples]] = {}
    for samples in each_samples(run):
        by_engine.setdefault(samples.engine, []).append(samples)
    if len(by_engine) < 2:
        return ()
    first, *others = by_engine
    found = [*_setups(run, tuple(by_engine))]
    for other in others:
        pairs = [(here, there) for here in by_engine[first] for there in by_engine[other] if here.level == there.level]
        found += [*_prompts(first, other, pairs), *_lengths(first, other, pairs), *_failures(first, other, pairs)]
    return (*found, *_prefix_hits(by_engine), *_yardsticks(by_engine))


def _setups(run: Run, engines: Sequence[str]) -> Iterator[str]:
    known = {engine.label: engine for engine in run.manifest.engines if engine.label in engines}
    for name, words in _SETUP:
        told = {label: value for label, engine in known.items() if (value := _setting(engine, name)) is not None}
        if name == "quantization" and told:
            # Who tells its dtype and no quantisation has none; of who tells nothing, nothing is known.
            told = {
                label: told.get(label, "none")
                for label, engine in known.items()
                if label in told or "dtype" in engine.details
            }
        if len(set(told.values())) > 1:
            yield f"Another {words}: {', '.join(f'{label} {value[:16]}' for label, value in told.items())}."


def _setting(engine: EngineManifest, name: str) -> str | None:
    value = getattr(engine, name) if name in ("model", "model_digest") else engine.details.get(name)
    return None if value is None else str(value)


def _prompts(first: str, other: str, pairs: Sequence[tuple[Samples, Samples]]) -> Iterator[str]:
    ours, theirs = _counted("prompt_tokens", pairs)
    differ = ours != theirs
    if not differ.any():
        return
    extra = (theirs - ours)[differ]
    told = f"{other} counted other numbers of prompt tokens than {first} for {differ.sum()} of {len(ours)} prompts"
    if (extra == extra[0]).all() and abs(extra[0]) < 8:
        yield f"{told}, {_signed(extra[0])} each: one of them adds tokens of its own."
        return
    mean = f"{theirs[differ].mean():.0f} against {ours[differ].mean():.0f} on average"
    for short, counts, others in ((other, theirs, ours), (first, ours, theirs)):
        cut = counts[differ]
        if (cut < others[differ]).all() and (cut == cut.max()).all() and (counts <= cut.max()).all():
            yield f"{told}, {mean}: {short} took none beyond {cut.max():.0f}, as if it cut prompts there."
            return
    yield f"{told}, {mean}: another tokenizer, a template around the prompt, or prompts that were cut."


def _lengths(first: str, other: str, pairs: Sequence[tuple[Samples, Samples]]) -> Iterator[str]:
    ours, theirs = _counted("output_tokens", pairs, answered=True)
    differ = ours != theirs
    if len(ours) and differ.mean() > _MAX_SHARE_OF_OTHER_LENGTHS:
        yield (
            f"{other}'s answers have another length than {first}'s for {differ.sum()} of {len(ours)} questions: "
            f"{theirs.mean():.1f} tokens against {ours.mean():.1f} on average over all."
        )


def _failures(first: str, other: str, pairs: Sequence[tuple[Samples, Samples]]) -> Iterator[str]:
    failed = [sum(int((~pair[side].ok).sum()) for pair in pairs) for side in (0, 1)]
    asked = [sum(len(pair[side]) for pair in pairs) for side in (0, 1)]
    if failed[0] != failed[1]:
        yield (
            f"{other} failed {failed[1]} of {asked[1]} requests, {first} {failed[0]} of {asked[0]}: an answer that was "
            "not given was no work."
        )


def _prefix_hits(by_engine: dict[str, list[Samples]]) -> Iterator[str]:
    shares = {}
    for engine, members in by_engine.items():
        sides = [server_side(samples) for samples in members]
        hits, queries = (
            [side.increase(name) for side in sides] for name in ("prefix_cache_hits", "prefix_cache_queries")
        )
        known = [(part, whole) for part, whole in zip(hits, queries, strict=True) if part is not None and whole]
        if known:
            shares[engine] = sum(part for part, _ in known) / sum(whole for _, whole in known)
    if shares and max(shares.values()) - min(shares.values()) > _MIN_HIT_SHARE:
        told = ", ".join(f"{engine} {share:.0%}" for engine, share in shares.items())
        yield f"Prompt tokens that the prefix cache had already, and that were not computed again: {told}."


def _yardsticks(by_engine: dict[str, list[Samples]]) -> Iterator[str]:
    """Counts by different rulers are no unequal work, but look like it in every figure per token."""
    sources = {}
    for engine, members in by_engine.items():
        found = Counter(source for samples in members for source in samples.texts("token_source") if source)
        if found:
            sources[engine] = found.most_common(1)[0][0]
    guessed = [engine for engine, source in sources.items() if source in ("assumed_one", "retokenised")]
    if guessed and len(guessed) < len(sources):
        yield (
            f"{' and '.join(guessed)} did not say how many tokens it sent, so they were counted by the text; the other "
            "counts are the engines' own."
        )


def _counted(column: str, pairs: Sequence[tuple[Samples, Samples]], answered: bool = False) -> tuple[Floats, Floats]:
    """A count of every question that both engines were asked (and answered), as each has it."""
    ours: list[float] = []
    theirs: list[float] = []
    for here, there in pairs:
        place = {key: index for index, key in enumerate(there.keys)}
        counts = here.counts(column), there.counts(column)
        for index, key in enumerate(here.keys):
            other = place.get(key)
            if other is not None and (not answered or (here.ok[index] and there.ok[other])):
                ours.append(counts[0][index])
                theirs.append(counts[1][other])
    found = np.array([ours, theirs])
    known = found[:, ~np.isnan(found).any(axis=0)]
    return known[0], known[1]


def _signed(tokens: float) -> str:
    return f"{abs(tokens):.0f} {'more' if tokens > 0 else 'fewer'}"
