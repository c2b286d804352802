"""`llmbench profile`: how evenly engines decode, token by token."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from llmbench.harness.cli.options import Overrides, PickedEngines, RunFolder


def profile(
    context: typer.Context,
    workload: Annotated[
        str,
        typer.Argument(
            help="A workload to run, or a run directory that is there already; a model with --in-process.",
            show_default=False,
        ),
    ],
    set_: Overrides = None,
    engine: PickedEngines = None,
    out: RunFolder = None,
    trace: Annotated[
        Path | None,
        typer.Option(show_default=False, help="The trace to write, for ui.perfetto.dev (default: RUN/trace.json)."),
    ] = None,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", show_default=False, help="The bundled engine's own steps (default: off)."),
    ] = False,
) -> None:
    """Show the time of every token: against its place in the answer, the number of streams and others' prefill.

    With --in-process, show the bundled engine's steps part by part instead, without a server; further options go to it
    as they are: python -m llmbench.reference_engine profile --help lists them.
    """
    is_run = (Path(workload) / "manifest.json").is_file()
    if in_process or is_run:
        for name, value in (("--set", set_), ("--engine", engine), ("--out", out)):
            if value:
                what = "--in-process runs no workload" if in_process else f"{workload} is a run, and none is made"
                raise typer.BadParameter(f"{name} is for a workload that is run; {what}.")
    if in_process:
        _profile_in_process(workload, trace, context.args)
    if context.args:
        raise typer.BadParameter(f"{context.args[0]} is an option of --in-process, if of anything.")
    from rich.console import Console

    from llmbench.harness.cli.show_profile import show_profile
    from llmbench.harness.errors import ConfigError, ExitCode
    from llmbench.results.run_directory import Run

    if trace is not None and not trace.parent.is_dir():
        raise ConfigError(f"--trace {trace}: {trace.parent} is no folder.")
    if trace is not None and trace.is_dir():
        raise ConfigError(f"--trace {trace}: is a folder; give a file.")
    path, message, code = Path(workload), None, ExitCode.OK
    if not is_run:
        from llmbench.harness.assemble import assemble
        from llmbench.harness.session import run_session
        from llmbench.workloads.loader import load

        outcome = run_session(assemble(load(workload, set_ or []), engine or []), out)
        path, message, code = outcome.path, outcome.message, outcome.exit_code
    run = Run.open(path)
    console = Console(markup=False, highlight=False)
    show_profile(run, console)

    from llmbench.harness.trace_export import write_trace

    target = trace or path / "trace.json"
    try:
        write_trace(run, target)
    except OSError as error:
        raise ConfigError(f"--trace {target}: cannot be written: {error.strerror}.") from None
    if message is not None:
        typer.echo(f"llmbench: {message}", err=True)
    typer.echo(str(target))
    raise typer.Exit(code)


def _profile_in_process(model: str, trace: Path | None, options: list[str]) -> NoReturn:
    from llmbench.harness.models import resolve_model

    reference = resolve_model(model, tokenizer=None, needs_checkpoint=True)
    arguments = [sys.executable, "-m", "llmbench.reference_engine", "profile", "--model", str(reference.path)]
    arguments += [] if trace is None else ["--trace", str(trace)]
    # The engine takes this process's place, as in `llmbench serve`.
    os.execv(sys.executable, [*arguments, *options])  # noqa: S606
