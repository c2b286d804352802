"""Text Generation Inference by llmbench's own transport and by huggingface_hub's client, on a router of the protocol.

The router's answers, and what it is sent, are held against TGI's own OpenAPI document.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tgi_router
from jsonschema import Draft202012Validator
from workplace import Workplace, eventually

from llmbench.engines import registry
from llmbench.engines.wire import Endpoint, GenerationRequest
from llmbench.harness.process import free_port
from llmbench.results.run import Run

DOCUMENT = json.loads((Path(__file__).parents[2] / "data" / "tgi_openapi.json").read_text())
SUPPORT = Path(tgi_router.__file__).parent
HUB = {"client": "huggingface_hub"}


def _with_null(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable`, in the words of JSON Schema."""
    if isinstance(schema, list):
        return [_with_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: _with_null(value) for name, value in schema.items() if name != "nullable"}
    return {"anyOf": [{"type": "null"}, inner]} if schema.get("nullable") is True else inner


def check(name: str, value: object) -> None:
    """Raise jsonschema.ValidationError if `value` is not what the document calls `name`."""
    document = {**_with_null(DOCUMENT), "$ref": f"#/components/schemas/{name}"}
    Draft202012Validator(document).validate(value)


def test_the_router_speaks_as_the_document_says() -> None:
    check("Info", tgi_router.INFO)
    for prompt in ("a b", "short a b", "overload", "fail a", "cut a"):
        body = {"inputs": prompt, "parameters": {"max_new_tokens": 4, "details": True}}
        for event in tgi_router.stream_events(body):
            if event != tgi_router.KEEP_ALIVE:
                said = json.loads(event.removeprefix(b"data:"))
                check("ErrorResponse" if "error" in said else "StreamResponse", said)
        status, answer = tgi_router.whole_answer(body)
        check("GenerateResponse" if status == 200 else "ErrorResponse", answer)


@pytest.mark.parametrize("stream", [True, False])
def test_what_is_sent_is_what_the_document_asks_for(stream: bool) -> None:
    request = GenerationRequest(
        "r", "m", 4, prompt="x", stream=stream, temperature=0.5, top_p=0.9, top_k=3, seed=5, stop=("a",)
    )
    payload = registry.get("tgi").encode(request, Endpoint("h", 1)).payload
    body = json.loads(payload.partition(b"\r\n\r\n")[2])
    check("GenerateRequest", body)
    assert set(body["parameters"]) <= set(DOCUMENT["components"]["schemas"]["GenerateParameters"]["properties"])


@pytest.fixture
def router(tmp_path: Path) -> Iterator[str]:
    port, log = free_port(), tmp_path / "router.log"
    command = [sys.executable, "-m", "uvicorn", "tgi_router:app", "--port", str(port)]
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(SUPPORT)}, stdout=out, stderr=out) as server,
    ):
        eventually(lambda: "Uvicorn running on" in log.read_text())
        yield f"http://127.0.0.1:{port}"
        server.terminate()


def measured(workplace: Workplace, router: str, prompts: list[str], **request: Any) -> Run:
    """A run over both transports, two requests at a time."""
    pytest.importorskip("huggingface_hub", reason="the extra llmbench[hub] is not installed")
    (workplace.folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in prompts))
    workload = workplace.workload(
        engines=[{"tgi": {"url": router}}, {"tgi": {"url": router, "label": "by-hub", "settings": HUB}}],
        prompts={"kind": "jsonl", "path": "rows.jsonl", "output_tokens": 6, "salt": "none"},
        request={"ignore_eos": False, **request},
        traffic={"requests": len(prompts), "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 2}},
    )
    done = workplace.run("run", workload, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    return Run.open(workplace.folder / "out")


@pytest.mark.parametrize("stream", [True, False])
def test_both_transports_see_the_same_answers(workplace: Workplace, router: str, stream: bool) -> None:
    run = measured(workplace, router, ["one two three", "short tail"], stream=stream)
    own, by_hub = (
        sorted((row for row in run.requests.to_pylist() if row["engine"] == label), key=lambda row: row["index"])
        for label in ("tgi", "by-hub")
    )
    assert [row["status"] for row in (*own, *by_hub)] == ["ok"] * 4
    assert [row["output_sha256"] for row in own] == [row["output_sha256"] for row in by_hub]
    assert sorted(row["output_tokens"] for row in own) == sorted(row["output_tokens"] for row in by_hub) == [3, 6]
    assert {row["token_source"] for row in (*own, *by_hub)} == {"token_ids"}
    clocks = [trial.instrument.clock for trial in run.manifest.trials if trial.instrument]
    assert clocks == ["kernel", "user space"]
    for engine in run.manifest.engines:
        assert engine.version == "3.3.6-dev0"
        assert engine.details["max_total_tokens"] == 2048
        assert engine.details["model_id"] == "toy/words"


def test_both_transports_see_the_same_failures(workplace: Workplace, router: str) -> None:
    run = measured(workplace, router, ["fail at once", "overload me", "cut it off", "all is well"])
    kinds = {
        label: sorted(str(row["error_kind"]) for row in run.requests.to_pylist() if row["engine"] == label)
        for label in ("tgi", "by-hub")
    }
    assert kinds["tgi"] == ["None", "rate_limited", "server_error", "truncated"]
    assert kinds["by-hub"] == kinds["tgi"]
