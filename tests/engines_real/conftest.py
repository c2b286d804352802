"""Real engines, started as a run starts them, and asked through the load generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmbench.engines import registry
from llmbench.engines.adapter import Adapter, EngineOptions
from llmbench.engines.environments import environment, install_command
from llmbench.engines.recipe import Recipe
from llmbench.engines.wire import DecodedAnswer, Endpoint, GenerationRequest
from llmbench.harness.loadgen import Outgoing, StopFlag, run_load
from llmbench.harness.models import ModelRef, resolve_model
from llmbench.harness.process import EngineProcess, free_port
from llmbench.workloads.spec import TimeoutSpec

Ask = Callable[[Adapter, Endpoint, Sequence[GenerationRequest]], list[DecodedAnswer]]


def _skip_unless_installed(recipe: Recipe) -> None:
    wanted = environment(recipe)
    if not wanted.is_complete:
        pytest.skip(f"{recipe.engine} {recipe.version} is not installed here: {install_command(wanted)}")


@pytest.fixture(scope="session")
def model() -> ModelRef:
    pytest.importorskip("torch", reason="the extra llmbench[reference] is not installed")
    return resolve_model("synthetic:llama-20m", None, needs_checkpoint=True)


@pytest.fixture(scope="module")
def start(model: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., EngineProcess]]:
    """Starts an engine by name on `model` and waits until it is ready; all are stopped at the end of the module.

    Skips the test, saying why, where the engine has no complete environment in the cache.
    """
    processes: list[EngineProcess] = []

    def start_engine(name: str, **options: object) -> EngineProcess:
        if (recipe := registry.recipes().get(name)) is not None:
            _skip_unless_installed(recipe)
        given = EngineOptions(name=name, model=model.name, model_path=str(model.path))
        plan = registry.get(name, options.get("settings")).launch_plan(replace(given, **options), free_port())
        process = EngineProcess.start(name, plan, tmp_path_factory.mktemp("logs") / f"{name}.log")
        processes.append(process)
        process.wait_ready()
        return process

    yield start_engine
    for process in processes:
        process.stop()


def ask_engine(adapter: Adapter, endpoint: Endpoint, requests: Sequence[GenerationRequest]) -> list[DecodedAnswer]:
    """The answers in the order of `requests`, four under way at a time."""
    timelines = {}
    run_load(
        [Outgoing(request.request_id, None, adapter.encode(request, endpoint)) for request in requests],
        concurrency=4,
        timeouts=TimeoutSpec(connect_s=5, first_token_s=60, idle_s=20, total_s=90),
        on_done=timelines.__setitem__,
        stop=StopFlag(),
    )
    return [adapter.decode(request, timelines[request.request_id]) for request in requests]


@pytest.fixture
def ask() -> Ask:
    return ask_engine


STANDINS = Path(__file__).parents[1] / "data" / "triton_standins"


@pytest.fixture(scope="module")
def standins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository with a stand-in per backend's shape."""
    repository = tmp_path_factory.mktemp("standins")
    for config in STANDINS.glob("*.pbtxt"):
        version = repository / config.stem / "1"
        version.mkdir(parents=True)
        (version / "model.py").symlink_to(STANDINS / "model.py")
        (version.parent / "config.pbtxt").symlink_to(config)
    return repository
