"""Requests whose answer has a form: what they are refused for, and that their compiling keeps nobody else waiting."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from broken_form import BROKEN

from llmbench.reference_engine import guides
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.guidance import MAX_FORM_BYTES, choice_grammar, json_grammar, regex_grammar
from llmbench.reference_engine.guides import MAX_KEPT, Guide, GuideMaker
from llmbench.reference_engine.models import synthetic
from llmbench.reference_engine.outputs import StepOutput
from llmbench.reference_engine.sampling import SamplingParams

PROMPT = [5, 6, 7]
FREE = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)


def guided(pattern: str, **fields: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 40, "seed": 1, "grammar": regex_grammar(pattern), **fields})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    made = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1))
    yield made
    made.check_integrity()
    made.close()


class Compiler:
    """Stands in front of the real one: it waits until it is let go, and notes what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_free = threading.Event()
        self.has_begun = threading.Event()
        self.compiled: list[str] = []
        real = GuideMaker._compile

        def compile_(maker: GuideMaker, grammar: str) -> Guide:
            self.compiled.append(grammar)
            self.has_begun.set()
            assert self.is_free.wait(timeout=30)
            return real(maker, grammar)

        monkeypatch.setattr(GuideMaker, "_compile", compile_)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    made = Compiler(monkeypatch)
    yield made
    made.is_free.set()


def run(engine: Engine) -> dict[str, list[StepOutput]]:
    told: dict[str, list[StepOutput]] = {}
    while engine.has_work():
        for output in engine.step():
            told.setdefault(output.request_id, []).append(output)
    return told


def test_others_are_answered_while_a_form_is_compiled(engine: Engine, compiler: Compiler) -> None:
    engine.add_request("guided", PROMPT, guided("[ab]{3}"))
    engine.add_request("free", PROMPT, FREE)
    told = [output for _ in range(FREE.max_tokens) for output in engine.step()]
    assert [output.request_id for output in told] == ["free"] * FREE.max_tokens
    assert told[-1].finish_reason == "length"
    assert engine.stats().num_waiting == 1
    assert engine.has_work()
    compiler.is_free.set()
    assert run(engine)["guided"][-1].finish_reason == "stop"


def test_form_that_comes_again_is_compiled_once(engine: Engine, compiler: Compiler) -> None:
    compiler.is_free.set()
    for number in range(4):
        engine.add_request(str(number), PROMPT, guided("[ab]{3}", seed=7))
    told = run(engine)
    engine.add_request("later", PROMPT, guided("[ab]{3}", seed=7))
    told |= run(engine)
    assert len({str([output.new_token_ids for output in outputs]) for outputs in told.values()}) == 1
    assert len(compiler.compiled) == 1


def test_only_the_forms_asked_for_last_are_kept(folder: Path, compiler: Compiler) -> None:
    compiler.is_free.set()
    maker = GuideMaker(folder, 1024, [1])
    grammars = [regex_grammar(f"a{{{number + 1}}}") for number in range(MAX_KEPT + 1)]
    for grammar in [*grammars[:-1], grammars[0], grammars[-1], grammars[0]]:
        maker.guide(grammar)
    assert compiler.compiled == grammars, "the one asked for again was kept"
    maker.guide(grammars[1])
    assert compiler.compiled == [*grammars, grammars[1]], "the one asked for longest ago was not"
    maker.close()


def test_copies_of_a_guide_go_their_own_ways(folder: Path) -> None:
    maker = GuideMaker(folder, 1024, [1])
    grammar = regex_grammar("ab")
    one, other = maker.guide(grammar), maker.guide(grammar)
    start = other.allowed([])
    assert start is not None
    one.advance(int(start.nonzero()[0][0]))
    again = other.allowed([])
    assert again is not None
    assert (again == start).all()
    maker.close()


