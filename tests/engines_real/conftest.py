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

Ask = Callable[..., list[DecodedAnswer]]
TIMEOUTS = {"connect_s": 5.0, "first_token_s": 60.0, "idle_s": 20.0, "total_s": 90.0}


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


def _ask(
    adapter: Adapter, endpoint: Endpoint, requests: Sequence[GenerationRequest], **timeouts: float
) -> list[DecodedAnswer]:
    """The answers in the order of `requests`, four under way at a time."""
    timelines = {}
    run_load(
        [Outgoing(request.request_id, None, adapter.encode(request, endpoint)) for request in requests],
        concurrency=4,
        timeouts=TimeoutSpec(**TIMEOUTS | timeouts),
        on_done=timelines.__setitem__,
        stop=StopFlag(),
    )
    return [adapter.decode(request, timelines[request.request_id]) for request in requests]


@pytest.fixture(scope="session")
def ask() -> Ask:
    return _ask


@pytest.fixture(scope="session")
def greedy(model: ModelRef) -> Callable[[Sequence[str], int], list[str]]:
    """What the bundled engine says to prompts in this process, without a server: a function of them and a length."""
    from llmbench.reference_engine.config import EngineConfig
    from llmbench.reference_engine.engine import Engine
    from llmbench.reference_engine.sampling import SamplingParams
    from llmbench.reference_engine.tokenizer import Tokenizer

    tokenizer = Tokenizer(model.path)
    engine = Engine(EngineConfig(model_path=model.path))

    def generate(prompts: Sequence[str], num_tokens: int) -> list[str]:
        for number, prompt in enumerate(prompts):
            params = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
            engine.add_request(str(number), tokenizer.encode(prompt), params)
        streams = [tokenizer.stream() for _ in prompts]
        texts = ["" for _ in prompts]
        while engine.has_work():
            for output in engine.step():
                number = int(output.request_id)
                texts[number] += "".join(map(streams[number].push, output.new_token_ids))
        return texts

    return generate


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
