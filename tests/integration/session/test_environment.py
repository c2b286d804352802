"""What a run says about where it took place."""

from __future__ import annotations

import json
import platform
import socket
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from llmbench.harness.environment import clock, environment


def test_it_is_json_and_says_what_others_say() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["python"] == f"CPython {platform.python_version()}"
    assert found["packages"]["numpy"]
    assert found["cores_logical"] == psutil.cpu_count()
    assert platform.release() in found["kernel"]


def test_the_machine_s_name_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "a-name-that-stands-nowhere-else"
    monkeypatch.setattr(platform, "node", lambda: name)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    text = json.dumps(environment())
    assert name not in text
    assert str(Path.home()) not in text


def test_git_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    assert environment(tmp_path)["git"] is None
    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert environment(tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert environment(tmp_path)["git"] == {"commit": commit, "dirty": True}


def test_the_clock_is_the_one_of_the_stamps() -> None:
    before_ns = time.perf_counter_ns()
    found = clock()
    assert before_ns <= found.origin_ns <= time.perf_counter_ns()
    assert abs((datetime.now(UTC) - datetime.fromisoformat(found.origin_utc)).total_seconds()) < 60
