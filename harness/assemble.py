"""Everything a run needs, checked before anything is started or sent."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmbench.engines import registry
from llmbench.engines.adapter import Adapter, EngineOptions
from llmbench.engines.wire import GenerationRequest
from llmbench.harness.errors import ConfigError
from llmbench.harness.models import ModelRef, resolve_model
from llmbench.harness.plan import RunPlan, Trial, plan
from llmbench.harness.trust import tls_context
from llmbench.workloads.prompts import TextTokenizer, load_tokenizer
from llmbench.workloads.spec import EngineSpec, WorkloadSpec

# A setting of every engine, and the harness's own business: the environment variable that holds the API key.
API_KEY_ENV = "api_key_env"


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
        return engine_options(engine, self.model)

    def api_key(self, engine: EngineSpec) -> str | None:
        """The key that the engine's `settings.api_key_env` points to; None where there is no such setting.

        Raises ConfigError for a variable that is not set. A key is never read from a workload: workloads are stored.
        """
        variable = engine.settings.get(API_KEY_ENV)
        if variable is None:
            return None
        if not isinstance(variable, str) or not variable:
            raise ConfigError(
                f"engines: settings.{API_KEY_ENV} of {engine.label} must name an environment variable, "
                f"e.g. OPENAI_API_KEY; got {variable!r}."
            )
        key = os.environ.get(variable)
        if not key:
            raise ConfigError(
                f"engines: settings.{API_KEY_ENV} of {engine.label} names {variable}, which is not set; "
                f"export {variable}=… first."
            )
        return key


def adapter_settings(engine: EngineSpec) -> dict[str, object]:
    """The settings that the engine's adapter is to understand."""
    return {name: value for name, value in engine.settings.items() if name != API_KEY_ENV}


def engine_options(engine: EngineSpec, model: ModelRef) -> EngineOptions:
    """What the adapter of `engine` is told."""
    return EngineOptions(
        name=engine.name,
        model=engine.model or model.name,
        model_path=None if model.path is None else str(model.path),
        url=engine.url,
        args=tuple(engine.args),
        env=dict(engine.env),
        settings=adapter_settings(engine),
        startup_timeout_s=engine.startup_timeout_s,
    )


def assemble(spec: WorkloadSpec, picked: Sequence[str] = ()) -> Assembly:
    """The run that `spec` asks for, on the engines named in `picked` (labels or names; all when empty).

    Makes a synthetic model that is not there yet, since exact prompts need its tokenizer; starts no engine and sends
    nothing. Raises ConfigError, EngineError or WorkloadError for what cannot be run as asked.
    """
    spec = spec.model_copy(update={"engines": pick_engines(spec.engines, picked)})
    adapters = {engine.label: registry.get(engine.name, adapter_settings(engine)) for engine in spec.engines}
    for engine in spec.engines:
        if engine.url is None:
            registry.require(engine.name)
        if engine.tls_ca is not None:
            tls_context(engine.tls_ca)
    # Whether a launched engine can do with a mere name (of a model hub, say) is its adapter's to know.
    model = resolve_model(spec.model, spec.tokenizer, needs_checkpoint=False)
    for engine in spec.engines:
        # A launch plan is data: asking for one now finds an unusable engine before another one has run for an hour.
        if engine.url is None and adapters[engine.label].launch_plan(engine_options(engine, model), port=0) is None:
            raise ConfigError(
                f"engines: {engine.name} is not started by llmbench; give the url where it listens, "
                f"e.g. engines: [{{{engine.name}: {{url: http://127.0.0.1:8000}}}}]."
            )
    if model.tokenizer_path is None and spec.prompts.kind == "synthetic":
        raise ConfigError(
            f"prompts: synthetic prompts of exact length need the model's tokenizer, and {spec.model!r} has no "
            "tokenizer.json or tokenizer.model here; set `tokenizer` to one."
        )
    tokenizer = None if model.tokenizer_path is None else load_tokenizer(model.tokenizer_path)
    laid_out = plan(spec, spec.engines, tokenizer, model.name)
    check_context(laid_out.trials, model, tokenizer)
    assembly = Assembly(spec, model, tokenizer, laid_out, adapters)
    for engine in spec.engines:
        assembly.api_key(engine)
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


def check_context(trials: Iterable[Trial], model: ModelRef, tokenizer: TextTokenizer | None) -> None:
    """Raise ConfigError for the first request whose prompt and answer do not fit the model's context.

    In a conversation all that was said before counts too, each answer with the most tokens it may have. Words that
    nobody can count, as there is no tokenizer, count as none.
    """
    if model.max_model_len is None:
        return
    for trial in trials:
        said_tokens: dict[str, int] = {}
        for request in (*trial.warmup, *trial.requests):
            prompt_tokens = request.prompt_tokens or 0
            if request.after is not None:
                prompt_tokens = said_tokens[request.after] + _num_own_tokens(request.generation, tokenizer)
            needed = said_tokens[request.request_id] = prompt_tokens + request.generation.max_tokens
            if needed > model.max_model_len:
                kind = "warm-up request" if request.warmup else "request"
                lower = "prompts.prompt_tokens or prompts.output_tokens"
                if request.after is not None:
                    lower = f"prompts.turns, {lower}"
                raise ConfigError(
                    f"{kind} {request.index} of round {trial.round} needs {needed} tokens ({prompt_tokens} of "
                    f"prompt, {request.generation.max_tokens} of output), and the context of {model.name} is "
                    f"{model.max_model_len} tokens. Lower {lower}."
                )


def _num_own_tokens(turn: GenerationRequest, tokenizer: TextTokenizer | None) -> int:
    if tokenizer is None:
        return 0
    texts = [turn.prompt or "", *(message.content for message in turn.messages or ())]
    return sum(len(tokenizer.encode(text)) for text in texts if text)
