"""`llmbench history`: figures of many runs, and where they changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmbench.results.history import History

app = typer.Typer(help="Figures of many runs over time, and where they changed.", no_args_is_help=True)

Store = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="FILE|URL",
        envvar="LLMBENCH_HISTORY",
        show_default=False,
        show_envvar=False,
        help="A SQLite file, or postgresql://user:password@host/database; also $LLMBENCH_HISTORY "
        "(default: llmbench-history.db).",
    ),
]
_DEFAULT = "llmbench-history.db"


@app.command("add")
def add(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories that came to their end.")],
    store: Store = _DEFAULT,
) -> None:
    """Store the figures of runs; those that are there already are left as they are."""
    from llmbench.results.run import Run

    with opened(store, make=True) as history:
        for path in runs:
            typer.echo(f"{path}: {'added' if history.add(Run.open(path)) else 'is there already'}")


@app.command("list")
def list_(store: Store = _DEFAULT) -> None:
    """List the runs, the oldest first. Runs of like hardware and question can be compared."""
    with opened(store) as history:
        stored = history.runs()
        if not stored:
            typer.echo(f"The history {history.where} holds no runs yet.")
        for run in stored:
            commit = (run.git_commit or "no commit")[:12]
            like = f"hardware {run.fingerprint}  question {run.question[:8]}"
            typer.echo(f"{run.created_utc}  {run.run_id}  commit {commit}  {like}")


@app.command("trend")
def trend(
    figures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FIGURE]...",
            show_default=False,
            help="Figures, e.g. tpot_p50 (those of `llmbench compare`); none means all that there are.",
        ),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="LABEL", show_default=False, help="The engine's label (default: the only one there is)."),
    ] = None,
    level: Annotated[
        str | None,
        typer.Option(show_default=False, help="The load level, e.g. 'poisson 8/s' (default: the only one there is)."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Write a page with a picture and a table of each figure, readable offline, in place of the text "
            "(default: none).",
        ),
    ] = None,
    store: Store = _DEFAULT,
) -> None:
    """Print figures over runs, apart for each hardware and question, with the changes that are no chance."""
    from rich.console import Console

    from llmbench.harness.errors import ConfigError
    from llmbench.reports.trend_console import print_trend
    from llmbench.results.figures import FIGURE_BY_NAME
    from llmbench.results.trend import series_of

    for figure in figures or []:
        if figure not in FIGURE_BY_NAME:
            raise ConfigError(f"There is no figure {figure!r}, only {', '.join(FIGURE_BY_NAME)}.")
    if html is not None and not html.parent.is_dir():
        raise ConfigError(f"--html {html}: {html.parent} is no folder.")
    with opened(store) as history:
        if not history.engines():
            raise ConfigError("The history holds no runs yet.")
        engine = _the_one("--engine", engine, history.engines(), "The history has no engine")
        level = _the_one("--level", level, history.levels(engine=engine), f"The history has of {engine!r} no level")
        there = history.names(engine=engine, level=level)
        for figure in figures or []:
            if figure not in there:
                raise ConfigError(f"The history has no {figure} of {engine!r} at {level!r}.")
        trends = [
            series
            for name, spec in FIGURE_BY_NAME.items()
            if name in (figures or there) and name in there
            for series in series_of(spec, history.trend(name, engine=engine, level=level))
        ]
        hardware = {series.key[0]: history.hardware(series.key[0]) for series in trends} if html else {}
    if html is None:
        print_trend(trends, Console(markup=False, highlight=False))
        return
    from llmbench.reports.trend_html import write_trend_html

    write_trend_html(trends, html, engine=engine, level=level, hardware=hardware)
    typer.echo(str(html))


def _the_one(option: str, asked: str | None, there: list[str], missing: str) -> str:
    """What was asked for, or the only one there is. Raises ConfigError that names what there is."""
    from llmbench.harness.errors import ConfigError

    if asked is None and len(there) == 1:
        return there[0]
    if asked is None and there:
        raise ConfigError(f"{option}: there are several, {', '.join(there)}; pick one.")
    if asked is None or asked not in there:
        of_these = f", only {', '.join(there)}" if there else ""
        raise ConfigError(f"{missing}{f' {asked!r}' if asked else ''}{of_these}.")
    return asked


@contextmanager
def opened(store: str, *, make: bool = False) -> Iterator[History]:
    """The store, open, and made first if `make`; MissingExtraError where its packages are not installed."""
    from llmbench.harness.errors import MissingExtraError

    try:
        from llmbench.results.history import History
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        raise MissingExtraError(
            'The history needs SQLAlchemy, which is not installed: pip install "llmbench[history]"'
        ) from None
    with History.open(store, make=make) as history:
        yield history
