"""`llmbench gate`: whether a run is worse than its baseline, as an exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from llmbench.results.comparison_set import ComparisonSet, Spreads
    from llmbench.results.gate import GateSpec
    from llmbench.results.matching import Side


def gate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run directory to judge.")],
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="BASELINE",
            show_default=False,
            help="What it is judged by: a run directory, or a file of --save (default: none).",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            show_default=False,
            help="Judge the run's other engines by this one, round by round, instead of by --baseline (default: no).",
        ),
    ] = None,
    ab: Annotated[
        str | None,
        typer.Option(
            "--ab",
            metavar="WORKLOAD",
            show_default=False,
            help="Measure this workload into RUN first, its engines turn by turn (A B, B A, …), and judge the others "
            "by its first one; suspects are measured again (default: no).",
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--history",
            metavar="FILE|URL",
            show_default=False,
            help="Judge by the newest run of this history on the same hardware with the same question (default: no).",
        ),
    ] = None,
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            "--noise",
            metavar="RUN",
            show_default=False,
            help="One of three or more runs of the same: what they differ by is no regression; may be repeated "
            "(default: none).",
        ),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            metavar="YAML",
            show_default=False,
            help="Which figures count and by how much they may be worse (default: all, 3 % and a little).",
        ),
    ] = None,
    confirm: Annotated[
        str | None,
        typer.Option(
            metavar="WORKLOAD",
            show_default=False,
            help="Before going red, run this workload again: only what is slower twice counts (default: no).",
        ),
    ] = None,
    confirm_ab: Annotated[
        str | None,
        typer.Option(
            "--confirm-ab",
            metavar="WORKLOAD",
            show_default=False,
            help="As --confirm, and the baseline is measured again too: a workload whose first engine is the baseline "
            "and whose other is RUN's, turn by turn, so that a busier machine is no regression (default: no).",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            show_default=False,
            help="Override one field of the workload of --ab, --confirm or --confirm-ab, as for `run`; may be repeated "
            "(default: none).",
        ),
    ] = None,
    allow_unlike: Annotated[
        bool,
        typer.Option(
            "--allow-unlike",
            show_default=False,
            help="Judge even where machine, model or workload differ; the differences are still said (default: off).",
        ),
    ] = False,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Write JUnit XML (default: no).")
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Write Markdown, for a comment or a job's summary (default: no)."
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Write RUN's figures as a baseline file to keep in git (default: no).",
        ),
    ] = None,
) -> None:
    """Exit with 0 if RUN is no worse than its baseline, with 6 if it is, with 5 if that cannot be said."""
    from rich.console import Console

    from llmbench.harness.cli.gate_measurements import base_of, measure
    from llmbench.harness.cli.gate_thresholds import read_thresholds
    from llmbench.harness.cli.write_report import write_text
    from llmbench.harness.errors import ConfigError, ExitCode
    from llmbench.reports.comparison_console import print_gate
    from llmbench.reports.gate_junit import gate_junit
    from llmbench.reports.gate_markdown import gate_markdown
    from llmbench.results.baseline import open_side, to_json
    from llmbench.results.gate import confirmed, judge_gate
    from llmbench.results.noise import run_spreads

    given = sum(option is not None for option in (baseline, against, store, ab))
    if given > 1 or (given == 0 and save is None):
        raise ConfigError(
            "Give one of --baseline (a run or a file of --save), --history (a store), --against (an engine of RUN) and "
            "--ab (a workload to measure)."
        )
    spec = read_thresholds(thresholds)
    if confirm is not None and confirm_ab is not None:
        raise ConfigError(
            "Give --confirm or --confirm-ab, not both: the second measures what the first does, and more."
        )
    overrides = set_ or []
    if ab is not None:
        against, confirm = base_of("--ab", ab, overrides), ab
        run = measure("--ab", ab, overrides, run)
    base = None if confirm_ab is None else base_of("--confirm-ab", confirm_ab, overrides)
    side = open_side(run)
    if save is not None:
        write_text(save, to_json(side), "--save")
        typer.echo(str(save))
    if given == 0:
        return
    other = open_side(baseline) if baseline is not None else _newest(store, side, run) if store is not None else None
    if noise and against is not None:
        raise ConfigError(
            "--noise is what runs differ by; --against compares within one run, where that plays no part."
        )
    noises = [open_side(path) for path in noise or ()]
    spreads = run_spreads(noises, None if allow_unlike else side) if noises else None
    compared = _compared(side, other, against, spec, spreads)
    result = judge_gate(compared, allow_unlike=allow_unlike, required=spec.required)
    console = Console(markup=False, highlight=False)
    workload = confirm_ab or confirm
    if result.verdict == "failed" and workload is not None:
        print_gate(result, console)
        typer.echo("gate: measuring again, since only what is slower twice counts")
        option = "--confirm" if confirm_ab is None else "--confirm-ab"
        again = open_side(measure(option, workload, overrides, run.with_name(f"{run.name}-again")))
        suspects = sorted({case.comparison.spec.name for case in result.failed})
        compared = (
            _compared(again, other, against, spec, spreads, only=suspects)
            if base is None
            else _compared(again, None, base, spec, None, only=suspects)
        )
        result = confirmed(result, judge_gate(compared, allow_unlike=allow_unlike))
    print_gate(result, console)
    if junit is not None:
        write_text(junit, gate_junit(result), "--junit")
    if markdown is not None:
        write_text(markdown, gate_markdown(result), "--markdown")
    code = {"passed": ExitCode.OK, "failed": ExitCode.REGRESSION}.get(result.verdict, ExitCode.INVALID)
    raise typer.Exit(code)


def _compared(
    side: Side,
    baseline: Side | None,
    against: str | None,
    spec: GateSpec,
    spreads: Spreads | None,
    only: Sequence[str] = (),
) -> ComparisonSet:
    from llmbench.results.comparison_set import compare_engines, compare_sides

    margins = {name: margin for name, margin in spec.margins().items() if not only or name in only}
    if baseline is None:
        return compare_engines(side, against, margins=margins, required=spec.required, alpha=spec.alpha)
    return compare_sides([side], baseline, margins=margins, spreads=spreads, required=spec.required, alpha=spec.alpha)


def _newest(store: str, side: Side, run: Path) -> Side:
    from llmbench.harness.cli.history import opened
    from llmbench.harness.errors import ConfigError
    from llmbench.results.run import Run

    with opened(store) as history:
        found = history.latest_like(side.identity, but=Run.open(run).manifest.run_id)
    if found is None:
        raise ConfigError(
            f"--history {store} has no other run on hardware {side.identity.fingerprint} with the question of {run}; "
            f"`llmbench history add {run}` makes this one the first."
        )
    return found
