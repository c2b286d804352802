"""The manifest of a run: what was asked, of whom, where and by which clock. Stored as `manifest.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from llmbench.results.errors import RunError

SCHEMA_VERSION = 3

FinalStatus = Literal["complete", "interrupted", "failed"]
StoredStatus = Literal["running", "complete", "interrupted", "failed"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClockManifest(_Frozen):
    """The clock of every `_ns` column. `origin_ns` and `origin_utc` (ISO 8601) were read together, once, to date a run;
    durations never use the wall clock."""

    origin_ns: int
    origin_utc: str
    source: str = "time.perf_counter_ns"
    resolution_ns: int | None = None


class LagManifest(_Frozen):
    """A delay of the instrument itself, in ns, over `n` samples."""

    n: int
    p50_ns: int | None
    p99_ns: int | None
    max_ns: int | None


class InstrumentManifest(_Frozen):
    """How well the harness kept time during one trial.

    `loop_lag`: how late a timer of the event loop fired. `send_lag`: sent − due of measured requests. `client_lag`:
    how long a chunk lay in the kernel before it was read, over the chunks for which both stamps are known; of the
    `num_chunks` read, `num_coalesced` came in one read with the segments before them. `cpu_s`: CPU seconds spent by the
    harness's process between the trial's start and end. `clock` names what stamped the chunks. `scheduling` is
    `realtime` where the system let the load generator run before other work, else `ordinary`. `reader` is `native`
    where the compiled reader read the sockets of HTTP, else `python`.

    Where several processes sent the requests, `workers` has each one's own figures; the delays beside it are quantiles
    of all their samples together, counts and `cpu_s` their sums. `clock_error_ns` bounds how far their stamps may lie
    apart that were made at one instant; it is 0 on one host, and touches no latency, as each is taken by one clock.
    """

    event_loop: str
    clock: str = "time.perf_counter_ns"
    loop_lag: LagManifest | None = None
    send_lag: LagManifest | None = None
    client_lag: LagManifest | None = None
    num_chunks: int | None = None
    num_coalesced: int | None = None
    cpu_s: float | None = None
    scheduling: str | None = None
    reader: str | None = None
    workers: tuple[InstrumentManifest, ...] = ()
    clock_error_ns: int | None = None


class ArrivalManifest(_Frozen):
    """How requests were sent, against the random arrival process asked for. Rates in requests per s.

    `gap_cv` is the coefficient of variation of the gaps. `dispersion` is variance ÷ mean of the counts in windows of
    ten mean gaps, 1 for a Poisson process; `ks` the Kolmogorov-Smirnov distance of the gaps from an exponential. Each
    `_p` is the chance of a value at least as far off under the process as asked; None where no test was made. `due` is
    the same of the times at which the requests were due, which is what the plan's own chance did, and `ks_moved` the
    distance between the gaps as sent and as due, which is what sending added.
    """

    n: int
    asked_rate: float
    rate: float
    rate_p: float
    gap_cv: float
    asked_gap_cv: float
    dispersion: float | None = None
    dispersion_p: float | None = None
    ks: float | None = None
    ks_p: float | None = None
    ks_moved: float | None = None
    due: ArrivalManifest | None = None


class CalibrationManifest(_Frozen):
    """The instrument's own error at one load level, measured on a simulated engine that logs when it really sent.

    That engine's first chunk came `ttft_ms` after a request, and the others `itl_ms` apart. Errors are absolute, over
    measured requests that ended well: of `num_chunks`, `num_lost` were never recorded, and of `num_unclear` the true
    time is not known. `itl_read_error` is the error that user-space stamps alone would have had.
    """

    level: str
    ttft_ms: float
    itl_ms: float
    num_requests: int
    num_failed: int
    num_chunks: int
    num_lost: int
    num_unclear: int
    chunks_per_s: float
    ttft_error: LagManifest
    itl_error: LagManifest
    itl_read_error: LagManifest
    e2e_error: LagManifest
    instrument: InstrumentManifest
    cpu_s_per_million_chunks: float | None = None


class EngineManifest(_Frozen):
    """One engine as it answered. `command` and `pid` are None for a server that was already running.

    `log` is relative to the run directory. `packages` has what the engine's own environment holds, as `name==version`;
    it is empty for one that lives in that of llmbench. `details` holds what is known beyond this (dtype, cpus, …).
    """

    label: str
    name: str
    version: str | None = None
    command: tuple[str, ...] | None = None
    url: str | None = None
    pid: int | None = None
    model: str | None = None
    model_digest: str | None = None
    log: str | None = None
    packages: tuple[str, ...] = ()
    details: dict[str, JsonValue] = Field(default_factory=dict)


class TrialManifest(_Frozen):
    """One engine asked everything once. `requests` counts the measured ones planned; `end_ns` is None if cut short."""

    engine: str
    level: str
    round: int
    start_ns: int
    end_ns: int | None
    requests: int
    instrument: InstrumentManifest | None = None
    arrivals: ArrivalManifest | None = None


class TriedLoadManifest(_Frozen):
    """One load of a search: of `num_requests` in all its trials `num_met` met their objectives, a share that lies
    between `low` and `high`."""

    load: float
    num_trials: int
    num_met: int
    num_requests: int
    low: float
    high: float
    verdict: Literal["met", "missed", "undecided"]


class SearchManifest(_Frozen):
    """The highest load of one engine at which at least `attainment` of requests meet their objectives.

    It lies between `met` and `missed`, each None where no trial showed it, and both hold at `confidence` together.
    Loads are in `unit`; `sentence` says the result for people.
    """

    engine: str
    attainment: float
    confidence: float
    unit: str
    met: float | None
    missed: float | None
    sentence: str
    tried: tuple[TriedLoadManifest, ...]


class Manifest(_Frozen):
    """Everything about a run but its rows. `workload` is the spec as JSON; digests are sha256 hex.

    `command` is the argument list that started the run. `problems` are full sentences; those that forbid the use of the
    numbers stand in `invalid` too, which is empty for a valid run. `status` is `running` until the
    run directory is finished.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    created_utc: str
    command: tuple[str, ...]
    status: StoredStatus = "running"
    workload: dict[str, JsonValue]
    workload_digest: str
    prompts_digest: str
    seeds: dict[str, int]
    engines: tuple[EngineManifest, ...]
    environment: dict[str, JsonValue] = Field(default_factory=dict)
    clock: ClockManifest
    trials: tuple[TrialManifest, ...] = ()
    problems: tuple[str, ...] = ()
    invalid: tuple[str, ...] = ()
    calibration: tuple[CalibrationManifest, ...] = ()
    search: tuple[SearchManifest, ...] = ()

    def changed(self, **changes: Any) -> Manifest:
        """A validated copy with these fields replaced. Raises pydantic.ValidationError for an unknown field."""
        return Manifest.model_validate({**dict(self), **changes})


