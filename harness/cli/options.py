"""Options that several commands share, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
