"""How often the gate errs on real runs, by the procedure of docs/ci.md: a noise floor, a baseline, a second look.

    python tests/benchmarks/gate_alarms.py FOLDER --alike 20 --slower 10

Measures the simulated engine again and again through the command line. Five valid runs give the noise floor. Then each
run is gated against the valid one before it, which nothing tells apart (`alike`); and runs of an engine whose tokens
come 5 % or whose first token comes 10 % later are gated against the newest valid plain run (`slower`). Every gate has
`--noise` and `--confirm`; with `--turns` it has `--confirm-ab` instead, and no noise runs are made. A gate that could
not decide, as the run was invalid, is counted and measured again.

What is done is kept in FOLDER, so that `--seconds 280` measures a part and the next call goes on. The table says how
many runs were valid, how many gates red, and what load the machine had; `--show` prints it and measures nothing, and
`--pairs` judges each plain run by each other one, without a second look.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

from llmbench.results.baseline import open_side
from llmbench.results.comparison_set import compare_sides
from llmbench.results.gate import GateSpec, judge_gate
from llmbench.results.noise import run_spreads

LLMBENCH = (sys.executable, "-m", "llmbench")
NUM_NOISE = 5
TTFT_MS, ITL_MS = 20.0, 5.0
SLOWER = {"TPOT +5 %": (TTFT_MS, 1.05 * ITL_MS), "TTFT +10 %": (1.10 * TTFT_MS, ITL_MS)}
WORKLOAD = """\
name: gate_alarms
model: simulated
engines: [simulated]
prompts: {{kind: text, path: prompts.txt, output_tokens: 16}}
traffic: {{requests: 50, warmup_requests: 2, arrivals: {{kind: poisson, rate: 30}}}}
measure: {{rounds: {rounds}}}
"""
TURNS = """\
engines:
  - simulated: {label: base, settings: {ttft_ms: 20, itl_ms: 5}}
  - simulated: {label: head, settings: {ttft_ms: 20, itl_ms: 5}}
