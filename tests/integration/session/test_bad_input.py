"""Everything a user may get wrong before a request is sent: one clear sentence and the right exit code."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmbench.engines import recipe
from llmbench.harness import packet_clock
from llmbench.harness.cli import main

GOOD = """\
name: small
model: toy
engines: [simulated]
prompts: {kind: text, path: prompts.txt, output_tokens: 5}
traffic:
  requests: 8
  arrivals: {kind: poisson, rate: 8}
"""


Refused = Callable[..., str]


@pytest.fixture
def refused(workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """What `llmbench run` says when it refuses: no traceback, nothing on stdout, no run directory."""

    def run(*arguments: str) -> str:
        monkeypatch.chdir(workplace.folder)
        monkeypatch.setattr(sys, "argv", ["llmbench", "run", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert ended.value.code == 2, said.err
        assert said.err.startswith("llmbench: ")
        assert "Traceback" not in said.err
        assert said.out == ""
        assert not (workplace.folder / "runs").exists()
        return said.err

    return run


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("rate: 8}", "rate: 8", ["w.yaml:8:1: not valid YAML"]),
        ("requests: 8", "requets: 8", ["w.yaml:6:3", "unknown field", "did you mean 'requests'"]),
        ("requests: 8", "requests: many", ["w.yaml:6:13", "'traffic.requests'", "given 'many'", "a whole number"]),
        ("rate: 8", "rate: -8", ["w.yaml:7:35", "'traffic.arrivals.rate'", "given -8", "a number > 0"]),
        ("kind: poisson", "kind: poison", ["w.yaml:7:20", "given 'poison'", "did you mean 'poisson'"]),
        ("[simulated]", "[simulatd]", ["There is no engine 'simulatd'", "did you mean simulated"]),
        ("[simulated]", "[openai]", ["openai is not started by llmbench", "give the url"]),
        ("[simulated]", "[{simulated: {settings: {tft_ms: 5}}}]", ["no setting 'tft_ms'", "did you mean ttft_ms"]),
        ("[simulated]", "[{simulated: {settings: {ttft_ms: -5}}}]", ["ttft_ms must be between 0 and"]),
        ("prompts.txt", "no_such.txt", ["w.yaml:4:29", "field 'prompts.path': there is no file '/", "no_such.txt"]),
        ("model: toy", "model: ./no_such_model", ["no_such_model' is no folder here"]),
        ("model: toy", "model: synthetic:no-such", ["model: 'synthetic:no-such' could not be made"]),
        (
            "[simulated]",
            "[{reference: {settings: {max_num_seqs: abc}}}]",
            ["settings.max_num_seqs of reference must be a whole number from 1; got 'abc'"],
        ),
        ("[simulated]", "[reference]", ["reference needs a checkpoint folder", "'toy' is only a name"]),
    ],
    ids=[
        "yaml-syntax",
        "typo-in-a-field",
        "wrong-type",
        "negative-rate",
        "typo-in-a-kind",
        "typo-in-an-engine",
        "no-url",
        "typo-in-a-setting",
        "setting-out-of-range",
        "no-prompt-file",
        "no-model-folder",
        "no-such-synthetic-model",
        "setting-of-a-wrong-type",
        "no-checkpoint",
    ],
)
def test_a_workload_that_is_wrong(workplace: Any, refused: Refused, old: str, new: str, said: list[str]) -> None:
    assert old in GOOD
    (workplace.folder / "w.yaml").write_text(GOOD.replace(old, new))
    error = refused("w.yaml")
    for words in said:
        assert words in error


def test_an_engine_that_this_machine_cannot_start(
    workplace: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "has_nvidia_gpu", lambda: False)
    (workplace.folder / "w.yaml").write_text(GOOD.replace("[simulated]", "[simulated, mii]"))
    error = refused("w.yaml")
    assert "mii cannot be started here: its own engine computes on NVIDIA GPUs alone" in error
    assert 'give its url: engines: [{mii: {url: "grpc://host:50050"}}].' in error


def test_a_workload_that_is_not_there(workplace: Any, refused: Refused) -> None:
    error = refused("quickstrat")
    assert "quickstrat: there is no such file and no shipped workload of that name; did you mean 'quickstart'?" in error


def test_an_override_that_is_wrong(workplace: Any, refused: Refused) -> None:
    (workplace.folder / "w.yaml").write_text(GOOD)
    assert "--set traffic.arrivals.rate=-1" in refused("w.yaml", "--set", "traffic.arrivals.rate=-1")


def test_an_engine_that_the_workload_does_not_ask(workplace: Any, refused: Refused) -> None:
    (workplace.folder / "w.yaml").write_text(GOOD)
    assert "the workload asks simulated (did you mean simulated?)" in refused("w.yaml", "--engine", "simulate")


def test_a_model_folder_without_a_config(workplace: Any, refused: Refused) -> None:
    (workplace.folder / "model").mkdir()
    (workplace.folder / "w.yaml").write_text(GOOD.replace("toy", "model").replace("simulated", "reference"))
    assert "has no config.json, so it is no checkpoint folder" in refused("w.yaml")


def test_a_prompt_longer_than_the_model_s_context(workplace: Any, refused: Refused) -> None:
    model = workplace.folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 16}))
    (model / "tokenizer.json").write_text(_tokenizer())
    text = GOOD.replace("toy", "model").replace("output_tokens: 5", "output_tokens: 15")
    (workplace.folder / "w.yaml").write_text(text)
    error = refused("w.yaml")
    assert "and the context of model is 16 tokens. Lower prompts.prompt_tokens or prompts.output_tokens." in error


def test_a_truncated_checkpoint_shows_the_engine_s_own_words(workplace: Any) -> None:
    pytest.importorskip("torch")
    made = workplace.run("models", "create", "synthetic:llama-tiny", "--out", "model")
    assert made.returncode == 0, made.stderr
    [weights, *_] = sorted(Path(workplace.folder / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    text = GOOD.replace("toy", "model").replace("simulated", "reference")
    (workplace.folder / "w.yaml").write_text(text)
    done = workplace.run("run", "w.yaml", "--out", "out")
    assert done.returncode == 4, done.stderr
    assert "reference ended with code" in done.stderr
    assert "safetensors" in done.stderr
    assert "out/logs/reference.log" in done.stderr


def test_a_port_in_use(workplace: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        engine = f"[{{simulated: {{args: ['--port', '{port}'], startup_timeout_s: 20}}}}]"
        (workplace.folder / "w.yaml").write_text(GOOD.replace("[simulated]", engine))
        done = workplace.run("run", "w.yaml", "--out", "out")
    assert done.returncode == 4, done.stderr
    assert "address already in use" in done.stderr.lower()
    assert str(port) in done.stderr


def _tokenizer() -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab={chr(code): code for code in range(256)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return str(tokenizer.to_str())


def test_the_packet_clock_without_the_right_to_it(
    workplace: Any, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def socket_without_rights(family: int = socket.AF_INET, *arguments: int) -> socket.socket:
        if family == socket.AF_PACKET:
            raise PermissionError(1, "Operation not permitted")
        return real_socket(family, *arguments)

    real_socket = socket.socket
    monkeypatch.setattr(packet_clock.socket, "socket", socket_without_rights)
    said = refused(workplace.workload(measure={"clock": "packet"}))
    assert "CAP_NET_RAW" in said
