"""Same question, same answer: how far the engines agree, and where they part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.reports.material import Material
from llmbench.reports.numbers import NOT_AVAILABLE, count, digits, percent
from llmbench.reports.section import Section, View
from llmbench.results.output_equality import Divergence, Equality, Place, Ruler, equalities, why_not_compared

_MAX_SHOWN = 12


@dataclass(frozen=True, slots=True)
class EqualityRow:
    """One pair of engines at one level, as text; `is_unequal` marks what a careful reader would ask about."""

    equality: Equality
    identical: str
    lengths: str
    failed: str
    parted: str
    is_unequal: bool


@dataclass(frozen=True, slots=True)
class DivergenceRow:
    """Where two answers part: each engine's token there, the text before and what follows."""

    equality: Equality
    divergence: Divergence
    tokens: tuple[str, str]


def _view(material: Material) -> View | None:
    if not material.samples:
        return None
    found = equalities(material.run)
    reason = why_not_compared(material.run)
    shown = [
        DivergenceRow(each, divergence, (_token(divergence.places[0]), _token(divergence.places[1])))
        for each in found
        for divergence in each.divergences[:_MAX_SHOWN]
    ]
    return {
        "reason": reason,
        "rows": [_row(each) for each in found],
        "divergences": shown,
        "num_divergences": sum(len(each.divergences) for each in found),
        "kept": f"{count(sum(each.num_kept for each in found))} of {count(sum(each.num_both for each in found))}",
        "has_from": any(not place.is_exact for each in found for row in each.divergences for place in row.places),
        "rulers": _rulers([divergence for each in found for divergence in each.divergences]),
        "turns": _has_turns(material),
    }


def _row(each: Equality) -> EqualityRow:
    share = each.share
    tokens = [divergence.places[0].token for divergence in each.divergences]
    lengths = f"{count(each.num_lengths_differ)} of {count(each.num_both)}"
    if each.num_lengths_differ and each.extra_tokens is not None:
        lengths += f" ({'+' if each.extra_tokens > 0 else ''}{digits(each.extra_tokens)} tokens on average)"
    return EqualityRow(
        equality=each,
        identical=NOT_AVAILABLE
        if share is None
        else f"{percent(share)} ({count(each.num_identical)} of {count(each.num_both)})",
        lengths=lengths,
        failed=" / ".join(count(num) for num in each.num_failed),
        parted=f"token {np.median(tokens):.0f} at the median" if tokens else "",
        is_unequal=share is not None and share < 1,
    )


def _token(place: Place) -> str:
    if not place.text and place.token_id is None:
        return f"ends after {place.token} tokens"
    shown = place.text[:40].encode("unicode_escape").decode() if not place.text.isprintable() else place.text[:40]
    number = str(place.token) if place.token_id is None else f"{place.token} (id {place.token_id})"
    return f"{'' if place.is_exact else 'from '}{number}: {shown}"


_RULERS: dict[Ruler, str] = {
    "token ids": "by the ids that both engines told",
    "the engines' counts": "by reads of one token each, as the engines counted them",
    "retokenised text": "by the ids that the workload's tokenizer gives their texts, which need not be those that were "
    "generated (request.token_ids asks engines for theirs)",
    "reads": "by reads",
}


def _rulers(divergences: Sequence[Divergence]) -> str:
    """What the tokens were counted by, as the end of a sentence."""
    num = Counter(each.ruler for each in divergences)
    told = [
        words if len(num) == 1 else f"{words} in {count(num[ruler])}" for ruler, words in _RULERS.items() if num[ruler]
    ]
    same = sum(each.same_ids for each in divergences)
    ending = f". In {count(same)} both told the same ids, and wrote them as different texts" if same else ""
    return "; ".join(told) + ending


def _has_turns(material: Material) -> bool:
    prompts = material.workload.get("prompts")
    return isinstance(prompts, dict) and (prompts.get("turns") is not None or prompts.get("kind") == "conversations")


SAME_ANSWER = Section("same-answer", "Same question, same answer?", "Same answer", _view, "same_answer.html")
