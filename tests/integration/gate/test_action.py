"""The GitHub Action: its file against the published schema, and its steps as a runner would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ACTION = ROOT / "action.yml"
WORKLOAD = """
name: in_ci
model: simulated
engines:
  - simulated: {label: base, settings: {ttft_ms: 5, itl_ms: 5}}
  - simulated: {label: head, settings: {ttft_ms: 5, itl_ms: 5}}
prompts: {kind: text, path: prompts.txt, output_tokens: 8}
traffic: {requests: 8, warmup_requests: 1, arrivals: {kind: closed, concurrency: 4}}
measure: {rounds: 4}
"""


# Stands in for a program of the runner's: notes what it was asked, a word to a line, and ends as it is told to.
STAND_IN = """#!/bin/bash
{ echo "${0##*/}"; printf '  %s\\n' "$@"; } >> "$ASKED"
for code in $CODES; do [ "${code%=*}" != "$1" ] || exit "${code#*=}"; done
"""
INSTALL, MEASURE = 0, 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    (tmp_path / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(20)))
    (tmp_path / "thresholds.yaml").write_text("figures: {tpot_p50: {relative: 0.10}}\n")
    return tmp_path


def run_step(number: int, folder: Path, inputs: dict[str, str], **env: str) -> subprocess.CompletedProcess[str]:
    """One of the action's steps with `inputs`, as a runner does it: expressions replaced, `bash -eo pipefail`."""
    action = yaml.safe_load(ACTION.read_text())
    unknown = inputs.keys() - action["inputs"].keys()
    assert not unknown, unknown
    given = {name: inputs.get(name, spec.get("default", "")) for name, spec in action["inputs"].items()}
    step = action["runs"]["steps"][number]
    assert "${{" not in step["run"], "an expression in a script would run what an input says"
    values = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    runner = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
        "GITHUB_ACTION_PATH": str(ROOT),
    }
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={**os.environ, **runner, **values, **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def asked_of(program: str, number: int, folder: Path, codes: str = "", **inputs: str) -> tuple[int, list[list[str]]]:
    """The exit code of a step whose `program` only notes what it is asked, and those notes. `codes` are words such as
    `run=5`: how it ends where its first argument is that."""
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / program).write_text(STAND_IN)
    (programs / program).chmod(0o755)
    asked = folder / "asked"
    asked.unlink(missing_ok=True)
    named = {name.replace("_", "-"): value for name, value in inputs.items()}
    env = {"PATH": f"{programs}:{os.environ['PATH']}", "ASKED": str(asked), "CODES": codes}
    done = run_step(number, folder, named, **env)
    text = asked.read_text() if asked.exists() else ""
    return done.returncode, [
        call.rstrip("\n").split("\n  ")[1:] for call in re.split(rf"^{program}$", text, flags=re.M)[1:]
    ]


def test_a_planted_slowdown_turns_the_job_red_and_is_in_its_summary(folder: Path) -> None:
    inputs = {"workload": "workload.yaml", "ab": "true", "thresholds": "thresholds.yaml"}
    done = run_step(MEASURE, folder, {**inputs, "set": "engines.head.settings.itl_ms=10\n"})
    # A machine that is too busy to measure says so; it must never be green.
    assert done.returncode in (5, 6), done.stdout + done.stderr
    if done.returncode == 6:
        assert "TPOT p50" in (folder / "summary.md").read_text()
        assert ElementTree.parse(folder / "runs/head/gate.xml").getroot().findall(".//failure")


def test_a_baseline_or_ab_is_needed(folder: Path) -> None:
    done = run_step(MEASURE, folder, {"workload": "workload.yaml"})
    assert (done.returncode, done.stdout.strip()) == (
        2,
        "::error::Give the input baseline, or ab: true to compare the engines of the workload.",
    )


def test_with_a_baseline_it_measures_and_then_judges(folder: Path) -> None:
    written = ["--markdown", str(folder / "summary.md"), "--junit", "runs/head/gate.xml"]
    gate = ["gate", "runs/head", "--baseline", "base.json", *written]
    given = {"workload": "w.yaml", "baseline": "base.json"}
    run = ["run", "w.yaml", "--out", "runs/head"]
    assert asked_of("llmbench", MEASURE, folder, **given) == (0, [run, [*gate, "--confirm", "w.yaml"]])
    assert asked_of("llmbench", MEASURE, folder, **given, confirm="false") == (0, [run, gate])
    assert asked_of("llmbench", MEASURE, folder, **given, confirm_ab="ab.yaml")[1][1] == [
        *gate,
        "--confirm-ab",
        "ab.yaml",
    ]


def test_lists_are_one_to_a_line_and_a_quote_in_an_input_is_no_command(folder: Path) -> None:
    hostile = "traffic.requests=1'; touch ran; echo '$(touch ran)"
    given = {"workload": "w.yaml", "baseline": "base.json", "thresholds": "thresholds.yaml", "out": "out"}
    lists = {"set": f"{hostile}\nmeasure.rounds=8\n", "noise": "runs/noise 1\nruns/noise-2\n"}
    code, (run, gate) = asked_of("llmbench", MEASURE, folder, **given, **lists)
    overrides = ["--set", hostile, "--set", "measure.rounds=8"]
    assert (code, run) == (0, ["run", "w.yaml", *overrides, "--out", "out"])
    assert gate[gate.index("--noise") :] == [
        *("--noise", "runs/noise 1", "--noise", "runs/noise-2", "--thresholds", "thresholds.yaml"),
        *("--confirm", "w.yaml", *overrides),
    ]
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("codes", "ends_in", "commands"),
    [
        ("gate=6", 6, ["run", "gate"]),
        ("run=5 gate=5", 5, ["run", "gate"]),
        ("run=2", 2, ["run"]),
        ("run=4", 4, ["run"]),
    ],
)
def test_the_job_ends_as_its_last_command_does(folder: Path, codes: str, ends_in: int, commands: list[str]) -> None:
    code, asked = asked_of("llmbench", MEASURE, folder, codes, workload="w.yaml", baseline="base.json")
    # An invalid run is judged too: the gate says in the summary why nothing can be said.
    assert (code, [call[0] for call in asked]) == (ends_in, commands)


def test_it_installs_itself_with_its_engine_or_what_it_is_told_to(folder: Path) -> None:
    pip = ["-m", "pip", "install", "--disable-pip-version-check"]
    assert asked_of("python", INSTALL, folder) == (0, [[*pip, f"{ROOT}[reference]"]])
    assert asked_of("python", INSTALL, folder, install="llmbench==1.0")[1] == [[*pip, "llmbench==1.0"]]


@pytest.mark.parametrize(("schema", "first"), [("github-workflows", "on:"), ("gitlab-ci", "benchmark:")])
def test_snippets_of_the_page_are_what_their_services_read(tmp_path: Path, schema: str, first: str) -> None:
    page = (ROOT / "docs/ci.md").read_text()
    [snippet] = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if text.startswith(first)]
    (tmp_path / "snippet.yaml").write_text(snippet)
    validated(schema, tmp_path / "snippet.yaml")


def test_the_action_is_what_github_reads() -> None:
    validated("github-actions", ACTION)


def validated(schema: str, *paths: Path) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
