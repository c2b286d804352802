"""The `llmbench` command. Heavy packages are imported inside the commands: `llmbench --help` stays under 0.3 s."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from llmbench import __version__
from llmbench.harness.cli import (
    calibrate,
    compare,
    engines,
    gate,
    history,
    models,
    noise,
    profile,
    report,
    run,
    search,
    serve,
    workloads,
)

app = typer.Typer(
    name="llmbench",
    help="Which LLM inference engine, how fast, and how sure: one workload, several engines, every token stamped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("search")(search.search)
app.command("report")(report.report)
app.command("calibrate")(calibrate.calibrate)
app.command(
    "profile",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(profile.profile)
app.command("compare")(compare.compare)
app.command("gate")(gate.gate)
app.command("noise")(noise.noise)
app.command(
    "serve",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(serve.serve)
app.add_typer(workloads.app, name="workloads")
app.add_typer(engines.app, name="engines")
app.add_typer(history.app, name="history")
app.add_typer(models.app, name="models")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"llmbench {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            show_default=False,
            help="Print the version and exit (default: off).",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; what the user can mend ends in one sentence on stderr and an exit code, a bug in a traceback."""
    try:
        app()
    except Exception as error:
        from llmbench.harness.cli.exit_codes import exit_code_of

        code = exit_code_of(error)
        if code is None:
            raise
        sys.stderr.write(f"llmbench: {error}\n")
        sys.exit(code)
