"""A noise floor in a terminal: how much each figure varies, and the rounds it takes to see a change through it."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmbench.reports.numbers import digits, percent
from llmbench.reports.plain_text import one_line
from llmbench.results.noise import MAX_ROUNDS, NoiseFloor, NoiseRow


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
        rounds = floor.recommended_rounds(effect)
        told = f"{rounds} rounds" if rounds is not None else f"more than {MAX_ROUNDS} rounds"
        within = dict.fromkeys(row.spec.title for row in floor.rows if row.margin >= effect)
        besides = f"; not in {', '.join(within)}, whose margin is larger" if within else ""
        console.print(Text(f"To see a change of {percent(effect)}: {told} on each side{besides}."))
    console.print(
        Text(
            f"At a power of {percent(floor.power)} and at most {percent(floor.alpha)} chance of any false alarm among "
            f"{floor.num_tests} tests; a change counts beyond each figure's margin.",
            style="dim",
        )
    )


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
