"""A run from its first engine to its finished directory."""

from __future__ import annotations

import contextlib
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmbench.engines.wire import Endpoint, FailureKind, Timeline
from llmbench.harness.arrival_fit import arrival_fit
from llmbench.harness.assemble import Assembly, adapter_settings
from llmbench.harness.encoded_load import EncodedLoad
from llmbench.harness.engine_keeper import EngineKeeper
from llmbench.harness.environment import clock, environment, utc_now
from llmbench.harness.errors import EngineStartError, ExitCode
from llmbench.harness.interrupts import Interrupts
from llmbench.harness.kept_answers import DEFAULT_BYTES
from llmbench.harness.load_crew import LoadCrew
from llmbench.harness.load_finder import LoadFinder
from llmbench.harness.loadgen import LoadReport, run_load
from llmbench.harness.pace import Pace
from llmbench.harness.packet_clock import check_packet_clock
from llmbench.harness.plan import Trial
from llmbench.harness.preflight import find_miscount
from llmbench.harness.recorder import (
    AdapterRef,
    Answered,
    Closing,
    ManifestChanges,
    Opening,
    Phase,
    Recorder,
    TrialBegins,
    Verdict,
)
from llmbench.harness.redaction import Redactor, secrets_in_env
from llmbench.harness.slo import unjudged
from llmbench.harness.slots import planned_too_wide
from llmbench.harness.stop_flag import StopFlag
from llmbench.harness.telemetry import DEFAULT_INTERVAL_S, Telemetry
from llmbench.harness.validity import Finding, judge_trial
from llmbench.results.manifest import ArrivalManifest, EngineManifest, FinalStatus, Manifest, TrialManifest
from llmbench.results.records import RequestRecord
from llmbench.results.telemetry import TELEMETRY_JOURNAL

