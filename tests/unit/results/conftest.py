"""Runs made by hand, on disk."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from gated_runs import RIG, WORKLOAD, requests
from made_runs import Entry, MakeRun, manifest

from llmbench.results.matching import Side, side_of
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run(entries, **manifest fields) is the finished run that holds them."""
    made = 0

    def make(entries: Iterable[Entry], *, finish: bool = True, **changes: Any) -> Run:
        nonlocal made
        made += 1
        directory = RunDirectory.create(tmp_path / f"run{made}", manifest(**changes))
        for request, chunks in entries:
            directory.append(request, chunks)
        if finish:
            directory.finish("complete")
        else:
            directory.close()
        return Run.open(directory.path)

    return make


@pytest.fixture
def measured(make_run: MakeRun):
    """measured(seed, itl=…) is a side of noisy requests; `run_fields` go into its manifest."""

    def make(seed: int, *, run_fields: dict | None = None, rows: list[Entry] | None = None, **options) -> Side:
        changes = {"workload": WORKLOAD, "environment": RIG} | (run_fields or {})
        return side_of(make_run(rows or requests(seed, **options), **changes))

    return make
