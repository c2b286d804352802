"""Conversations from the workload to the rows: each turn behind the answer to the one before."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmbench.results.run_directory import Run

LENIENT = "--allow-invalid"
TALK = {"kind": "conversations", "turns": 3, "prompt_tokens": 12, "output_tokens": 5, "think_s": 0.05}
MODEL = "synthetic:llama-tiny"

# Answers each chat with how many messages it has, and cuts off the answer whose number is on its command line.
COUNTING = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with open(sys.argv[2], "a") as log:
            log.write(json.dumps(asked) + "\\n")
        with open(sys.argv[2]) as log:
            is_cut = len(log.readlines()) == int(sys.argv[3])
        self.send_response(200); self.send_header("content-type", "text/event-stream"); self.end_headers()
        self.close_connection = True
        if not is_cut:
            content = f"<{len(asked['messages'])} messages>"
            for delta, finish in (({"content": content}, None), ({}, "length")):
                choice = {"index": 0, "delta": delta, "finish_reason": finish}
                self.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\\n\\n")
            self.wfile.write(b"data: [DONE]\\n\\n")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def rows(folder: Path) -> dict[str, list[Any]]:
    run = Run.open(folder)
    assert run.finished
    return run.requests.sort_by([("warmup", "ascending"), ("index", "ascending")]).to_pydict()


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("arrivals", [{"kind": "closed", "concurrency": 2}, {"kind": "constant", "rate": 20}])
def test_turns_follow_their_answers_after_thinking(workplace: Any, arrivals: dict[str, object]) -> None:
    traffic = {"requests": 9, "warmup_requests": 1, "arrivals": arrivals}
    workload = workplace.workload(model=MODEL, prompts=TALK, traffic=traffic)
    done = workplace.run("run", workload, "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    found = rows(workplace.folder / "out")
    assert found["status"] == ["ok"] * 10
    assert found["index"] == [*range(9), 0]
    for first in (0, 3, 6):
        for turn in (first + 1, first + 2):
            assert found["due_ns"][turn] == found["end_ns"][turn - 1] + 50_000_000
            assert found["sent_ns"][turn] >= found["due_ns"][turn]
    if arrivals["kind"] == "closed":
        assert found["due_ns"][6] == min(found["end_ns"][2], found["end_ns"][5])
    else:
        assert [found["due_ns"][index] - found["due_ns"][0] for index in (3, 6)] == [50_000_000, 100_000_000]
    assert Run.open(workplace.folder / "out").manifest.trials[0].end_ns is not None


def test_the_engine_reads_its_own_answers_and_turns_behind_a_failure_are_rows(
    workplace: Any, eventually: Any, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "asked.jsonl"
    script = tmp_path / "counting.py"
    script.write_text(COUNTING)
    server = subprocess.Popen([sys.executable, script, str(port), log, "5"], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: is_open(port))
        workload = workplace.workload(
            model=MODEL,
            engines=[{"openai": {"url": f"http://127.0.0.1:{port}"}}],
            prompts={**TALK, "think_s": 0},
            request={"api": "chat"},
            traffic={"requests": 6, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 1}},
        )
        done = workplace.run("run", workload, "--out", "out", LENIENT)
    finally:
        server.kill()
        server.wait()
    assert done.returncode == 0, done.stderr
    asked = [json.loads(line)["messages"] for line in log.read_text().splitlines()]
    assert [len(messages) for messages in asked] == [1, 3, 5, 1, 3]
    assert asked[2][:3] == asked[1]
    assert [message["content"] for message in asked[2] if message["role"] == "assistant"] == [
        "<1 messages>",
        "<3 messages>",
    ]
    found = rows(workplace.folder / "out")
    assert found["status"] == ["ok"] * 4 + ["failed"] * 2
    assert found["error_kind"][5] == "cancelled"
    assert found["sent_ns"][5] is None
    assert "failed, so this one was not asked" in found["error"][5]


def test_a_closed_loop_wider_than_its_conversations_says_how_many_are_in_flight(workplace: Any) -> None:
    traffic = {"requests": 9, "warmup_requests": 0, "arrivals": {"kind": "closed", "concurrency": 8}}
    workload = workplace.workload(model=MODEL, prompts={**TALK, "think_s": 0}, traffic=traffic)
    said = "closed 8: a round's 3 conversations fill 3 of 8 slots"
    planned = workplace.run("run", workload, "--dry-run").stdout
    assert said in " ".join(planned.split())
    [row] = [line for line in planned.splitlines() if "closed 8  " in line]
    assert row.split()[-6] == "3", "in flight at most"
    done = workplace.run("run", workload, "--out", "out", LENIENT)
    assert done.returncode == 0, done.stderr
    assert said in " ".join(done.stdout.split())


def test_a_conversation_that_outgrows_the_context_is_refused(workplace: Any) -> None:
    talk = {**TALK, "turns": 9, "prompt_tokens": 48, "output_tokens": 16}
    workload = workplace.workload(model=MODEL, prompts=talk, traffic={"requests": 9})
    done = workplace.run("run", workload, "--dry-run")
    assert done.returncode == 2
    assert "request 8 of round 0 needs" in done.stderr
    assert "Lower prompts.turns" in done.stderr
