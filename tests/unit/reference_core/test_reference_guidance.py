"""Answers of a given form, by a model of random weights, which would keep none by itself."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.guidance import choice_grammar, json_grammar, regex_grammar
from llmbench.reference_engine.guides import GuideMaker
from llmbench.reference_engine.models import synthetic
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.tokenizer import Tokenizer

SCHEMAS: list[dict[str, Any]] = [
    {"type": "integer", "minimum": -5, "maximum": 900},
    {"enum": ["north", 7, None, {"deep": [True]}]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    {"type": "string", "minLength": 2, "maxLength": 9, "pattern": "^[a-zé]+$"},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "size": {"enum": ["S", "M", "L"]},
            "at": {"$ref": "#/$defs/point"},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
        },
        "required": ["name", "size", "at"],
        "additionalProperties": False,
        "$defs": {
            "point": {
                "type": "object",
                "properties": {
                    "x": {"type": "integer", "minimum": 0, "maximum": 99},
                    "y": {"anyOf": [{"type": "null"}, {"const": 1}]},
                },
                "required": ["x", "y"],
                "additionalProperties": False,
            }
        },
    },
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def config(folder: Path) -> EngineConfig:
    return EngineConfig(model_path=folder, kernels="torch", num_threads=1)


@pytest.fixture(scope="module")
def answer(config: EngineConfig) -> Callable[..., list[tuple[list[int], str | None]]]:
    """Token ids and finish reason of each request, all in one batch."""
    engines = {name: Engine(dataclasses.replace(config, speculative=name)) for name in (None, "ngram")}
    engines["preempting"] = Engine(dataclasses.replace(config, num_blocks=33, max_model_len=256))

    def ask(params: list[SamplingParams], engine_name: str | None = None) -> list[tuple[list[int], str | None]]:
        engine = engines[engine_name]
        for number, each in enumerate(params):
            engine.add_request(str(number), [5, 6, 7, 5, 6, 7], each)
        answers: list[list[int]] = [[] for _ in params]
        reasons: list[str | None] = [None] * len(params)
        while engine.has_work():
            for output in engine.step():
                answers[int(output.request_id)] += output.new_token_ids
                reasons[int(output.request_id)] = output.finish_reason
        engine.check_integrity()
        return list(zip(answers, reasons, strict=True))

    return ask


@pytest.mark.parametrize("engine_name", [None, "ngram", "preempting"])
def test_every_answer_is_valid_under_its_schema(answer: Any, folder: Path, engine_name: str | None) -> None:
    tokenizer = Tokenizer(folder)
    params = [
        SamplingParams(max_tokens=200, grammar=json_grammar(schema), temperature=temperature, seed=3)
        for schema in SCHEMAS
        for temperature in (0.0, 1.0)
    ]
    free = SamplingParams(max_tokens=30, temperature=0.0)
    *guided, unguided = answer([*params, free], engine_name)
    assert unguided == answer([free])[0], "who asks for no form is not touched by the others' forms"
    for (token_ids, reason), schema in zip(guided, [schema for schema in SCHEMAS for _ in range(2)], strict=True):
        text = tokenizer.decode(token_ids)
        assert reason == "stop", text
        jsonschema.validate(json.loads(text), schema)
    assert guided == answer(params), "drafts and preemptions change nothing"


def test_regular_expression_and_choice(answer: Any, folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    choices = ["a b", "(x|y)*", "élan\n", "\\d"]
    params = [SamplingParams(max_tokens=40, grammar=choice_grammar(choices), seed=seed) for seed in range(20)]
    seen = {tokenizer.decode(token_ids) for token_ids, _ in answer(params)}
    assert seen <= set(choices)
    assert len(seen) > 1
    pattern = r"[0-9]{3}-(north|south)"
    ((token_ids, reason),) = answer([SamplingParams(max_tokens=40, grammar=regex_grammar(pattern))])
    assert re.fullmatch(pattern, tokenizer.decode(token_ids))
    assert reason == "stop"


def test_form_that_does_not_fit_the_length_is_cut_off(answer: Any) -> None:
    grammar = regex_grammar("[a-z]{300}")
    assert answer([SamplingParams(max_tokens=5, grammar=grammar, temperature=0.0)])[0][1] == "length"


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "nonsense"}, "Invalid type: nonsense"),
        ({"type": "object", "properties": 5}, "properties must be an object"),
        ({"$ref": "#/nowhere"}, "does not exist"),
        ({"type": "string", "pattern": "(("}, "unclosed group"),
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"anyOf": []}, "Unsatisfiable"),
    ],
)
def test_schema_that_cannot_be_kept_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        json_grammar(schema)


def test_guide_forgets_what_was_only_looked_at(folder: Path) -> None:
    tokenizer = Tokenizer(folder)
    guide = GuideMaker(folder, 1024, [1]).guide(json_grammar({"enum": ["ab", "ac"]}))
    start = guide.allowed([])
    assert start is not None
    whole = tokenizer.encode('"ab"', add_special_tokens=False)
    wrong = tokenizer.encode('"b', add_special_tokens=False)
    for length in range(len(whole) + 1):
        assert guide.allowed(whole[:length]) is not None
    assert guide.allowed(wrong) is None
    assert (guide.allowed([]) == start).all()
    assert start[whole[0]]
    assert not start[wrong[-1]]
    for token_id in whole:
        guide.advance(token_id)
    assert guide.is_complete
    assert guide.failure is None


def test_tokenizer_with_more_tokens_than_the_model_is_refused_and_breaks_nothing(folder: Path) -> None:
    with pytest.raises(RequestError, match="vocab size too small"):
        GuideMaker(folder, 900, [1]).guide(regex_grammar("a"))


def test_min_tokens_and_a_form_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="min_tokens cannot be kept"):
        SamplingParams(grammar=regex_grammar("a"), min_tokens=1)
