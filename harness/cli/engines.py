"""`llmbench engines`: which engines can be asked, and what is missing for the others."""

from __future__ import annotations

import typer

app = typer.Typer(help="Engines that can be measured.", no_args_is_help=True)


@app.command("list")
def list_engines() -> None:
    """One line per engine: whether llmbench starts it itself, and whether it is installed."""
    from rich.console import Console
    from rich.table import Table

    from llmbench.engines import registry

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("engine", "started by llmbench", "installed", "what it is"):
        table.add_column(heading, overflow="fold")
    for engine in registry.describe():
        installed = "yes" if engine.installed else f"no: {engine.install_hint}"
        table.add_row(engine.name, "yes" if engine.launchable else "no, by url", installed, engine.summary)
    Console(markup=False, highlight=False).print(table)
