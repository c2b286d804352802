"""`llmbench gate --confirm-ab`: a suspect measured again beside the baseline, by real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from gated_runs import RIG, WORKLOAD, requests
from made_runs import manifest

from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory

TURNS = """\
name: turns
model: simulated
engines:
  - simulated: {label: base, settings: {ttft_ms: 5, itl_ms: 5}}
  - simulated: {label: head, settings: {ttft_ms: 5, itl_ms: 5}}
prompts: {kind: text, path: prompts.txt, output_tokens: 8}
traffic: {requests: 8, warmup_requests: 1, arrivals: {kind: closed, concurrency: 1}}
measure: {rounds: 4}
"""
INVALID = 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A baseline, and a head that was twice as slow per token when it was measured."""
    for name, seed, itl in (("base", 1, 5), ("head", 2, 10)):
        directory = RunDirectory.create(tmp_path / name, manifest(run_id=name, workload=WORKLOAD, environment=RIG))
        for request, chunks in requests(seed, itl=itl):
            directory.append(request, chunks)
        directory.finish("complete")
    (tmp_path / "turns.yaml").write_text(TURNS)
    (tmp_path / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(20)))
    # Half again as slow is far beyond what a busy machine does to the median of 32 requests, and below what is planted.
    (tmp_path / "thresholds.yaml").write_text("figures: {tpot_p50: {relative: 0.5}}\n")
    return tmp_path


def gate(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "llmbench",
        "gate",
        "head",
        "--baseline",
        "base",
        "--thresholds",
        "thresholds.yaml",
    ]
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=100, check=False)


def was_invalid(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the machine was too busy to measure, three times; the gate must say so."""
    if done.returncode != INVALID:
        return False
    assert "the second measurement could not be compared" in done.stdout
    return True


def test_what_is_slower_beside_the_baseline_too_is_red(folder: Path) -> None:
    assert gate(folder).returncode == 6
    done = gate(folder, "--confirm-ab", "turns.yaml", "--set", "engines.head.settings.itl_ms=10")
    assert "measuring again" in done.stdout, done.stderr
    if not was_invalid(done):
        assert done.returncode == 6, done.stdout + done.stderr
        again = Run.open(max(folder.glob("head-again*"), key=lambda path: path.stat().st_mtime)).manifest
        assert [engine.label for engine in again.engines] == ["base", "head"]
        turns = [trial.engine for trial in again.trials]
        assert turns == ["base", "head", "head", "base"] * 2


def test_what_was_only_a_busier_machine_is_excused(folder: Path) -> None:
    done = gate(folder, "--confirm-ab", "turns.yaml")
    if not was_invalid(done):
        assert done.returncode == 0, done.stdout + done.stderr
        assert "slower once and not again" in done.stdout.replace("\n", " ")


def test_a_workload_without_a_head_is_refused_before_anything_is_measured(folder: Path) -> None:
    lines = TURNS.splitlines(keepends=True)
    (folder / "alone.yaml").write_text("".join(line for line in lines if "label: head" not in line))
    done = gate(folder, "--confirm-ab", "alone.yaml")
    assert done.returncode == 2
    assert done.stderr == (
        "llmbench: --confirm-ab alone.yaml: it has one engine, base; list the base first and the head second.\n"
    )
    assert not list(folder.glob("head-again*"))
