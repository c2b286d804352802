"""Engines are found by name, and what is wrong is said in a sentence."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmbench.engines import environments, registry
from llmbench.engines import recipe as recipe_module
from llmbench.engines.adapter import EngineError, EngineOptions, MissingPackageError
from llmbench.engines.environments import Environment
from llmbench.engines.mii_launcher import placement
from llmbench.engines.recipe import Recipe
from llmbench.harness.cli import app
from llmbench.harness.errors import ConfigError


def test_every_engine_listed_can_be_had_and_bears_its_name() -> None:
    for name in registry.names():
        assert registry.get(name).name == name
    assert [info.name for info in registry.describe()] == list(registry.names())


def test_a_typo_gets_the_near_name() -> None:
    with pytest.raises(EngineError, match=r"no engine 'referense'.*did you mean reference\?"):
        registry.get("referense")


def test_listing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from llmbench.engines import registry; registry.describe(); registry.names();"
        "print([m for m in sys.modules if m in ('torch', 'httptools', 'llmbench.engines.reference')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_is_named_with_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'torch.*pip install "llmbench\[reference\]"'):
        registry.require("reference")
    assert {info.name: info.installed for info in registry.describe()}["reference"] is False
    registry.require("openai")


def test_the_reference_engine_is_started_with_its_settings_as_options() -> None:
    options = EngineOptions(
        "reference", "tiny", "/models/tiny", args=("--seed=3",), settings={"max_num_seqs": 8, "dtype": None}
    )
    plan = registry.get("reference").launch_plan(options, 8100)
    assert plan is not None
    assert plan.argv == (
        sys.executable,
        "-m",
        "llmbench.reference_engine",
        "serve",
        "--model",
        "/models/tiny",
        "--host",
        "127.0.0.1",
        "--port",
        "8100",
        "--served-model-name",
        "tiny",
        "--max-num-seqs=8",
        "--seed=3",
    )
    assert (plan.endpoint.url, plan.ready_path) == ("http://127.0.0.1:8100", "/health")


def test_a_model_that_is_only_a_name_cannot_be_served() -> None:
    with pytest.raises(EngineError, match="needs a checkpoint folder"):
        registry.get("reference").launch_plan(EngineOptions("reference", "gpt-x"), 8100)


def test_the_simulated_engine_knows_its_settings() -> None:
    options = EngineOptions("simulated", "m", settings={"ttft_ms": 50, "no_done": True, "log": "/tmp/x"})
    plan = registry.get("simulated").launch_plan(options, 8100)
    assert plan is not None
    assert plan.argv[-3:] == ("--ttft-ms=50", "--no-done", "--log=/tmp/x")
    with pytest.raises(EngineError, match=r"no setting 'tft_ms'.*did you mean ttft_ms\?"):
        registry.get("simulated", {"tft_ms": 50})
    with pytest.raises(EngineError, match=r"settings of simulated: itl_ms must be between 0 and"):
        registry.get("simulated", {"itl_ms": -1})


def test_an_engine_attached_by_url_is_not_started() -> None:
    assert registry.get("openai").launch_plan(EngineOptions("openai", "m", url="http://h:1"), 0) is None


@pytest.mark.parametrize("url", ["ftp://h", "h:80", "http://", "http://h:99999", "http://u:secret@h", "http://h?x=1"])
def test_urls_that_name_no_server(url: str) -> None:
    with pytest.raises(EngineError) as refused:
        registry.url_endpoint(url)
    assert "secret" not in str(refused.value)


def test_a_plugin_that_cannot_be_imported_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint("mine", "no_such_package.engine:Mine", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken])
    assert "mine" in registry.names()
    with pytest.raises(MissingPackageError, match="pip install no_such_package"):
        registry.get("mine")


def test_two_engines_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("mine", f"{module}:Mine", registry.GROUP) for module in ("one", "two")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    with pytest.raises(EngineError, match="one:Mine and two:Mine"):
        registry.names()
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("openai", "one:Mine", registry.GROUP)])
    with pytest.raises(EngineError, match="is built in"):
        registry.get("openai")


def test_doctor_tells_what_can_be_started_from_what_is_asked_where_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None if name == "grpc" else name)
    told = CliRunner().invoke(app, ["engines", "doctor"])
    assert told.exit_code == 3
    lines = dict(line.split(": ", 1) for line in told.output.splitlines())
    assert lines["ollama"] == "nothing to install; give the url where it runs"
    assert lines["simulated"] == "ready"
    assert lines["mii"] == 'not installed; pip install "llmbench[grpc]"'
    assert lines["vllm-offline"] == lines["vllm"]
    listed = CliRunner().invoke(app, ["engines", "list"]).output
    assert "no: pip install" in listed


def test_a_user_is_told_that_vllm_is_installed_for_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(wanted: Environment, say: object) -> None:
        raise EngineError("no more is wanted here")

    monkeypatch.setattr(environments, "install", nothing)
    told = CliRunner().invoke(app, ["engines", "install", "vllm"])
    assert "vLLM's build for CPUs" in told.output


def installed(recipe: Recipe, made_by: Recipe) -> Environment:
    """As `made_by` would have left it, but for the packages."""
    environment = environments.environment(recipe)
    environment.program.parent.mkdir(parents=True)
    environment.program.touch()
    (environment.path / environments.LOCK).write_text("toy==1.0\n")
    (environment.path / environments.MADE_BY).write_text(json.dumps(made_by.content()))
    return environment


def test_list_and_doctor_tell_an_environment_of_another_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    recipe = registry.recipes()["triton"]
    installed(recipe, replace(recipe, requirements=("numpy",)))
    told = CliRunner().invoke(app, ["engines", "doctor", "triton", "simulated"])
    words = "by another recipe (requirements)"
    assert told.output.splitlines() == [
        "simulated: ready",
        f"triton: installed {words}; llmbench engines install triton makes it anew",
    ]
    assert told.exit_code == 3
    listed = CliRunner().invoke(app, ["engines", "list"]).output
    assert f"yes, {words}: llmbench engines install triton" in listed


def test_doctor_is_well_where_nothing_is_missing_of_what_it_is_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    recipe = registry.recipes()["triton"]
    installed(recipe, recipe)
    told = CliRunner().invoke(app, ["engines", "doctor", "triton"])
    assert (told.output, told.exit_code) == ("triton: ready\n", 0)
    with pytest.raises(ConfigError, match=r"no engine 'tritn'.*did you mean triton\?"):
        CliRunner().invoke(app, ["engines", "doctor", "tritn"], catch_exceptions=False)


def test_mii_is_started_where_there_is_a_gpu_and_a_compiler_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(recipe_module, "has_nvidia_gpu", lambda: False)
    mii, options = registry.get("mii", {"serve": {"tensor_parallel": 2}}), EngineOptions("mii", "tiny", "/models/tiny")
    with pytest.raises(
        EngineError, match=r"mii cannot be started here.*GPUs alone, and this.*has none.*url: \"grpc://host:50050\""
    ):
        mii.launch_plan(options, 8100)
    told = CliRunner().invoke(app, ["engines", "doctor", "mii"]).output
    assert "mii: not installed; llmbench engines install mii\n" in told
    assert "mii: its own engine computes on NVIDIA GPUs alone" in told

    monkeypatch.setattr(recipe_module, "has_nvidia_gpu", lambda: True)
    monkeypatch.setattr(recipe_module, "_has_nvcc", lambda: False)
    with pytest.raises(EngineError, match="there is no nvcc here; install NVIDIA's CUDA toolkit"):
        mii.launch_plan(options, 8100)
    monkeypatch.setattr(recipe_module, "_has_nvcc", lambda: True)
    with pytest.raises(MissingPackageError, match="llmbench engines install mii"):
        mii.launch_plan(options, 8100)

    own = installed(registry.recipes()["mii"], registry.recipes()["mii"])
    plan = mii.launch_plan(replace(options, env={"CUDA_VISIBLE_DEVICES": "1"}), 8100)
    assert plan is not None
    python, isolated, launcher, *rest = plan.argv
    assert (python, isolated) == (str(own.path / "bin" / "python"), "-I")
    assert Path(launcher).is_file()
    assert rest == [
        *("--model", "/models/tiny", "--port", "8100", "--ready-port", str(plan.ready_port)),
        *("--serve", '{"tensor_parallel": 2}'),
    ]
    assert (plan.endpoint.url, plan.env["CUDA_VISIBLE_DEVICES"]) == ("http://127.0.0.1:8100", "1")
    with pytest.raises(EngineError, match=r"no command line: give --tensor-parallel 2 as settings\.serve"):
        mii.launch_plan(replace(options, args=("--tensor-parallel", "2")), 8100)


@pytest.mark.parametrize(
    ("serve", "visible", "device_map"),
    [
        ({}, "3", [[3]]),
        ({}, "3,1", [[3]]),
        ({"tensor_parallel": 2}, "2, 0", [[2, 0]]),
        ({"tensor_parallel": 2, "replica_num": 2}, "0,1,2,3", [[0, 1], [2, 3]]),
    ],
)
def test_mii_is_placed_by_the_usual_variable_although_it_drops_it(serve, visible, device_map) -> None:
    env = {"CUDA_VISIBLE_DEVICES": visible, "OTHER": "x"}
    assert placement(serve, env) == {"device_map": device_map}
    assert env == {"OTHER": "x"}


@pytest.mark.parametrize("visible", ["", "0", "GPU-1f2e,GPU-3d4c"])
def test_mii_is_not_started_on_gpus_that_it_cannot_have(visible: str) -> None:
    with pytest.raises(SystemExit, match="1 replicas of MII on 2 GPUs each take 2 numbers of GPUs"):
        placement({"tensor_parallel": 2}, {"CUDA_VISIBLE_DEVICES": visible})


def test_mii_s_own_map_of_devices_comes_first() -> None:
    assert placement({"device_map": [[4]]}, {"CUDA_VISIBLE_DEVICES": "1"}) == {}
    assert placement({}, {}) == {}
