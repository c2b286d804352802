"""`llmbench search`: the highest load that meets the workload's objectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmbench.harness.cli.options import LoadWorkers, OnCluster, Overrides, PickedEngines, RunFolder, num_workers

if TYPE_CHECKING:
    from llmbench.harness.search import SearchGoal
    from llmbench.workloads.spec import TrafficSpec

# How far from its start a search may go, where nobody says.
SPAN = 1000.0


def search(
    workload: Annotated[
        str, typer.Argument(help="A workload file, or the name of a shipped workload (llmbench workloads list).")
    ],
    attainment: Annotated[
        float,
        typer.Option(
            show_default=False,
            help="The share of requests that must meet measure.slo, between 0 and 1 (default: 0.9).",
        ),
    ] = 0.9,
    start: Annotated[
        float | None,
        typer.Option(
            show_default=False,
            help="The load tried first: a rate, a concurrency or a trace's speed (default: the workload's own).",
        ),
    ] = None,
    lowest: Annotated[
        float | None, typer.Option(show_default=False, help="No load below this one (default: a 1000th of the start).")
    ] = None,
    highest: Annotated[
        float | None, typer.Option(show_default=False, help="No load above this one (default: 1000 times the start).")
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            show_default=False, help="End when the bounds are this close, relative to the lower one (default: 0.05)."
        ),
    ] = 0.05,
    confidence: Annotated[
        float,
        typer.Option(show_default=False, help="How sure the result is to be, between 0 and 1 (default: 0.95)."),
    ] = 0.95,
    max_trials: Annotated[
        int, typer.Option(min=1, show_default=False, help="End after this many trials (default: 40).")
    ] = 40,
    set_: Overrides = None,
    engine: PickedEngines = None,
    out: RunFolder = None,
    workers: LoadWorkers = "1",
    on: OnCluster = None,
) -> None:
    """Find the highest load at which enough requests meet their objectives, and say how sure that is."""
    from rich.console import Console

    from llmbench.harness.assemble import assemble
    from llmbench.harness.cli.write_report import write_report
    from llmbench.harness.load_finder import LoadFinder
    from llmbench.harness.session import run_session
    from llmbench.workloads.loader import load
    from llmbench.workloads.spec import SWEPT_FIELDS

    spec = load(workload, set_ or [])
    goal = _goal(spec.traffic, attainment, start, lowest, highest, tolerance, confidence, max_trials)
    console = Console(markup=False, highlight=False)
    assembly = assemble(spec, engine or [])
    finder = LoadFinder(assembly, goal)
    own_load = float(getattr(spec.traffic.arrivals, SWEPT_FIELDS[spec.traffic.arrivals.kind]))
    crew_size = num_workers(workers, assembly, growth=finder.goal.highest / own_load)
    outcome = run_session(assembly, out, num_workers=crew_size, on=on, finder=finder)
    report = write_report(outcome.path, outcome.path / "report.html", console)
    for label, sentence in finder.sentences().items():
        console.print(f"{label}: {sentence}", soft_wrap=True)
    if outcome.message is not None:
        typer.echo(f"llmbench: {outcome.message}", err=True)
    typer.echo(str(report))
    raise typer.Exit(outcome.exit_code)


def _goal(
    traffic: TrafficSpec,
    attainment: float,
    start: float | None,
    lowest: float | None,
    highest: float | None,
    tolerance: float,
    confidence: float,
    max_trials: int,
) -> SearchGoal:
    """The goal as asked. Raises ConfigError for what no search can have."""
    from llmbench.harness.errors import ConfigError
    from llmbench.harness.search import SearchGoal
    from llmbench.workloads.spec import SWEPT_FIELDS

    for option, share in (("--attainment", attainment), ("--confidence", confidence)):
        if not 0 < share < 1:
            raise ConfigError(f"{option} {share:g}: give a share between 0 and 1, such as 0.9.")
    if not tolerance > 0:
        raise ConfigError(f"--tolerance {tolerance:g}: give a number above 0, such as 0.05.")
    field = SWEPT_FIELDS.get(traffic.arrivals.kind)
    is_whole = field == "concurrency"
    first = float(getattr(traffic.arrivals, field)) if start is None and field is not None else start or 1.0
    low = (max(1.0, first // SPAN) if is_whole else first / SPAN) if lowest is None else lowest
    high = first * SPAN if highest is None else highest
    for option, bound in (("--lowest", low), ("--start", first), ("--highest", high)):
        if is_whole and not bound.is_integer():
            raise ConfigError(f"{option} {bound:g}: a concurrency is a whole number.")
    if not 0 < low <= first <= high < float("inf"):
        raise ConfigError(
            f"--lowest {low:g}, --start {first:g}, --highest {high:g}: give loads above 0 that rise in this order."
        )
    return SearchGoal(
        attainment=attainment,
        start=first,
        lowest=low,
        highest=high,
        whole=is_whole,
        tolerance=tolerance,
        confidence=confidence,
        max_trials=max_trials,
    )
