"""The command line as a user has it: a process of its own in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from llmbench.results.run_directory import Run, RunError

SIMULATED = {"simulated": {"settings": {"ttft_ms": 5, "itl_ms": 1}}}


class Workplace:
    """A folder with a workload in it, and `llmbench` run there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "prompts.txt").write_text("".join(f"Tell me story {number} of the sea.\n" for number in range(40)))

    def workload(self, **fields: Any) -> str:
        """Write `workload.yaml`: eight quick requests to the simulated engine, but for `fields`."""
        spec: dict[str, Any] = {
            "name": "small",
            "model": "toy",
            "engines": [SIMULATED],
            "prompts": {"kind": "text", "path": "prompts.txt", "output_tokens": 5},
            "traffic": {"requests": 8, "warmup_requests": 1, "arrivals": {"kind": "closed", "concurrency": 4}},
        }
        (self.folder / "workload.yaml").write_text(yaml.safe_dump({**spec, **fields}))
        return "workload.yaml"

    def start(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "llmbench", *arguments],
            cwd=self.folder,
            env={**os.environ, "COLUMNS": "200", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *arguments: str, env: Mapping[str, str] | None = None, timeout_s: float = 90
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, env=env)
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    def engine_processes(self) -> list[psutil.Process]:
        """Simulated engines and guards that were started from this folder, by their working directory."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() == str(self.folder) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def eventually(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait until `holds`; AssertionError if that takes longer than `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, "it did not come to hold"
        time.sleep(0.05)


def num_stored(path: Path) -> int:
    """Requests that can be read from a run directory, finished or not; 0 before there is one."""
    try:
        return Run.open(path).requests.num_rows
    except RunError:
        return 0


def load_workers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The load workers that a harness has started, in the order of their numbers."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "llmbench.harness.load_worker" in child.cmdline()]
