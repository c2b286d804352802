"""`llmbench history trend`: what it asks for when there is a choice, in a terminal and as a page."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_run import ALPHA, BETA, write_run
from typer.testing import CliRunner

from llmbench.harness.cli import app
from llmbench.harness.errors import ConfigError
from llmbench.results.errors import RunError
from llmbench.results.history import History


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two runs of one engine at one load."""
    folder = tmp_path_factory.mktemp("history")
    with History.open(str(folder / "history.db")) as history:
        for day in (1, 2):
            history.add(
                write_run(
                    folder / f"run{day}",
                    engines=(ALPHA,),
                    num_requests=12,
                    num_tokens=6,
                    rounds=4,
                    run_id=f"run{day}",
                    created_utc=f"2026-01-0{day}T00:00:00Z",
                )
            )
    return str(folder / "history.db")


@pytest.fixture
def two_engines(tmp_path: Path) -> str:
    where = str(tmp_path / "history.db")
    with History.open(where) as history:
        history.add(write_run(tmp_path / "run", engines=(ALPHA, BETA), rates=(4.0, 8.0), num_requests=6, num_tokens=4))
    return where


def test_the_only_engine_and_load_need_not_be_named(store: str) -> None:
    shown = CliRunner().invoke(app, ["history", "trend", "tpot_p50", "--store", store])
    assert (shown.exit_code, shown.exception) == (0, None)
    assert "TPOT p50, hardware" in shown.stdout
    assert shown.stdout.count("2026-01-0") == 2
    assert "A change can be found from 8 runs on." in shown.stdout


def test_without_a_figure_all_are_shown(store: str) -> None:
    shown = CliRunner().invoke(app, ["history", "trend", "--store", store])
    assert all(f"{title}, hardware" in shown.stdout for title in ("TTFT p50", "ITL p99", "success share"))


def test_the_page_holds_what_was_asked_for(store: str, tmp_path: Path) -> None:
    page = tmp_path / "trend.html"
    asked = ["history", "trend", "ttft_p50", "e2e_p90", "--html", str(page), "--store", store]
    shown = CliRunner().invoke(app, asked)
    assert (shown.exit_code, shown.stdout) == (0, f"{page}\n")
    html = page.read_text(encoding="utf-8")
    assert html.count('type="application/json"') == 2
    assert "Example CPU @ 2.80GHz" in html


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["tpot_p51"], "There is no figure 'tpot_p51', only ttft_p50, "),
        (["tpot_p50"], "--engine: there are several, alpha, beta; pick one."),
        (["--engine", "gamma"], "The history has no engine 'gamma', only alpha, beta."),
        (["--engine", "beta"], "--level: there are several, poisson 4/s, poisson 8/s; pick one."),
        (["--engine", "beta", "--level", "closed 1"], "The history has of 'beta' no level 'closed 1', only poisson"),
        (
            ["goodput", "--engine", "beta", "--level", "poisson 8/s"],
            "The history has no goodput of 'beta' at 'poisson 8/s'.",
        ),
        (["--html", "nowhere/page.html"], "--html nowhere/page.html: nowhere is no folder."),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(two_engines: str, options: list[str], said: str) -> None:
    failed = CliRunner().invoke(app, ["history", "trend", *options, "--store", two_engines])
    assert isinstance(failed.exception, ConfigError)
    assert str(failed.exception).startswith(said)


@pytest.mark.parametrize("command", [["history", "list"], ["history", "trend"], ["gate", "{run}", "--history"]])
def test_reading_a_history_that_is_not_there_is_refused_and_makes_none(tmp_path: Path, command: list[str]) -> None:
    run = write_run(tmp_path / "run", engines=(ALPHA,), num_requests=6, num_tokens=4)
    where = tmp_path / "nosuch.db"
    asked = [part.format(run=run.path) for part in command] + (
        ["--store"] if "list" in command or "trend" in command else []
    )
    failed = CliRunner().invoke(app, [*asked, str(where)])
    assert isinstance(failed.exception, RunError)
    assert (
        str(failed.exception) == f"There is no history {where}; `llmbench history add RUN --store {where}` begins one."
    )
    assert not where.exists()


def test_a_history_without_runs_says_so(tmp_path: Path) -> None:
    where = str(tmp_path / "empty.db")
    History.open(where).close()
    listed = CliRunner().invoke(app, ["history", "list", "--store", where])
    assert (listed.exit_code, listed.stdout) == (0, f"The history {where} holds no runs yet.\n")
    failed = CliRunner().invoke(app, ["history", "trend", "--store", where])
    assert str(failed.exception) == "The history holds no runs yet."
