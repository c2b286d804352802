"""Whether a load level keeps the instrument's error budget, in words."""

from __future__ import annotations

from typing import Any

import pytest

from llmbench.harness.calibration import complaint
from llmbench.results.manifest import CalibrationManifest, InstrumentManifest, LagManifest

GOOD = LagManifest(n=9, p50_ns=10_000, p99_ns=50_000, max_ns=60_000)
NONE = LagManifest(n=0, p50_ns=None, p99_ns=None, max_ns=None)


def level(**changes: Any) -> CalibrationManifest:
    fields: dict[str, Any] = {
        "level": "poisson 1/s",
        "ttft_ms": 20.0,
        "itl_ms": 10.0,
        "num_requests": 2,
        "num_failed": 0,
        "num_chunks": 200,
        "num_lost": 0,
        "num_unclear": 0,
        "chunks_per_s": 100.0,
        **dict.fromkeys(("ttft_error", "itl_error", "itl_read_error", "e2e_error"), GOOD),
        "instrument": InstrumentManifest(event_loop="uvloop"),
    }
    return CalibrationManifest(**(fields | changes))


def test_a_level_within_the_budget_has_none() -> None:
    assert complaint(level()) is None
    assert complaint(level(num_chunks=2, itl_error=NONE)) is None, "answers of one chunk have no gaps"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"ttft_error": LagManifest(n=9, p50_ns=0, p99_ns=2_500_000, max_ns=9_000_000)},
            "p99 TTFT error 2.50 ms (budget 2 ms)",
        ),
        ({"num_lost": 3}, "3 chunks lost"),
        ({"num_failed": 1}, "1 requests failed"),
        ({"ttft_error": NONE}, "TTFT error not known"),
        ({"itl_error": NONE}, "ITL error not known"),
    ],
)
def test_what_is_beyond_it_or_not_known_is_said(changes: dict[str, Any], said: str) -> None:
    found = complaint(level(**changes))
    assert found is not None
    assert found.startswith("Calibration at poisson 1/s: ")
    assert said in found
