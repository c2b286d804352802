"""What may be stored of command lines, environments and workloads."""

from __future__ import annotations

import pytest

from llmbench.harness.redaction import HIDDEN, Redactor, is_secret_name, secrets_in_env


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "--api-key", "api_key", "OPENAI_API_KEY", "--hf-token", "password", "engines.0.env.HF_TOKEN"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["--max-num-batched-tokens", "tokenizer", "api_key_env", "prompt_tokens", "--max-tokens", "key_frames", ""]
)
def test_names_that_only_look_like_it(name: str) -> None:
    assert not is_secret_name(name)


def test_a_command_line_loses_values_and_keeps_its_shape() -> None:
    argv = ["vllm", "serve", "--api-key", "sk-1", "--port", "8000", "--hf-token=abc", "--max-tokens", "5"]
    shown = Redactor().argv(argv)
    assert shown == (
        "vllm",
        "serve",
        "--api-key",
        HIDDEN,
        "--port",
        "8000",
        f"--hf-token={HIDDEN}",
        "--max-tokens",
        "5",
    )


def test_an_option_without_a_value_does_not_hide_the_next_option() -> None:
    assert Redactor().argv(["--auth", "--port", "1"]) == ("--auth", "--port", "1")


def test_a_known_secret_is_hidden_wherever_it_stands() -> None:
    redactor = Redactor(["hunter2-hunter2", "hunter2"])
    workload = {"engines": [{"env": {"HF_TOKEN": "x"}, "args": ["--header=hunter2-hunter2"], "n": 3}], "seed": None}
    assert redactor.json(workload) == {
        "engines": [{"env": {"HF_TOKEN": HIDDEN}, "args": [f"--header={HIDDEN}"], "n": 3}],
        "seed": None,
    }


def test_secrets_of_an_environment() -> None:
    assert secrets_in_env({"HF_TOKEN": "a", "OMP_NUM_THREADS": "2"}) == ["a"]