def test_who_is_given_up_before_its_form_is_compiled_leaves_nothing(engine: Engine, compiler: Compiler) -> None:
    engine.add_request("first", PROMPT, guided("a{3}"))
    engine.add_request("second", PROMPT, guided("b{3}"))
    engine.add_request("as the second", PROMPT, guided("b{3}"))
    engine.add_request("third", PROMPT, guided("c{3}"))
    with pytest.raises(RequestError, match="already being served"):
        engine.add_request("second", PROMPT, FREE)
    for request_id in ("first", "second", "third"):
        assert engine.abort(request_id)
        assert not engine.abort(request_id)
    stats = engine.stats()
    assert (stats.num_waiting, stats.num_running, stats.num_aborted) == (1, 0, 3)
    compiler.is_free.set()
    assert set(run(engine)) == {"as the second"}
    assert regex_grammar("c{3}") not in compiler.compiled, "nobody waited for it"
    engine.add_request("third", PROMPT, guided("c{3}"))
    assert run(engine)["third"][-1].finish_reason == "stop"


def test_order_is_that_of_arrival_once_the_form_is_there(folder: Path, compiler: Compiler) -> None:
    engine = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1, max_num_seqs=1))
    engine.add_request("running", PROMPT, FREE)
    engine.step()
    engine.add_request("guided", PROMPT, guided("a{3}"))
    engine.add_request("behind it", PROMPT, FREE)
    compiler.is_free.set()
    assert list(run(engine)) == ["running", "guided", "behind it"]
    engine.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RequestError("Not with these tokens."), "Not with these tokens."),
        (BaseException("a panic"), "The answer's form cannot be used: it breaks the library that reads it."),
    ],
)
def test_form_that_the_model_cannot_follow_is_told_by_a_step(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: BaseException, says: str
) -> None:
    def refuse(maker: GuideMaker, grammar: str) -> Guide:
        raise error

    monkeypatch.setattr(GuideMaker, "_compile", refuse)
    engine.add_request("guided", PROMPT, guided("a"))
    engine.add_request("free", PROMPT, FREE)
    told = run(engine)
    (output,) = told["guided"]
    assert (output.error, output.finish_reason, output.new_token_ids) == (says, "abort", [])
    assert told["free"][-1].finish_reason == "length"
    assert engine.stats().num_aborted == 1
    engine.add_request("guided", PROMPT, FREE)
    assert run(engine)["guided"][-1].finish_reason == "length"


@pytest.mark.parametrize("speculative", [None, "ngram"])
@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_answer_whose_form_leads_nowhere_ends_with_an_error(
    folder: Path, speculative: Any, temperature: float, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1, speculative=speculative))
    grammar = json_grammar(BROKEN)
    engine.add_request("broken", PROMPT, SamplingParams(max_tokens=60, temperature=temperature, grammar=grammar))
    engine.add_request("free", PROMPT, FREE)
    told = run(engine)
    last = told["broken"][-1]
    num_tokens = sum(len(output.new_token_ids) for output in told["broken"])
    assert num_tokens > 0
    assert last.error == f"The answer's form cannot be kept after {num_tokens} tokens: no text goes on from there."
    assert (last.finish_reason, last.new_token_ids) == ("abort", [])
    assert last.error in caplog.text
    assert told["free"][-1].finish_reason == "length"
    engine.check_integrity()
    assert engine.stats().num_aborted == 1
    engine.close()


def test_closing_waits_for_the_form_under_way_and_gives_up_the_others(folder: Path, compiler: Compiler) -> None:
    engine = Engine(EngineConfig(model_path=folder, kernels="torch", num_threads=1))
    engine.add_request("first", PROMPT, guided("a{3}"))
    engine.add_request("second", PROMPT, guided("b{3}"))
    assert compiler.has_begun.wait(timeout=30)
    closing = threading.Thread(target=engine.close)
    closing.start()
    compiler.is_free.set()
    closing.join(timeout=30)
    assert not closing.is_alive()
    assert len(compiler.compiled) == 1


