"""A workload as a test, in a pytest of its own: stored, compared and failed by pytest-benchmark's own commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WORKLOAD = """
name: in_pytest
model: simulated
engines: [{simulated: {settings: {ttft_ms: 20, itl_ms: 10}}}]
prompts: {kind: text, path: prompts.txt, output_tokens: 6}
traffic: {requests: 12, warmup_requests: 1, arrivals: {kind: closed, concurrency: 4}}
"""
TEST = """
import pytest

@pytest.mark.benchmark(group="engines")
def test_decoding(llmbench):
    measured = llmbench("workload.yaml", [{override}], allow_invalid=True)
    assert (measured.num_requests, measured.num_failed) == (12, 0)
    assert 9 < measured.figures["tpot_p50"] < 40
    assert (measured.path / "manifest.json").exists()
"""


# Plugins of this repository's tests, which play no part here and take five times as long to load as all the rest.
OTHERS = ("anyio", "asyncio", "hypothesispytest", "schemathesis", "timeout", "xdist", "xdist.looponfail")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "workload.yaml").write_text(WORKLOAD)
    (tmp_path / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(20)))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def pytest_in(folder: Path, *options: str, test: str = TEST.format(override="")) -> subprocess.CompletedProcess[str]:
    (folder / "test_engine.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    command += [word for plugin in OTHERS for word in ("-p", f"no:{plugin}")]
    # It is nobody's worker: pytest-benchmark stores nothing in one.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        [*command, *options], cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_workload_is_stored_and_compared_with_pytest_benchmarks_own_commands(folder: Path) -> None:
    saved = pytest_in(folder, "--benchmark-save=base")
    assert saved.returncode == 0, saved.stdout + saved.stderr
    [stored] = folder.glob(".benchmarks/*/0001_base.json")
    [benchmark] = json.loads(stored.read_text())["benchmarks"]
    assert benchmark["group"] == "engines"
    assert benchmark["stats"]["rounds"] == 12
    # Seconds per output token, by the request.
    assert 0.009 < benchmark["stats"]["median"] < 0.04
    assert benchmark["extra_info"]["metric"] == "tpot"
    assert benchmark["extra_info"]["tpot_p50"] == pytest.approx(1e3 * benchmark["stats"]["median"])
    assert benchmark["extra_info"]["num_failed"] == 0

    slower = TEST.format(override="'engines.simulated.settings.itl_ms=30'")
    compared = pytest_in(folder, "--benchmark-compare=0001", "--benchmark-compare-fail=median:50%", test=slower)
    assert compared.returncode == 1, compared.stdout + compared.stderr
    assert "Performance has regressed" in compared.stdout + compared.stderr
    assert "test_decoding" in compared.stdout


def test_it_works_without_pytest_benchmark(folder: Path) -> None:
    plain = pytest_in(folder, "-p", "no:benchmark", test=TEST.format(override="").replace("@pytest.mark", "#"))
    assert plain.returncode == 0, plain.stdout + plain.stderr


def test_a_workload_that_cannot_run_fails_its_test_in_a_sentence(folder: Path) -> None:
    broken = pytest_in(folder, test="def test_it(llmbench):\n    llmbench('workload.yaml', metric='speed')\n")
    assert broken.returncode == 1
    assert "metric 'speed' is no latency; there are ttft" in broken.stdout


def test_every_pytest_start_imports_next_to_nothing_of_llmbench() -> None:
    heavy = "('numpy', 'pyarrow', 'typer', 'yaml')"
    code = (
        "import sys; before = set(sys.modules); import llmbench.harness.pytest_plugin; "
        f"print([name for name in set(sys.modules) - before if name.split('.')[0] in {heavy}])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
