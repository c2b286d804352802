"""Answers held against each other, down to the token in which they part."""

from __future__ import annotations

import hashlib

import pyarrow.parquet as pq
import pytest
from made_runs import Entry, MakeRun, entry

from llmbench.results.answers import ANSWERS, KeptAnswer, answers_table
from llmbench.results.manifest import EngineManifest
from llmbench.results.output_equality import Place, agreement, equalities, why_not_compared
from llmbench.results.run import Run

ENGINES = (EngineManifest(label="a", name="reference"), EngineManifest(label="b", name="vllm"))
GREEDY = {"name": "greedy", "request": {"temperature": 0.0}, "measure": {}}


def answered(
    engine: str, index: int, text: str | None, tokens: int = 3, keep: bool = True, **ids: list[int]
) -> tuple[Entry, KeptAnswer | None]:
    """A request with one read per character (every token has one), and its row of answers.parquet."""
    ok = text is not None
    digest = hashlib.sha256((text or "").encode()).hexdigest() if ok else None
    request, chunks = entry(
        index, engine=engine, tokens=[(10 + place, 1) for place in range(len(text or ""))], ok=ok, output_sha256=digest,
        output_tokens=tokens if text is None else len(text),
    )  # fmt: skip
    return (request, chunks), KeptAnswer(request.request_id, text or "", **ids) if keep and ok else None


def made(make_run: MakeRun, answers: list[tuple[Entry, KeptAnswer | None]], workload: object = GREEDY) -> Run:
    run = make_run([each for each, _ in answers], engines=ENGINES, workload=workload)
    pq.write_table(answers_table([row for _, row in answers if row is not None]), run.path / ANSWERS)
    return Run.open(run.path)


def test_equal_answers_are_counted_whether_their_texts_were_kept_or_not(make_run: MakeRun) -> None:
    run = made(make_run, [answered(engine, index, "abc", keep=index == 0) for engine in "ab" for index in range(4)])
    [found] = equalities(run)
    assert (found.num_asked, found.num_both, found.num_identical, found.num_kept) == (4, 4, 4, 1)
    assert (found.share, found.divergences, found.extra_tokens) == (1.0, (), 0.0)
    assert agreement(run) == ("b gave the same answer as a to 4 of 4 questions (100.0 %).",)


def test_the_first_token_that_differs_is_found(make_run: MakeRun) -> None:
    run = made(make_run, [answered("a", 0, "the sea"), answered("b", 0, "the sky")])
    [found] = equalities(run)
    [divergence] = found.divergences
    assert (divergence.character, divergence.before, divergence.rests) == (5, "the s", ("ea", "ky"))
    assert divergence.places == (Place(5, "e", True), Place(5, "k", True))


def test_an_answer_that_ends_earlier_parts_at_its_end(make_run: MakeRun) -> None:
    run = made(make_run, [answered("a", 0, "the sea"), answered("b", 0, "the")])
    [found] = equalities(run)
    [divergence] = found.divergences
    assert divergence.places == (Place(3, " ", True), Place(3, "", True))
    assert (found.num_lengths_differ, found.extra_tokens) == (1, -4.0)


def test_a_read_of_several_tokens_is_counted_from_its_first(make_run: MakeRun) -> None:
    burst, row = answered("b", 0, "the sky")
    request, chunks = burst
    from dataclasses import replace

    whole = [replace(chunks[0], tokens=4, chars=4), replace(chunks[1], index=1, tokens=3, chars=3)]
    run = made(make_run, [answered("a", 0, "the sea"), ((request, whole), row)])
    [found] = equalities(run)
    assert found.divergences[0].places[1] == Place(4, "ky", False)


def test_ids_find_the_token_that_a_text_has_not_shown_yet(make_run: MakeRun) -> None:
    """The third token is half a character on either side: the texts part a token later than the answers do."""
    run = made(
        make_run,
        [
            answered("a", 0, "the sea", token_ids=[1, 2, 30, 4, 5, 6, 7]),
            answered("b", 0, "the sky", token_ids=[1, 2, 31]),
        ],
    )
    [divergence] = equalities(run)[0].divergences
    assert (divergence.ruler, divergence.same_ids, divergence.character) == ("token ids", False, 5)
    assert divergence.places == (Place(2, "e", True, 30), Place(2, "e", True, 31))