def properties(number: int) -> dict[str, Any]:
    return {"type": "object", "properties": {str(name): {"type": "string"} for name in range(number)}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "#"}, "no text goes on"),
        ({"allOf": [{"$ref": "#"}]}, "no text goes on"),
        ({"definitions": {"a": {"$ref": "#/definitions/a"}}, "$ref": "#/definitions/a"}, "no text goes on"),
        (
            {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/a"}}},
            "text",
        ),
        ({"x-guidance": {"item_separator": "zz"}, "type": "array"}, "x-guidance is no keyword"),
        ({"x-guidance": {"lenient": True}, "type": "integer", "not": {"const": 0}}, "x-guidance is no keyword"),
        ({"type": "array", "items": {"x-guidance": {"lenient": True}, "not": {}}}, 'Unimplemented keys: ["not"]'),
        (properties(2000), "too large to be followed"),
        (properties(5000), f"it has 123922 bytes, and {MAX_FORM_BYTES} are the most"),
        ({"type": "string", "pattern": "^(a{1000}){1000}$"}, "too large to be followed"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_schema_that_is_empty_or_too_large_is_refused(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError, match=re.escape(says)):
        json_grammar(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "multipleOf": 999983},
        {"allOf": [{"type": "string", "pattern": f".*[ab]{{{number}}}.*"} for number in range(1, 30)]},
        {"type": "object", "patternProperties": {f"^a{number:04}": {"type": "string"} for number in range(1000)}},
    ],
    ids=lambda value: str(value)[:50],
)
def test_schema_that_is_never_read_to_its_end_is_refused_and_the_next_one_is_read(schema: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="too large to be read in 1 s"):
        json_grammar(schema)
    json_grammar({"type": "integer", "multipleOf": 7, "title": str(schema)})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"$ref": "#"}},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}, "$ref": "#/$defs/a"},
        {"type": "object", "properties": {"x-guidance": {"type": "null"}}, "required": ["x-guidance"]},
        properties(400),
        {**properties(1500), "required": [str(name) for name in range(1500)]},
        {"enum": [f"value {number}" for number in range(3000)]},
    ],
    ids=lambda value: str(value)[:50],
)
def test_schema_that_refers_to_itself_or_is_large_is_read(schema: dict[str, Any]) -> None:
    json_grammar(schema)


def test_forms_tried_at_the_same_time_get_each_its_own_answer() -> None:
    def problem(number: int) -> str | None:
        try:
            regex_grammar(f"a{{{number + 1}}}" if number % 2 else "(" * (number + 1))
        except RequestError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(8) as pool:
        problems = list(pool.map(problem, range(24)))
    assert [told is None for told in problems] == [number % 2 == 1 for number in range(24)]


def test_form_is_tried_anew_where_the_process_that_tries_them_was_killed() -> None:
    regex_grammar("killed{1}")
    (child,) = [
        each for each in psutil.Process().children() if "llmbench.reference_engine.form_trial" in each.cmdline()
    ]
    child.kill()
    child.wait()
    regex_grammar("killed{2}")


def test_expression_or_choices_that_are_too_large_are_refused() -> None:
    for pattern in ("(a{1000}){1000}", "(a{1000}){100}", "[^\\n]*" * 200):
        with pytest.raises(RequestError, match="regular expression cannot be used: it is too large to be followed"):
            regex_grammar(pattern)
    with pytest.raises(RequestError, match=f"it has 3000000 bytes, and {MAX_FORM_BYTES} are the most"):
        regex_grammar("a" * 3_000_000)
    choices = ["é" * 128 for _ in range(MAX_FORM_BYTES // 256)]
    choice_grammar(choices)
    with pytest.raises(RequestError, match=f"list of choices cannot be used: it has {MAX_FORM_BYTES + 1} bytes"):
        choice_grammar([*choices, "a"])


def test_grammar_that_the_tokens_make_too_large_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried without a model may still be too large with its tokens."""
    from llguidance import LLParserLimits

    grammar = choice_grammar([f"choice {number}" for number in range(256)])
    monkeypatch.setattr(guides, "parser_limits", lambda: LLParserLimits(initial_lexer_fuel=200, verbose_errors=False))
    maker = GuideMaker(folder, 1024, [1])
    with pytest.raises(RequestError, match="too large to be followed"):
        maker.guide(grammar)
    maker.close()
