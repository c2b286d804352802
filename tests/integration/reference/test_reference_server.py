"""What clients get: the official one, and raw bytes where it hides them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

USER = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0, "extra_body": {"ignore_eos": True}}


@pytest.fixture
def client(server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def expected(tiny_model: Path):
    """Prompt to the token ids and the text that transformers continues it with."""
    import torch

    pytest.importorskip("transformers")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)

    def generate(prompt: str | list[dict[str, str]], num_tokens: int) -> tuple[list[int], str]:
        if isinstance(prompt, str):
            inputs = tokenizer(prompt, return_tensors="pt").input_ids
        else:
            inputs = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
            ).input_ids
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            eos_token_id=None,
            pad_token_id=1,
        )
        token_ids = output[0, inputs.shape[1] :].tolist()
        return token_ids, tokenizer.decode(token_ids, skip_special_tokens=True)

    return generate


def settled(text: str) -> str:
    """Without the beginning of a character at the end, which a stream never shows."""
    return text.rstrip("�")


def test_completion_is_what_transformers_generates(server, expected) -> None:
    prompt = "Words are what a model is made of"
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
    answer = server.ask("/v1/completions", {**body, "return_token_ids": True}).json()
    token_ids, text = expected(prompt, 24)
    assert answer["choices"][0]["token_ids"] == token_ids
    assert settled(answer["choices"][0]["text"]) == settled(text)
    assert answer["usage"]["completion_tokens"] == 24
    assert answer["usage"]["prompt_tokens"] == len(answer["choices"][0]["prompt_token_ids"])


def test_openai_client_streams_a_completion(client, expected) -> None:
    prompt = "Words are what a model is made of"
    stream = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=24, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    *chunks, last = list(stream)
    assert settled("".join(chunk.choices[0].text for chunk in chunks)) == settled(expected(prompt, 24)[1])
    assert len(chunks) == 24, "one event per token"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 23 + ["length"]
    assert last.choices == []
    assert last.usage.completion_tokens == 24


def test_openai_client_streams_a_chat_through_the_models_template(client, expected) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello?"}]
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_completion_tokens=16, stream=True, **GREEDY
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert settled(text) == settled(expected(messages, 16)[1])
    assert chunks[-1].choices[0].finish_reason == "length"


def test_chat_without_a_stream_and_without_a_limit_fills_the_context(client) -> None:
    answer = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "Hi"}], **GREEDY)
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.total_tokens == 512
    assert answer.choices[0].finish_reason == "length"


def test_sixteen_streams_at_once_are_each_what_they_are_alone(server) -> None:
    def ask(number: int) -> list[int]:
        body = {"model": "tiny", "prompt": [5, 6, 7 + number], "max_tokens": 8 + number, "seed": number}
        answer = server.ask("/v1/completions", {**body, "return_token_ids": True, "ignore_eos": True}).json()
        return answer["choices"][0]["token_ids"]

    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, range(16)))
    assert together == [ask(number) for number in range(16)]


def test_batch_of_prompts_is_answered_by_index(server) -> None:
    prompts = ["one", "two words", "now three words"]
    body = {"model": "tiny", "max_tokens": 6, "temperature": 0}
    single = [server.ask("/v1/completions", {**body, "prompt": prompt}).json() for prompt in prompts]
    batch = server.ask("/v1/completions", {**body, "prompt": prompts}).json()
    assert [choice["text"] for choice in batch["choices"]] == [answer["choices"][0]["text"] for answer in single]
    assert [choice["index"] for choice in batch["choices"]] == [0, 1, 2]
    assert batch["usage"]["prompt_tokens"] == sum(answer["usage"]["prompt_tokens"] for answer in single)
    streamed = ["", "", ""]
    for event in events(server.ask("/v1/completions", {**body, "prompt": prompts, "stream": True}).body):
        streamed[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert streamed == [choice["text"] for choice in batch["choices"]]


def test_several_answers_to_one_prompt(client, server) -> None:
    several = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], n=3, seed=5, max_tokens=8
    )
    texts = [choice.message.content for choice in several.choices]
    assert [choice.index for choice in several.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    alone = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "Hi"}], seed=5, max_tokens=8
    )
    assert alone.choices[0].message.content == texts[0]
    assert alone.usage.prompt_tokens == several.usage.prompt_tokens
    body = {"model": "tiny", "prompt": ["a", "b"], "n": 2, "temperature": 0, "max_tokens": 4}
    first, again, other, _ = server.ask("/v1/completions", body).json()["choices"]
    assert first["text"] == again["text"] != other["text"]


def test_usage_grows_with_every_event_if_asked(server) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {"model": "tiny", "prompt": "a", "max_tokens": 5, "ignore_eos": True, "stream": True}
    reply = server.ask("/v1/completions", {**body, "stream_options": options})
    counts = [event["usage"]["completion_tokens"] for event in events(reply.body)]
    assert counts == [1, 2, 3, 4, 5, 5]
    assert reply.headers["content-type"].startswith("text/event-stream")


def test_events_say_that_usage_will_come(server) -> None:
    """As OpenAI's do: null in all but the last."""
    body = {"model": "tiny", "max_tokens": 3, "ignore_eos": True, "stream": True}
    for path, asked in (("completions", {"prompt": "a"}), ("chat/completions", {"messages": USER})):
        told = {**body, **asked, "stream_options": {"include_usage": True}}
        *chunks, last = events(server.ask(f"/v1/{path}", told).body)
        *plain, _ = events(server.ask(f"/v1/{path}", {**body, **asked}).body)
        assert last["usage"]["completion_tokens"] == 3
        # A role comes before there is anything to count.
        chunks = [chunk for chunk in chunks if "role" not in chunk["choices"][0].get("delta", ())]
        assert [chunk["usage"] for chunk in chunks] == [None] * 3
        assert not any("usage" in chunk for chunk in plain)


