"""vLLM without its server: `LLM.generate` on batches of prompts, in vLLM's own environment.

What it can show is throughput and how long a batch takes. An answer comes when its whole batch is done, so there is no
time to a first token and none between tokens, whatever the workload asks for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from llmbench.engines.adapter import (
    Capabilities,
    CountTokens,
    EngineError,
    EngineOptions,
    LaunchPlan,
    MissingPackageError,
)
from llmbench.engines.answer import Answer, count, read_answer, token_ids, whole_text
from llmbench.engines.environments import environment, install_command
from llmbench.engines.http_payload import post_json
from llmbench.engines.settings import mapping, refuse_unknown
from llmbench.engines.token_counts import Delta
from llmbench.engines.vllm import ENV, RECIPE, STARTUP_TIMEOUT_S
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest

_SERVER = Path(__file__).with_name("vllm_offline_server.py")
_GATHER_MS = 50.0


class VllmOfflineAdapter:
    """Settings are `engine`, keyword arguments of `vllm.LLM`; `sampling`, further fields of its SamplingParams; and
    `gather_ms`, how long prompts are gathered after the first before they are generated as one batch."""

    name = "vllm-offline"
    capabilities = Capabilities(streaming=False, chat=False, exact_token_counts=True)

    def __init__(self, settings: Mapping[str, object] | None = None) -> None:
        settings = settings or {}
        refuse_unknown(self.name, settings, ["engine", "gather_ms", "sampling"])
        self._engine = mapping(self.name, settings, "engine")
        self._sampling = mapping(self.name, settings, "sampling")
        gather_ms = settings.get("gather_ms", _GATHER_MS)
        if isinstance(gather_ms, bool) or not isinstance(gather_ms, int | float) or gather_ms < 0:
            raise EngineError(
                f"settings.gather_ms of {self.name} must be a number of ms, 0 or more; got {gather_ms!r}."
            )
        self._gather_ms = gather_ms

    def with_settings(self, settings: Mapping[str, object]) -> Self:
        """The same engine with a workload's `settings`. Raises EngineError for one it does not know."""
        return type(self)(settings)

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        if request.prompt is None:
            raise EngineError(
                f"Request {request.request_id} is a chat, and {self.name} takes prompts: set request.api to "
                "completions."
            )
        sampling: dict[str, Any] = {
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "ignore_eos": request.ignore_eos or None,
        }
        sampling |= self._sampling
        body = {
            "prompt": request.prompt,
            "sampling": {name: value for name, value in sampling.items() if value is not None},
        }
        return post_json(endpoint, "/generate", body, request.request_id, accept="application/json")

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        return read_answer(VllmOfflineAnswer(), timeline, count_tokens, streamed=False)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        """Raises MissingPackageError with the install command where vLLM's environment is not there."""
        installed = environment(RECIPE)
        if not installed.is_complete:
            raise MissingPackageError(
                f"vllm is not installed in an environment of llmbench: {install_command(installed)}"
            )
        model = options.model if options.model_path is None else options.model_path
        argv = [str(installed.path / "bin" / "python"), "-I", str(_SERVER), "--port", str(port)]
        argv += ["--engine", json.dumps({"model": model, **self._engine}), "--gather-ms", f"{self._gather_ms:g}"]
        return LaunchPlan(
            argv=(*argv, *options.args),
            endpoint=Endpoint("127.0.0.1", port),
            env={**ENV, **options.env},
            startup_timeout_s=max(options.startup_timeout_s, STARTUP_TIMEOUT_S),
        )


class VllmOfflineAnswer(Answer):
    """One object: the text, its tokens, both token counts and why it ended."""

    def take(self, body: dict[str, Any], chunk: int) -> None:
        text = body.get("text")
        if isinstance(text, str):
            self.has_answer = True
            self.prompt_tokens = count(body.get("prompt_tokens"))
            self.output_tokens = count(body.get("output_tokens"))
            finishes = self.finish(body.get("finish_reason"))
            ids = token_ids(body.get("token_ids"))
            self.deltas.append(Delta(chunk, whole_text(text), finishes=finishes, token_ids=ids))
