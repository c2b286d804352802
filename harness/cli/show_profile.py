"""A decode profile in a terminal: tables, the stall list and a raster of tokens, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmbench.harness.decode_profile import Bin, DecodeProfile, Spread, decode_profile
from llmbench.results.run import Run
from llmbench.results.samples import Samples, each_samples

MAX_STALLS = 12
MAX_PREFILLS = 2
RASTER_ROWS = 24
RASTER_COLUMNS = 56
_DENSITY = "▁▂▃▄▅▆▇█"
_WAITING = "·"


def show_profile(run: Run, console: Console) -> None:
    """Print the profile of each engine at each load level."""
    for samples in (each.whole for each in each_samples(run)):
        profile = decode_profile(samples)
        console.print(Text(f"\n{profile.engine}, {profile.level}: {profile.num_requests} answers", style="bold"))
        if profile.num_gaps == 0:
            console.print("No answer had two reads with tokens, so there is no time between tokens to show.")
            continue
        console.print(_conventions(profile))
        console.print(f"tokens in a read: {_bursts(profile.bursts)}\n")
        console.print(_bins("by token's place in the answer", profile.by_place))
        console.print()
        console.print(_bins("by requests decoding at a time", profile.by_streams))
        _show_stalls(profile, console)
        _show_raster(samples, console)


def _conventions(profile: DecodeProfile) -> Table:
    table = _table("ms between tokens, three customs")
    for name, spread in (
        ("read: gap between two reads", profile.by_chunk),
        ("token: that gap ÷ its tokens", profile.by_token),
        ("request: (last − first) ÷ (N − 1)", profile.by_request),
        ("jitter in a request: p95 − p5", profile.jitter),
    ):
        table.add_row(name, *_cells(spread))
    return table


def _bins(heading: str, bins: Sequence[Bin]) -> Table:
    table = _table(heading)
    for each in bins:
        table.add_row(f"{each.first}" if each.first == each.last else f"{each.first}-{each.last}", *_cells(each.spread))
    return table


def _table(heading: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column(heading, no_wrap=True)
    for name in ("n", "p50", "p90", "p99", "max"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(spread: Spread) -> list[str]:
    quantiles = (spread.p50, spread.p90, spread.p99, spread.maximum)
    return [
        str(spread.n),
        *("n/a" if value is None else f"{value:.{1 if value >= 100 else 2}f}" for value in quantiles),
    ]


def _bursts(bursts: dict[int, int]) -> str:
    total = sum(bursts.values())
    shown = [f"{size} in {count / total:.1%}" for size, count in sorted(bursts.items(), key=lambda each: -each[1])[:6]]
    return ", ".join(shown) + (" of the reads, …" if len(bursts) > 6 else " of the reads")


def _show_stalls(profile: DecodeProfile, console: Console) -> None:
    assert profile.stall_ms is not None
    assert profile.prefill_share is not None
    met = sum(bool(stall.prefills) for stall in profile.stalls)
    console.print(
        f"\n{len(profile.stalls)} stalls, gaps of {profile.stall_ms:.1f} ms or more; {met} of them while another "
        f"request waited for its first token, as did {profile.prefill_share:.0%} of all gaps."
    )
    if not profile.stalls:
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("request", "during the prefill of"):
        table.add_column(heading, overflow="fold")
    for heading in ("at s", "token", "gap ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stall in profile.stalls[:MAX_STALLS]:
        others = ", ".join(stall.prefills[:MAX_PREFILLS])
        more = len(stall.prefills) - MAX_PREFILLS
        table.add_row(
            stall.request_id,
            (others + (f" and {more} more" if more > 0 else "")) or "none",
            f"{stall.at_s:.3f}",
            str(stall.token),
            f"{stall.gap_ms:.1f}",
        )
    console.print(table)
    if len(profile.stalls) > MAX_STALLS:
        console.print(f"and {len(profile.stalls) - MAX_STALLS} shorter ones")


def _show_raster(samples: Samples, console: Console) -> None:
    """A line per request and a column per slice of time, over the first requests of the first round."""
    rows: list[int] = np.flatnonzero(samples.round == samples.round.min())[:RASTER_ROWS].tolist()
    due_ns, first_ns, end_ns = (samples.ns(name) for name in ("due_ns", "first_token_ns", "end_ns"))
    start_ns, stop_ns = float(np.nanmin(due_ns[rows])), float(np.nanmax(end_ns[rows]))
    if not stop_ns > start_ns:
        return
    edges = np.linspace(start_ns, stop_ns, RASTER_COLUMNS + 1)
    counts = np.zeros((len(rows), RASTER_COLUMNS))
    for line, row in enumerate(rows):
        mine = samples.chunk_request == row
        counts[line] = np.histogram(samples.chunk_ns[mine], edges, weights=samples.chunk_tokens[mine])[0]
    fullest = max(1.0, float(counts.max()))
    console.print(
        f"\ntokens over time: {(stop_ns - start_ns) / 1e9:.2f} s from left to right, {_WAITING} waits for its first "
        f"token, █ {fullest:.0f} tokens"
    )
    for line, row in enumerate(rows):
        cells = []
        for column, count in enumerate(counts[line]):
            waits = due_ns[row] <= edges[column + 1] and not first_ns[row] < edges[column]
            level = _DENSITY[min(len(_DENSITY) - 1, int(count / fullest * len(_DENSITY)))]
            cells.append(level if count else _WAITING if waits and not end_ns[row] < edges[column] else " ")
        console.print(Text(f"{str(samples.texts('request_id')[row])[-20:]:>20} {''.join(cells)}"))
