"""`llmbench workloads`: list, show, check and begin workload files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Workload files: what is asked, of whom, and when.", no_args_is_help=True)

Workload = Annotated[str, typer.Argument(help="A workload file, or the name of a shipped workload.")]


@app.command("list")
def list_workloads() -> None:
    """The shipped workloads and what each stresses."""
    from rich.console import Console
    from rich.table import Table

    from llmbench.workloads.loader import shipped

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("workload", "what it is", "what it stresses"):
        table.add_column(heading, overflow="fold")
    for workload in shipped():
        table.add_row(workload.name, workload.description, workload.stresses)
    Console(markup=False, highlight=False).print(table)


@app.command("show")
def show(workload: Workload) -> None:
    """Print a workload's file as it is written, comments included."""
    typer.echo(_path_of(workload).read_text(), nl=False)


@app.command("validate")
def validate(
    workload: Workload,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            show_default=False,
            help="Override one field first, as `llmbench run` would; may be repeated (default: none).",
        ),
    ] = None,
) -> None:
    """Check a workload and print its digest; errors name the line, the field and what is allowed."""
    from llmbench.workloads.loader import load

    spec = load(workload, set_ or [])
    typer.echo(f"{spec.name}: valid, digest {spec.digest()[:12]}")


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write, e.g. my_workload.yaml.")],
    like: Annotated[
        str, typer.Option("--from", show_default=False, help="The workload to begin with (default: quickstart).")
    ] = "quickstart",
    force: Annotated[
        bool, typer.Option("--force", show_default=False, help="Overwrite an existing file (default: off).")
    ] = False,
) -> None:
    """Write a workload file to begin with."""
    from llmbench.harness.errors import ConfigError

    text = _path_of(like).read_text()
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already; give another name, or --force to overwrite it.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder, so {path.name} cannot be written there.")
    path.write_text(text)
    typer.echo(f"{path}: begin here, check with `llmbench workloads validate {path}`, run with `llmbench run {path}`.")


@app.command("schema")
def schema() -> None:
    """Print the JSON Schema of workload files, for editors that complete and check them."""
    from llmbench.workloads.loader import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _path_of(workload: str) -> Path:
    from llmbench.workloads.loader import load, shipped

    for known in shipped():
        if known.name == workload:
            return Path(str(known.path))
    path = Path(workload)
    if not path.is_file():
        load(workload)  # raises the error that names what was looked for and what there is
    return path
