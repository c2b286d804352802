"""`llmbench report`: the report again, from the run directory alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Export(StrEnum):
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    OPENMETRICS = "openmetrics"
    MARKDOWN = "markdown"
    VLLM_BENCH = "vllm-bench"
    TELEMETRY_CSV = "telemetry-csv"
    TELEMETRY_PARQUET = "telemetry-parquet"
    TELEMETRY_OPENMETRICS = "telemetry-openmetrics"
    SVG = "svg"
    PNG = "png"


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(show_default=False, help="The HTML file to write (default: RUN/report.html).")
    ] = None,
    export: Annotated[
        list[Export] | None,
        typer.Option(
            show_default=False,
            help="Write this too, beside the report: vllm-bench is the JSON of `vllm bench serve`, openmetrics is for "
            "Prometheus, telemetry-csv and its like have each reading of what servers and devices said, svg and png "
            "are the curves in a folder `pictures`; may be repeated (default: none).",
        ),
    ] = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="BASELINE",
            show_default=False,
            help="Also write comparison.html beside the report: RUN against this run, or baseline file of `llmbench "
            "gate --save` (default: none).",
        ),
    ] = None,
    mlflow: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            show_default=False,
            help="Log the figures to this MLflow store, one MLflow run for each engine and load level: a server's URL, "
            "or sqlite:///FILE (default: none).",
        ),
    ] = None,
    open_: Annotated[
        bool, typer.Option("--open", show_default=False, help="Open the report in a browser (default: off).")
    ] = False,
) -> None:
    """Print a run's table and write its HTML report again."""
    from rich.console import Console

    from llmbench.harness.cli.write_report import export_run, log_run, open_in_browser, write_comparison, write_report

    path = write_report(run, out or run / "report.html", Console(markup=False, highlight=False))
    for kind in export or []:
        typer.echo(str(export_run(run, str(kind), path.parent)))
    if compare is not None:
        typer.echo(str(write_comparison(run, compare, path.with_name("comparison.html"))))
    if mlflow is not None:
        typer.echo(f"MLflow runs: {' '.join(log_run(run, mlflow))}")
    typer.echo(str(path))
    if open_:
        open_in_browser(path)
