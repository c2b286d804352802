"""Requests of every kind that the server answers, drawn at random, and what of an answer its neighbours may not change.

Each has a seed or needs none, so that the same request gets the same answer, whatever runs beside it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from soak_doors import CHAT, COMPLETIONS

MODEL = "bundled:python-target"
CONTEXT = 512
VOCAB_SIZE = 2048

Body = dict[str, Any]

# Prompts that begin alike, by whole KV blocks and by parts of one.
_BEGINNINGS = [random.Random(length).choices(range(5, VOCAB_SIZE), k=length) for length in (32, 77, 150)]
_TEXTS = (
    "def read(path):\n    ",
    'class Counter(dict):\n    """Counts."""\n\n    def __init__(self',
    "import os\nimport sys\n\nfor name in os.listdir(",
    "for i in range(10):\n    print(i)\nfor i in range(10):\n    print(i)\nfor i in range(10):\n",
    "été, naïve: 'ß' 𓀀",
)
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "sizes": {"type": "array", "items": {"enum": [1, 2]}}},
    "required": ["name", "sizes"],
    "additionalProperties": False,
}
_FORMS: Sequence[Mapping[str, Any]] = (
    {"guided_json": _SCHEMA},
    {"guided_regex": "[a-c]{3,20}(x|y)"},
    {"guided_choice": ["import os", "import sys", "pass"]},
)


def request(draw: random.Random) -> tuple[str, Body]:
    """The path and the body; `stream`, `priority` and `user` are the sender's choice."""
    body = _completion(draw)
    if draw.random() < 0.7:
        return COMPLETIONS, body
    del body["prompt"]
    body["messages"] = [{"role": "user", "content": draw.choice(_TEXTS)} for _ in range(draw.choice((1, 1, 3)))]
    if "logprobs" in body:
        body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return CHAT, body


def _completion(draw: random.Random) -> Body:
    kind = draw.choice(_KINDS)
    if kind is _beams:
        chosen_by: Body = {}
    elif draw.random() < 0.5:
        chosen_by = {"temperature": 0}
    else:
        chosen_by = {"temperature": draw.choice((0.3, 0.8, 1.2)), "seed": draw.randrange(1000), **_filtered(draw)}
    return {
        "model": MODEL,
        "prompt": _prompt(draw),
        "max_tokens": draw.choice((1, 2, 16, 64, 128)),
        "ignore_eos": draw.random() < 0.5,
        "return_token_ids": draw.random() < 0.5,
        **chosen_by,
        **kind(draw),
    }


def answer_content(payloads: Sequence[bytes]) -> list[Body]:
    """The choices of an answer, whole or the chunks of a stream, in their order: text, tokens, logprobs, end.

    Of a stream that was left early, what came of each choice until then. Raises ValueError for what is neither.
    """
    parts: dict[int, list[Body]] = {}
    for payload in payloads:
        for choice in json.loads(payload)["choices"]:
            parts.setdefault(choice["index"], []).append(choice)
    return [_merged(parts[index]) for index in sorted(parts)]


def is_beginning(part: list[Body], whole: list[Body]) -> bool:
    """Whether a stream that was left early was on its way to this answer."""
    by_index = {choice["index"]: choice for choice in whole}
    for choice in part:
        expected = by_index[choice["index"]]
        if any(expected[name][: len(choice[name])] != choice[name] for name in _GROWING):
            return False
        if choice["finish_reason"] is not None and choice != expected:
            return False
    return True


_LOGPROBS = ("text_offset", "tokens", "token_logprobs", "top_logprobs", "content")
_GROWING = ("text", "token_ids", *_LOGPROBS)


def _merged(parts: Sequence[Body]) -> Body:
    """The pieces of one choice as one."""
    logprobs = [part["logprobs"] for part in parts if part.get("logprobs") is not None]
    return {
        "index": parts[0]["index"],
        "text": "".join(map(_text, parts)),
        "token_ids": [token_id for part in parts for token_id in part.get("token_ids", ())],
        **{name: [each for piece in logprobs for each in piece.get(name, ())] for name in _LOGPROBS},
        "finish_reason": parts[-1]["finish_reason"],
        "stop_reason": parts[-1].get("stop_reason"),
    }


def _text(piece: Body) -> str:
    """Of a completion, of a chat's answer, or of a chunk of one."""
    holder = piece.get("delta") or piece.get("message")
    text: str = piece["text"] if holder is None else holder["content"]
    return text


def _prompt(draw: random.Random) -> str | list[int]:
    kind = draw.random()
    if kind < 0.05:  # all the context but for the longest answer
        return draw.choices(range(5, VOCAB_SIZE), k=CONTEXT - 128)
    tail = draw.choices(range(5, VOCAB_SIZE), k=draw.choice((1, 3, 17, 64)))
    if kind < 0.2:
        return draw.choice(_TEXTS)
    return tail if kind < 0.6 else draw.choice(_BEGINNINGS) + tail


def _filtered(draw: random.Random) -> Body:
    return draw.choice(({}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 50, "top_p": 0.8}))


def _plain(draw: random.Random) -> Body:
    return {}


def _stopped(draw: random.Random) -> Body:
    return {
        "stop": draw.choice(("\n", ["return", "):"], ["\n\n"], [" self", "e"])),
        "stop_token_ids": draw.sample(range(5, VOCAB_SIZE), 50) if draw.random() < 0.3 else [],
        "min_tokens": draw.choice((0, 0, 1)),
    }


def _penalised(draw: random.Random) -> Body:
    return {
        "presence_penalty": draw.choice((0, 0.5, 2)),
        "frequency_penalty": draw.choice((-0.5, 0, 1)),
        "repetition_penalty": draw.choice((1, 1.3)),
        "logit_bias": {str(draw.randrange(VOCAB_SIZE)): draw.choice((-100, 5)) for _ in range(4)},
    }


def _with_logprobs(draw: random.Random) -> Body:
    return {"logprobs": draw.choice((0, 1, 5))}


def _several(draw: random.Random) -> Body:
    if draw.random() < 0.5:
        return {"n": draw.randint(2, 4)}
    return {"prompt": [[*draw.choice(_BEGINNINGS), draw.randrange(5, VOCAB_SIZE)] for _ in range(2)]}


def _guided(draw: random.Random) -> Body:
    return dict(draw.choice(_FORMS))


def _beams(draw: random.Random) -> Body:
    best_of = draw.choice((1, 2, 4))
    return {
        "max_tokens": draw.choice((1, 2, 16, 32)),
        "use_beam_search": True,
        "best_of": best_of,
        "n": draw.randint(1, best_of),
        "length_penalty": draw.choice((0.0, 1.0)),
        "stop": draw.choice((None, ["\n"])),
    }


_KINDS: Sequence[Callable[[random.Random], Body]] = (
    _plain,
    _stopped,
    _penalised,
    _with_logprobs,
    _several,
    _guided,
    _beams,
)
