"""The engines side by side on one checkpoint, with llmbench itself: what docs/comparison.md is made from.

    llmbench engines install vllm triton mii
    python benchmarks/comparison.py run --out runs/comparison
    python benchmarks/comparison.py tables --out runs/comparison

`run` measures one kind of workload after the other, or those named with --kind and --group: up to five minutes each,
on a machine that has nothing else to do. `tables` writes the generated part of docs/comparison.md from the run
directories. Where DeepSpeed-MII is not installed it is left out; its engine for GPUs is replaced by the small one in
tests/data/mii_deployment.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from llmbench.engines.environments import environment
from llmbench.engines.mii_launch import RECIPE
from llmbench.reports.markdown import markdown_cell, run_markdown
from llmbench.results.equal_work import unequal_work
from llmbench.results.output_equality import equalities
from llmbench.results.run import Run
from llmbench.results.units import student_t

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "comparison.md"
MARKS = ("<!-- made by benchmarks/comparison.py -->", "<!-- end of what it made -->")

MODEL = "synthetic:llama-20m"
# As many as five minutes have room for: vLLM takes half a minute to start.
ROUNDS = {"vllm-triton": 3, "grpc-mii": 5}
# One thread computes, whichever engine: the other core is for servers, load generator and recorder.
OURS = {"dtype": "float32", "threads": 1}
# Without compilation, which takes minutes on two cores at each of three starts.
VLLM = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True}
MII_LABEL = "mii (stack only)"
# Who is beside whom to see what a layer adds: the same engine, asked by the same protocol.
LAYERS = {"triton-http": "reference", "triton-grpc": "reference-grpc"}
# Two runs, so that each is over within five minutes; the bundled engine is in both, by the protocol of the others.
GROUPS = {
    "vllm-triton": [
        {"reference": {"settings": OURS}},
        {"vllm": {"settings": VLLM, "startup_timeout_s": 300}},
        {"triton": {"label": "triton-http", "settings": OURS}},
    ],
    "grpc-mii": [
        {"reference": {"label": "reference-grpc", "settings": {**OURS, "protocol": "grpc"}}},
        {"triton": {"label": "triton-grpc", "settings": {**OURS, "protocol": "grpc"}}},
        {"mii-on-cpu": {"label": MII_LABEL}},
    ],
}

# The shipped workloads, made small enough for one core: every engine keeps up with every rate.
KINDS = {
    "prefill_heavy": {
        "prompts": {"prompt_tokens": {"kind": "uniform", "min": 384, "max": 640}},
        "traffic": {"requests": 10, "arrivals": {"rate": 0.8}},
    },
    "decode_heavy": {"prompts": {"output_tokens": 96}, "traffic": {"requests": 8}},
    "mixed": {
        "prompts": {"prompt_tokens": {"mean": 128, "stddev": 96, "max": 512}, "output_tokens": {"mean": 32}},
        "traffic": {"requests": 8, "arrivals": {"rate": 0.9}},
    },
    # As completions: Triton and MII take prompts, not chats.
    "streaming": {
        "request": {"api": "completions"},
        "prompts": {"output_tokens": 64},
        "traffic": {"requests": 6, "arrivals": {"rate": 0.5}},
    },
}

# DeepSpeed-MII as an engine that llmbench starts and stops like the others: idle, it keeps half a core busy.
PLUGIN = """
import json
from llmbench.engines.adapter import LaunchPlan
from llmbench.engines.mii import MiiAdapter
from llmbench.engines.wire import Endpoint
from llmbench.harness.process import free_port


class MiiOnCpu(MiiAdapter):
    def launch_plan(self, options, port):
        ready, replica = free_port(), free_port()
        argv = (*json.loads({argv!r}), options.model_path, str(replica), str(port), str(ready))
        where = Endpoint("127.0.0.1", port)
        return LaunchPlan(argv, where, {env!r}, ready_port=ready, startup_timeout_s=options.startup_timeout_s)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "tables"))
    parser.add_argument("--kind", choices=tuple(KINDS), action="append", help="default: all of them")
    parser.add_argument("--group", choices=tuple(GROUPS), action="append", help="default: both")
    parser.add_argument("--out", type=Path, default=Path("runs/comparison"))
    parser.add_argument("--mii-python", type=Path, help="the interpreter of another environment with deepspeed-mii")
    parser.add_argument("--vllm-url", help="measure the vLLM that runs there; default: it is started for each turn")
    parser.add_argument("--rounds", type=int, help="default: each group's own number")
    parser.add_argument("--requests", type=int, help="in each round; default: each kind's own number")
    options = parser.parse_args()
    if options.what == "tables":
        write_tables(options.out)
        return
    for kind in options.kind or KINDS:
        for group in options.group or GROUPS:
            measure(kind, group, options)


