"""How well the load generator itself kept time, trial by trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmbench.reports.material import Material
from llmbench.reports.numbers import NOT_AVAILABLE, digits, percent
from llmbench.reports.section import Section, View
from llmbench.results.manifest import CalibrationManifest, LagManifest, TrialManifest

_STAMPS = {
    "kernel": "the kernel as they arrived",
    "packet": "a packet capture, segment by segment",
    "user space": "the load generator as it read them",
}


@dataclass(frozen=True, slots=True)
class TrialRow:
    trial: TrialManifest
    loop_lag: str
    send_lag: str
    client_lag: str
    coalesced: str
    cpu: str


@dataclass(frozen=True, slots=True)
class CalibrationRow:
    """The instrument's own error at one level, as text."""

    calibration: CalibrationManifest
    ttft: str
    itl: str
    itl_read: str
    e2e: str


def _view(material: Material) -> View | None:
    trials = material.manifest.trials
    if not trials:
        return None
    instruments = [trial.instrument for trial in trials if trial.instrument is not None]
    return {
        "clock": material.manifest.clock,
        "event_loops": sorted({instrument.event_loop for instrument in instruments}),
        "stamps": sorted({_STAMPS.get(instrument.clock, instrument.clock) for instrument in instruments}),
        "schedulings": sorted({instrument.scheduling or "unknown" for instrument in instruments}),
        "readers": sorted({instrument.reader for instrument in instruments if instrument.reader is not None}),
        "rows": list(_rows(trials)),
        "calibration": [_calibration_row(level) for level in material.manifest.calibration],
    }


def _rows(trials: tuple[TrialManifest, ...]) -> Iterator[TrialRow]:
    for trial in trials:
        instrument = trial.instrument
        yield TrialRow(
            trial=trial,
            loop_lag=_lag(None if instrument is None else instrument.loop_lag),
            send_lag=_lag(None if instrument is None else instrument.send_lag),
            client_lag=_lag(None if instrument is None else instrument.client_lag),
            coalesced=NOT_AVAILABLE if instrument is None else _share(instrument.num_coalesced, instrument.num_chunks),
            cpu=_cpu(trial),
        )


def _calibration_row(found: CalibrationManifest) -> CalibrationRow:
    return CalibrationRow(
        calibration=found,
        ttft=_lag(found.ttft_error),
        itl=_lag(found.itl_error),
        itl_read=_lag(found.itl_read_error),
        e2e=_lag(found.e2e_error),
    )


def _lag(lag: LagManifest | None) -> str:
    if lag is None:
        return NOT_AVAILABLE
    return " / ".join(digits(None if ns is None else ns / 1e6) for ns in (lag.p50_ns, lag.p99_ns, lag.max_ns))


def _share(part: int | None, whole: int | None) -> str:
    return percent(part / whole) if part is not None and whole else NOT_AVAILABLE


def _cpu(trial: TrialManifest) -> str:
    seconds = None if trial.instrument is None else trial.instrument.cpu_s
    if seconds is None or trial.end_ns is None or trial.end_ns <= trial.start_ns:
        return NOT_AVAILABLE
    return percent(seconds / ((trial.end_ns - trial.start_ns) / 1e9))


INSTRUMENT = Section("instrument", "The instrument itself", "Instrument", _view, "instrument.html")