Upgrade = Callable[[dict[str, Any]], dict[str, Any]]

# From version n to n + 1, keyed by n. A new SCHEMA_VERSION brings its step here, and old runs stay readable.
UPGRADES: Mapping[int, Upgrade] = {
    # Version 2 has attempts: columns of the tables (schema.upgraded_requests), and nothing in the manifest.
    1: dict,
    # Version 3 has begun_ns, another column of these.
    2: dict,
}


def upgraded(
    stored: dict[str, Any],
    where: str,
    current: int = SCHEMA_VERSION,
    upgrades: Mapping[int, Upgrade] = UPGRADES,
) -> dict[str, Any]:
    """`stored` as schema version `current`, one step at a time.

    Raises RunError for a version that is missing, newer than this program, or older than the oldest known step.
    """
    version = stored.get("schema_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise RunError(f"{where} has no schema_version (a whole number), so it is not the manifest of an llmbench run.")
    if version > current:
        raise RunError(
            f"{where} has schema version {version}, and this llmbench reads versions up to {current}. "
            "Install a newer one: pip install --upgrade llmbench."
        )
    while version < current:
        step = upgrades.get(version)
        if step is None:
            raise RunError(
                f"{where} has schema version {version}, which this llmbench (version {current}) can no longer read. "
                "Open it with the llmbench that made it, and export it from there."
            )
        stored = {**step(stored), "schema_version": version + 1}
        version += 1
    return stored


def parse(text: str, where: str) -> Manifest:
    """The manifest in `text`, upgraded if need be. `where` names its file in a RunError."""
    try:
        stored = json.loads(text)
    except ValueError as error:
        raise RunError(f"{where} is not valid JSON ({error}); restore it from a copy of the run directory.") from None
    if not isinstance(stored, dict):
        raise RunError(f"{where} holds no JSON object, so it is not the manifest of an llmbench run.")
    stored = upgraded(stored, where)
    try:
        return Manifest.model_validate(stored)
    except ValueError as error:
        raise RunError(f"{where} does not hold what a manifest of version {SCHEMA_VERSION} holds: {error}") from None
