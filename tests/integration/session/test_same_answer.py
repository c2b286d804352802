"""Whole runs over real servers of which one answers differently, or does less than it was asked."""

from __future__ import annotations

import http.server
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from replies import Replies

from llmbench.results.equal_work import unequal_work
from llmbench.results.output_equality import equalities
from llmbench.results.run import Run

Talk = Callable[[str], tuple[str, list[int]]]
LENIENT = "--allow-invalid"


class Talker(Replies):
    """An OpenAI server that answers each prompt with words made from it, one token an event."""

    manner = "plain"
    answered_otherwise: list[int]

    def do_GET(self) -> None:
        self.reply(404, b"")

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        words, num_tokens, number = asked["prompt"].split(), asked["max_tokens"], zlib.crc32(asked["prompt"].encode())
        answer = [f" w{(number + place) % 97}" for place in range(num_tokens)]
        if self.manner == "differs" and number % 2:
            answer[2:] = [" odd"] * (num_tokens - 2)
            self.answered_otherwise.append(number)
        if self.manner == "cuts":
            words, answer = words[:3], answer[:-1]
        events: list[dict[str, Any]] = [{"choices": [{"text": text, "index": 0}]} for text in answer]
        events.append({"choices": [{"text": "", "index": 0, "finish_reason": "length"}]})
        events.append({"choices": [], "usage": {"prompt_tokens": len(words), "completion_tokens": len(answer)}})
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        for event in events:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True


@pytest.fixture
def talk() -> Iterator[Talk]:
    """talk(manner) is the URL of a server of that manner, and the numbers of the prompts it answered otherwise."""
    running = []

    def start(manner: str) -> tuple[str, list[int]]:
        numbers: list[int] = []
        handler = type("OneTalker", (Talker,), {"manner": manner, "answered_otherwise": numbers})
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}", numbers

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def measured(workplace: Any, urls: dict[str, str], **measure: Any) -> tuple[Run, str]:
    engines = [{"openai": {"label": label, "url": url}} for label, url in urls.items()]
    traffic = {"requests": 8, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 4}}
    measure = {"rounds": 2, "telemetry_s": 0, **measure}
    workload = workplace.workload(engines=engines, traffic=traffic, measure=measure)
    done = workplace.run("run", workload, "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    return Run.open(workplace.folder / "out"), done.stdout


def test_answers_that_differ_are_told_token_for_token(workplace: Any, talk: Talk) -> None:
    url, otherwise = talk("differs")
    run, printed = measured(workplace, {"right": talk("plain")[0], "odd": url})
    [found] = equalities(run)
    same = 16 - len(otherwise)
    assert (found.baseline, found.engine, found.num_asked, found.num_failed) == ("right", "odd", 16, (0, 0))
    assert 0 < same < 16
    assert (found.num_identical, found.num_both, found.num_kept, len(found.divergences)) == (same, 16, 16, 16 - same)
    for divergence in found.divergences:
        ours, theirs = divergence.places
        assert divergence.before.count(" w") == 2
        # The space before a word is in common.
        assert [rest[:1] for rest in divergence.rests] == ["w", "o"]
        if divergence.ruler == "the engines' counts":
            assert (theirs.token, theirs.text) == (2, " odd")
            assert (ours.token, ours.text[:2]) == (2, " w")
        else:  # a read brought several tokens: which read has which of them is a guess then
            assert divergence.ruler == "reads"
    assert f"odd gave the same answer as right to {same} of 16 questions" in printed
    assert "where they part, it is at token" in printed
    assert unequal_work(run) == ()


def test_less_work_is_flagged_before_any_number(workplace: Any, talk: Talk) -> None:
    run, printed = measured(workplace, {"right": talk("plain")[0], "short": talk("cuts")[0]})
    prompts, lengths = unequal_work(run)
    assert "short counted other numbers of prompt tokens than right for 16 of 16 prompts" in prompts
    assert lengths == (
        "short's answers have another length than right's for 16 of 16 questions: 4.0 tokens against 5.0 on average "
        "over all."
    )
    assert printed.index("did not do the same work") < printed.index("load: ")
    page = (workplace.folder / "out" / "report.html").read_text(encoding="utf-8")
    first_screen = page[page.index('id="answer"') : page.index('id="validity"')]
    assert "short counted other numbers of prompt tokens" in first_screen
    [found] = equalities(run)
    assert (found.num_identical, found.num_lengths_differ, found.extra_tokens) == (0, 16, -1.0)
    # Where a read brought several tokens at once, which read has which of them is a guess.
    by_count = [each.places[1] for each in found.divergences if each.ruler == "the engines' counts"]
    assert by_count == [(4, "", True, None)] * len(by_count)
    assert {each.places[1].text for each in found.divergences} == {""}


def test_texts_are_kept_within_the_budget_and_of_the_same_questions(workplace: Any, talk: Talk) -> None:
    # 2 rounds × 2 engines: 50 bytes each, room for the answers to two of eight.
    run, _ = measured(workplace, {"right": talk("plain")[0], "odd": talk("differs")[0]}, answer_bytes=200)
    kept = run.answers.to_pylist()
    assert 0 < sum(len(row["text"].encode()) for row in kept) <= 200
    questions = {row["request_id"].split("-", 1)[1] for row in kept}
    assert len(questions) == len(kept) / 2
    [found] = equalities(run)
    assert found.num_kept == len(kept) / 2
    assert found.num_both == 16  # by their digests, kept or not


def test_nothing_is_kept_where_nothing_is_asked_for(workplace: Any, talk: Talk) -> None:
    url, otherwise = talk("differs")
    run, _ = measured(workplace, {"right": talk("plain")[0], "odd": url}, answer_bytes=0)
    assert run.answers.num_rows == 0
    [found] = equalities(run)
    assert (found.num_identical, found.num_both, found.divergences) == (16 - len(otherwise), 16, ())
