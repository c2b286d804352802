"""Everything a run needs, checked before anything is started or sent."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmbench.engines import registry
from llmbench.engines.adapter import Adapter, EngineOptions
from llmbench.harness.errors import ConfigError
from llmbench.harness.models import ModelRef, resolve_model
from llmbench.harness.plan import RunPlan, plan
from llmbench.workloads.prompts import TextTokenizer, load_tokenizer
from llmbench.workloads.spec import EngineSpec, WorkloadSpec


@dataclass(frozen=True, slots=True)
class Assembly:
    """A checked run. `spec.engines` are the engines picked; `adapters` is keyed by their labels."""

    spec: WorkloadSpec
    model: ModelRef
    tokenizer: TextTokenizer | None
    plan: RunPlan
    adapters: Mapping[str, Adapter]

    def options(self, engine: EngineSpec) -> EngineOptions:
        """What the engine's adapter is told."""
        path = self.model.path
        return EngineOptions(
            name=engine.name,
            model=engine.model or self.model.name,
            model_path=None if path is None else str(path),
            url=engine.url,
            args=tuple(engine.args),
            env=dict(engine.env),
            settings=dict(engine.settings),
            startup_timeout_s=engine.startup_timeout_s,
        )


def assemble(spec: WorkloadSpec, picked: Sequence[str] = ()) -> Assembly:
    """The run that `spec` asks for, on the engines named in `picked` (labels or names; all when empty).

    Makes a synthetic model that is not there yet, since exact prompts need its tokenizer; starts no engine and sends
    nothing. Raises ConfigError, EngineError or WorkloadError for what cannot be run as asked.
    """
    spec = spec.model_copy(update={"engines": pick_engines(spec.engines, picked)})
    adapters = {engine.label: registry.get(engine.name) for engine in spec.engines}
    needs_checkpoint = any(engine.url is None for engine in spec.engines)
    model = resolve_model(spec.model, spec.tokenizer, needs_checkpoint)
    if model.tokenizer_path is None and spec.prompts.kind == "synthetic":
        raise ConfigError(
            f"prompts: synthetic prompts of exact length need the model's tokenizer, and {spec.model!r} has no "
            "tokenizer.json here; set `tokenizer` to one."
        )
    tokenizer = None if model.tokenizer_path is None else load_tokenizer(model.tokenizer_path)
    laid_out = plan(spec, spec.engines, tokenizer, model.name)
    check_context(laid_out, model)
    assembly = Assembly(spec, model, tokenizer, laid_out, adapters)
    for engine in spec.engines:
        # A launch plan is data: asking for one now finds an unusable engine before another one has run for an hour.
        if engine.url is None and adapters[engine.label].launch_plan(assembly.options(engine), port=0) is None:
            raise ConfigError(
                f"engines: {engine.name} is not started by llmbench; give the url where it listens, "
                f"e.g. engines: [{{{engine.name}: {{url: http://127.0.0.1:8000}}}}]."
            )
    return assembly


def pick_engines(engines: Sequence[EngineSpec], picked: Sequence[str]) -> tuple[EngineSpec, ...]:
    """The engines whose label or name is in `picked`, in the workload's order; all of them when `picked` is empty."""
    known = [engine.label for engine in engines]
    for name in picked:
        if not any(name in (engine.label, engine.name) for engine in engines):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"--engine {name}: the workload asks {', '.join(known)}{hint}; --set engines=[{name}] asks another."
            )
    return tuple(engine for engine in engines if not picked or engine.label in picked or engine.name in picked)


def check_context(laid_out: RunPlan, model: ModelRef) -> None:
    """Raise ConfigError for the first request whose prompt and answer do not fit the model's context."""
    if model.max_model_len is None:
        return
    for trial in laid_out.trials:
        for request in (*trial.warmup, *trial.requests):
            if request.prompt_tokens is None:
                continue
            needed = request.prompt_tokens + request.generation.max_tokens
            if needed > model.max_model_len:
                kind = "warm-up request" if request.warmup else "request"
                raise ConfigError(
                    f"{kind} {request.index} of round {trial.round} needs {needed} tokens ({request.prompt_tokens} of "
                    f"prompt, {request.generation.max_tokens} of output), and the context of {model.name} is "
                    f"{model.max_model_len} tokens. Lower prompts.prompt_tokens or prompts.output_tokens."
                )
