"""`llmbench models`: small trained checkpoints and random-weight ones, for measuring without a download."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Bundled models, trained and small, and synthetic ones: random weights, real shapes.", no_args_is_help=True
)


@app.command("list")
def list_models() -> None:
    """The bundled and synthetic models there are."""
    _become_the_engine("models", "list")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="synthetic:NAME or bundled:NAME, as `llmbench models list` prints it.")],
    out: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Folder to write, new or empty (default: the cache, ~/.cache/llmbench)."),
    ] = None,
    seed: Annotated[int, typer.Option(show_default=False, help="Seed of the random weights (default: 0).")] = 0,
) -> None:
    """Write a synthetic model's checkpoint, or a copy of a bundled one, and print its folder."""
    arguments = ["models", "create", name, "--seed", str(seed)]
    if out is not None:
        arguments += ["--out", str(out)]
    _become_the_engine(*arguments)


def _become_the_engine(*arguments: str) -> None:
    from llmbench.harness.models import require_reference_engine

    require_reference_engine()
    os.execv(sys.executable, [sys.executable, "-m", "llmbench.reference_engine", *arguments])  # noqa: S606
