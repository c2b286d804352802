"""A comparison of runs, or of a run's engines, as one HTML file that needs no network and no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmbench.reports.comparison_rows import change, kind, lacks_rounds, notes, unsure
from llmbench.reports.differences import pairs_of
from llmbench.reports.html import page_assets, template, write_whole
from llmbench.results.compare import Comparison
from llmbench.results.comparison_set import ComparisonSet
from llmbench.results.units import MIN_ROUNDS


def write_comparison_html(compared: ComparisonSet, path: Path) -> None:
    """Write the comparison to `path`, replacing it."""
    write_whole(path, comparison_html(compared))


def comparison_html(compared: ComparisonSet) -> str:
    """What is unlike about the sides first, then the verdicts in words, then every figure on its scale."""
    comparisons = compared.comparisons
    return template("comparison.html").render(
        **page_assets(drawing=False),
        fatal=compared.fatal,
        flags=[flag.text for flag in compared.flags if not flag.fatal],
        unmatched=compared.unmatched,
        verdicts=_verdicts(comparisons),
        pairs=pairs_of(comparisons),
        notes=notes(comparisons, compared.alpha),
    )


def _verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """One sentence for each pair and level."""
    said = []
    for subject, baseline, level in dict.fromkeys((each.subject, each.baseline, each.level) for each in comparisons):
        group = [
            each for each in comparisons if (each.subject, each.baseline, each.level) == (subject, baseline, level)
        ]
        told = []
        for verdict, word in (("faster", "better"), ("slower", "worse")):
            if sure := [each for each in group if kind(each) == verdict]:
                told.append(f"{word} in {', '.join(map(_by_how_much, sure))}")
        for verdict, word in (("faster", "better"), ("slower", "worse")):
            if likely := [each for each in group if each.leaning == verdict and not lacks_rounds(each)]:
                told.append(f"likely {word} in {', '.join(map(_by_how_much, likely))}, {unsure(likely)}")
        if not told:
            kinds = {kind(each) for each in group}
            if any(map(lacks_rounds, group)):
                told = [f"no verdict: needs {MIN_ROUNDS} rounds"]
            else:
                told = ["no difference shown" if "no difference shown" in kinds else "too little data for a verdict"]
        said.append(f"At {level}, {subject} against {baseline}: {'; '.join(told)}.")
    return said


def _by_how_much(comparison: Comparison) -> str:
    """`TPOT p50 (+5.0 %)`; the title alone where there is no ratio."""
    title = comparison.spec.title
    return title if comparison.ratio is None else f"{title} ({change(comparison).split(' (')[0]})"
