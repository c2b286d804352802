"""Answers of a given form, asked for by the fields that clients know."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai
import psutil
import pydantic
import pytest
from broken_form import BROKEN
from small_pieces import write_pieces

SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 6}, "sunny": {"type": "boolean"}},
    "required": ["city", "sunny"],
    "additionalProperties": False,
}
BODY = {"model": "tiny", "prompt": "Weather:", "max_tokens": 60, "seed": 4}
NAMED = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}


class Weather(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=6)
    sunny: bool


def test_openai_client_gets_its_own_class_back(server) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        told = client.chat.completions.parse(
            model="tiny", messages=[{"role": "user", "content": "Weather?"}], response_format=Weather, seed=1
        )
    assert isinstance(told.choices[0].message.parsed, Weather)
    assert told.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("fields", "keeps"),
    [
        ({"response_format": NAMED}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
        ({"guided_json": SCHEMA}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
        ({"guided_json": json.dumps(SCHEMA)}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
        ({"structured_outputs": {"json": SCHEMA}}, lambda text: jsonschema.validate(json.loads(text), SCHEMA)),
        ({"structured_outputs": {"regex": "[ab]{5}"}}, lambda text: re.fullmatch("[ab]{5}", text)[0]),
        ({"guided_regex": "[ab]{5}"}, lambda text: re.fullmatch("[ab]{5}", text)[0]),
        ({"guided_choice": ["yes", "no"]}, lambda text: ["yes", "no"].index(text)),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: ["yes", "no"].index(text)),
    ],
    ids=lambda value: None if callable(value) else str(value)[:40],
)
@pytest.mark.parametrize("stream", [False, True])
def test_form_is_kept(server, fields, keeps, stream) -> None:
    reply = server.ask("/v1/completions", {**BODY, **fields, "stream": stream})
    assert reply.status == 200, reply.body
    if stream:
        events = [line[6:] for line in reply.body.decode().split("\n\n") if line.startswith("data: {")]
        choices = [json.loads(event)["choices"][0] for event in events]
    else:
        choices = reply.json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    assert choices[-1]["finish_reason"] == "stop", text
    keeps(text)


def test_json_object_begins_as_one(server) -> None:
    # A model of random weights may go on for ever, within the form.
    body = {**BODY, "response_format": {"type": "json_object"}, "max_tokens": 3}
    assert server.ask("/v1/completions", body).json()["choices"][0]["text"].lstrip().startswith("{")
    text = {**BODY, "temperature": 0, "response_format": {"type": "text"}}
    plain = {**BODY, "temperature": 0}
    told = [server.ask("/v1/completions", body).json()["choices"] for body in (text, plain)]
    assert told[0] == told[1]


def test_forms_side_by_side_are_what_they_are_alone(server) -> None:
    bodies = [{**BODY, "seed": seed, **form} for seed in range(4) for form in ({"guided_json": SCHEMA}, {})]

    def ask(body: dict) -> str:
        return server.ask("/v1/completions", body).json()["choices"][0]["text"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, bodies)) == [ask(body) for body in bodies]


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"guided_json": {"type": "nonsense"}}, "guided_json", "Invalid type: nonsense"),
        ({"guided_json": "{"}, None, "guided_json"),
        ({"guided_json": 5}, None, "guided_json"),
        ({"guided_regex": "(("}, "guided_regex", "unclosed group"),
        ({"guided_choice": []}, "guided_choice", "at least 1 item"),
        ({"guided_grammar": "root ::= a"}, "guided_grammar", "not supported"),
        ({"structured_outputs": {"grammar": "a"}}, "structured_outputs.grammar", "not supported"),
        ({"structured_outputs": {"regex": "(("}}, "structured_outputs.regex", "unclosed group"),
        ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.json_schema", "missing"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "x"}}}},
            "response_format",
            "Invalid type: x",
        ),
        ({"guided_regex": "a", "guided_json": {}}, "guided_json", "guided_json and guided_regex were given"),
        ({"guided_regex": "a", "min_tokens": 1}, None, "min_tokens cannot be kept"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_form_that_cannot_be_kept_is_refused_by_name(server, fields, param, says) -> None:
    reply = server.ask("/v1/completions", {**BODY, **fields})
    assert reply.status == 400, reply.body
    error = reply.json()["error"]
    assert says in error["message"]
    if param is not None:
        assert error["param"] == param


def test_checkpoint_with_a_tokenizer_model_alone_keeps_a_form_too(start_server, tiny_model, tmp_path) -> None:
    folder = tmp_path / "pieces"
    shutil.copytree(tiny_model, folder)
    write_pieces(folder)
    server = start_server(folder)
    for seed in range(4):
        reply = server.ask("/v1/completions", {**BODY, "seed": seed, "response_format": NAMED})
        assert reply.status == 200, reply.body
        (choice,) = reply.json()["choices"]
        assert choice["finish_reason"] == "stop"
        jsonschema.validate(json.loads(choice["text"]), SCHEMA)
        # To the letter: the form has no space before its first word, as an answer behind a prompt may have one.
        reply = server.ask("/v1/completions", {**BODY, "seed": seed, "guided_regex": "[a-z]{3}"})
        assert re.fullmatch("[a-z]{3}", reply.json()["choices"][0]["text"])
    assert server.stop() == 0


def test_form_that_breaks_in_mid_answer_is_an_error_to_openai_client(server) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": BROKEN}}
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Weather?"}], "response_format": form}
    says = r"form cannot be kept after \d+ tokens: no text goes on from there\."
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        with pytest.raises(openai.BadRequestError, match=says):
            client.chat.completions.create(**chat)
        events = iter(client.chat.completions.create(**chat, stream=True))
        shown = []
        with pytest.raises(openai.APIError, match=says):
            shown.extend(events)
    assert [event.choices[0].finish_reason for event in shown] == [None] * len(shown)
    text = "".join(event.choices[0].delta.content for event in shown)
    assert text.replace(" ", "").startswith('{"outlook')
    assert re.search(says, server.log)
    assert "outlook" not in server.log
    server.wait_for("vllm:num_requests_running", 0)


def large_schema(title: str) -> dict:
    """Takes some 50 ms to be compiled; each title is a form of its own."""
    kinds = [{"type": "string", "maxLength": number} for number in range(450)]
    return {"type": "object", "title": title, "properties": dict(zip(map(str, range(450)), kinds, strict=True))}


def begin(server, body: dict) -> http.client.HTTPConnection:
    connection = server.connect()
    connection.request("POST", "/v1/completions", json.dumps(body).encode())
    return connection


def test_who_leaves_before_its_form_is_compiled_leaves_nothing(server) -> None:
    for number in range(6):
        begin(server, {**BODY, "guided_json": large_schema(str(number))}).close()
    server.wait_for("vllm:num_requests_waiting", 0)
    server.wait_for("vllm:num_requests_running", 0)
    body = {**BODY, "guided_json": large_schema("0"), "max_tokens": 2}
    assert server.ask("/v1/completions", body).status == 200


def test_draining_server_answers_who_waits_for_a_form(start_server, tiny_model) -> None:
    server = start_server(tiny_model)
    asked = [begin(server, {**BODY, "max_tokens": 2, "guided_json": large_schema(str(number))}) for number in range(8)]
    give_up = time.monotonic() + 20
    while server.gauge("vllm:num_requests_waiting") == 0:
        assert time.monotonic() < give_up, "no form was waited for"
    assert server.stop() == 0
    statuses = []
    for connection in asked:
        statuses.append(connection.getresponse().status)
        connection.close()
    assert statuses == [200] * 8


# One that is read for ever by what compiles it.
ENDLESS = {**BODY, "guided_json": {"type": "integer", "multipleOf": 999983}}


def test_form_that_is_read_for_ever_is_refused_while_others_are_answered(server) -> None:
    with ThreadPoolExecutor(2) as pool:
        endless = pool.submit(server.ask, "/v1/completions", ENDLESS)
        assert server.ask("/v1/completions", {**BODY, "max_tokens": 3}).status == 200
        reply = endless.result()
    assert reply.status == 400
    error = reply.json()["error"]
    assert error["param"] == "guided_json"
    assert "too large to be read in 1 s" in error["message"]
    assert server.ask("/v1/completions", {**BODY, "guided_regex": "[ab]{2}"}).status == 200


@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_server_that_ends_leaves_no_process_that_tries_forms(start_server, tiny_model, end) -> None:
    server = start_server(tiny_model)
    assert server.ask("/v1/completions", {**BODY, "guided_regex": "a{2}"}).status == 200
    trying = psutil.Process(server.child_pid("form_trial"))
    connection = begin(server, ENDLESS)
    getattr(server.process, end)()
    assert server.process.wait(timeout=20) == (-signal.SIGKILL if end == "kill" else 0)
    trying.wait(timeout=20)
    connection.close()
