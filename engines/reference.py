"""The bundled engine, as a child process behind its own OpenAI server. Only its command line is known here."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from llmbench.engines.adapter import EngineError, EngineOptions, LaunchPlan
from llmbench.engines.launch_flags import flags
from llmbench.engines.openai import Dialect, OpenAIAdapter
from llmbench.engines.wire import Endpoint

# The first start compiles the kernels, which takes half a minute on free cores and minutes on taken ones.
STARTUP_TIMEOUT_S = 300.0

DIALECT = Dialect(name="reference")
_FLAGS = (
    "batching",
    "block_size",
    "device",
    "dtype",
    "eviction",
    "graphs",
    "kernels",
    "kv_cache_gib",
    "max_batch_delay_ms",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "no_prefix_cache",
    "num_blocks",
    "num_speculative_tokens",
    "num_swap_blocks",
    "preemption",
    "quantization",
    "seed",
    "speculative",
    "speculative_max_seqs",
    "step_order",
    "threads",
)


class ReferenceAdapter(OpenAIAdapter):
    """Settings are the options of `python -m llmbench.reference_engine serve`, with underscores; `args` follow them."""

    def __init__(self, dialect: Dialect | None = None, settings: Mapping[str, object] | None = None) -> None:
        super().__init__(dialect or DIALECT, settings)

    def launch_settings(self) -> Iterable[str]:
        return _FLAGS

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        if options.model_path is None:
            raise EngineError(
                f"reference needs a checkpoint folder to serve, and the model {options.model!r} is only a name here; "
                "set `model` to a folder or to synthetic:NAME."
            )
        self.with_settings(options.settings)
        argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", options.model_path]
        argv += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", options.model]
        argv += flags({name: options.settings[name] for name in _FLAGS if name in options.settings}, self.name)
        return LaunchPlan(
            argv=(*argv, *options.args),
            endpoint=Endpoint("127.0.0.1", port),
            env=options.env,
            startup_timeout_s=max(options.startup_timeout_s, STARTUP_TIMEOUT_S),
        )
