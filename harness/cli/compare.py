"""`llmbench compare`: runs against a run, or the engines within one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories, or baseline files of `llmbench gate --save`: the first is the baseline of the "
            "others. One run alone: its engines are compared.",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="ENGINE",
            show_default=False,
            help="Within one run: the engine that the others are compared with (default: the workload's first).",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write the comparison as Markdown too (default: no)."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write the comparison as HTML too (default: no)."),
    ] = None,
) -> None:
    """Say what is faster, what is slower, and what cannot be told apart."""
    from rich.console import Console

    from llmbench.harness.cli.write_report import write_text
    from llmbench.harness.errors import ConfigError
    from llmbench.reports.comparison_console import print_comparison
    from llmbench.reports.comparison_html import comparison_html
    from llmbench.reports.gate_markdown import comparison_markdown
    from llmbench.results.baseline import open_side
    from llmbench.results.comparison_set import compare_engines, compare_sides

    sides = [open_side(path) for path in runs]
    if len(sides) == 1:
        compared = compare_engines(sides[0], against)
    elif against is not None:
        raise ConfigError("--against picks an engine within one run; with several runs the first is the baseline.")
    else:
        compared = compare_sides(sides[1:], sides[0])
    print_comparison(compared, Console(markup=False, highlight=False))
    if markdown is not None:
        write_text(markdown, comparison_markdown(compared), "--markdown")
    if html is not None:
        write_text(html, comparison_html(compared), "--html")
