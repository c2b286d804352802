"""What `llmbench gate` measures by itself: base and head turn by turn, or a suspect once more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

MAX_TRIES = 3


def base_of(option: str, workload: str, overrides: Sequence[str]) -> str:
    """The label of the first engine of `workload`, by which the others are judged. `option` named the workload."""
    from llmbench.harness.errors import ConfigError
    from llmbench.workloads.loader import load

    labels = [engine.label for engine in load(workload, list(overrides)).engines]
    if len(labels) < 2:
        raise ConfigError(
            f"{option} {workload}: it has one engine, {labels[0]}; list the base first and the head second."
        )
    return labels[0]


def measure(option: str, workload: str, overrides: Sequence[str], out: Path) -> Path:
    """The folder of the first valid run of `workload` among up to MAX_TRIES: `out`, `out-try2`, …; else of the last.

    What makes a run invalid is how well the machine measured, and not what it found: measuring until it is valid
    favours neither side. Raises ConfigError where a run fails, as it has no figures.
    """
    from llmbench.harness.assemble import assemble
    from llmbench.harness.errors import ConfigError, ExitCode
    from llmbench.harness.session import run_session
    from llmbench.workloads.loader import load

    path = out
    for number in range(1, MAX_TRIES + 1):
        path = out if number == 1 else out.with_name(f"{out.name}-try{number}")
        outcome = run_session(assemble(load(workload, list(overrides)), []), path)
        if outcome.exit_code == ExitCode.OK:
            return path
        if outcome.exit_code != ExitCode.INVALID:
            raise ConfigError(f"{option} {workload}: {outcome.message}")
        typer.echo(f"gate: {outcome.message}{' Measuring again.' if number < MAX_TRIES else ''}")
    return path
