"""`llmbench calibrate`: this machine's error budget, measured."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from llmbench.harness.cli.options import Overrides


def calibrate(
    workload: Annotated[
        str | None,
        typer.Argument(
            help="A workload file or the name of a shipped one, whose schedule and lengths are taken; none for a "
            "ladder of rising loads.",
            show_default=False,
        ),
    ] = None,
    set_: Overrides = None,
    ttft_ms: Annotated[
        float, typer.Option(min=0, show_default=False, help="Time to the simulated first chunk, in ms (default: 20).")
    ] = 20.0,
    itl_ms: Annotated[
        float,
        typer.Option(min=0, show_default=False, help="Time between two simulated chunks, in ms (default: 10)."),
    ] = 10.0,
    step_s: Annotated[
        float,
        typer.Option(min=1, show_default=False, help="How long each step of the ladder takes, in s (default: 5)."),
    ] = 5.0,
    as_json: Annotated[
        bool, typer.Option("--json", show_default=False, help="Print JSON in place of the table (default: off).")
    ] = False,
) -> None:
    """Measure how true this machine's stamps are, on a simulated engine that logs when it really sent."""
    from rich.console import Console

    from llmbench.harness.calibration import calibrate as measure
    from llmbench.harness.calibration import ladder
    from llmbench.harness.cli.show_calibration import show_calibration
    from llmbench.harness.errors import ExitCode
    from llmbench.workloads.loader import load

    with tempfile.TemporaryDirectory(prefix="llmbench-") as folder:
        spec = ladder(Path(folder), step_s) if workload is None else load(workload, set_ or [])
        outcome, levels = measure(spec, ttft_ms, itl_ms)
    if as_json:
        typer.echo(json.dumps([level.model_dump() for level in levels], indent=2))
    else:
        show_calibration(levels, Console(markup=False, highlight=False))
    # What a calibration is for is to find loads beyond the budget: they are no failure of the command.
    if outcome.exit_code is not ExitCode.INVALID:
        if outcome.message is not None:
            typer.echo(f"llmbench: {outcome.message}", err=True)
        raise typer.Exit(outcome.exit_code)