"""
UNDECIDED = 5
EXIT_CODES = {0: "passed", UNDECIDED: "invalid or undecided", 6: "red"}


class Session:
    """The runs and gates in `folder`; a line of gates.jsonl is written as soon as its gate has spoken."""

    def __init__(self, folder: Path, turns: bool, rounds: int) -> None:
        self.folder = folder
        self.num_noise = 0 if turns else NUM_NOISE
        self.turns = folder / "turns.yaml" if turns else None
        self.workload = folder / "workload.yaml"
        self.log = folder / "gates.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        workload = WORKLOAD.format(rounds=rounds)
        self.workload.write_text(workload)
        if self.turns is not None:
            self.turns.write_text(workload.replace("engines: [simulated]\n", TURNS))
        (folder / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(50)))

    def plain(self) -> list[Path]:
        """The valid runs of the engine as it is, in the order of their making."""
        return [path for path in sorted(self.folder.glob("plain-*[0-9]")) if is_valid(path)]

    def gates(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def decided(self, kind: str) -> int:
        return sum(gate["kind"] == kind and gate["exit_code"] != UNDECIDED for gate in self.gates())

    def measure(self, name: str, ttft_ms: float = TTFT_MS, itl_ms: float = ITL_MS) -> Path:
        path = self.folder / f"{name}-{len(list(self.folder.glob(f'{name}-*[0-9]'))):03d}"
        command = [*LLMBENCH, "run", str(self.workload), *engine(ttft_ms, itl_ms), "--out", str(path)]
        subprocess.run(command, capture_output=True, check=False)
        return path

    def gate(self, kind: str, subject: Path, baseline: Path, ttft_ms: float = TTFT_MS, itl_ms: float = ITL_MS) -> None:
        load = os.getloadavg()[0]
        noise = [part for path in self.plain()[: self.num_noise] for part in ("--noise", str(path))]
        confirm = ["--confirm", str(self.workload), *engine(ttft_ms, itl_ms)]
        if self.turns is not None:
            confirm = ["--confirm-ab", str(self.turns), *engine(ttft_ms, itl_ms, "head")]
        command = [*LLMBENCH, "gate", str(subject), "--baseline", str(baseline), *noise, *confirm]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in EXIT_CODES, done.stderr
        line = {
            "kind": kind,
            "subject": subject.name,
            "baseline": baseline.name,
            "exit_code": done.returncode,
            "measured_again": "measuring again" in done.stdout,
            "load": round(load, 1),
            "said": done.stdout if done.returncode else "",
        }
        with self.log.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{kind}: {subject.name} against {baseline.name} {EXIT_CODES[done.returncode]}", flush=True)


def is_valid(path: Path) -> bool:
    """Whether the run came to its end and its figures may be used."""
    manifest = json.loads((path / "manifest.json").read_text())
    return manifest["status"] == "complete" and not manifest["invalid"]


def engine(ttft_ms: float, itl_ms: float, label: str = "simulated") -> list[str]:
    return ["--set", f"engines.{label}.settings={{ttft_ms: {ttft_ms:g}, itl_ms: {itl_ms:g}}}"]


def steps(session: Session, num_alike: int, num_slower: int) -> Iterator[None]:
    """One measurement and its gate at a time; slower ones among the plain ones, so that both see the same machine."""
    while len(session.plain()) <= session.num_noise:
        session.measure("plain")
        yield
    while True:
        alike = session.decided("alike")
        slower = {kind: session.decided(kind) for kind in SLOWER}
        behind = [kind for kind, done in slower.items() if done < num_slower and done * num_alike <= alike * num_slower]
        baseline = session.plain()[-1]
        if behind:
            timing = SLOWER[behind[0]]
            session.gate(behind[0], session.measure("slower", *timing), baseline, *timing)
        elif alike < num_alike:
            session.gate("alike", session.measure("plain"), baseline)
        else:
            return
        yield


def show(session: Session) -> None:
    valid = [is_valid(path) for path in session.folder.glob("*-[0-9][0-9][0-9]*/")]
    print(f"\n{len(valid)} runs measured, {len(valid) - sum(valid)} of them invalid")
    print("\n| gate | gates | passed | red | of them first suspected | invalid or undecided | load, median and most |")
    print("|" + " --- |" * 7)
    gates = session.gates()
    for kind in ("alike", *SLOWER):
        mine = [gate for gate in gates if gate["kind"] == kind]
        if mine:
            codes = Counter(gate["exit_code"] for gate in mine)
            loads = sorted(gate["load"] for gate in mine)
            again = sum(gate["measured_again"] for gate in mine)
            print(
                f"| {kind} | {len(mine)} | {codes[0]} | {codes[6]} | {again} | {codes[5]} | "
                f"{loads[len(loads) // 2]:.1f}, {loads[-1]:.1f} |"
            )


def show_pairs(session: Session) -> None:
    """How many ordered pairs of the plain runs that are no noise runs are red at the first look."""
    sides = [open_side(path) for path in session.plain()]
    spreads = run_spreads(sides[: session.num_noise]) if session.num_noise else None
    margins = GateSpec().margins()
    pairs = list(permutations(sides[session.num_noise :], 2))
    results = [judge_gate(compare_sides([one], other, margins=margins, spreads=spreads)) for one, other in pairs]
    red = [result for result in results if result.verdict == "failed"]
    blamed = Counter(case.comparison.spec.title for result in red for case in result.failed)
    print(f"{len(red)} of {len(pairs)} ordered pairs of plain runs are red at the first look")
    print(", ".join(f"{title} in {number}" for title, number in blamed.most_common()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--alike", type=int, default=20, help="default 20")
    parser.add_argument("--slower", type=int, default=10, help="of each kind; default 10")
    parser.add_argument("--rounds", type=int, default=6, help="of each run; default 6")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long; default none")
    parser.add_argument("--turns", action="store_true", help="suspects again with the baseline, turn by turn")
    parser.add_argument("--pairs", action="store_true", help="judge all pairs of plain runs; measures nothing")
    parser.add_argument("--show", action="store_true", help="print the table alone")
    options = parser.parse_args()
    session = Session(options.folder, options.turns, options.rounds)
    if options.pairs:
        show_pairs(session)
        return
    if not options.show:
        begun = time.monotonic()
        for _ in steps(session, options.alike, options.slower):
            if time.monotonic() - begun > options.seconds:
                break
    show(session)


if __name__ == "__main__":
    main()
