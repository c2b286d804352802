"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmbench.harness.assemble import Assembly

MAX_WORKERS = 64

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        show_default=False,
        help="Override one field of the workload, e.g. traffic.arrivals.rate=8; may be repeated (default: none).",
    ),
]
PickedEngines = Annotated[
    list[str] | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        show_default=False,
        help="Ask only this engine of the workload's; may be repeated (default: all of them).",
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option("--out", show_default=False, help="The run directory (default: runs/TIME-WORKLOAD-DIGEST)."),
]
LoadWorkers = Annotated[
    str,
    typer.Option(
        "--workers",
        metavar="N|auto",
        show_default=False,
        help="How many processes send the requests; auto is one, and more where the plan offers more than one was "
        "measured to stamp truly (default: 1).",
    ),
]
OnCluster = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ray|HOST:PORT|ray://HOST:PORT",
        show_default=False,
        help="Run the workers on the nodes of a Ray cluster: the one that runs here, or the one at an address "
        "(default: on this host, without Ray).",
    ),
]


def num_workers(asked: str, assembly: Assembly, growth: float = 1.0) -> int:
    """What `--workers` asks for. `growth` is how many times the plan's own load may be offered. Raises ConfigError."""
    import os

    from llmbench.harness.errors import ConfigError
    from llmbench.harness.share import workers_needed

    if asked == "auto":
        return workers_needed(assembly.plan.trials, os.cpu_count() or 1, growth)
    if asked.isascii() and asked.isdigit() and 1 <= int(asked) <= MAX_WORKERS:
        return int(asked)
    raise ConfigError(f"--workers {asked}: give a whole number from 1 to {MAX_WORKERS}, or auto.")
