"""A noise floor in a terminal: how much each figure varies, and the rounds it takes to see a change through it."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmbench.reports.numbers import digits, percent
from llmbench.reports.plain_text import one_line
from llmbench.results.noise import MAX_ROUNDS, NoiseFloor, NoiseRow, Recommendation


def print_noise(floor: NoiseFloor, console: Console) -> None:
    """Print a table per engine and level, what is lacking, and the recommendation."""
    for (engine, level), group in groupby(floor.rows, key=lambda row: (row.engine, row.level)):
        rows = list(group)
        console.print(Text(f"\n{one_line(engine)}, load: {one_line(level)}\n"))
        console.print(_table(rows, floor.effects))
    for text in floor.lacking:
        console.print(Text(f"• {one_line(text)}", style="yellow"))
    if not floor.rows:
        return
    console.print()
    for effect in floor.effects:
        console.print(Text(_advice(f"To see a change of {percent(effect)}", floor.recommended(effect))))
        knowing = floor.recommended_knowing_runs(effect)
        if knowing is not None:
            console.print(Text(_advice("  gated with these runs as --noise", knowing)))
    console.print(
        Text(
            f"At a power of {percent(floor.power)} and at most {percent(floor.alpha)} chance of any false alarm among "
            f"{floor.num_tests} tests; a change counts beyond each figure's margin.",
            style="dim",
        )
    )


def _advice(what: str, found: Recommendation) -> str:
    told = "no number of rounds does" if found.rounds is None else f"{found.rounds} rounds on each side"
    noisy = f"; {', '.join(found.too_noisy)} would take more than {MAX_ROUNDS}" if found.too_noisy else ""
    within = f"; not in {', '.join(found.within_margin)}, whose margin is larger" if found.within_margin else ""
    return f"{what}: {told}{noisy}{within}."


def _table(rows: list[NoiseRow], effects: tuple[float, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(Text("figure"))
    for header in (
        "value",
        "round to\nround",
        "run to\nrun",
        *(f"rounds\nfor {100 * effect:g} %" for effect in effects),
    ):
        table.add_column(Text(header), justify="right")
    for row in rows:
        needed = (row.rounds[effect] for effect in effects)
        table.add_row(
            Text(row.spec.title),
            f"{digits(row.value)} {row.spec.unit}",
            f"±{digits(100 * row.between_rounds)} %",
            "n/a" if row.between_runs is None else f"±{digits(100 * row.between_runs)} %",
            *("none" if rounds is None else str(rounds) for rounds in needed),
        )
    return table
