"""Requests leave as the HTTP and JSON that servers expect."""

import json

import httptools
import pytest

from llmbench.engines.adapter import EngineError
from llmbench.engines.openai import OpenAIAdapter
from llmbench.engines.registry import url_endpoint
from llmbench.engines.wire import ChatMessage, Endpoint, GenerationRequest, WireRequest

HERE = Endpoint("127.0.0.1", 8000)
CHAT = (ChatMessage("user", "Wie geht's? 😀"),)


class Received:
    """A request as an independent parser reads it."""

    def __init__(self, wire: WireRequest) -> None:
        self.url, self.headers, self.body, self.complete = b"", dict[str, str](), b"", False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(wire.payload)
        self.json = json.loads(self.body)

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.complete = True


def test_a_completion_asks_for_a_greedy_stream_of_exactly_this_length() -> None:
    request = GenerationRequest("r-1", "tiny", 32, prompt="one")
    received = Received(OpenAIAdapter().encode(request, HERE))
    assert (received.parser.get_method(), received.url, received.complete) == (b"POST", b"/v1/completions", True)
    assert received.json == {
        "model": "tiny",
        "prompt": "one",
        "max_tokens": 32,
        "temperature": 0.0,
        "top_p": 1.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    assert received.headers["host"] == "127.0.0.1:8000"
    assert received.headers["x-request-id"] == "r-1"
    assert "authorization" not in received.headers


def test_a_chat_in_one_piece_carries_every_option() -> None:
    request = GenerationRequest(
        "r",
        "m",
        5,
        messages=CHAT,
        stream=False,
        ignore_eos=False,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        seed=0,
        stop=("\n", "End"),
    )
    received = Received(OpenAIAdapter().encode(request, HERE))
    assert received.url == b"/v1/chat/completions"
    assert received.json == {
        "model": "m",
        "messages": [{"role": "user", "content": "Wie geht's? 😀"}],
        "max_tokens": 5,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 0,
        "stop": ["\n", "End"],
        "stream": False,
    }


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        ("http://example.org", "example.org", b"/v1/completions"),
        ("http://example.org:8080/v1/", "example.org:8080", b"/v1/completions"),
        ("https://example.org/proxy", "example.org", b"/proxy/v1/completions"),
        ("http://[::1]:9000", "[::1]:9000", b"/v1/completions"),
    ],
)
def test_urls_with_and_without_the_version_reach_the_same_route(url: str, host: str, path: bytes) -> None:
    request = GenerationRequest("r", "m", 1, prompt="x")
    received = Received(OpenAIAdapter().encode(request, url_endpoint(url, "secret")))
    assert (received.headers["host"], received.url) == (host, path)
    assert received.headers["authorization"] == "Bearer secret"


def test_extra_body_adds_changes_and_takes_out_fields() -> None:
    adapter = OpenAIAdapter(settings={"extra_body": {"min_tokens": 3, "top_p": None}, "ignore_eos": False})
    received = Received(adapter.encode(GenerationRequest("r", "m", 3, prompt="x"), HERE))
    assert received.json["min_tokens"] == 3
    assert "top_p" not in received.json
    assert "ignore_eos" not in received.json
    assert not adapter.capabilities.ignore_eos


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"extra_bdy": {}}, "did you mean extra_body?"),
        ({"extra_body": 3}, "must map names to values"),
        ({"ignore_eos": "no"}, "must be true or false"),
    ],
)
def test_settings_that_are_not_understood(settings: dict[str, object], part: str) -> None:
    with pytest.raises(EngineError, match=part.replace("?", r"\?")):
        OpenAIAdapter(settings=settings)


def test_what_cannot_be_sent_is_refused_before_the_clock_starts() -> None:
    adapter = OpenAIAdapter()
    with pytest.raises(EngineError, match="either a prompt or messages"):
        adapter.encode(GenerationRequest("r", "m", 1), HERE)
    with pytest.raises(EngineError, match="cannot be written as JSON"):
        adapter.encode(GenerationRequest("r", "m", 1, prompt="\ud83d"), HERE)
    with pytest.raises(EngineError, match="cannot be written as JSON"):
        adapter.encode(GenerationRequest("r", "m", 1, prompt="x", temperature=float("nan")), HERE)
    with pytest.raises(EngineError, match="x-request-id"):
        adapter.encode(GenerationRequest("r\r\nx: y", "m", 1, prompt="x"), HERE)


def test_a_refused_api_key_is_not_shown() -> None:
    with pytest.raises(EngineError, match="authorization") as refused:
        OpenAIAdapter().encode(GenerationRequest("r", "m", 1, prompt="x"), Endpoint("h", 1, api_key="top\nsecret"))
    assert "secret" not in str(refused.value)