RUNS = Path("runs")
_BROKEN = (FailureKind.CONNECT, FailureKind.TRUNCATED)
# A process that crashes closes its connections a little before it is gone.
_DYING_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run directory. `message` is what the user must know beside the report; None when all went well."""

    path: Path
    message: str | None
    exit_code: ExitCode


def run_session(
    assembly: Assembly,
    out: Path | None,
    *,
    draw: bool = True,
    calibrate: bool = False,
    num_workers: int = 1,
    on: str | None = None,
    finder: LoadFinder | None = None,
) -> Outcome:
    """Measure every trial and leave a run directory at `out` (default: runs/TIME-WORKLOAD-DIGEST).

    `draw` shows a progress bar where stderr is a terminal. `calibrate` measures the instrument's own error afterwards,
    on the same schedule, with a simulated engine as fast as the fastest of those measured. `num_workers` processes
    send the measured requests; one is this process itself. `on` is
    the Ray cluster that runs them all, as `ray_worker.joined` takes it. `finder` chooses the trials in place of the
    plan, one after the other.

    An engine that does not start is left out, and the others go on. Ctrl-C ends the load, keeps what was measured and
    comes back with an interrupted Outcome; a second one raises KeyboardInterrupt. Raises RunError when the directory
    cannot be made, ConfigError without the right to the packet clock, HarnessError when the recorder is lost.
    """
    spec = assembly.spec
    if spec.measure.clock == "packet" and on is None:
        check_packet_clock()
    keys = [assembly.api_key(engine) for engine in spec.engines]
    in_env = [secret for engine in spec.engines for secret in secrets_in_env(engine.env)]
    redactor = Redactor([*(key for key in keys if key is not None), *in_env])
    manifest = _manifest(assembly, redactor)
    opening = Opening(
        path=out or _default_path(manifest.run_id),
        manifest=manifest,
        adapters={engine.label: AdapterRef(engine.name, adapter_settings(engine)) for engine in spec.engines},
        tokenizer_path=assembly.model.tokenizer_path,
        num_requests=sum(len(trial.warmup) + len(trial.requests) for trial in assembly.plan.trials)
        if finder is None
        else None,
        draw=draw and sys.stderr.isatty(),
        lag_matters=spec.traffic.max_concurrency is None,
        exact_lengths=spec.request.ignore_eos and not spec.request.stop,
        constant_load=spec.traffic.arrivals.kind in ("constant", "poisson", "gamma"),
        num_trials=len(assembly.plan.trials) if finder is None else None,
        answer_bytes=DEFAULT_BYTES if spec.measure.answer_bytes is None else spec.measure.answer_bytes,
    )
    # First the crew: where there is no cluster to run it on, no run directory is left behind.
    with _crew(num_workers, on) as crew:
        recorder = Recorder(opening)
        try:
            return _Session(assembly, recorder, redactor, crew).run(calibrate, finder)
        except BaseException:
            recorder.abandon()
            raise


class _Session:
    def __init__(self, assembly: Assembly, recorder: Recorder, redactor: Redactor, crew: LoadCrew | None) -> None:
        self._assembly = assembly
        self._recorder = recorder
        self._redactor = redactor
        self._crew = crew
        self._trials: list[TrialManifest] = []
        self._not_started: dict[str, EngineStartError] = {}
        # Engines that ended by themselves and are not to be started again.
        self._left_out: set[str] = set()
        self._findings: list[Finding] = []
        self._saw_broken_connections = False
        # Engines whose count of a few prompts was looked at.
        self._counted: set[str] = set()
        # Requests that the arrival process has times for: later turns of conversations follow their answers.
        self._scheduled: set[str] = set()
        self._due_ns, self._sent_ns = array("q"), array("q")
        self._label = ""
        self._pace = Pace()
        self._has_begun_trial = False
        self._searches = False
        interval_s = assembly.spec.measure.telemetry_s
        self._telemetry = Telemetry(
            recorder.path / TELEMETRY_JOURNAL, DEFAULT_INTERVAL_S if interval_s is None else interval_s
        )

    def run(self, calibrate: bool, finder: LoadFinder | None) -> Outcome:
        trials = self._assembly.plan.trials if finder is None else finder.trials(self._recall)
        self._searches = finder is not None
        if finder is None:
            said = (*planned_too_wide(self._assembly.plan.trials), unjudged(self._assembly.spec))
            self._findings += [Finding(text, invalid=False) for text in said if text is not None]
        with (
            Interrupts(on_first=lambda: self._recorder.send(Phase("stopping"))) as interrupts,
            EngineKeeper(self._assembly, self._recorder.log_paths, self._redactor, interrupts.stop.is_set) as keeper,
            self._telemetry,
        ):
            for trial in trials:
                if interrupts.stop.is_set():
                    break
                self._recorder.check()
                self._run_trial(trial, keeper, interrupts.stop)
            if finder is not None:
                self._recorder.send(ManifestChanges({"search": finder.manifests()}))
            self._telemetry.close()
            self._recorder.send(Phase("stopping the engine"))
            keeper.stop()
            if calibrate and not interrupts.stop.is_set():
                self._calibrate(interrupts.stop)
            interrupted = interrupts.stop.is_set()
            status: FinalStatus = "interrupted" if interrupted else "failed" if self._not_started else "complete"
            self._recorder.send(Phase("storing the results"))
            verdict = self._recorder.close(Closing(status, self._findings))
        return self._outcome(interrupted, verdict)

    def _run_trial(self, trial: Trial, keeper: EngineKeeper, stop: StopFlag) -> None:
        self._has_begun_trial = False
        label = self._label = trial.engine.label
        if label in self._not_started or label in self._left_out:
            return
        self._recorder.send(Phase(f"{label}: starting"))
        self._telemetry.watch(None)
        try:
            endpoint = keeper.use(trial.engine)
        except EngineStartError as error:
            self._not_started[label] = error
            self._findings.append(Finding(error.sentence, invalid=False))
            keeper.stop()
            return
        finally:
            self._recorder.send(ManifestChanges({"engines": tuple(keeper.manifests.values())}))
        if endpoint is None:
            return
        self._telemetry.watch(keeper.watched(trial.engine))
        adapter = self._assembly.adapters[label]
        self._count_prompts(trial, endpoint)
        retries = self._assembly.spec.measure.retries
        warmup = EncodedLoad.of(trial.warmup, adapter, endpoint, retries)
        # Workers encode their own.
        measured = EncodedLoad.of(trial.requests, adapter, endpoint, retries) if self._crew is None else None
        self._recorder.send(TrialBegins(trial))
        self._has_begun_trial = True
        where = self._where(trial)
        self._saw_broken_connections = False
        self._recorder.send(Phase(f"{where}: warming up"))
        self._load(warmup, 1, stop)
        if not stop.is_set():
            self._recorder.send(Phase(f"{where}: measuring"))
            started = TrialManifest(
                engine=label,
                level=trial.level,
                round=trial.round,
                start_ns=time.perf_counter_ns(),
                end_ns=None,
                requests=len(trial.requests),
            )
            self._tell_trials(started)
            self._due_ns, self._sent_ns = array("q"), array("q")
            self._scheduled = {request.request_id for request in trial.requests if request.due_offset_ns is not None}
            self._telemetry.read_now()
            if measured is not None:
                report = self._load(measured, trial.concurrency, stop)
            else:
                report = self._load_by_crew(trial, endpoint, stop)
                self._findings += [Finding(f"{where}: {lost}.", invalid=True) for lost in report.lost_workers]
            self._telemetry.read_now()
            ended = started.model_copy(
                update={
                    "start_ns": report.start_ns,
                    "end_ns": None if report.num_unsent else report.end_ns,
                    "instrument": report.instrument,
                    "arrivals": self._arrival_fit(trial),
                }
            )
            self._findings += judge_trial(ended, where)
            self._trials.append(ended)
            self._tell_trials()
        if (ending := keeper.ending(wait_s=_DYING_S if self._saw_broken_connections else 0)) is not None:
            hint = "; its log has the reason" if trial.engine.url is None else ""
            if trial.engine.restart is False:
                self._left_out.add(label)
                hint += ", and it is not started again (restart: false)"
            self._findings.append(Finding(f"{label} {ending} during {where}{hint}.", invalid=True))

    def _count_prompts(self, trial: Trial, endpoint: Endpoint) -> None:
        label = trial.engine.label
        if label not in self._counted:
            self._counted.add(label)
            problem = find_miscount(self._assembly.adapters[label], endpoint, trial.requests)
            if problem is not None:
                self._findings.append(Finding(problem, invalid=False))

    def _calibrate(self, stop: StopFlag) -> None:
        # Not above: a calibration is a session itself.
        from llmbench.harness.calibration import calibrate, complaint

        pace = self._pace.fastest_ms()
        if pace is None:
            return
        self._recorder.send(Phase("calibrating the instrument"))
        outcome, levels = calibrate(self._assembly.spec, *pace, draw=False)
        if outcome.exit_code is ExitCode.INTERRUPTED:
            stop.set()
        self._recorder.send(ManifestChanges({"calibration": levels}))
        self._findings += [Finding(text, invalid=False) for level in levels if (text := complaint(level)) is not None]

    def _recall(self) -> Sequence[RequestRecord]:
        """The measured requests of the trial just run; none where its engine was not there."""
        return self._recorder.recall() if self._has_begun_trial else ()

    def _load(self, load: EncodedLoad, concurrency: int | None, stop: StopFlag) -> LoadReport:
        return run_load(
            load.outgoing,
            concurrency=concurrency,
            timeouts=self._assembly.spec.measure.timeouts,
            on_done=self._on_done,
            stop=stop,
            clock=self._assembly.spec.measure.clock or "auto",
            conversations=load.conversations,
            retries=load.retries,
        )

    def _load_by_crew(self, trial: Trial, endpoint: Endpoint, stop: StopFlag) -> LoadReport:
        assert self._crew is not None
        measure = self._assembly.spec.measure
        return self._crew.run_load(
            trial.requests,
            adapter=AdapterRef(trial.engine.name, adapter_settings(trial.engine)),
            endpoint=endpoint,
            concurrency=trial.concurrency,
            timeouts=measure.timeouts,
            on_done=self._on_done,
            stop=stop,
            clock=measure.clock or "auto",
            retries=measure.retries,
        )

    def _on_done(self, request_id: str, timeline: Timeline) -> None:
        self._pace.add(self._label, timeline)
        if timeline.failure is not None and timeline.failure.kind in _BROKEN:
            self._saw_broken_connections = True
        if timeline.sent_ns is not None and timeline.attempt == 1 and request_id in self._scheduled:
            self._due_ns.append(timeline.due_ns)
            # How fast a server accepts is not the instrument's doing.
            self._sent_ns.append(timeline.sent_ns - timeline.connecting_ns)
        self._recorder.send(Answered(request_id, timeline))

    def _arrival_fit(self, trial: Trial) -> ArrivalManifest | None:
        # Requests beyond a bound on those in flight are meant to wait.
        return arrival_fit(trial.arrivals, self._due_ns, self._sent_ns) if trial.concurrency is None else None

    def _tell_trials(self, *unfinished: TrialManifest) -> None:
        self._recorder.send(ManifestChanges({"trials": (*self._trials, *unfinished)}))

    def _where(self, trial: Trial) -> str:
        """Which trial this is, in words: `vllm, poisson 8/s, round 2 of 3`; of a search, which of those at its load."""
        rounds = self._assembly.spec.measure.rounds
        if self._searches:
            which = f", trial {trial.round + 1}"
        else:
            which = f", round {trial.round + 1} of {rounds}" if rounds > 1 else ""
        return f"{trial.engine.label}, {trial.level}{which}"

    def _outcome(self, interrupted: bool, verdict: Verdict) -> Outcome:
        path = self._recorder.path
        if interrupted:
            return Outcome(path, "interrupted; the report holds what was measured until then.", ExitCode.INTERRUPTED)
        if self._not_started:
            return Outcome(path, "\n".join(str(error) for error in self._not_started.values()), ExitCode.ENGINE)
        if verdict.reasons:
            num = len(verdict.reasons)
            why = "the reason is given above" if num == 1 else f"the {num} reasons are given above"
            return Outcome(path, f"the measurement is invalid, {why}.", ExitCode.INVALID)
        return Outcome(path, None, ExitCode.OK)


@contextlib.contextmanager
def _crew(num_workers: int, on: str | None) -> Iterator[LoadCrew | None]:
    """Who sends the requests in place of this process; None where it does so itself."""
    if on is not None:
        from llmbench.harness.ray_worker import RayWorker, joined

        with joined(on), LoadCrew(num_workers, RayWorker) as crew:
            yield crew
    elif num_workers > 1:
        with LoadCrew(num_workers) as crew:
            yield crew
    else:
        yield None


def _manifest(assembly: Assembly, redactor: Redactor) -> Manifest:
    spec, now = assembly.spec, utc_now()
    workload = redactor.json(spec.model_dump(mode="json"))
    assert isinstance(workload, dict)
    return Manifest(
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{spec.name}-{spec.digest()[:8]}",
        created_utc=now.isoformat(timespec="seconds"),
        command=redactor.argv(["llmbench", *sys.argv[1:]]),
        workload=workload,
        workload_digest=spec.digest(),
        prompts_digest=assembly.plan.prompts_digest,
        seeds=spec.seeds.model_dump(),
        engines=tuple(EngineManifest(label=engine.label, name=engine.name, url=engine.url) for engine in spec.engines),
        environment=environment(),
        clock=clock(),
    )


def _default_path(run_id: str) -> Path:
    """runs/RUN_ID, with a number behind it where a run of the same second is already there."""
    path, number = RUNS / run_id, 2
    while path.exists():
        path, number = RUNS / f"{run_id}-{number}", number + 1
    return path
