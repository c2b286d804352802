"""How often intervals cover the truth and the gate errs, on simulated runs whose truth is known.

    python tests/benchmarks/statistics_coverage.py > coverage.md

Prints the Markdown tables of docs/statistics.md and draws docs/power.svg (as power.svg in the folder where it is
called); seeded, about ten minutes on two cores. Intervals, comparisons and
gate are the production code. Noise is log-normal and autocorrelated from request to request (AR(1) with coefficient
φ), with a shift per round on top; its quantiles are known in closed form.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import signal, stats

from llmbench.results.comparison_set import Spreads, compare_sides
from llmbench.results.figures import Figure
from llmbench.results.gate import GateSpec, judge_gate
from llmbench.results.manifest import ClockManifest, EngineManifest, Manifest
from llmbench.results.matching import Side, side_of
from llmbench.results.noise import noise_floor, run_spreads
from llmbench.results.run import Run
from llmbench.results.schema import chunk_schema, request_schema
from llmbench.results.statistics import estimate_mean, estimate_quantile, order
from llmbench.results.units import Units, units_of

Floats = NDArray[np.float64]
MS = 1e6
SPREAD = 0.5  # standard deviation of the logarithm of a latency
JOBS = os.cpu_count() or 1
STATISTICS: tuple[float | str, ...] = ("mean", 0.5, 0.9, 0.99)


def autocorrelated(generator: np.random.Generator, shape: tuple[int, ...], phi: float) -> Floats:
    """Standard normal values, AR(1) along the last axis, stationary from the first on."""
    burn_in = 200
    noise = generator.standard_normal((*shape[:-1], shape[-1] + burn_in)) * math.sqrt(1 - phi**2)
    return np.asarray(signal.lfilter([1], [1, -phi], noise, axis=-1)[..., burn_in:])


def latencies(generator: np.random.Generator, rounds: int, num: int, phi: float, share_of_rounds: float) -> Floats:
    """[rounds · num] latencies; `share_of_rounds` of the variance lies between rounds."""
    within = autocorrelated(generator, (rounds, num), phi) * math.sqrt(1 - share_of_rounds)
    between = generator.standard_normal((rounds, 1)) * math.sqrt(share_of_rounds)
    return np.exp(SPREAD * (within + between)).ravel()


def truth(statistic: float | str) -> float:
    if isinstance(statistic, str):
        return math.exp(SPREAD**2 / 2)
    return math.exp(SPREAD * float(stats.norm.ppf(statistic)))


def own_interval(values: Floats, units: Units, statistic: float | str) -> tuple[float, float] | None:
    ordered = order(values, None, np.arange(len(values)), units)
    if isinstance(statistic, str):
        found = estimate_mean(ordered, units)
        return None if found is None else found[1]
    estimate = estimate_quantile(ordered, units, statistic)
    return None if estimate is None else estimate.interval


def iid_bootstrap(generator: np.random.Generator, values: Floats, statistic: float | str) -> tuple[float, float]:
    drawn = values[generator.integers(len(values), size=(200, len(values)))]
    found = drawn.mean(axis=1) if isinstance(statistic, str) else np.quantile(drawn, statistic, axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


SHAPES = (
    (1, 1000, 0.0),
    (2, 500, 0.0),
    (4, 250, 0.05),
    (6, 200, 0.05),
    (10, 100, 0.05),
    (20, 100, 0.05),
    (10, 500, 0.05),
)


def print_coverage() -> None:
    titles = [statistic if isinstance(statistic, str) else f"p{100 * statistic:g}" for statistic in STATISTICS]
    print(
        "| rounds × requests | φ | " + " | ".join(titles) + " | " + " | ".join(f"iid {each}" for each in titles) + " |"
    )
    print("|" + " --- |" * (2 + 2 * len(titles)))
    cases = [(*shape, phi) for shape in SHAPES for phi in (0.0, 0.5, 0.8)]
    with ProcessPoolExecutor(JOBS) as pool:
        for row in pool.map(coverage_row, cases):
            print(row, flush=True)


def coverage_row(case: tuple[int, int, float, float], num_runs: int = 2000, num_bootstraps: int = 100) -> str:
    rounds, num, between, phi = case
    generator = np.random.default_rng([11, rounds, num, round(10 * phi)])
    units = units_of(np.repeat(np.arange(rounds), num))
    covered, given, iid = (dict.fromkeys(STATISTICS, 0) for _ in range(3))
    for index in range(num_runs):
        values = latencies(generator, rounds, num, phi, between)
        for statistic in STATISTICS:
            interval = own_interval(values, units, statistic)
            if interval is not None:
                given[statistic] += 1
                covered[statistic] += interval[0] <= truth(statistic) <= interval[1]
            if index < num_bootstraps:
                low, high = iid_bootstrap(generator, values, statistic)
                iid[statistic] += low <= truth(statistic) <= high
    cells = [_share(covered[each], given[each], num_runs) for each in STATISTICS]
    beside = [f"{100 * iid[each] / num_bootstraps:.0f} %" for each in STATISTICS]
    return f"| {rounds} × {num} | {phi:g} | " + " | ".join(cells + beside) + " |"


def _share(covered: int, given: int, total: int) -> str:
    if given < total / 10:
        return "refused"
    shown = f"{100 * covered / given:.1f} %"
    return shown if given == total else f"{shown} ({100 * given / total:.0f} % given)"


def made_side(
    generator: np.random.Generator,
    folder: Path,
    rounds: int,
    num: int,
    phi: float,
    tail: float = 0,
    between_runs: float = 0,
) -> Side:
    """A stored run of an engine with TTFT 40 ms and ITL 10 ms; 3 % of the requests wait `tail` ms more. The pace of
    whole runs has a relative deviation of `between_runs`."""
    num_tokens, total = 16, rounds * num
    shift = np.repeat(generator.normal(0, 0.005, rounds), num)
    if between_runs:
        shift += generator.normal(0, between_runs)
    ttft = 40 * np.exp(0.15 * autocorrelated(generator, (rounds, num), phi).ravel() + shift)
    ttft += tail * (generator.random(total) < 0.03)
    pace = 10 * np.exp(0.02 * autocorrelated(generator, (rounds, num), phi).ravel() + shift)
    gaps = pace[:, None] * np.exp(0.1 * generator.standard_normal((total, num_tokens - 1)))
    due = np.arange(total) * 100.0 * MS
    stamps = (
        due[:, None] + MS * (ttft[:, None] + np.concatenate([np.zeros((total, 1)), gaps.cumsum(1)], axis=1))
    ).astype(np.int64)
    ids = np.char.add("r", np.arange(total).astype(str))
    columns = {
        "request_id": ids,
        "engine": ["a"] * total,
        "level": ["poisson 10/s"] * total,
        "round": np.repeat(np.arange(rounds), num),
        "index": np.tile(np.arange(num), rounds),
        "warmup": [False] * total,
        "due_ns": due.astype(np.int64),
        "sent_ns": due.astype(np.int64) + 100_000,
        "first_token_ns": stamps[:, 0],
        "last_token_ns": stamps[:, -1],
        "end_ns": stamps[:, -1] + 100_000,
        "output_tokens": [num_tokens] * total,
        "requested_tokens": [num_tokens] * total,
        "status": ["ok"] * total,
        "num_chunks": [num_tokens] * total,
        "attempt": [1] * total,
    }
    chunks = {
        "request_id": np.repeat(ids, num_tokens),
        "index": np.tile(np.arange(num_tokens), total),
        "t_ns": stamps.ravel(),
        "tokens": np.ones(total * num_tokens, np.int32),
        "chars": np.ones(total * num_tokens, np.int32),
        "coalesced": np.zeros(total * num_tokens, bool),
    }
    folder.mkdir(exist_ok=True)
    for name, schema, given in (("requests", request_schema(), columns), ("chunks", chunk_schema(), chunks)):
        arrays = [
            pa.array(given[field.name], field.type)
            if field.name in given
            else pa.nulls(len(given["index"]), field.type)
            for field in schema
        ]
        pq.write_table(pa.table(arrays, schema=schema), folder / f"{name}.parquet")
    manifest = Manifest(
        run_id="made",
        created_utc="2026-01-01T00:00:00Z",
        command=("llmbench",),
        status="complete",
        workload={"traffic": {"requests": num}},
        workload_digest="0" * 64,
        prompts_digest="0" * 64,
        seeds={},
        engines=(EngineManifest(label="a", name="simulated"),),
        environment={"cpu": "simulated"},
        clock=ClockManifest(origin_ns=0, origin_utc="2026-01-01T00:00:00Z"),
    )
    (folder / "manifest.json").write_text(manifest.model_dump_json())
    return side_of(Run.open(folder), "run")


def slowed(side: Side, prefixes: tuple[str, ...], factor: float) -> Side:
    """`side` as if these latencies had all been `factor` times as long: quantiles scale, relative errors do not."""

    def scaled(name: str, figure: Figure) -> Figure:
        return replace(figure, value=figure.value * factor) if name.startswith(prefixes) else figure

    [measured] = side.measured
    figures = {name: scaled(name, figure) for name, figure in measured.figures.items()}
    return replace(side, measured=(replace(measured, figures=figures),))


def failed_figures(subject: Side, baseline: Side, spreads: Spreads | None = None) -> set[str]:
    result = judge_gate(compare_sides([subject], baseline, margins=GateSpec().margins(), spreads=spreads))
    assert not result.reasons, result.reasons
    return {case.comparison.spec.name for case in result.failed}


EFFECTS = (0.0, 0.01, 0.03, 0.04, 0.05, 0.07, 0.1, 0.15, 0.2)
SLOWED = (("TPOT and ITL", ("tpot", "itl"), {"tpot_p50"}), ("TTFT", ("ttft",), {"ttft_p50"}))


def print_power(num_pairs: int = 200) -> None:
    print("\n| rounds × requests | slower | " + " | ".join(f"+{100 * effect:g} %" for effect in EFFECTS) + " |")
    print("|" + " --- |" * (2 + len(EFFECTS)))
    generator = np.random.default_rng(12)
    curves: dict[str, dict[str, list[float]]] = {title: {} for title, _, _ in SLOWED}
    for rounds, num in ((4, 60), (6, 60), (8, 60), (12, 60), (24, 60)):
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "run"
            sides = [made_side(generator, folder, rounds, num, phi=0.5) for _ in range(2 * num_pairs)]
        pairs = list(zip(sides[::2], sides[1::2], strict=True))
        for title, prefixes, sought in SLOWED:
            shares = []
            for effect in EFFECTS:
                alarms = [
                    failed_figures(slowed(subject, prefixes, 1 + effect), baseline) for subject, baseline in pairs
                ]
                # Without an effect: a false alarm of any figure. With one: the figure that was slowed is found.
                shares.append(sum(bool(found & sought) if effect else bool(found) for found in alarms) / num_pairs)
            curves[title][f"{rounds} × {num}"] = shares
            cells = [f"{100 * share:.1f} %" for share in shares]
            print(f"| {rounds} × {num} | {title} | " + " | ".join(cells) + " |", flush=True)
    draw_power(curves, Path("power.svg"))


def draw_power(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """The table above as curves, one picture for each figure that was slowed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import PercentFormatter

    mpl.rcParams["svg.fonttype"] = "none"
    mpl.rcParams["svg.hashsalt"] = "power"  # the same curves give the same file
    canvas = Canvas(figsize=(9, 3.6), layout="constrained", facecolor="white")
    for axes, (title, by_rounds) in zip(canvas.subplots(1, 2, sharey=True), curves.items(), strict=True):
        for (rounds, shares), marker in zip(by_rounds.items(), "osD^v", strict=True):
            axes.plot(EFFECTS, shares, marker=marker, markersize=4, label=rounds)
        axes.axvline(0.03, color="grey", linestyle=":")
        axes.axhline(0.95, color="grey", linestyle="--")
        axes.set_title(f"{title} p50", loc="left", fontsize=11)
        axes.set_xlabel("slower by (dotted: the margin)")
        axes.set_xticks((0, 0.05, 0.1, 0.15, 0.2))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    canvas.axes[0].set_ylabel("found in (dashed: 95 %)")
    canvas.axes[0].legend(title="rounds × requests", frameon=False, fontsize=9, loc="lower right")
    canvas.savefig(path, metadata={"Date": None})


