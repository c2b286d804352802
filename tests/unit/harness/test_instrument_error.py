"""What a run recorded against what the simulated engine logged, with every stamp chosen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_runs import MS, ORIGIN_NS, entry, manifest

from llmbench.harness.errors import HarnessError
from llmbench.harness.instrument_error import instrument_error
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two answers, their chunks stamped at 10 and 20 ms and their ends at 21."""
    directory = RunDirectory.create(tmp_path / "run", manifest())
    for index in range(2):
        record, chunks = entry(index, tokens=[(10, 1), (20, 1)], end=21)
        for chunk in chunks:
            object.__setattr__(chunk, "read_ns", chunk.t_ns + 3 * MS)
        directory.append(record, chunks)
    directory.finish("complete")
    return Run.open(directory.path)


def logged(index: int, sends: list[tuple[float, float]], end: tuple[float, float]) -> str:
    def ns(ms: float) -> int:
        return ORIGIN_NS + round(ms * MS)

    line: dict[str, Any] = {"request_id": f"a-r0-{index:05d}", "outcome": "done"}
    line |= {"began_ns": [ns(began) for began, _ in sends], "sent_ns": [ns(sent) for _, sent in sends]}
    return json.dumps(line | {"end_began_ns": ns(end[0]), "end_ns": ns(end[1])}) + "\n"


def test_errors_are_what_was_stamped_less_what_was_sent(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "sent.jsonl"
    log.write_text(logged(0, [(9.98, 9.99), (19.95, 20.0)], (20.4, 20.5)) + logged(1, [(10, 10)] * 2, (21, 21)))
    found = instrument_error(run, log)
    assert (found.num_answers, found.num_chunks, found.num_lost, found.num_unclear) == (2, 4, 0, 0)
    assert found.ttft_ns.tolist() == [10_000, 0]
    assert found.itl_ns.tolist() == [10_000, 10 * MS]
    assert found.itl_read_ns.tolist() == [10_000, 10 * MS], "both reads were late by as much"
    assert found.e2e_ns.tolist() == [500_000, 0]


def test_what_left_at_an_unknown_time_is_not_the_instrument_s_error(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "sent.jsonl"
    log.write_text(logged(0, [(2, 9.9), (19.95, 20.0)], (12, 20.9)) + logged(1, [(10, 10), (20, 20)], (21, 21)))
    found = instrument_error(run, log)
    assert (found.num_answers, found.num_unclear) == (2, 1)
    assert (found.ttft_ns.tolist(), found.itl_ns.tolist(), found.e2e_ns.tolist()) == ([0], [0], [0])


def test_a_log_of_another_run_is_no_comparison(run: Run, tmp_path: Path) -> None:
    (tmp_path / "sent.jsonl").write_text(logged(7, [(10, 10)] * 2, (21, 21)))
    with pytest.raises(HarnessError, match="no answer in common"):
        instrument_error(run, tmp_path / "sent.jsonl")
