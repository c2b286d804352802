"""A comparison in a terminal: what is unlike first, then a table per pair and level."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmbench.reports.comparison_rows import HEADERS, kind, notes, row_of
from llmbench.reports.plain_text import one_line
from llmbench.results.comparison_set import ComparisonSet
from llmbench.results.gate import GateResult

_STYLES = {"faster": "green", "slower": "bold red", "no difference shown": "", "insufficient data": "yellow"}
_VERDICTS = {"passed": "green", "failed": "bold red", "undecided": "bold yellow", "not comparable": "bold yellow"}


def print_comparison(compared: ComparisonSet, console: Console) -> None:
    """Print flags and unmatched levels, every comparison, and how to read them."""
    for flag in compared.flags:
        console.print(
            Text(f"{'✗' if flag.fatal else '•'} {one_line(flag.text)}", style="bold red" if flag.fatal else "")
        )
    for text in compared.unmatched:
        console.print(Text(f"• {one_line(text)}", style="bold yellow"))
    for (subject, baseline, level), group in groupby(
        compared.comparisons, key=lambda each: (each.subject, each.baseline, each.level)
    ):
        console.print(Text(f"\n{one_line(subject)} against {one_line(baseline)}, load: {one_line(level)}\n"))
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
        for header in HEADERS:
            table.add_column(Text(header), justify="left" if header in ("figure", "verdict") else "right")
        for comparison in group:
            row = row_of(comparison)
            cells = (row.figure, row.baseline, row.measured, row.change)
            table.add_row(*map(Text, cells), Text(row.verdict, style=_STYLES[kind(comparison)]))
        console.print(table)
    for sentence in notes(compared.comparisons, compared.alpha):
        console.print(Text(sentence, style="dim"))


def print_gate(result: GateResult, console: Console) -> None:
    """Print the verdict with its reasons: what failed, and what could not be decided."""
    for text in (*result.reasons, *result.notes):
        console.print(Text(f"• {one_line(text)}"))
    for outcome in ("failed", "undecided"):
        for case in result.cases:
            if case.outcome == outcome:
                comparison = case.comparison
                where = f"{comparison.subject} at {comparison.level}"
                console.print(
                    Text(f"{outcome}: {comparison.spec.title}, {one_line(where)}: {one_line(case.why)}"),
                    style="red" if outcome == "failed" else "yellow",
                )
    counts = {name: sum(case.outcome == name for case in result.cases) for name in ("passed", "improved", "undecided")}
    told = ", ".join(f"{num} {name}" for name, num in {"failed": len(result.failed), **counts}.items() if num)
    console.print(Text(f"gate: {result.verdict} ({told or 'no figure was compared'})", style=_VERDICTS[result.verdict]))
