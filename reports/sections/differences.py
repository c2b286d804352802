"""How much each engine differs from the workload's first one, figure by figure, with margins and verdicts."""

from __future__ import annotations

from dataclasses import dataclass

from llmbench.reports.comparison_rows import notes
from llmbench.reports.differences import Pair, pairs_of
from llmbench.reports.material import Material
from llmbench.reports.section import Section, View
from llmbench.results.comparison_set import compare_engines


@dataclass(frozen=True, slots=True)
class LevelPairs:
    number: int
    level: str
    pairs: tuple[Pair, ...]


def _view(material: Material) -> View | None:
    if len(material.engines) < 2:
        return None
    compared = compare_engines(material.side)
    # All of a pair together; `sorted` keeps the order of the figures within.
    pairs = pairs_of(sorted(compared.comparisons, key=lambda each: material.place(each.subject, each.level)))
    return {
        "panels": [
            LevelPairs(number, level, tuple(pair for pair in pairs if pair.level == level))
            for number, level in enumerate(material.levels)
        ],
        "notes": [*notes(compared.comparisons, compared.alpha), *compared.unmatched],
    }


DIFFERENCES = Section("differences", "Faster or slower, and how sure", "Differences", _view, "differences.html")
