"""A persistent deployment of DeepSpeed-MII, started in an environment of its own on a machine with an NVIDIA GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from llmbench.engines.adapter import EngineError, EngineOptions, LaunchPlan, MissingPackageError
from llmbench.engines.environments import environment, install_command
from llmbench.engines.free_port import free_port
from llmbench.engines.recipe import Recipe
from llmbench.engines.wire import Endpoint

# MII asks for a package `asyncio` that hides Python's own, and its OpenAI server for a few constants of fschat, which
# would bring much else: both are installed bare. DeepSpeed's build asks torch what to compile beforehand: nothing.
RECIPE = Recipe(
    engine="mii",
    version="0.3.3",
    requirements=(
        *("torch>=2.9,<2.14", "transformers>=4.57,<5", "setuptools", "ninja", "numpy", "packaging", "psutil"),
        *("hjson", "msgpack", "py-cpuinfo", "tqdm", "pydantic>=2", "einops", "safetensors"),
        *("grpcio", "protobuf", "pyzmq", "ujson", "flask-restful", "requests"),
        *("shortuuid", "fastapi", "uvicorn", "pydantic-settings"),
    ),
    bare=("deepspeed==0.19.8", "deepspeed-mii==0.3.3", "fschat==0.2.36"),
    build_env={"DS_BUILD_OPS": "0"},
    program="deepspeed",
    pythons=(11, 12),
    disk_gib=1.5,
    needs_nvcc=True,
    example_url='"grpc://host:50050"',
    note="DeepSpeed-MII's own engine computes on NVIDIA GPUs alone, and is compiled by nvcc when it first starts.",
)

# No model hub: a benchmark measures what is here. Nor is a folder looked into for modules where it happens to be run.
ENV = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "PYTHONSAFEPATH": "1"}

# The first start compiles the kernels.
STARTUP_TIMEOUT_S = 1200.0

_LAUNCHER = Path(__file__).with_name("mii_launcher.py")


def launch_plan(options: EngineOptions, port: int, serve: Mapping[str, object]) -> LaunchPlan:
    """How to start it with its load balancer on `port`, which it opens on every interface; `serve` are arguments of
    `mii.serve`.

    Raises EngineError on a machine that cannot run it, MissingPackageError where it is not installed.
    """
    if lacking := RECIPE.lacks():
        raise EngineError(f"mii cannot be started here: {' '.join(lacking)}")
    installed = environment(RECIPE)
    if not installed.is_complete:
        raise MissingPackageError(f"mii is not installed in an environment of llmbench: {install_command(installed)}")
    if options.args:
        raise EngineError(
            f"mii is started by a call and has no command line: give {' '.join(options.args)} as settings.serve."
        )
    # Readiness is asked for by HTTP, which MII itself does not speak.
    ready_port = free_port()
    model = options.model if options.model_path is None else options.model_path
    argv = [str(installed.path / "bin" / "python"), "-I", str(_LAUNCHER), "--model", model]
    argv += ["--port", str(port), "--ready-port", str(ready_port), "--serve", json.dumps(serve, sort_keys=True)]
    return LaunchPlan(
        argv=tuple(argv),
        endpoint=Endpoint("127.0.0.1", port),
        env={**ENV, **options.env},
        ready_port=ready_port,
        startup_timeout_s=max(options.startup_timeout_s, STARTUP_TIMEOUT_S),
    )
