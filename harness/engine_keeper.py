"""The engine that is being measured: at most one alive, and that one kept over consecutive trials."""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import JsonValue

from llmbench.engines import registry
from llmbench.engines.environments import environment, install_command
from llmbench.engines.wire import Endpoint
from llmbench.harness.assemble import Assembly
from llmbench.harness.checkpoint_digest import checkpoint_digest
from llmbench.harness.errors import EngineStartError
from llmbench.harness.log_facts import read_log_facts
from llmbench.harness.preflight import find_problem
from llmbench.harness.probe import knock
from llmbench.harness.process import EngineProcess, free_port
from llmbench.harness.redaction import Redactor
from llmbench.harness.server_facts import ServerFacts, ask_facts
from llmbench.harness.telemetry import Watched
from llmbench.harness.watched import watched
from llmbench.results.manifest import EngineManifest
from llmbench.workloads.spec import EngineSpec

_CHECK_S = 0.02


class EngineKeeper:
    """Starts engines, or attaches to them by url, one after the other; `with` ends the last one.

    `logs` has an engine's log file by its label. `manifests` has what is known of each engine so far, in the workload's
    order.
    """

    def __init__(
        self, assembly: Assembly, logs: Mapping[str, Path], redactor: Redactor, stopped: Callable[[], bool]
    ) -> None:
        self._assembly = assembly
        self._logs = logs
        self._redactor = redactor
        self._stopped = stopped
        self._label: str | None = None
        self._process: EngineProcess | None = None
        self._endpoint: Endpoint | None = None
        checkpoint = assembly.model.path
        digest = None if checkpoint is None else checkpoint_digest(checkpoint)
        self.manifests = {
            engine.label: EngineManifest(
                label=engine.label,
                name=engine.name,
                url=engine.url,
                model=engine.model or assembly.model.name,
                # What a server that runs already has loaded is not known, whatever it calls it.
                model_digest=digest if engine.url is None else None,
                details={} if assembly.adapters[engine.label].capabilities.streaming else {"streaming": False},
            )
            for engine in assembly.spec.engines
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def use(self, engine: EngineSpec) -> Endpoint | None:
        """Where `engine` answers, after it has been started if it was not up; None when told to stop meanwhile.

        Ends the engine that was up before. Raises EngineStartError.
        """
        alive = self._label == engine.label and self.ending() is None
        if alive and self._endpoint is not None:
            return self._endpoint
        self.stop()
        try:
            endpoint = self._attach(engine, engine.url) if engine.url is not None else self._start(engine)
        except EngineStartError as error:
            raise _with_age(error, engine) from None
        if endpoint is not None:
            self._refuse_wrong_model(engine, endpoint)
            self._label, self._endpoint = engine.label, endpoint
        return endpoint

    def _refuse_wrong_model(self, engine: EngineSpec, endpoint: Endpoint) -> None:
        adapter, model = self._assembly.adapters[engine.label], self._assembly.options(engine).model
        problem = find_problem(adapter, endpoint, model)
        if problem is not None:
            raise EngineStartError(f"{engine.label}: {problem}")

    def watched(self, engine: EngineSpec) -> Watched:
        """What there is to read of `engine` beside its answers; only while it is in use."""
        assert self._endpoint is not None
        return watched(engine, self._assembly.adapters[engine.label], self._endpoint, self._process)

    def ending(self, wait_s: float = 0.0) -> str | None:
        """How the engine in use ended, in words; None while it runs.

        `wait_s`: how long to wait for its end, where its connections say that it may be about to. A server that was
        attached to is looked for only then.
        """
        if self._process is None:
            return None if self._endpoint is None or not wait_s else self._silence(self._endpoint, wait_s)
        give_up = time.monotonic() + wait_s
        while self._process.poll() is None:
            if time.monotonic() >= give_up:
                return None
            time.sleep(_CHECK_S)
        return self._process.ending()

    def _silence(self, endpoint: Endpoint, wait_s: float) -> str | None:
        try:
            knock(endpoint, wait_s)
        except OSError as error:
            return f"no longer answers at {endpoint.url} ({error.strerror or error})"
        return None

    def stop(self) -> None:
        """End the engine in use, if it was started here."""
        process, self._process, self._label, self._endpoint = self._process, None, None, None
        if process is not None:
            process.stop()

    def _attach(self, engine: EngineSpec, url: str) -> Endpoint:
        endpoint = registry.url_endpoint(url, self._assembly.api_key(engine), engine.tls_ca)
        timeout_s = self._assembly.spec.measure.timeouts.connect_s
        try:
            knock(endpoint, timeout_s)
        except OSError as error:
            raise EngineStartError(
                f"{engine.label}: nobody answers at {url} ({error.strerror or error}); start the server, or correct "
                "the url."
            ) from None
        self._note_facts(engine.label, ask_facts(endpoint))
        return endpoint

    def _start(self, engine: EngineSpec) -> Endpoint | None:
        plan = self._assembly.adapters[engine.label].launch_plan(self._assembly.options(engine), free_port())
        assert plan is not None, "checked when the run was assembled"
        plan = replace(plan, argv=(*(engine.prefix or ()), *plan.argv))
        log = self._logs[engine.label]
        self._process = EngineProcess.start(engine.label, plan, log)
        self._note(
            engine.label,
            command=self._redactor.argv(plan.argv),
            url=plan.endpoint.url,
            pid=self._process.pid,
            log=f"{log.parent.name}/{log.name}",
            packages=_packages(engine.name),
        )
        if not self._process.wait_ready(stopped=self._stopped):
            return None
        endpoint = replace(plan.endpoint, api_key=self._assembly.api_key(engine))
        bundled = sys.executable in plan.argv
        by_http = replace(endpoint, port=plan.ready_port or endpoint.port)
        facts = ServerFacts(importlib.metadata.version("llmbench")) if bundled else ask_facts(by_http)
        self._note_facts(engine.label, facts)
        self._note_details(engine.label, **read_log_facts(log, plan.log_facts))
        if (cpus := self._process.cpus()) is not None:
            self._note_details(engine.label, cpus=[*cpus])
        return endpoint

    def _note_facts(self, label: str, facts: ServerFacts) -> None:
        self._note(label, version=facts.version)
        self._note_details(label, **facts.details)

    def _note_details(self, label: str, **details: JsonValue) -> None:
        self._note(label, details={**self.manifests[label].details, **details})

    def _note(self, label: str, **facts: object) -> None:
        self.manifests[label] = self.manifests[label].model_copy(update=facts)


def _with_age(error: EngineStartError, engine: EngineSpec) -> EngineStartError:
    """`error`, and what its environment was made by where that is not what this llmbench would make it by."""
    recipe = registry.recipes().get(engine.name) if engine.url is None else None
    own = None if recipe is None else environment(recipe)
    if own is None or own.outdated is None:
        return error
    age = f" Its environment was installed {own.outdated}: {install_command(own)}"
    return EngineStartError(error.sentence + age, str(error).removeprefix(error.sentence))


def _packages(engine: str) -> tuple[str, ...]:
    """What the engine's own environment holds; nothing for one that lives in ours."""
    recipe = registry.recipes().get(engine)
    return () if recipe is None else environment(recipe).lock()
