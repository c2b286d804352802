"""The gate's verdict as Markdown, for a pull request's comment or a job's summary."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from llmbench.reports.comparison_rows import HEADERS, notes, row_of
from llmbench.reports.plain_text import one_line
from llmbench.results.compare import Comparison
from llmbench.results.comparison_set import ComparisonSet
from llmbench.results.gate import GateResult

_SIGNS = {"passed": "✅", "failed": "❌", "undecided": "⚠️", "not comparable": "⚠️"}
_MARKS = {"failed": "❌", "improved": "🔼", "passed": "", "undecided": "⚠️"}


def gate_markdown(result: GateResult) -> str:
    """The verdict as a heading, what failed, then every figure in a table that folds away."""
    lines = [f"### {_SIGNS[result.verdict]} llmbench gate: {result.verdict}", ""]
    lines += [f"- {_cell(text)}" for text in (*result.reasons, *result.notes)]
    for case in result.failed:
        comparison = case.comparison
        where = f"{_cell(comparison.subject)} at {_cell(comparison.level)}"
        lines.append(f"- **{comparison.spec.title}**, {where}: {_cell(case.why)}")
    for case in result.lacking:
        lines.append(f"- **{case.comparison.spec.title}** was asked for and could not be tested: {_cell(case.why)}")
    marks = {id(case.comparison): _MARKS[case.outcome] for case in result.cases}
    comparisons = tuple(case.comparison for case in result.cases)
    lines += ["", "<details><summary>All figures</summary>", ""]
    for (subject, baseline, level), group in groupby(
        comparisons, key=lambda each: (each.subject, each.baseline, each.level)
    ):
        lines += [f"**{_cell(subject)}** against **{_cell(baseline)}**, load: {_cell(level)}", ""]
        lines += _table(("", *HEADERS), [[marks[id(each)], *_cells(each)] for each in group])
    lines += [*notes(comparisons, result.alpha), "", "</details>", ""]
    return "\n".join(lines)


def comparison_markdown(compared: ComparisonSet) -> str:
    """A comparison without a gate: what is unlike, then a table per pair and level."""
    lines = ["### llmbench compare", ""]
    lines += [f"- {'**Not comparable:** ' if flag.fatal else ''}{_cell(flag.text)}" for flag in compared.flags]
    lines += [f"- {_cell(text)}" for text in compared.unmatched]
    for (subject, baseline, level), group in groupby(
        compared.comparisons, key=lambda each: (each.subject, each.baseline, each.level)
    ):
        lines += ["", f"**{_cell(subject)}** against **{_cell(baseline)}**, load: {_cell(level)}", ""]
        lines += _table(HEADERS, [_cells(each) for each in group])
    return "\n".join([*lines, *notes(compared.comparisons, compared.alpha), ""])


def _cells(comparison: Comparison) -> list[str]:
    row = row_of(comparison)
    return [row.figure, row.baseline, row.measured, row.change, row.verdict]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *([_cell(cell) for cell in row] for row in rows)]
    return [*(f"| {' | '.join(cells)} |" for cells in lines), ""]


def _cell(text: str) -> str:
    """`text` on one line, with what Markdown or HTML would take for markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~@])", r"\\\1", one_line(text))
