"""The bundled engine behind the real tritonserver, in an environment of its own."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from llmbench.engines.adapter import EngineError, EngineOptions, LaunchPlan, MissingPackageError
from llmbench.engines.environments import Environment, default_root, environment, install_command
from llmbench.engines.free_port import free_port
from llmbench.engines.recipe import Recipe
from llmbench.engines.settings import flag
from llmbench.engines.wire import Endpoint

# The wheel of PyTriton carries tritonserver with the Python backend. Its Python API, and what that asks for, is not
# needed. With numpy 2 the stub dies of the first request while the server goes on to say that it is ready.
RECIPE = Recipe(
    engine="triton",
    version="2.51.0",
    bare=("nvidia-pytriton==0.7.0",),
    requirements=("numpy==1.26.4", "torch>=2.9,<2.14", "safetensors>=0.4.5", "tokenizers>=0.22.2", "jinja2>=3.1.6"),
    program="python",
    pythons=(11, 12),
    disk_gib=1.5,
)

# The one option that says what is not to be.
_NO_PREFIX_CACHE = "no_prefix_cache"
# The options of the bundled engine, by the fields of its configuration that they become.
ENGINE_SETTINGS: Mapping[str, str] = {
    **{
        name: name
        for name in (
            *("batching", "block_size", "compaction", "device", "dtype", "eviction", "fairness", "graphs", "kernels"),
            *("kv_cache_dtype", "kv_cache_gib", "max_batch_delay_ms", "max_model_len", "max_num_batched_tokens"),
            *("max_num_seqs", "num_blocks", "num_kept_blocks", "num_speculative_tokens", "num_swap_blocks"),
            *("preemption", "quantization", "seed", "speculative", "speculative_max_seqs", "step_order"),
        )
    },
    "threads": "num_threads",
    _NO_PREFIX_CACHE: "prefix_cache",
}

_MODEL_SOURCE = "llmbench.reference_engine.triton_server"
_LAUNCHER = Path(__file__).with_name("triton_launcher.py")


def launch_plan(options: EngineOptions, port: int, protocol: Literal["http", "grpc"]) -> LaunchPlan:
    """How to start it with `protocol` on loopback `port`. Raises MissingPackageError where Triton is not installed,
    EngineError for a model that is no checkpoint folder."""
    installed = environment(RECIPE)
    if not installed.is_complete:
        raise MissingPackageError(
            f"triton is not installed in an environment of llmbench: {install_command(installed)}"
        )
    if options.model_path is None:
        raise EngineError(
            f"triton serves the bundled engine, which needs a checkpoint folder, and the model {options.model!r} is "
            "only a name here; set `model` to a folder or to synthetic:NAME, or give the url of a running server."
        )
    if "/" in options.model:
        raise EngineError(f"A model of triton is a folder of its repository, so its name has no slash: {options.model}")
    settings = {"kernels": "auto", **options.settings}
    fields = {field: settings[name] for name, field in ENGINE_SETTINGS.items() if settings.get(name) is not None}
    if "prefix_cache" in fields:
        fields["prefix_cache"] = not flag("triton", settings, _NO_PREFIX_CACHE, False)
    engine_json = json.dumps({"model_path": options.model_path, **fields}, sort_keys=True)
    # Readiness is asked for by HTTP whichever protocol carries the load.
    http_port = port if protocol == "http" else free_port()
    argv = [str(installed.program), "-I", str(_LAUNCHER), "--folder", str(_folder(installed, options, engine_json))]
    argv += ["--model-name", options.model, "--model-source", str(_model_source()), "--settings", engine_json]
    metrics_port = free_port()
    argv += ["--http-port", str(http_port), "--metrics-port", str(metrics_port)]
    argv += ["--grpc-port", str(port)] if protocol == "grpc" else []
    from llmbench.engines.reference import LOG_FACTS  # its adapter is loaded by name, as all of them are

    return LaunchPlan(
        argv=(*argv, "--", *options.args),
        endpoint=Endpoint("127.0.0.1", port),
        env=options.env,
        ready_path="/v2/health/ready",
        ready_port=http_port,
        metrics_port=metrics_port,
        startup_timeout_s=options.startup_timeout_s,
        log_facts=LOG_FACTS,
    )


def _folder(installed: Environment, options: EngineOptions, engine_json: str) -> Path:
    """Where the model repository is written: the same one for the same model and settings, so that few pile up."""
    content = f"{installed.path}\n{options.model}\n{engine_json}\n{_model_source()}"
    return default_root().parent / "triton" / hashlib.sha256(content.encode()).hexdigest()[:16]


def _model_source() -> Path:
    spec = importlib.util.find_spec(_MODEL_SOURCE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
