"""`llmbench run`: measure, print the table, write the report."""

from __future__ import annotations

from typing import Annotated

import typer

from llmbench.harness.cli.options import LoadWorkers, OnCluster, Overrides, PickedEngines, RunFolder, num_workers


def run(
    workload: Annotated[
        str, typer.Argument(help="A workload file, or the name of a shipped workload (llmbench workloads list).")
    ],
    set_: Overrides = None,
    engine: PickedEngines = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            show_default=False,
            help="Print the plan and send nothing; a synthetic model is made, since exact prompts need its tokenizer "
            "(default: off).",
        ),
    ] = False,
    out: RunFolder = None,
    allow_invalid: Annotated[
        bool,
        typer.Option(
            "--allow-invalid",
            show_default=False,
            help="Exit with 0 even where the instrument was not good enough for its numbers to be used; the report "
            "still says so (default: off).",
        ),
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            show_default=False,
            help="Afterwards, ask a simulated engine the same on the same schedule, and store the instrument's own "
            "error with the run (default: off).",
        ),
    ] = False,
    workers: LoadWorkers = "1",
    on: OnCluster = None,
    open_: Annotated[
        bool, typer.Option("--open", show_default=False, help="Open the report in a browser (default: off).")
    ] = False,
) -> None:
    """Run a workload on its engines and leave a run directory with an HTML report in it."""
    from rich.console import Console

    from llmbench.harness.assemble import assemble
    from llmbench.harness.errors import ExitCode
    from llmbench.workloads.loader import load

    spec = load(workload, set_ or [])
    console = Console(markup=False, highlight=False)
    if dry_run:
        from llmbench.harness.cli.show_plan import show_plan

        show_plan(assemble(spec, engine or []), console)
        return

    with console.status(f"preparing {spec.name}"):
        assembly = assemble(spec, engine or [])

    # Before anything is measured: a report that cannot be written is better known now.
    from llmbench.harness.cli.write_report import open_in_browser, write_report
    from llmbench.harness.session import run_session

    outcome = run_session(assembly, out, calibrate=calibrate, num_workers=num_workers(workers, assembly), on=on)
    report = write_report(outcome.path, outcome.path / "report.html", console)
    if outcome.message is not None:
        typer.echo(f"llmbench: {outcome.message}", err=True)
    typer.echo(str(report))
    if open_:
        open_in_browser(report)
    forgiven = allow_invalid and outcome.exit_code is ExitCode.INVALID
    raise typer.Exit(ExitCode.OK if forgiven else outcome.exit_code)