def test_cached_tokens_are_never_more_than_the_prompt_has(server) -> None:
    prompt = [100 + token for token in range(70)]
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 2, "n": 4, "ignore_eos": True}
    cold, warm = (server.ask("/v1/completions", body).json()["usage"] for _ in range(2))
    assert cold["prompt_tokens_details"] == {"cached_tokens": 0}
    assert warm["prompt_tokens_details"] == {"cached_tokens": 64}
    assert warm["prompt_tokens"] == 70


def test_null_is_a_parameter_left_out(server) -> None:
    asked = {"model": "tiny", "max_tokens": 4, "seed": 3, "ignore_eos": True}
    nulls: dict[str, None] = dict.fromkeys(
        ("temperature", "top_p", "n", "stream", "stop", "presence_penalty", "frequency_penalty", "logit_bias", "user")
    )
    for path, more, also in (
        ("completions", {"prompt": "a"}, ("echo", "suffix", "best_of", "logprobs")),
        ("chat/completions", {"messages": USER}, ("logprobs", "top_logprobs", "response_format")),
    ):
        replies = [server.ask(f"/v1/{path}", {**asked, **more, **given}) for given in ({}, nulls | dict.fromkeys(also))]
        assert replies[1].status == 200, replies[1].body
        assert replies[0].json()["choices"] == replies[1].json()["choices"]
    refused = server.ask("/v1/completions", {**asked, "prompt": None})
    assert refused.json()["error"]["param"] == "prompt"


