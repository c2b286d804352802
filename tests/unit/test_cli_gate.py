"""`llmbench gate`, `compare` and `noise` as CI runs them: exit codes, files, and sentences for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from gated_runs import RIG, WORKLOAD, requests
from made_runs import manifest
from typer.testing import CliRunner, Result

from llmbench.harness.cli import app
from llmbench.harness.errors import ConfigError
from llmbench.results.errors import RunError
from llmbench.results.run_directory import RunDirectory

MakeFolder = Callable[..., str]


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """folder(name, seed, itl=…) is the path of a run directory; `environment` and the like go into its manifest."""

    def make(name: str, seed: int, *, itl: float = 5, rounds: int = 6, **changes: Any) -> str:
        fields = {"run_id": name, "workload": WORKLOAD, "environment": RIG} | changes
        directory = RunDirectory.create(tmp_path / name, manifest(**fields))
        for request, chunks in requests(seed, itl=itl, rounds=rounds):
            directory.append(request, chunks)
        directory.finish("complete")
        return str(tmp_path / name)

    return make


def llmbench(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


def test_the_exit_code_says_better_or_alike_worse_and_cannot_be_said(folder: MakeFolder) -> None:
    base = folder("base", 1)
    alike = llmbench("gate", folder("alike", 2), "--baseline", base)
    assert (alike.exit_code, "gate: passed" in alike.stdout) == (0, True)
    assert llmbench("gate", folder("faster", 3, itl=4), "--baseline", base).exit_code == 0
    worse = llmbench("gate", folder("worse", 4, itl=5.5), "--baseline", base)
    assert (worse.exit_code, "failed: TPOT p50" in worse.stdout) == (6, True)
    other = llmbench("gate", folder("other", 5, environment=RIG | {"cpu": "Another"}), "--baseline", base)
    assert (other.exit_code, "Hardware differs: cpu is Another" in other.stdout) == (5, True)
    invalid = llmbench("gate", folder("invalid", 6, invalid=("Sent late.",)), "--baseline", base)
    assert (invalid.exit_code, "is invalid: Sent late." in invalid.stdout) == (5, True)
    single = llmbench("gate", folder("single", 7, rounds=1), "--baseline", base)
    assert (single.exit_code, "gate: undecided" in single.stdout) == (5, True)


def test_unlike_machines_are_judged_where_that_is_insisted_on(folder: MakeFolder) -> None:
    base, other = folder("base", 1), folder("other", 2, itl=5.5, environment=RIG | {"cpu": "Another"})
    done = llmbench("gate", other, "--baseline", base, "--allow-unlike")
    assert done.exit_code == 6
    assert "Hardware differs: cpu is Another" in done.stdout


def test_a_saved_baseline_judges_and_the_files_are_written(folder: MakeFolder, tmp_path: Path) -> None:
    baseline, junit, markdown = (tmp_path / name for name in ("baseline.json", "gate.xml", "gate.md"))
    assert llmbench("gate", folder("base", 1), "--save", str(baseline)).exit_code == 0
    worse = folder("worse", 2, itl=5.5)
    files = ("--junit", str(junit), "--markdown", str(markdown))
    assert llmbench("gate", worse, "--baseline", str(baseline), *files).exit_code == 6
    failures = ElementTree.parse(junit).getroot().findall(".//testcase[failure]")
    assert "TPOT p50" in {case.get("name") for case in failures}
    assert markdown.read_text().startswith("### ❌ llmbench gate: failed\n")


def test_a_named_figure_that_cannot_be_tested_is_no_green(folder: MakeFolder, tmp_path: Path) -> None:
    base, alike, thresholds = folder("base", 1), folder("alike", 2), tmp_path / "gate.yaml"
    thresholds.write_text("figures: {tpot_p50: {}, goodput: {}}\n")
    done = llmbench("gate", alike, "--baseline", base, "--thresholds", str(thresholds))
    assert done.exit_code == 5
    assert "undecided: goodput" in done.stdout
    thresholds.write_text("figures: {tpot_p50: {}}\n")
    assert llmbench("gate", alike, "--baseline", base, "--thresholds", str(thresholds)).exit_code == 0


def test_noise_of_the_rig_excuses_what_it_explains(folder: MakeFolder) -> None:
    noisy = [folder(f"noise{seed}", seed, itl=itl) for seed, itl in enumerate((5.0, 5.3, 4.85, 5.15))]
    worse = folder("worse", 9, itl=5.3)
    assert llmbench("gate", worse, "--baseline", noisy[0]).exit_code == 6
    known = [part for path in noisy for part in ("--noise", path)]
    assert llmbench("gate", worse, "--baseline", noisy[0], *known).exit_code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "Give one of --baseline"),
        (("--baseline", "BASE", "--against", "a"), "Give one of --baseline"),
        (
            ("--baseline", "BASE", "--confirm", "w", "--confirm-ab", "w"),
            "--confirm or --confirm-ab, not both",
        ),
        (("--against", "a", "--noise", "BASE", "--noise", "BASE", "--noise", "BASE"), "--against compares within one"),
        (("--baseline", "BASE", "--noise", "BASE"), "takes 3 runs or more"),
        (("--baseline", "nowhere"), "nowhere"),
        (("--baseline", "BASE", "--thresholds", "nowhere.yaml"), "nowhere.yaml cannot be read"),
    ],
)
def test_what_cannot_be_gated_is_a_sentence(folder: MakeFolder, options: tuple[str, ...], said: str) -> None:
    base = folder("base", 1)
    done = llmbench("gate", folder("head", 2), *(base if part == "BASE" else part for part in options))
    assert isinstance(done.exception, ConfigError | RunError)
    assert said in str(done.exception)


def test_compare_says_first_what_is_unlike(folder: MakeFolder, tmp_path: Path) -> None:
    markdown = tmp_path / "compare.md"
    base, other = folder("base", 1), folder("other", 2, itl=5.5, environment=RIG | {"cpu": "Another"})
    done = llmbench("compare", base, other, "--markdown", str(markdown))
    assert done.exit_code == 0
    assert done.stdout.startswith("✗ Hardware differs: cpu is Another in other, Some CPU in base.")
    assert "slower" in done.stdout
    assert "**Not comparable:** Hardware differs" in markdown.read_text()


def test_compare_flags_other_prompts_of_the_same_recipe(folder: MakeFolder) -> None:
    done = llmbench("compare", folder("base", 1), folder("other", 2, prompts_digest="2" * 64))
    assert "• The prompts differ, though made by the same recipe" in done.stdout


def test_noise_recommends_rounds_for_the_figures_asked(folder: MakeFolder) -> None:
    runs = [folder(f"run{seed}", seed) for seed in range(3)]
    done = llmbench("noise", *runs, "--figure", "tpot_p50", "--effect", "0.1")
    assert done.exit_code == 0
    assert "To see a change of 10" in done.stdout
    assert "among 1 tests" in done.stdout
    assert "TTFT" not in done.stdout
    unknown = llmbench("noise", *runs, "--figure", "tpot_p55")
    assert "there is no such figure" in str(unknown.exception)


def test_a_baseline_is_a_small_file_of_one_figure_to_a_line(folder: MakeFolder, tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    llmbench("gate", folder("base", 1), "--save", str(path))
    text = path.read_text()
    assert len(text) < 10_000
    [row] = json.loads(text)["measured"]
    lines = text.splitlines()
    for name in row["figures"]:
        assert sum(line.lstrip().startswith(f'"{name}": ') for line in lines) == 1
