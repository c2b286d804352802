"""`llmbench profile` of an engine that stalls in the middle of its answers."""

from __future__ import annotations

import json
from typing import Any

from llmbench.harness.decode_profile import decode_profile
from llmbench.results.run_directory import Run
from llmbench.results.samples import each_samples

LENIENT = "--allow-invalid"


def test_a_stall_shows_in_the_profile_and_in_itl_p99(workplace: Any) -> None:
    stalling = {"simulated": {"settings": {"ttft_ms": 5, "itl_ms": 2, "stall_at": 3, "stall_s": 0.5}}}
    done = workplace.run("profile", workplace.workload(engines=[stalling]), "--out", "out")
    assert done.returncode in (0, 5), done.stderr
    assert done.stdout.splitlines()[-1] == "out/trace.json"
    assert json.loads((workplace.folder / "out" / "trace.json").read_text())["traceEvents"]
    [samples] = each_samples(Run.open(workplace.folder / "out"))
    profile = decode_profile(samples)
    assert {stall.token for stall in profile.stalls if stall.gap_ms > 400} == {3}
    assert sum(stall.gap_ms > 400 for stall in profile.stalls) == 8
    assert profile.by_chunk.p99 is not None
    assert profile.by_chunk.p99 > 400


def test_a_run_that_is_there_already_is_profiled_without_another(workplace: Any) -> None:
    assert workplace.run("run", workplace.workload(), "--out", "out", LENIENT).returncode == 0
    done = workplace.run("profile", "out", "--trace", "elsewhere.json")
    assert done.returncode == 0, done.stderr
    assert "simulated, closed 4: 8 answers" in done.stdout
    assert (workplace.folder / "elsewhere.json").is_file()
    refused = workplace.run("profile", "out", "--trace", "no/such/folder.json")
    assert refused.returncode == 2
    assert "--trace no/such/folder.json: no/such is no folder." in refused.stderr


def test_a_trace_that_cannot_be_written_is_refused_before_anything_is_measured(workplace: Any) -> None:
    for trace, said in (("no/such/x.json", "--trace no/such/x.json: no/such is no folder."), (".", "is a folder")):
        refused = workplace.run("profile", workplace.workload(), "--trace", trace, "--out", "out")
        assert refused.returncode == 2
        assert said in refused.stderr
        assert not (workplace.folder / "out").exists()