def test_template_reads_the_requests_own_variables(start_server, tiny_model, tmp_path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% if not thinks %}quick{% endif %}{{ messages[0].content }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    server = start_server(folder)
    body = {"model": "tiny", "messages": USER, "max_tokens": 1, "return_token_ids": True}

    def prompt(**fields: object) -> list[int]:
        return server.ask("/v1/chat/completions", {**body, **fields}).json()["choices"][0]["prompt_token_ids"]

    assert len(prompt(chat_template_kwargs={"thinks": True})) < len(prompt())
    server.stop()


def test_token_ids_come_with_the_text_if_asked(server) -> None:
    body = {"model": "tiny", "prompt": [7, 8, 9], "max_tokens": 4, "ignore_eos": True, "return_token_ids": True}
    first, *rest = [
        event["choices"][0] for event in events(server.ask("/v1/completions", {**body, "stream": True}).body)
    ]
    assert first["prompt_token_ids"] == [7, 8, 9]
    assert all(choice["prompt_token_ids"] is None for choice in rest)
    assert [len(choice["token_ids"]) for choice in (first, *rest)] == [1, 1, 1, 1]


def test_stop_string_ends_the_answer_before_it_and_frees_its_blocks(server) -> None:
    body = {"model": "tiny", "prompt": "Stop me", "temperature": 0, "max_tokens": 40, "ignore_eos": True}
    full = server.ask("/v1/completions", body).json()["choices"][0]["text"]
    stop = full[13:17]
    place = full.index(stop)
    whole = server.ask("/v1/completions", {**body, "stop": [stop]}).json()
    choice = whole["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == (full[:place], "stop", stop)
    assert whole["usage"]["completion_tokens"] < 40
    reply = server.ask("/v1/completions", {**body, "stop": stop, "stream": True})
    assert "".join(event["choices"][0]["text"] for event in events(reply.body)) == full[:place]
    server.wait_for("llmbench:kv_blocks_used", 0)


def test_a_stop_token_is_in_the_tokens_and_not_in_the_text(server) -> None:
    body = {"model": "tiny", "prompt": "Stop me", "temperature": 0, "max_tokens": 9, "ignore_eos": True}
    body["return_token_ids"] = True
    full = server.ask("/v1/completions", body).json()["choices"][0]
    last = full["token_ids"][4]
    assert last not in full["token_ids"][:4]
    before = server.ask("/v1/completions", {**body, "max_tokens": 4}).json()["choices"][0]["text"]
    for stream in (False, True):
        reply = server.ask("/v1/completions", {**body, "stop_token_ids": [last], "stream": stream})
        pieces = [event["choices"][0] for event in events(reply.body)] if stream else reply.json()["choices"]
        assert [token for piece in pieces for token in piece["token_ids"]] == full["token_ids"][:5]
        assert "".join(piece["text"] for piece in pieces) == before
        assert (pieces[-1]["finish_reason"], pieces[-1]["stop_reason"]) == ("stop", last)


def test_logprobs_of_both_endpoints(client) -> None:
    completion = client.completions.create(model="tiny", prompt="a", max_tokens=3, logprobs=2, **GREEDY)
    logprobs = completion.choices[0].logprobs
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == 3
    assert all(
        max(top.values()) == chosen for top, chosen in zip(logprobs.top_logprobs, logprobs.token_logprobs, strict=True)
    )
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "a"}], max_tokens=3, logprobs=True, top_logprobs=2, **GREEDY
    )
    content = chat.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in content] == [2, 2, 2]
    assert all(token.logprob == token.top_logprobs[0].logprob <= 0 for token in content)


def test_request_id_is_echoed_or_made(server) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
    reply = server.ask("/v1/completions", body, x_request_id="mine-1")
    assert reply.headers["x-request-id"] == "mine-1"
    assert reply.json()["id"] == "cmpl-mine-1"
    assert (
        server.ask("/v1/completions", {**body, "stream": True}, x_request_id="mine-2").headers["x-request-id"]
        == "mine-2"
    )
    assert server.ask("/v1/completions", {}, x_request_id="mine-3").headers["x-request-id"] == "mine-3"
    assert server.ask("/v1/completions", body).headers["x-request-id"]


def test_models_and_health(server, client) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'other/model' is not served here; 'tiny' is"):
        client.models.retrieve("other/model")
    assert server.ask("/v1/models").json()["data"][0]["max_model_len"] == 512
    assert server.ask("/health").status == 200


def test_the_servers_own_process_does_without_torch(server) -> None:
    assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def events(body: bytes) -> list[dict]:
    """The JSON of every event before [DONE], which must come."""
    lines = [line.removeprefix("data: ") for line in body.decode().split("\n\n")]
    assert lines[-2:] == ["[DONE]", ""]
    return [json.loads(line) for line in lines[:-2]]


def test_histograms_count_what_a_request_was_and_got(server) -> None:
    names = ("prompt_tokens", "generation_tokens", "time_per_output_token_seconds")
    sums = {name: f"vllm:request_{name}_sum" for name in names}
    counts = {name: f"vllm:request_{name}_count" for name in names}
    before = {name: server.gauge(name) for name in (*sums.values(), *counts.values())}
    body = {"model": "tiny", "prompt": [5, 6, 7], "temperature": 0, "ignore_eos": True}
    server.ask("/v1/completions", {**body, "max_tokens": 4})
    server.ask("/v1/completions", {**body, "max_tokens": 1})
    grown = {name: server.gauge(name) - seen for name, seen in before.items()}
    assert grown[sums["prompt_tokens"]] == 6
    assert grown[sums["generation_tokens"]] == 5
    assert grown[counts["prompt_tokens"]] == grown[counts["generation_tokens"]] == 2
    # A single token has no time between tokens.
    assert grown[counts["time_per_output_token_seconds"]] == 1
    assert grown[sums["time_per_output_token_seconds"]] > 0
