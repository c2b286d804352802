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
    from rich.padding import Padding

    from llmbench.workloads.loader import shipped

    console = Console(markup=False, highlight=False)
    for workload in shipped():
        console.print(workload.name, style="bold")
        console.print(Padding(workload.description, (0, 0, 0, 2)))
        console.print(Padding(workload.stresses, (0, 0, 1, 2)), style="dim")
    console.print("Begin with one of them: llmbench workloads init my_workload.yaml --from NAME")


@app.command("show")
def show(workload: Workload) -> None:
    """Print a workload's file as it is written, comments included."""
    typer.echo(_path_of(workload).read_text(encoding="utf-8"), nl=False)


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
    """Check a workload and say what it asks; errors name the line, the field and what is allowed."""
    from llmbench.harness.plan import level_name
    from llmbench.harness.slo import unjudged
    from llmbench.harness.slots import asked_too_wide
    from llmbench.workloads.loader import load

    spec = load(workload, set_ or [])
    levels = spec.traffic.levels()
    loads = ", ".join(
        f"{traffic.requests} requests at {level_name(spec.model_copy(update={'traffic': traffic}))}"
        for traffic in levels
    )
    rounds = {1: "once", 2: "twice"}.get(spec.measure.rounds, f"{spec.measure.rounds} times")
    typer.echo(f"{spec.name}: valid, digest {spec.digest()[:12]}")
    typer.echo(f"{loads}; {rounds} on {', '.join(engine.label for engine in spec.engines)}")
    for sentence in (*asked_too_wide(spec), unjudged(spec)):
        if sentence is not None:
            typer.echo(sentence)


@app.command("init")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write, e.g. my_workload.yaml.")],
    like: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="NAME",
            show_default=False,
            help="The workload to begin with (default: one with every field, commented).",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", show_default=False, help="Overwrite an existing file (default: off).")
    ] = False,
) -> None:
    """Write a workload file to begin with."""
    from llmbench.harness.errors import ConfigError
    from llmbench.workloads.loader import template

    text = template() if like is None else _path_of(like).read_text(encoding="utf-8")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already; give another name, or --force to overwrite it.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no folder, so {path.name} cannot be written there.")
    path.write_text(text, encoding="utf-8")
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
