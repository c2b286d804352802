"""The scripts of tests/benchmarks make runs by writing columns: they are runs as this version reads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np

from llmbench.results.run import Run
from llmbench.results.summary import summarise

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_large_run_is_read(tmp_path: Path) -> None:
    script("large_run").write_run(tmp_path, num_requests=100, num_chunks=5)
    rows = summarise(Run.open(tmp_path)).rows
    assert [(row.num_requests, row.num_rounds) for row in rows] == [(50, 5), (50, 5)]


def test_the_runs_that_statistics_are_tried_on_are_read(tmp_path: Path) -> None:
    side = script("statistics_coverage").made_side(np.random.default_rng(0), tmp_path, rounds=4, num=20, phi=0.5)
    assert 35 < side.measured[0].figures["ttft_p50"].value < 45
