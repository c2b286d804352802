"""The run in a terminal: the answer, a table per load level, failures and what to beware of. Readable at 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from llmbench.reports.headline import headline
from llmbench.reports.material import Material
from llmbench.reports.numbers import NO_BREAK, count, digits, quantile
from llmbench.reports.plain_text import one_line, plain
from llmbench.reports.server_side_rows import server_lines, unknown_costs
from llmbench.results.answer import left_out
from llmbench.results.attempts import retries
from llmbench.results.equal_work import unequal_work
from llmbench.results.output_equality import agreement
from llmbench.results.run import Run
from llmbench.results.samples import each_samples
from llmbench.results.series import failures
from llmbench.results.statistics import required_n
from llmbench.results.summary import SummaryRow, summarise

_LATENCIES = (("ttft", "TTFT\nms"), ("itl", "ITL\nms"), ("tpot", "TPOT\nms"), ("e2e", "E2E\nms"))
_RATES = (("output_throughput", "tokens\n/s"), ("request_throughput", "req.\n/s"), ("goodput", "good\n/s"))
_MAX_EXAMPLES = 6


def print_summary(run: Run, console: Console) -> None:
    """Print `run` to `console` for someone who has not read a manual."""
    console.print()
    if run.manifest.invalid:
        console.print(Text("The measurement is invalid: these numbers must not be used.", style="bold red"))
    material = Material(run)
    sentences = headline(material)
    for sentence in sentences:
        console.print(Text(plain(sentence), style="bold"))
    _print_points(console, "The engines did not do the same work", [one_line(each) for each in unequal_work(run)])
    for sentence in agreement(run):
        console.print(Text(f"\n{one_line(sentence)}"))
    summary = summarise(run)
    for level, rows in groupby(summary.rows, key=lambda row: row.level):
        console.print(Text(f"\nload: {one_line(level)}\n"))
        console.print(_table(material, members := list(rows)))
        for sentence, same in groupby(members, key=lambda row: row.window):
            engines = ", ".join(one_line(row.engine) for row in same)
            console.print(Text(f"window of {engines}: {one_line(sentence)}", style="dim"))
    if summary.rows:
        console.print(Text("\n" + "\n".join(_legend(run, summary.rows)), style="dim"))
    _print_points(console, "Failures", list(_failures(run)))
    _print_points(
        console,
        "Retries",
        [f"{one_line(each.engine)} at {one_line(each.level)}: {each.sentence}." for each in retries(run)],
    )
    samples = tuple(each_samples(run))
    _print_points(console, "Server side, over the measured rounds", list(map(plain, server_lines(samples))))
    if (unknown := unknown_costs(samples)) is not None:
        console.print(Text(f"\n{unknown}", style="dim"))
    _print_points(console, "Read before you use a number", [one_line(problem) for problem in run.manifest.problems])
    if run.manifest.status == "failed" and (missing := left_out(run.manifest)) not in sentences:
        console.print(Text(plain(missing), style="bold red"))
    console.print()


def _table(material: Material, rows: list[SummaryRow]) -> Table:
    rates = [(name, header) for name, header in _RATES if name != "goodput" or _has_goodput(rows)]
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(Text("\nengine"), overflow="fold", min_width=8)
    table.add_column(Text("n\nfailed"), justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for _, header in (*_LATENCIES, *rates):
        table.add_column(Text(header), justify="right", no_wrap=True)
    for row in rows:
        failed = Text(f"{count(row.num_failed)}", style="red" if row.num_failed else "")
        table.add_row(
            Text(one_line(row.engine), style="bold"),
            Text(f"{count(row.num_requests)}\n") + failed,
            "p50\np99",
            *(
                "\n".join(quantile(row.distribution(name), share).replace(" ", "\n") for share in (0.5, 0.99))
                for name, _ in _LATENCIES
            ),
            *(digits(row.total(name)) for name, _ in rates),
        )
    if any(errors := [material.own_error(rows[0].level, name).replace(NO_BREAK, "") for name, _ in _LATENCIES]):
        table.add_section()
        table.add_row(Text("instrument"), "", "p99", *errors, style="dim")
    return table


def _legend(run: Run, rows: tuple[SummaryRow, ...]) -> Iterator[str]:
    yield "TTFT: until the first token. ITL: between tokens. TPOT: per output token."
    yield "E2E: the whole answer. All count from when a request was due; p50 is the median."
    if any(row.num_failed for row in rows):
        yield "A failed request counts as ∞: it never came."
    if any(
        (distribution := row.distribution(name)) is not None and distribution.p99 is None
        for row in rows
        for name, _ in _LATENCIES
    ):
        yield f"needs ≥ {required_n(0.99)}: fewer samples than that say nothing about a p99."
    if run.manifest.calibration:
        yield "instrument: by how much its own error can move a latency, 99 times in 100."
    if _has_goodput(rows):
        yield "good: requests that met every limit of the workload's slo."


def _has_goodput(rows: list[SummaryRow] | tuple[SummaryRow, ...]) -> bool:
    return any(row.total("goodput") is not None for row in rows)


def _failures(run: Run) -> Iterator[str]:
    found = failures(run)
    for failure in found[:_MAX_EXAMPLES]:
        where = f"{one_line(failure.engine)} at {one_line(failure.level)}"
        example = f", e.g. {one_line(failure.example)[:200]}" if failure.example else ""
        yield f"{where}: {failure.num} × {one_line(failure.kind)}{example}"
    if len(found) > _MAX_EXAMPLES:
        yield f"and {len(found) - _MAX_EXAMPLES} more kinds; the report lists them all"


def _print_points(console: Console, title: str, points: list[str]) -> None:
    if not points:
        return
    console.print()
    console.print(Text(title, style="bold yellow"))
    for point in points:
        console.print(Padding(Text(f"• {point}"), (0, 0, 0, 2), expand=False))
