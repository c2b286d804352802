"""`llmbench noise`: what a rig's figures do when nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def noise(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run directories of the same workload on the same machine; with two or more, what differs between "
            "runs is told from what differs between rounds.",
        ),
    ],
    effect: Annotated[
        list[float] | None,
        typer.Option(
            min=0.001,
            max=10.0,
            show_default=False,
            help="A change to be found, 0.05 for 5 %; may be repeated (default: 0.05, 0.1 and 0.2).",
        ),
    ] = None,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="Only this figure, e.g. tpot_p50; fewer figures need fewer rounds; may be repeated (default: all).",
        ),
    ] = None,
    alpha: Annotated[
        float,
        typer.Option(
            min=0.0001,
            max=0.5,
            show_default=False,
            help="The chance of any false alarm among all figures (default: 0.05).",
        ),
    ] = 0.05,
    power: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, show_default=False, help="The chance to find the change (default: 0.8)."),
    ] = 0.8,
) -> None:
    """Measure the noise floor of a rig from repeated runs, and recommend how many rounds to take."""
    from rich.console import Console

    from llmbench.harness.errors import ConfigError
    from llmbench.reports.noise_console import print_noise
    from llmbench.results.baseline import open_side
    from llmbench.results.figures import FIGURE_BY_NAME
    from llmbench.results.noise import noise_floor

    unknown = [name for name in figure or [] if name not in FIGURE_BY_NAME]
    if unknown:
        raise ConfigError(f"--figure {unknown[0]}: there is no such figure, only {', '.join(FIGURE_BY_NAME)}.")
    floor = noise_floor(
        [open_side(path) for path in runs],
        effects=tuple(sorted(set(effect or (0.05, 0.1, 0.2)))),
        figures=figure,
        alpha=alpha,
        power=power,
    )
    print_noise(floor, Console(markup=False, highlight=False))
