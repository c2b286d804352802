"""How often the gate errs on runs resampled from real ones, whose noise is autocorrelated.

    python tests/benchmarks/resampled_gates.py FOLDER record
    python tests/benchmarks/resampled_gates.py FOLDER judge

`record` runs `llmbench run` again and again on the simulated engine, the pace of which wanders: requests that come
close are alike. Equal engines, and some whose tokens come 5 % or whose first token comes 10 % later, each run with a
noise of its own. What is done is kept in FOLDER, so that `--seconds 280` records a part and the next call goes on.

`judge` draws round numbers without replacement, the same for subject and baseline, as both asked the same; and for each
side either one run that all its rounds come from, or another one for each round. Every request of a drawn round goes
into a new run directory with all its stamps, so that what requests and metrics of a round have in common stays as it
was. The gate then judges with all its figures: at the first look, with five other equal runs as `--noise`, and each of
these with a second measurement, drawn like the first, as `--confirm` has it. Prints the table of docs/statistics.md;
seeded, about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import stats

from llmbench.results.comparison_set import Margins, Spreads, compare_sides
from llmbench.results.gate import GateResult, GateSpec, confirmed, judge_gate
from llmbench.results.matching import Side, side_of
from llmbench.results.metrics import ordered_of
from llmbench.results.noise import noise_floor, run_spreads
from llmbench.results.run import CHUNKS, MANIFEST, REQUESTS, Run
from llmbench.results.samples import each_samples
from llmbench.results.statistics import samples_per_independent

NUM_ROUNDS, NUM_REQUESTS = 24, 60
TTFT_MS, ITL_MS = 40.0, 5.0
KINDS = {"plain": (1.0, 1.0), "tpot": (1.0, 1.05), "ttft": (1.10, 1.0)}  # factors of TTFT and ITL
WORKLOAD = f"""\
name: resampled_gates
model: simulated
engines: [simulated]
prompts: {{kind: text, path: prompts.txt, output_tokens: 16}}
traffic: {{requests: {NUM_REQUESTS}, warmup_requests: 2, arrivals: {{kind: poisson, rate: 60}}}}
measure: {{rounds: {NUM_ROUNDS}}}
"""
NOISE = "wander: 0.03, wander_s: 0.05, jitter_ms: 2"
FEW_ROUNDS = 8
MIXED, SINGLE = SOURCES = ("all runs", "one run")
JOBS = os.cpu_count() or 1


def record(folder: Path, wanted: dict[str, int], seconds: float) -> None:
    """Runs until there are as many valid ones of each kind as wanted."""
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.yaml").write_text(WORKLOAD)
    (folder / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(50)))
    while time.monotonic() - begun < seconds:
        # The kinds grow alike, so that all see the same machine.
        done = {kind: len(valid(folder, kind)) / number for kind, number in wanted.items() if number}
        kind = min(done, key=done.__getitem__, default=None)
        if kind is None or done[kind] >= 1:
            return
        path = folder / f"{kind}-{len(list(folder.glob(f'{kind}-*'))):03d}"
        first, following = KINDS[kind]
        seed = secrets.randbelow(10**9)
        timing = f"ttft_ms: {first * TTFT_MS:g}, itl_ms: {following * ITL_MS:g}, {NOISE}, seed: {seed}"
        override = f"engines.simulated.settings={{{timing}}}"
        command = [sys.executable, "-m", "llmbench", "run", str(folder / "workload.yaml"), "--set", override]
        subprocess.run([*command, "--out", str(path)], capture_output=True, check=False)
        print(f"{path.name} {'valid' if is_valid(path) else 'invalid'}", flush=True)


def is_valid(path: Path) -> bool:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except OSError:
        return False
    return manifest["status"] == "complete" and not manifest["invalid"]


def valid(folder: Path, kind: str) -> list[Path]:
    return [path for path in sorted(folder.glob(f"{kind}-[0-9][0-9][0-9]")) if is_valid(path)]


@lru_cache(maxsize=64)
def tables(path: Path) -> tuple[Run, pa.Table, pa.Table]:
    run = Run.open(path)
    return run, run.requests, run.chunks


class Part(NamedTuple):
    """One round of a recorded run."""

    path: Path
    number: int


def resampled(parts: Sequence[Part], target: Path) -> Side:
    """The side of a run directory that holds these rounds, numbered in this order; nothing else of them is changed."""
    requests, chunks = [], []
    for place, part in enumerate(parts):
        _, rows, reads = tables(part.path)
        is_chosen = np.asarray(pc.equal(rows.column("round"), part.number))
        column = rows.schema.get_field_index("round")
        chosen = rows.filter(pa.array(is_chosen))
        renumbered = pa.array(np.full(len(chosen), place), pa.int32())
        requests.append(chosen.set_column(column, rows.schema.field(column), renumbered))
        chunks.append(reads.filter(pa.array(np.repeat(is_chosen, rows.column("num_chunks").to_numpy()))))
    target.mkdir()
    pq.write_table(pa.concat_tables(requests), target / REQUESTS)
    pq.write_table(pa.concat_tables(chunks), target / CHUNKS)
    manifest = tables(parts[0].path)[0].manifest.model_copy(update={"trials": ()})
    (target / MANIFEST).write_text(manifest.model_dump_json())
    return side_of(Run.open(target), target.name)


@lru_cache(maxsize=64)
def whole(path: Path) -> Side:
    return side_of(Run.open(path))


class Draw(NamedTuple):
    """What a gate gets to see."""

    subject: tuple[Part, ...]
    baseline: tuple[Part, ...]
    again: tuple[Part, ...]
    noise: tuple[Path, ...]


def draws(subjects: Sequence[Path], plain: Sequence[Path], rounds: int, number: int, mixed: bool) -> Iterator[Draw]:
    """With `mixed` each round is of a run of its own, else all of a side are of one."""
    generator = np.random.default_rng([21, rounds, mixed])

    def drawn(paths: Sequence[Path], numbers: Sequence[int], unlike: Sequence[tuple[Part, ...]]) -> tuple[Part, ...]:
        parts: list[Part] = []
        for place, each in enumerate(numbers):
            free = [path for path in paths if all(path != side[place].path for side in unlike)]
            path = free[generator.integers(len(free))] if mixed or not parts else parts[0].path
            parts.append(Part(path, each))
        return tuple(parts)

    for _ in range(number):
        numbers = generator.permutation(NUM_ROUNDS)[:rounds].tolist()
        baseline = drawn(plain, numbers, ())
        subject = drawn(subjects, numbers, (baseline,))
        again = drawn(subjects, numbers, (baseline, subject))
        others = [path for path in plain if path not in {side[0].path for side in (baseline, subject, again)}]
        noise = () if mixed else tuple(others[place] for place in generator.choice(len(others), 5, replace=False))
        yield Draw(subject, baseline, again, noise)


GATES = ("first look", "first look, `--noise`", "`--confirm`", "`--noise --confirm`")


def gated(draw: Draw) -> dict[str, frozenset[str] | None]:
    """For each of GATES the figures that turn it red; None where it is not red. Without noise runs, those that need
    none."""
    with TemporaryDirectory() as name:
        subject, baseline = (resampled(parts, Path(name) / f"{place}") for place, parts in enumerate(draw[:2]))
        found: dict[str, frozenset[str] | None] = {}
        again: Side | None = None
        for spreads, first_look, second in (
            (None, GATES[0], GATES[2]),
            (run_spreads([whole(path) for path in draw.noise]) if draw.noise else None, GATES[1], GATES[3]),
        ):
            if spreads is None and found:
                break
            found |= {first_look: None, second: None}
            first = judged(subject, baseline, spreads, GateSpec().margins())
            if first.verdict == "failed":
                again = again or resampled(draw.again, Path(name) / "again")
                suspects = {case.comparison.spec.name for case in first.failed}
                margins = {figure: margin for figure, margin in GateSpec().margins().items() if figure in suspects}
                both = confirmed(first, judged(again, baseline, spreads, margins))
                found[first_look] = blamed(first)
                found[second] = blamed(both) if both.verdict == "failed" else None
    return found


def judged(subject: Side, baseline: Side, spreads: Spreads | None, margins: Margins) -> GateResult:
    result = judge_gate(compare_sides([subject], baseline, margins=margins, spreads=spreads))
    assert not result.reasons, result.reasons
    return result


def blamed(result: GateResult) -> frozenset[str]:
    return frozenset(case.comparison.spec.name for case in result.failed)


def share(hits: int, number: int) -> str:
    """A share with its 95 % interval (Clopper and Pearson 1934)."""
    low, high = stats.binomtest(hits, number).proportion_ci(0.95)
    return f"{100 * hits / number:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"


def judge(folder: Path, num_pairs: int, sources: Sequence[str]) -> None:
    runs = {kind: valid(folder, kind) for kind in KINDS}
    print(f"valid runs of {NUM_ROUNDS} × {NUM_REQUESTS}: {', '.join(f'{len(runs[kind])} {kind}' for kind in KINDS)}")
    print(how_alike(runs["plain"]))
    for source in sources:
        print_recommended(runs["plain"], source)
    print("\n| each side's rounds are of | rounds | gate | equal, red | TPOT +5 % found | TTFT +10 % found |")
    print("| --- | --- | --- | --- | --- | --- |")
    with ProcessPoolExecutor(JOBS) as pool:
        for source in sources:
            for rounds in (FEW_ROUNDS, NUM_ROUNDS):
                found = {}
                for kind in KINDS:
                    number = num_pairs if kind == "plain" else num_pairs // 2
                    cases = draws(runs[kind], runs["plain"], rounds, number, source == MIXED)
                    found[kind] = list(pool.map(gated, cases, chunksize=5))
                for gate in (gate for gate in GATES if gate in found["plain"][0]):
                    red = [each[gate] for each in found["plain"]]
                    cells = [share(sum(figures is not None for figures in red), len(red))]
                    for kind, sought in (("tpot", "tpot_p50"), ("ttft", "ttft_p50")):
                        hits = sum(sought in (each[gate] or ()) for each in found[kind])
                        cells.append(share(hits, len(found[kind])))
                    print(f"| {source} | {rounds} | {gate} | {' | '.join(cells)} |", flush=True)
                    blames = Counter(figure for figures in red for figure in figures or ())
                    print(f"{source}, {rounds}, {gate}: {dict(blames)}", file=sys.stderr, flush=True)


def print_recommended(paths: Sequence[Path], source: str, num_floors: int = 10) -> None:
    """How many rounds noise floors from five runs recommend."""
    generator = np.random.default_rng(22)
    recommended: dict[str, list[int | None]] = {"tpot_p50": [], "ttft_p50": []}
    for _ in range(num_floors):
        with TemporaryDirectory() as name:
            order = [generator.permutation(len(paths)) for _ in range(NUM_ROUNDS)]
            sides = [
                resampled(
                    [Part(paths[order[number][place]], number) for number in range(NUM_ROUNDS)], Path(name) / str(place)
                )
                if source == MIXED
                else whole(paths[order[0][place]])
                for place in range(5)
            ]
        for figure, effect in (("tpot_p50", 0.05), ("ttft_p50", 0.10)):
            rows = noise_floor(sides, effects=(effect,), power=0.95).rows
            recommended[figure].append(next(row.rounds[effect] for row in rows if row.spec.name == figure))
    print(f"recommended where a run's rounds are of {source}, by each of {num_floors} floors: {recommended}")


def how_alike(paths: Sequence[Path]) -> str:
    """How requests that come one after the other correlate, at the median of the runs."""
    worth = []
    for path in paths:
        [samples] = each_samples(tables(path)[0])
        ordered = ordered_of(samples, "e2e")
        assert ordered is not None
        worth.append(samples_per_independent(ordered, samples.units))
    ratio = float(np.median(worth))
    correlation = (ratio - 1) / (ratio + 1)
    return f"neighbours' E2E within a round correlate by {correlation:.2f}: {ratio:.1f} samples are worth one"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=("record", "judge"))
    parser.add_argument("--runs", type=int, default=20, help="equal runs to record; default 20")
    parser.add_argument("--slower", type=int, default=5, help="runs of each slower kind to record; default 5")
    parser.add_argument(
        "--pairs", type=int, default=400, help="comparisons of equal runs a row, half as many of others; default 400"
    )
    parser.add_argument("--rounds-of", nargs="*", choices=SOURCES, help="where a side's rounds come from; default each")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long; default none")
    options = parser.parse_args()
    if options.part == "record":
        wanted = {"plain": options.runs, "tpot": options.slower, "ttft": options.slower}
        record(options.folder, wanted, options.seconds)
    else:
        judge(options.folder, options.pairs, options.rounds_of or SOURCES)


if __name__ == "__main__":
    main()
