"""Runs for reports: one as a load test leaves it, and some made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_runs import Entry, MakeRun, manifest
from synthetic_run import write_run

from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two engines, one of which fails now and then, over three rounds of one load level."""
    return write_run(tmp_path_factory.mktemp("runs") / "two", num_requests=40, num_tokens=16)


@pytest.fixture(scope="session")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two engines at three load levels over four rounds, with limits."""
    return write_run(
        tmp_path_factory.mktemp("runs") / "sweep",
        rates=(4.0, 8.0, 16.0),
        num_requests=24,
        num_tokens=12,
        rounds=4,
        slo={"ttft_ms": 150.0, "tpot_ms": 20.0},
    )


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """make_run(entries, **manifest fields) is the finished run that holds them."""
    unfinished: list[RunDirectory] = []

    def make(entries: Iterable[Entry], *, finish: bool = True, **changes: Any) -> Run:
        directory = RunDirectory.create(tmp_path / "run", manifest(**changes))
        for request, chunks in entries:
            directory.append(request, chunks)
        if finish:
            directory.finish("complete")
        else:
            unfinished.append(directory)
        return Run.open(directory.path)

    yield make
    for directory in unfinished:
        directory.finish("interrupted")
