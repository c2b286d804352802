"""How often the gate errs on runs resampled from real ones, whose noise is autocorrelated.

    python tests/benchmarks/resampled_gates.py FOLDER record
    python tests/benchmarks/resampled_gates.py FOLDER judge

`record` runs `llmbench run` again and again on the simulated engine, the pace of which wanders: requests that come
close are alike. Equal engines first, then some whose tokens come 5 % or whose first token comes 10 % later, each run
with a noise of its own. What is done is kept in FOLDER, so that `--seconds 280` records a part and the next call goes
on.

`judge` draws two runs and then round numbers, the same for both, without replacement: every request of those rounds
with all its stamps goes into a new run directory, so that what requests, metrics and rounds of a run have in common
stays as it was. `llmbench gate` then judges one by the other, with all its figures, and its exit code is counted. How
many rounds are drawn is what `llmbench noise` recommends for 95 % power, and less. Prints the tables of
docs/statistics.md; seeded, about ten minutes on two cores.
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
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import stats
from typer.testing import CliRunner

from llmbench.harness.cli import app
from llmbench.results.matching import side_of
from llmbench.results.metrics import ordered_of
from llmbench.results.noise import noise_floor
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
JOBS = os.cpu_count() or 1


def record(folder: Path, wanted: dict[str, int], seconds: float) -> None:
    """Runs until there are as many valid ones of each kind as wanted."""
    begun = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "workload.yaml").write_text(WORKLOAD)
    (folder / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(50)))
    while time.monotonic() - begun < seconds:
        # The kinds grow alike, so that all see the same machine.
        missing = {kind: len(valid(folder, kind)) / number for kind, number in wanted.items()}
        kind = min(missing, key=missing.__getitem__)
        if missing[kind] >= 1:
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
def opened(path: Path) -> tuple[Run, pa.Table, pa.Table]:
    run = Run.open(path)
    return run, run.requests, run.chunks


def resampled(source: Path, rounds: Sequence[int], target: Path) -> None:
    """A run directory with these rounds of `source`, renumbered in this order; nothing else is changed."""
    run, requests, chunks = opened(source)
    number_of = {old: new for new, old in enumerate(rounds)}
    is_chosen = pc.is_in(requests.column("round"), pa.array(rounds, pa.int32()))
    lengths = requests.column("num_chunks").to_numpy()
    chosen = requests.filter(is_chosen)
    renumbered = pa.array([number_of[old] for old in chosen.column("round").to_pylist()], pa.int32())
    place = chosen.schema.get_field_index("round")
    target.mkdir()
    pq.write_table(chosen.set_column(place, chosen.schema.field(place), renumbered), target / REQUESTS)
    pq.write_table(
        chunks.filter(pa.array(np.repeat(is_chosen.to_numpy(zero_copy_only=False), lengths))), target / CHUNKS
    )
    trials = tuple(
        trial.model_copy(update={"round": number_of[trial.round]})
        for trial in run.manifest.trials
        if trial.round in number_of
    )
    (target / MANIFEST).write_text(run.manifest.model_copy(update={"trials": trials}).model_dump_json())


class Draw(NamedTuple):
    """Two runs, and the numbers of the rounds that are taken from both."""

    subject: Path
    baseline: Path
    rounds: tuple[int, ...]


def draws(subjects: Sequence[Path], baselines: Sequence[Path], rounds: int, number: int, seed: int) -> Iterator[Draw]:
    generator = np.random.default_rng(seed)
    pairs = [(one, other) for one in subjects for other in baselines if one != other]
    for _ in range(number):
        subject, baseline = pairs[generator.integers(len(pairs))]
        yield Draw(subject, baseline, tuple(generator.permutation(NUM_ROUNDS)[:rounds].tolist()))


def gated(draw: Draw) -> tuple[int, frozenset[str]]:
    """The gate's exit code and the figures that it calls worse."""
    with TemporaryDirectory() as name:
        subject, baseline, junit = (Path(name) / part for part in ("subject", "baseline", "gate.xml"))
        resampled(draw.subject, draw.rounds, subject)
        resampled(draw.baseline, draw.rounds, baseline)
        command = ["gate", str(subject), "--baseline", str(baseline), "--junit", str(junit)]
        code = CliRunner().invoke(app, command).exit_code
        cases = ElementTree.parse(junit).getroot().iter("testcase")
        return code, frozenset(case.get("name", "") for case in cases if case.find("failure") is not None)


