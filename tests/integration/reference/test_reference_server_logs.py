"""The server's log: one line per request, each line an object, and nothing in it that a request said."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from llmbench.reference_engine.server import app as app_module
from llmbench.reference_engine.server.app import Service

SECRET = "hunter2"
GOOD = {"model": "tiny", "prompt": f"{SECRET} is the word", "max_tokens": 3, "user": SECRET}

# What is asked and the line that it leaves.
REQUESTS: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "whole": ("/v1/completions", GOOD, {"event": "answered", "completion_tokens": 3, "choices": 1}),
    "streamed": ("/v1/completions", {**GOOD, "stream": True}, {"event": "answered", "object": "text_completion"}),
    "two": ("/v1/completions", {**GOOD, "n": 2, "ignore_eos": True}, {"choices": 2, "completion_tokens": 6}),
    "too long": (
        "/v1/completions",
        {**GOOD, "prompt": SECRET * 900},
        {"event": "refused", "status": 400, "path": "/v1/completions"},
    ),
    "long name": ("/v1/completions", {**GOOD, "user": SECRET * 99}, {"event": "refused", "param": "user"}),
    "wrong value": ("/v1/completions", {**GOOD, "user": [SECRET]}, {"event": "refused", "param": "user"}),
    "unknown name": ("/v1/completions", {**GOOD, SECRET: 1}, {"event": "refused", "status": 400}),
    "other model": ("/v1/completions", {**GOOD, "model": SECRET}, {"event": "refused", "status": 404}),
    "no JSON": ("/v1/completions", f'{{"prompt": "{SECRET}'.encode(), {"event": "refused", "status": 400}),
    "no path": ("/v1/embeddings?key=" + SECRET, {}, {"event": "refused", "status": 404, "path": "/v1/embeddings"}),
    'a "b"\tc': ("/v1/completions", GOOD, {"event": "answered"}),
}


def test_one_line_per_request_and_nothing_of_what_it_says(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--log-format", "json", "--fairness", "vtc")
    for name, (path, body, _) in REQUESTS.items():
        server.ask(path, body, x_request_id=name, authorization=f"Bearer {SECRET}")
    server.ask("/health")
    assert SECRET not in server.ask("/metrics").body.decode()
    server.stop()
    assert SECRET not in server.log
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert all({"time", "level", "event"} <= line.keys() for line in lines)
    of = Counter(line["request_id"] for line in lines if "request_id" in line)
    assert of == Counter(list(REQUESTS))
    for name, (_, _, expected) in REQUESTS.items():
        (line,) = [line for line in lines if line.get("request_id") == name]
        assert expected.items() <= line.items()
        assert line.get("param") in (None, "user", "model")
    timed = [line for line in lines if line["event"] == "answered"]
    assert all(0 < line["first_token_ms"] <= line["duration_ms"] for line in timed)


FAIL = """
import logging, sys
from llmbench.reference_engine.server.errors import as_api_error
from llmbench.reference_engine.server.logs import configure_logging, log_failure
configure_logging(sys.argv[1])
try:
    int("hunter2")
except ValueError as error:
    log_failure("7", "/v1/completions", as_api_error(error), error)
    logging.getLogger("a.library").exception("it broke")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_unexpected_error_is_logged_by_its_type_and_place(log_format: str) -> None:
    argv = [sys.executable, "-c", FAIL, log_format]
    log = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    assert log.count("ValueError") == 2
    assert log.count("<string>:7 <module>") == 2
    assert "7" in log
    assert SECRET not in log
    if log_format == "json":
        failed, of_library = (json.loads(line) for line in log.splitlines())
        assert (failed["event"], failed["request_id"], failed["status"]) == ("failed", "7", 500)
        assert (of_library["event"], of_library["level"]) == ("it broke", "error")


async def test_a_failure_of_ours_is_answered_and_logged_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing gets through to uvicorn, which would log it again."""
    failed, sent = Mock(), []
    monkeypatch.setattr(app_module, "log_failure", failed)
    error = ValueError("a bug")
    app = Service(Mock(completion=AsyncMock(side_effect=error))).make_app()
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": [(b"x-request-id", b"mine")]}
    receive = AsyncMock(return_value={"type": "http.request", "body": b"{}", "more_body": False})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({**scope, "query_string": b"", "root_path": "", "state": {}}, receive, send)
    head, body = sent
    assert head["status"] == 500
    assert (b"x-request-id", b"mine") in head["headers"]
    assert json.loads(body["body"])["error"]["message"] == "Internal server error; the server's log says more."
    ((request_id, path, _, told),) = [call.args for call in failed.call_args_list]
    assert (request_id, path, told) == ("mine", "/v1/completions", error)


def test_a_client_that_leaves_during_its_upload_has_left_and_no_more(start_server, tiny_model) -> None:
    server = start_server(tiny_model)
    connection = server.connect()
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("content-length", "1000")
    connection.putheader("x-request-id", "mine")
    connection.endheaders(b"{")
    assert server.ask("/health").status == 200  # the beginning has come by now
    connection.close()
    assert server.ask("/health").status == 200
    server.stop()
    (line,) = [line for line in server.log.splitlines() if "mine" in line]
    assert line.split(" ", 1)[1] == "INFO client left request_id=mine"
    assert "ERROR" not in server.log
    assert "xception" not in server.log


def test_a_line_of_the_log_is_one_and_has_nothing_that_a_terminal_obeys(start_server, tiny_model) -> None:
    server = start_server(tiny_model, "--log-format", "text")
    server.ask("/no%0aERROR%20forged%1b[31m%0dx%c2%9b%e2%80%ae", x_request_id="mine")
    server.ask("/" + "long" * 4000, x_request_id="other")
    server.stop()
    assert server.log.replace("\n", "").isprintable()
    (line,) = [line for line in server.log.splitlines() if "ERROR" in line]
    assert "forged" in line
    assert "request_id=mine" in line
    assert max(map(len, server.log.splitlines())) < 1000


def test_a_name_that_would_fill_the_log_is_replaced(start_server, tiny_model) -> None:
    server = start_server(tiny_model)
    kept, replaced = (server.ask("/v1/completions", GOOD, x_request_id="z" * count) for count in (256, 257))
    assert kept.headers["x-request-id"] == "z" * 256
    made = replaced.headers["x-request-id"]
    assert len(made) == 32
    server.stop()
    assert f"request_id={made} " in server.log
