"""Engines are found by name, and what is wrong is said in a sentence."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llmbench.engines import environments, registry
from llmbench.engines.adapter import EngineError, EngineOptions, MissingPackageError
from llmbench.engines.environments import Environment
from llmbench.harness.cli import app


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
