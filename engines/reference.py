"""The bundled engine, as a child process behind its own server. Only its command line and protocols are known here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec

from llmbench.engines import metric_map, reference_settings
from llmbench.engines.adapter import (
    Capabilities,
    CountTokens,
    EngineError,
    EngineOptions,
    LaunchPlan,
    LogFacts,
    MissingPackageError,
)
from llmbench.engines.answer import read_messages
from llmbench.engines.free_port import free_port
from llmbench.engines.launch_flags import flags
from llmbench.engines.openai import Dialect, OpenAIAdapter
from llmbench.engines.settings import mapping
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest, Timeline, WireRequest

# The first start compiles the kernels, which takes half a minute on free cores and minutes on taken ones.
STARTUP_TIMEOUT_S = 300.0

DIALECT = Dialect(name="reference", ids_body={"return_token_ids": True}, metrics=metric_map.REFERENCE)
# The line that its engine logs once the model is loaded; behind Triton too.
LOG_FACTS = LogFacts(
    "engine loaded",
    {name: name for name in ("dtype", "kv_cache_dtype", "quantization", "device", "max_model_len")},
)
# Protocol to what it cannot do without.
_PACKAGES: Mapping[str, tuple[str, ...]] = {"http": (), "websocket": ("wsproto",), "grpc": ("grpc", "google")}


class ReferenceAdapter(OpenAIAdapter):
    """Settings are the options of `python -m llmbench.reference_engine serve`, with underscores; `args` follow them.

    `protocol` is http, websocket or grpc; attached to by url, WebSocket is what the url says.
    """

    def __init__(self, dialect: Dialect | None = None, settings: Mapping[str, object] | None = None) -> None:
        settings = settings or {}
        super().__init__(dialect or DIALECT, settings)
        reference_settings.check(settings, self.name)
        self._protocol = _protocol(settings.get("protocol", "http"))
        if self._protocol == "grpc":
            self._extra = mapping(self.name, settings, "extra_body")
            self.capabilities = Capabilities(exact_token_counts=True, metrics=self.dialect.metrics)

    def launch_settings(self) -> Iterable[str]:
        return (*reference_settings.SETTINGS, "protocol")

    def encode(self, request: GenerationRequest, endpoint: Endpoint) -> WireRequest:
        if self._protocol != "grpc":
            return super().encode(request, endpoint)
        from llmbench.engines import reference_grpc

        if not request.stream:
            raise EngineError("By gRPC the reference engine streams: leave request.stream true.")
        payload = reference_grpc.encode_request(request, self._extra)
        return WireRequest("grpc", endpoint, payload, reference_grpc.METHOD)

    def decode(
        self, request: GenerationRequest, timeline: Timeline, count_tokens: CountTokens | None = None
    ) -> DecodedAnswer:
        if self._protocol != "grpc":
            return super().decode(request, timeline, count_tokens)
        from llmbench.engines.reference_grpc import CallAnswer

        answer = CallAnswer()
        return read_messages(answer, timeline, count_tokens, answer.take_message, streamed=request.stream)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        if options.model_path is None:
            raise EngineError(
                f"reference needs a checkpoint folder to serve, and the model {options.model!r} is only a name here; "
                "set `model` to a folder or to synthetic:NAME."
            )
        self.with_settings(options.settings)
        reference_settings.check_draft(options.settings, self.name)
        # Readiness is asked for by HTTP whichever protocol carries the load.
        http_port = free_port() if self._protocol == "grpc" else port
        argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", options.model_path]
        argv += ["--host", "127.0.0.1", "--port", str(http_port), "--served-model-name", options.model]
        argv += ["--grpc-port", str(port)] if self._protocol == "grpc" else []
        known = {name: options.settings[name] for name in reference_settings.SETTINGS if name in options.settings}
        argv += flags(known, self.name)
        return LaunchPlan(
            argv=(*argv, *options.args),
            endpoint=replace(Endpoint("127.0.0.1", port), websocket=self._protocol == "websocket"),
            env=options.env,
            ready_port=http_port,
            metrics_port=http_port,
            startup_timeout_s=max(options.startup_timeout_s, STARTUP_TIMEOUT_S),
            log_facts=LOG_FACTS,
        )


def _protocol(setting: object) -> str:
    """The setting. Raises EngineError for one of no meaning, MissingPackageError where its package is not there."""
    if setting not in _PACKAGES:
        raise EngineError(f"settings.protocol of reference must be one of {', '.join(_PACKAGES)}; got {setting!r}.")
    protocol = str(setting)
    missing = [name for name in _PACKAGES[protocol] if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f'reference by {protocol} needs {", ".join(missing)}: pip install "llmbench[{protocol}]"'
        )
    return protocol
