"""The instrument's own part in a latency, where a run was calibrated."""

from __future__ import annotations

from llmbench.results.manifest import CalibrationManifest, LagManifest, Manifest


def own_error_ms(manifest: Manifest, level: str, metric: str) -> float | None:
    """How far a value of `metric` may be off by the instrument alone: the p99 of its absolute error at this load, in
    ms. None where the run was not calibrated there, and for what is no latency.

    TPOT is a mean of the gaps that ITL is about, so that it is off by no more than these.
    """
    found = next((each for each in manifest.calibration if each.level == level), None)
    error = None if found is None else _error_of(found, metric)
    return None if error is None or error.p99_ns is None else error.p99_ns / 1e6


def _error_of(found: CalibrationManifest, metric: str) -> LagManifest | None:
    match metric:
        case "ttft" | "ttft_send":
            return found.ttft_error
        case "itl" | "itl_chunk" | "tpot":
            return found.itl_error
        case "e2e" | "e2e_send":
            return found.e2e_error
    return None
