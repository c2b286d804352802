"""What people look at, written from a run directory."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from llmbench.harness.errors import ConfigError, MissingExtraError
from llmbench.reports.comparison_html import write_comparison_html
from llmbench.reports.console import print_summary
from llmbench.reports.exports import write_csv, write_json, write_parquet, write_vllm_bench
from llmbench.reports.html import write_html
from llmbench.reports.markdown import run_markdown
from llmbench.reports.mlflow_export import log_to_mlflow
from llmbench.reports.openmetrics import write_openmetrics
from llmbench.reports.pictures import write_pictures
from llmbench.reports.telemetry_exports import (
    write_telemetry_csv,
    write_telemetry_openmetrics,
    write_telemetry_parquet,
)
from llmbench.results.baseline import open_side
from llmbench.results.comparison_set import compare_sides
from llmbench.results.run_directory import Run


def _write_markdown(run: Run, path: Path) -> None:
    path.write_text(run_markdown(run), encoding="utf-8")


def _write_svg(run: Run, folder: Path) -> None:
    write_pictures(run, folder, "svg")


def _write_png(run: Run, folder: Path) -> None:
    write_pictures(run, folder, "png")


EXPORTS: Mapping[str, tuple[str, Callable[[Run, Path], None]]] = {
    "json": ("summary.json", write_json),
    "csv": ("summary.csv", write_csv),
    "parquet": ("summary.parquet", write_parquet),
    "openmetrics": ("metrics.prom", write_openmetrics),
    "markdown": ("summary.md", _write_markdown),
    "vllm-bench": ("vllm-bench.json", write_vllm_bench),
    "telemetry-csv": ("telemetry.csv", write_telemetry_csv),
    "telemetry-parquet": ("telemetry-rounds.parquet", write_telemetry_parquet),
    "telemetry-openmetrics": ("telemetry.prom", write_telemetry_openmetrics),
    "svg": ("pictures", _write_svg),
    "png": ("pictures", _write_png),
}


def write_report(run_path: Path, report_path: Path, console: Console) -> Path:
    """The HTML report's path, once it is written and the table is printed."""
    run = Run.open(run_path)
    print_summary(run, console)
    if not report_path.parent.is_dir():
        raise ConfigError(f"--out {report_path}: {report_path.parent} is no folder.")
    write_html(run, report_path)
    return report_path


def export_run(run_path: Path, kind: str, folder: Path) -> Path:
    """The file, or the folder of pictures, written for one `--export`, one of EXPORTS."""
    name, write = EXPORTS[kind]
    path = folder / name
    try:
        write(Run.open(run_path), path)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'--export {kind} needs {error.name}, which is not installed: pip install "llmbench[pictures]"'
        ) from None
    return path


def write_comparison(run_path: Path, baseline: Path, path: Path) -> Path:
    """`path`, once it holds how the run compares with `baseline`."""
    write_comparison_html(compare_sides([open_side(run_path)], open_side(baseline)), path)
    return path


def log_run(run_path: Path, uri: str) -> list[str]:
    """The ids of the MLflow runs that the run was logged as; MissingExtraError where mlflow is not installed."""
    try:
        return log_to_mlflow(Run.open(run_path), uri)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f'--mlflow needs {error.name}, which is not installed: pip install "llmbench[mlflow]"'
        ) from None


def write_text(path: Path, text: str, option: str) -> None:
    """Write what `option` asked for. Raises ConfigError when `path` cannot be written."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be written: {error.strerror}.") from None


def open_in_browser(path: Path) -> None:
    webbrowser.open(path.resolve().as_uri())