def measure(kind: str, group: str, options: argparse.Namespace) -> None:
    """One kind of workload on a group of engines, in interleaved rounds; leaves a run directory in `options.out`."""
    out, mii_python = options.out / f"{kind}-{group}", options.mii_python or installed_mii()
    engines = [engine for engine in GROUPS[group] if mii_python or "mii-on-cpu" not in engine]
    if options.vllm_url:
        attached = {"vllm": {"url": options.vllm_url}}
        engines = [attached if "vllm" in engine else engine for engine in engines]
    fields = {"model": MODEL, "engines": engines, "measure": {"rounds": options.rounds or ROUNDS[group]}, **KINDS[kind]}
    if options.requests:
        fields["traffic"] = {**KINDS[kind]["traffic"], "requests": options.requests}
    argv = [sys.executable, "-m", "llmbench", "run", kind, "--out", str(out), "--allow-invalid"]
    for name, value in flattened(fields):
        argv += ["--set", f"{name}={json.dumps(value)}"]
    with tempfile.TemporaryDirectory() as plugins:
        variables = dict(os.environ)
        if mii_python:
            out.parent.mkdir(parents=True, exist_ok=True)
            install_plugin(Path(plugins), mii_python, steps_path(out))
            variables["PYTHONPATH"] = plugins
        done = subprocess.run(argv, env=variables, check=False)
    if done.returncode:
        sys.exit(done.returncode)  # llmbench has said why


def installed_mii() -> Path | None:
    installed = environment(RECIPE)
    return installed.path / "bin" / "python" if installed.is_complete else None


def steps_path(out: Path) -> Path:
    """Where MII's engine notes its steps, beside the run directory."""
    return out.with_name(f"{out.name}-mii-steps.txt").absolute()


def flattened(fields: dict, prefix: str = "") -> list[tuple[str, object]]:
    """`a.b.c` and value for every leaf."""
    found: list[tuple[str, object]] = []
    for name, value in fields.items():
        found += flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def install_plugin(folder: Path, mii_python: Path, steps: Path) -> None:
    """The entry point that makes MII an engine, beside the environment and not in it."""
    argv = [str(mii_python.absolute()), str(ROOT / "tests" / "data" / "mii_deployment.py"), "serve"]
    env = {"HF_HUB_OFFLINE": "1", "MII_STEPS": str(steps)}
    (folder / "mii_on_cpu.py").write_text(PLUGIN.format(argv=json.dumps(argv), env=env))
    metadata = folder / "mii_on_cpu-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: mii-on-cpu\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[llmbench.engines]\nmii-on-cpu = mii_on_cpu:MiiOnCpu\n")


def write_tables(out: Path) -> None:
    """Put what the runs say between the marks in the document: llmbench's own Markdown, equality, and added time."""
    paths = [(kind, out / f"{kind}-{group}") for kind in KINDS for group in GROUPS]
    runs = [(kind, Run.open(path)) for kind, path in paths if (path / "manifest.json").is_file()]
    if not runs:
        sys.exit(f"There are no runs in {out}; make them first: python benchmarks/comparison.py run --out {out}")
    parts = [f"## {kind}\n\n{run_markdown(run).strip()}" for kind, run in runs]
    parts += [
        "## Under which conditions",
        conditions(runs),
        "## The same answers",
        equality(runs),
        "## What a layer adds",
        added(runs),
    ]
    before, _, rest = DOCUMENT.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n" + "\n\n".join(parts) + f"\n\n{MARKS[1]}{after}")


def conditions(runs: list[tuple[str, Run]]) -> str:
    """The machine, how busy it was when each run began, and who was measured in which version."""
    lines = ["| workload | machine | load average at the start | engines |", "|:--|:--|--:|:--|"]
    for kind, run in runs:
        where = run.manifest.environment
        machine = f"{where['cores_usable']} cores, {where['cpu']}, {', '.join(where['cpu_features'])}"
        engines = ", ".join(f"{engine.label} {engine.version or ''}".strip() for engine in run.manifest.engines)
        lines.append(f"| {kind} | {machine} | {where['load_average_1min']} | {engines} |")
    return "\n".join(lines)