def print_tail_power(num_pairs: int = 60) -> None:
    print("\n| rounds × requests | TTFT p99 of 3 % of requests later by | p99 found | p50 blamed |")
    print("| --- | --- | --- | --- |")
    generator = np.random.default_rng(13)
    for rounds, num, tail in ((8, 100, 30.0), (8, 100, 60.0), (12, 200, 30.0), (12, 200, 60.0)):
        found = list(_tail_alarms(generator, num_pairs, rounds, num, tail))
        p99 = sum("ttft_p99" in names for names in found) / num_pairs
        p50 = sum("ttft_p50" in names for names in found) / num_pairs
        print(f"| {rounds} × {num} | {tail:g} ms of 40 ms | {100 * p99:.0f} % | {100 * p50:.0f} % |", flush=True)


def _tail_alarms(
    generator: np.random.Generator, num_pairs: int, rounds: int, num: int, tail: float
) -> Iterator[set[str]]:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        for _ in range(num_pairs):
            baseline = made_side(generator, folder, rounds, num, phi=0.5)
            yield failed_figures(made_side(generator, folder, rounds, num, phi=0.5, tail=tail), baseline)


def print_recommended(num_floors: int = 20, num_pairs: int = 10) -> None:
    """Each row: noise floors from five runs each, and with the rounds that each recommends, pairs of runs gated."""
    print("\n| sought | runs differ by | gate | recommended rounds: median, least to most | none would do | found |")
    print("| --- | --- | --- | --- | --- | --- |")
    cases = [(sought, between) for between in (0.0, 0.005) for sought in range(len(SLOWED))]
    with ProcessPoolExecutor(JOBS) as pool:
        for row in pool.map(recommended_row, cases, [num_floors] * len(cases), [num_pairs] * len(cases)):
            print(row, flush=True)