def share(hits: int, number: int) -> str:
    """A share with its 95 % interval (Clopper and Pearson 1934)."""
    low, high = stats.binomtest(hits, number).proportion_ci(0.95)
    return f"{hits} of {number}: {100 * hits / number:.1f} % ({100 * low:.1f} to {100 * high:.1f} %)"


def judge(folder: Path, num_pairs: int) -> None:
    runs = {kind: valid(folder, kind) for kind in KINDS}
    counts = ", ".join(f"{len(paths)} {kind}" for kind, paths in runs.items())
    print(f"valid runs of {NUM_ROUNDS} × {NUM_REQUESTS}: {counts}")
    worth = []
    for path in runs["plain"]:
        [samples] = each_samples(opened(path)[0])
        ordered = ordered_of(samples, "e2e")
        assert ordered is not None
        worth.append(samples_per_independent(ordered, samples.units))
    ratio = float(np.median(worth))
    correlation = (ratio - 1) / (ratio + 1)
    print(f"neighbours' E2E within a round correlate by {correlation:.2f}: {ratio:.1f} samples are worth one\n")
    recommended = {}
    some = [side_of(Run.open(path)) for path in runs["plain"][:5]]
    for figure, effect in (("tpot_p50", 0.05), ("ttft_p50", 0.10)):
        row = next(row for row in noise_floor(some, effects=(effect,), power=0.95).rows if row.spec.name == figure)
        recommended[figure] = row.rounds[effect]
        print(f"recommended for {figure} +{100 * effect:g} %: {row.rounds[effect]} rounds")
    rounds = max((known for known in recommended.values() if known is not None), default=NUM_ROUNDS)
    rounds = min(NUM_ROUNDS, rounds)
    print("\n| rounds × requests | what is gated | red by any figure | the slowed figure found |")
    print("| --- | --- | --- | --- |")
    with ProcessPoolExecutor(JOBS) as pool:
        for count in sorted({FEW_ROUNDS, rounds}):
            for kind, sought in (("plain", ""), ("tpot", "TPOT p50"), ("ttft", "TTFT p50")):
                cases = list(draws(runs[kind], runs["plain"], count, num_pairs, seed=21))
                found = list(pool.map(gated, cases, chunksize=10))
                codes = Counter(code for code, _ in found)
                assert set(codes) <= {0, 6}, codes
                blamed = Counter(name for _, names in found for name in names)
                hits = sum(any(sought in name for name in names) for _, names in found)
                power = share(hits, num_pairs) if sought else "–"
                print(f"| {count} × {NUM_REQUESTS} | {kind} | {share(codes[6], num_pairs)} | {power} |", flush=True)
                if blamed and not sought:
                    print(f"blamed: {dict(blamed)}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("part", choices=("record", "judge"))
    parser.add_argument("--runs", type=int, default=20, help="equal runs to record; default 20")
    parser.add_argument("--slower", type=int, default=5, help="runs of each slower kind to record; default 5")
    parser.add_argument("--pairs", type=int, default=400, help="comparisons a row; default 400")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long; default none")
    options = parser.parse_args()
    if options.part == "record":
        wanted = {"plain": options.runs, "tpot": options.slower, "ttft": options.slower}
        record(options.folder, wanted, options.seconds)
    else:
        judge(options.folder, options.pairs)


if __name__ == "__main__":
    main()
