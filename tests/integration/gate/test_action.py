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
  - simulated: {label: base, settings: {ttft_ms: 20, itl_ms: 5}}
  - simulated: {label: head, settings: {ttft_ms: 20, itl_ms: 5}}
prompts: {kind: text, path: prompts.txt, output_tokens: 8}
traffic: {requests: 16, warmup_requests: 1, arrivals: {kind: closed, concurrency: 4}}
measure: {rounds: 4}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    (tmp_path / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(20)))
    (tmp_path / "thresholds.yaml").write_text("figures: {tpot_p50: {relative: 0.10}}\n")
    return tmp_path


def run_action(folder: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The action's second step with `inputs`, as a runner does it: expressions replaced, `bash -eo pipefail`."""
    action = yaml.safe_load(ACTION.read_text())
    unknown = inputs.keys() - action["inputs"].keys()
    assert not unknown, unknown
    given = {name: inputs.get(name, spec.get("default", "")) for name, spec in action["inputs"].items()}
    step = action["runs"]["steps"][1]
    assert "${{" not in step["run"], "an expression in a script would run what an input says"
    env = {
        name: re.sub(r"\$\{\{ inputs\.(\w+) \}\}", lambda found: given[found[1]], value)
        for name, value in step["env"].items()
    }
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, **env, "PATH": path, "GITHUB_STEP_SUMMARY": str(folder / "summary.md")}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_planted_slowdown_turns_the_job_red_and_is_in_its_summary(folder: Path) -> None:
    done = run_action(
        folder,
        workload="workload.yaml",
        ab="true",
        thresholds="thresholds.yaml",
        set="engines.head.settings.itl_ms=10\n",
    )
    # A machine that is too busy to measure says so; it must never be green.
    assert done.returncode in (5, 6), done.stdout + done.stderr
    if done.returncode == 6:
        assert "TPOT p50" in (folder / "summary.md").read_text()
        assert ElementTree.parse(folder / "runs/head/gate.xml").getroot().findall(".//failure")


def test_a_baseline_or_ab_is_needed(folder: Path) -> None:
    done = run_action(folder, workload="workload.yaml")
    assert (done.returncode, done.stdout.strip()) == (
        2,
        "::error::Give the input baseline, or ab: true to compare the engines of the workload.",
    )


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
