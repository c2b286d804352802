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

    with opened(store) as history:
        for path in runs:
            typer.echo(f"{path}: {'added' if history.add(Run.open(path)) else 'is there already'}")


@app.command("list")
def list_(store: Store = _DEFAULT) -> None:
    """List the runs, the oldest first. Runs of like hardware and question can be compared."""
    with opened(store) as history:
        for run in history.runs():
            commit = (run.git_commit or "no commit")[:12]
            like = f"hardware {run.fingerprint}  question {run.question[:8]}"
            typer.echo(f"{run.created_utc}  {run.run_id}  commit {commit}  {like}")


@app.command("trend")
def trend(
    figure: Annotated[str, typer.Argument(help="A figure, e.g. tpot_p50 (those of `llmbench compare`).")],
    engine: Annotated[
        str, typer.Option(metavar="LABEL", show_default=False, help="The engine's label (default: reference).")
    ] = "reference",
    level: Annotated[
        str | None,
        typer.Option(show_default=False, help="The load level, e.g. 'poisson 8/s' (default: the only one there is)."),
    ] = None,
    store: Store = _DEFAULT,
) -> None:
    """Print a figure over runs, apart for each hardware and question, with the changes that are no chance."""
    from rich.console import Console

    from llmbench.harness.errors import ConfigError
    from llmbench.reports.trend_console import print_trend
    from llmbench.results.figures import FIGURE_BY_NAME

    if figure not in FIGURE_BY_NAME:
        raise ConfigError(f"There is no figure {figure!r}, only {', '.join(FIGURE_BY_NAME)}.")
    with opened(store) as history:
        levels = history.levels(figure, engine=engine)
        if level is None and len(levels) > 1:
            raise ConfigError(f"--level: there are several, {', '.join(levels)}; pick one.")
        chosen = level if level is not None else levels[0] if levels else None
        if chosen not in levels:
            raise ConfigError(f"The history has no {figure} of {engine!r}" + (f" at {level!r}." if level else "."))
        assert chosen is not None
        points = history.trend(figure, engine=engine, level=chosen)
    print_trend(FIGURE_BY_NAME[figure], points, Console(markup=False, highlight=False))


@contextmanager
def opened(store: str) -> Iterator[History]:
    """The store, open; MissingExtraError where its packages are not installed."""
    from llmbench.harness.errors import MissingExtraError

    try:
        from llmbench.results.history import History
    except ModuleNotFoundError as error:
        if error.name != "sqlalchemy":
            raise
        raise MissingExtraError(
            'The history needs SQLAlchemy, which is not installed: pip install "llmbench[history]"'
        ) from None
    with History.open(store) as history:
        yield history
