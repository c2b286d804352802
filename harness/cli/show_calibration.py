"""A calibration as a table, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmbench.harness.calibration import complaint
from llmbench.results.manifest import CalibrationManifest, LagManifest


def show_calibration(levels: Sequence[CalibrationManifest], console: Console) -> None:
    """Print the errors of each load level, and the highest one within the error budget."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("load", no_wrap=True)
    table.add_column("in ms")
    for heading in ("p50", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for level in levels:
        facts = _facts(level)
        for place, (name, lag) in enumerate(_lags(level)):
            fact = facts[place] if place < len(facts) else ""
            table.add_row(fact, name, *_ms(lag), end_section=name == "read lag")
    console.print(table)
    console.print(
        "Error: recorded stamp against when the simulated engine really sent. Send lag: sent − due.\n"
        "Read lag: how long a chunk lay in the kernel, which stamps it, before it was read."
    )
    num_unclear, num_chunks = (sum(getattr(level, name) for level in levels) for name in ("num_unclear", "num_chunks"))
    if num_unclear:
        console.print(
            f"{num_unclear} of {num_chunks} chunks are left out: the simulated engine was kept from the processor as "
            "it sent them, so nobody knows when they left."
        )
    console.print()
    for level in levels:
        if (text := complaint(level)) is not None:
            console.print(text)
    if len(levels) > 1:
        kept = [level for level in levels if complaint(level) is None]
        best = max(kept, key=lambda level: level.chunks_per_s, default=None)
        found = "none" if best is None else f"{best.level}, {best.chunks_per_s:,.0f} chunks/s"
        console.print(f"Highest load within the error budget: {found}.")


def _facts(level: CalibrationManifest) -> list[Text | str]:
    cpu_s = level.cpu_s_per_million_chunks
    return [
        Text(level.level, style="bold"),
        f"{level.num_requests} requests",
        f"{level.chunks_per_s:,.0f} chunks/s",
        "" if cpu_s is None else f"{cpu_s:.0f} CPU s/10⁶ chunks",
        "within budget" if complaint(level) is None else Text("not within budget", style="bold red"),
    ]


def _lags(level: CalibrationManifest) -> list[tuple[str, LagManifest | None]]:
    return [
        ("TTFT error", level.ttft_error),
        ("ITL error", level.itl_error),
        ("E2E error", level.e2e_error),
        ("send lag", level.instrument.send_lag),
        ("read lag", level.instrument.client_lag),
    ]


def _ms(lag: LagManifest | None) -> list[str]:
    stamps = (None, None, None) if lag is None else (lag.p50_ns, lag.p99_ns, lag.max_ns)
    return ["n/a" if ns is None else f"{ns / 1e6:.3f}" for ns in stamps]