def equality(runs: list[tuple[str, Run]]) -> str:
    """Greedy answers that are identical to the bundled engine's, and what else llmbench finds unequal."""
    lines = [
        "| workload | engine | identical answers | beginnings of the other's | parts at token, median | counted by |",
        "|:--|:--|--:|--:|--:|:--|",
    ]
    for kind, run in runs:
        for each in equalities(run):
            tokens = [divergence.places[0].token for divergence in each.divergences]
            parts = f"{np.median(tokens):.0f}" if tokens else ""
            rulers = ", ".join(sorted({divergence.ruler for divergence in each.divergences}))
            # With text missing at its end, and no other text.
            cut = sum(divergence.rests[1] == "" for divergence in each.divergences) or ""
            identical = f"{each.num_identical} of {each.num_both}"
            lines.append(f"| {kind} | {each.engine} | {identical} | {cut} | {parts} | {rulers} |")
    unequal = [f"- {kind}: {markdown_cell(sentence)}" for kind, run in runs for sentence in unequal_work(run)]
    return "\n".join([*lines, *(["", "Not the same work:", "", *unequal] if unequal else [])])


def added(runs: list[tuple[str, Run]]) -> str:
    """The time that Triton adds to the bundled engine, and MII's stack to the engine that it runs here."""
    lines = ["| workload | layer | TTFT, ms | per token, ms | rounds | requests |", "|:--|:--|--:|--:|--:|--:|"]
    for kind, run in runs:
        rows = [row for row in measured(run) if row["status"] == "ok" and row["output_tokens"] > 1]
        for label, baseline in LAYERS.items():
            alone = {(row["round"], row["index"]): row for row in rows if row["engine"] == baseline}
            pairs = [
                (row, alone[row["round"], row["index"]])
                for row in rows
                if row["engine"] == label and (row["round"], row["index"]) in alone
            ]
            found = [(behind["round"], np.subtract(latencies(behind), latencies(before))) for behind, before in pairs]
            if found:
                lines.append(f"| {kind} | {label} beside {baseline} | {columns(found)} |")
        behind_mii = [row for row in rows if row["engine"] == MII_LABEL]
        if behind_mii:
            steps = np.loadtxt(steps_path(run.path), dtype=np.int64, ndmin=2)
            found = [(row["round"], outside(row, steps)) for row in behind_mii]
            lines.append(f"| {kind} | mii beside its engine's own steps | {columns(found)} |")
    return "\n".join(lines)


def measured(run: Run) -> list[dict]:
    return [row for row in run.requests.to_pylist() if not row["warmup"]]


def latencies(row: dict) -> tuple[float, float]:
    """TTFT and time per output token, in ms."""
    per_token_ns = (row["last_token_ns"] - row["first_token_ns"]) / (row["output_tokens"] - 1)
    return (row["first_token_ns"] - row["due_ns"]) / 1e6, per_token_ns / 1e6


def outside(row: dict, steps: np.ndarray) -> np.ndarray:
    """TTFT and time per token, in ms, less what the engine itself took; `steps` has begin_ns and took_ns first."""
    ttft_ms, token_ms = latencies(row)
    begun, took = steps[:, 0], steps[:, 1]
    first = took[(begun >= row["sent_ns"]) & (begun + took <= row["first_token_ns"])].sum() / 1e6
    later = took[(begun >= row["first_token_ns"]) & (begun + took <= row["last_token_ns"])].sum() / 1e6
    return np.array([ttft_ms - first, token_ms - later / (row["output_tokens"] - 1)])


def columns(found: list[tuple[int, np.ndarray]]) -> str:
    """Two means with their 95 % intervals, and how many rounds and requests they are of.

    A round's figure is the median of its requests. The interval is Student's over rounds: requests of a round have its
    start, its neighbours and its load in common, so that they are no independent samples.
    """
    by_round = [np.median([each for number, each in found if number == one], axis=0) for one in {n for n, _ in found}]
    num_rounds = len(by_round)
    shown = []
    for values in np.array(by_round).T:
        interval = ""
        if num_rounds > 1:
            half = student_t(0.975, num_rounds - 1) * values.std(ddof=1) / math.sqrt(num_rounds)
            interval = f" ({values.mean() - half:.2f} to {values.mean() + half:.2f})"
        shown.append(f"{values.mean():.2f}{interval}")
    return f"{' | '.join(shown)} | {num_rounds} | {len(found)}"


if __name__ == "__main__":
    main()