def test_the_same_tokens_written_otherwise_are_told_apart_from_other_tokens(make_run: MakeRun) -> None:
    run = made(make_run, [answered("a", 0, "sea", token_ids=[1, 2, 3]), answered("b", 0, "se", token_ids=[1, 2, 3])])
    [divergence] = equalities(run)[0].divergences
    assert (divergence.ruler, divergence.same_ids) == ("the engines' counts", True)


def test_an_answer_of_fewer_ids_ends_there(make_run: MakeRun) -> None:
    run = made(make_run, [answered("a", 0, "abc", token_ids=[1, 2, 3]), answered("b", 0, "ab", token_ids=[1, 2])])
    [divergence] = equalities(run)[0].divergences
    assert divergence.places == (Place(2, "c", True, 3), Place(2, "", True, None))


@pytest.mark.parametrize(
    ("source", "known", "ruler"),
    [
        ("usage_delta", {"a": {"retokenised": [1]}, "b": {"retokenised": [2]}}, "the engines' counts"),
        ("server_count", {"a": {"retokenised": [1]}, "b": {"retokenised": [2]}}, "the engines' counts"),
        ("assumed_one", {"a": {"retokenised": [1, 2]}, "b": {"retokenised": [1, 3]}}, "retokenised text"),
        ("assumed_one", {"a": {"token_ids": [1, 2], "retokenised": [1, 2]}, "b": {"retokenised": [1, 3]}},
         "retokenised text"),
        ("assumed_one", {"a": {"retokenised": [1, 2]}, "b": {}}, "reads"),
    ],
)  # fmt: skip
def test_the_best_ruler_that_both_sides_have_counts(
    make_run: MakeRun, source: str, known: dict[str, dict[str, list[int]]], ruler: str
) -> None:
    from dataclasses import replace

    answers = []
    for engine, text in (("a", "the sea"), ("b", "the sky")):
        (request, chunks), row = answered(engine, 0, text, **known[engine])
        answers.append(((replace(request, token_source=source), chunks), row))
    [divergence] = equalities(made(make_run, answers))[0].divergences
    assert divergence.ruler == ruler
    assert [place.token for place in divergence.places] == ([1, 1] if ruler == "retokenised text" else [5, 5])


def test_answers_stored_before_there_were_ids_are_read(make_run: MakeRun) -> None:
    run = made(make_run, [answered("a", 0, "the sea"), answered("b", 0, "the sky")])
    pq.write_table(pq.read_table(run.path / ANSWERS).select(["request_id", "text"]), run.path / ANSWERS)
    [divergence] = equalities(Run.open(run.path))[0].divergences
    assert (divergence.ruler, divergence.same_ids) == ("the engines' counts", False)


def test_failures_are_no_answers(make_run: MakeRun) -> None:
    run = made(
        make_run, [answered("a", 0, "abc"), answered("a", 1, None), answered("b", 0, None), answered("b", 1, "x")]
    )
    [found] = equalities(run)
    assert (found.num_asked, found.num_failed, found.num_both, found.share) == (2, (1, 1), 0, None)
    assert agreement(run) == ("b and a have no question that both answered.",)


@pytest.mark.parametrize(
    ("workload", "engines", "reason"),
    [
        ({**GREEDY, "request": {"temperature": 0.7}}, "ab", "sampled (temperature 0.7)"),
        (GREEDY, "a", "One engine was asked"),
    ],
)
def test_what_cannot_be_compared_is_not(make_run: MakeRun, workload: object, engines: str, reason: str) -> None:
    run = made(make_run, [answered(engine, 0, "abc") for engine in engines], workload)
    assert equalities(run) == ()
    assert reason in (why_not_compared(run) or "")