def recommended_row(case: tuple[int, float], num_floors: int, num_pairs: int) -> str:
    place, between = case
    _, prefixes, [sought] = SLOWED[place]
    effect = (0.05, 0.1)[place]
    generator = np.random.default_rng([14, place, round(1000 * between)])
    recommended: list[int] = []
    hits = 0
    with TemporaryDirectory() as temporary:

        def run(rounds: int) -> Side:
            return made_side(generator, Path(temporary) / "run", rounds, 60, phi=0.5, between_runs=between)

        for _ in range(num_floors):
            repeated = [run(8) for _ in range(5)]
            floor = noise_floor(repeated, effects=(effect,), power=0.95)
            row = next(each for each in floor.rows if each.spec.name == sought)
            rounds = (row.rounds_knowing_runs or {}).get(effect) if between else row.rounds[effect]
            if rounds is None:
                continue
            recommended.append(rounds)
            # Where runs differ, a gate must know it: without, it would cry wolf.
            spreads = run_spreads(repeated) if between else None
            for _ in range(num_pairs):
                subject, baseline = run(rounds), run(rounds)
                hits += sought in failed_figures(slowed(subject, prefixes, 1 + effect), baseline, spreads)
    told = f"{np.median(recommended):g}, {min(recommended)} to {max(recommended)}" if recommended else "n/a"
    power = f"{100 * hits / (num_pairs * len(recommended)):.0f} %" if recommended else "n/a"
    return (
        f"| {row.spec.title} +{100 * effect:g} % | {100 * between:g} % | {'--noise' if between else 'plain'} | "
        f"{told} | {num_floors - len(recommended)} of {num_floors} | {power} |"
    )


PARTS = {"coverage": print_coverage, "power": print_power, "tail": print_tail_power, "recommended": print_recommended}

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("parts", nargs="*", choices=PARTS, default=list(PARTS))
    for part in parser.parse_args().parts:
        PARTS[part]()
