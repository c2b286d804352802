"""`llmbench serve`: the bundled engine by itself, behind its OpenAI-compatible server."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer


def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="A checkpoint folder, bundled:NAME or synthetic:NAME (llmbench models list).")
    ],
    host: Annotated[
        str, typer.Option(show_default=False, help="Address to listen on (default: 127.0.0.1).")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(show_default=False, help="Port to listen on (default: 8000).")] = 8000,
) -> None:
    """Serve a model with the bundled engine. Further options go to it as they are:
    python -m llmbench.reference_engine serve --help lists them."""
    from llmbench.harness.models import resolve_model

    reference = resolve_model(model, tokenizer=None, needs_checkpoint=True)
    arguments = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", str(reference.path)]
    arguments += ["--host", host, "--port", str(port)]
    if "--served-model-name" not in context.args:
        arguments += ["--served-model-name", reference.name]
    # The engine takes this process's place, so that signals and the exit code are its own.
    os.execv(sys.executable, [*arguments, *context.args])  # noqa: S606
