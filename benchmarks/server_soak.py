"""A server of the reference engine under random load for a while: nothing leaks, hangs, or changes an answer.

    python benchmarks/server_soak.py --minutes 10 [--speculative ngram …]

Options that it does not know are the server's. Requests arrive at random: streamed and not, greedy and seeded, beam
searches, some cancelled in mid-answer, some with prompts beyond the context, some that are no requests at all. At the
end: every status was the right one, the answers are what the same requests get alone (asked again one by one, as many
as a third of the run's time allows), all KV blocks are free, and both processes' memory is what it was after the first
minute. Exits 1 if not; the last line is the run as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psutil

MODEL = "bundled:python-target"
CONTEXT = 512
MAX_RSS_GROWTH = 1.10
MAX_IN_FLIGHT = 48
SHARE_OF_BEAMS = 0.1
VOCAB_SIZE = 2048


@dataclass
class Soak:
    """What was seen so far. `answers` maps a request's body to the text and the number of tokens it brought."""

    port: int
    statuses: Counter[str] = field(default_factory=Counter)
    answers: dict[str, set[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    async def exchange(self, payload: bytes, cancel_after: int | None = None) -> tuple[int, bytes]:
        """Status and body; with `cancel_after`, the connection is closed after that many reads."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n"
                b"content-length: %d\r\n\r\n" % len(payload) + payload
            )
            answer = b""
            while data := await reader.read(65536):
                answer += data
                if cancel_after is not None and (cancel_after := cancel_after - 1) <= 0:
                    return 0, b""
            head, _, body = answer.partition(b"\r\n\r\n")
            return int(head.split()[1]), _unchunked(body) if b"chunked" in head else body
        finally:
            writer.close()

    async def one(self, draw: random.Random) -> None:
        kind = draw.choices(("answer", "cancel", "too long", "not JSON", "unknown field"), (70, 15, 5, 5, 5))[0]
        body = _beams_body(draw) if draw.random() < SHARE_OF_BEAMS else _body(draw)
        if kind == "too long":
            body["prompt"] = [10] * draw.randint(CONTEXT, 3 * CONTEXT)
        elif kind == "unknown field":
            body["grammar"] = "none"
        payload = b"{" if kind == "not JSON" else json.dumps(body).encode()
        try:
            status, answer = await asyncio.wait_for(
                self.exchange(payload, draw.randint(0, 6) if kind == "cancel" else None), timeout=120
            )
        except TimeoutError:
            self.problems.append(f"no answer in 120 s to {payload[:200]!r}")
            return
        self.statuses[f"{kind}: {status}"] += 1
        expected = {"answer": 200, "cancel": 0}.get(kind, 400)
        # A cancelled request may have been answered before.
        if status != expected and not (kind == "cancel" and status == 200):
            self.problems.append(f"{kind} was answered {status}: {answer[:200]!r}")
        if status == 200:
            self.answers.setdefault(json.dumps(body), set()).add(_text(answer))

    async def alone(self, seconds: float, draw: random.Random) -> int:
        """Ask the answered requests again, one by one and in random order; returns how many there was time for."""
        bodies, begun = sorted(self.answers), time.monotonic()
        draw.shuffle(bodies)
        for num_asked, body in enumerate(bodies):
            if time.monotonic() - begun > seconds:
                return num_asked
            _, answer = await self.exchange(body.encode())
            if self.answers[body] != {_text(answer)}:
                self.problems.append(f"alone, {body} is answered otherwise")
        return len(bodies)


def _body(draw: random.Random) -> dict[str, Any]:
    return {
        "model": MODEL,
        "prompt": [draw.randrange(5, VOCAB_SIZE) for _ in range(draw.choice((1, 3, 17, 64, 200)))],
        "max_tokens": draw.choice((1, 2, 16, 64, 128)),
        "temperature": draw.choice((0, 0.8)),
        "seed": draw.randrange(1000),
        "ignore_eos": draw.random() < 0.5,
        "stop": draw.choice((None, ["return"], ["\n\n"])),
        "stream": draw.random() < 0.7,
    }


def _beams_body(draw: random.Random) -> dict[str, Any]:
    best_of = draw.choice((1, 2, 4))
    return {
        "model": MODEL,
        "prompt": [draw.randrange(5, VOCAB_SIZE) for _ in range(draw.choice((1, 3, 17, 64)))],
        "max_tokens": draw.choice((1, 2, 16, 32)),
        "use_beam_search": True,
        "best_of": best_of,
        "n": draw.randint(1, best_of),
        "length_penalty": draw.choice((0.0, 1.0)),
        "ignore_eos": draw.random() < 0.5,
        "stream": draw.random() < 0.5,
    }


def _unchunked(body: bytes) -> bytes:
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size or b"0", 16)
        whole, body = whole + body[:length], body[length + 2 :]
    return whole


def _text(answer: bytes) -> str:
    if not answer.startswith(b"data:"):
        return json.dumps([choice["text"] for choice in json.loads(answer)["choices"]])
    assert answer.endswith(b"data: [DONE]\n\n"), answer[-200:]
    events = [json.loads(line[6:]) for line in answer.decode().split("\n\n") if line.startswith("data: {")]
    texts: dict[int, str] = {}
    for choice in (event["choices"][0] for event in events):
        texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return json.dumps([text for _, text in sorted(texts.items())])


def _gauge(metrics: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)}{{[^}}]*}} (\S+)$", metrics, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


async def _metrics(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
    text = (await reader.read(-1)).decode()
    writer.close()
    return text


async def soak(port: int, server: psutil.Process, minutes: float, rate: float, seed: int) -> dict[str, Any]:
    state, draw = Soak(port), random.Random(seed)
    processes = [server, *server.children()]
    begun = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    rss_settled: list[int] | None = None
    while (elapsed := time.monotonic() - begun) < minutes * 60:
        task = asyncio.create_task(state.one(random.Random(draw.getrandbits(64))))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if rss_settled is None and elapsed > min(60, minutes * 20):
            rss_settled = [process.memory_info().rss for process in processes]
        await asyncio.sleep(draw.expovariate(rate))
        # Arrivals wait where the machine does not keep up: what is looked for is a leak, not a backlog.
        while len(tasks) >= MAX_IN_FLIGHT:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*tasks)
    await asyncio.sleep(0.5)
    rss_end = [process.memory_info().rss for process in processes]
    num_compared = await state.alone(minutes * 20, draw)
    metrics = await _metrics(port)
    for name in ("llmbench:kv_blocks_used", "vllm:num_requests_running", "vllm:num_requests_waiting"):
        if _gauge(metrics, name) != 0:
            state.problems.append(f"{name} is {_gauge(metrics, name)} at the end")
    growth = [end / settled for end, settled in zip(rss_end, rss_settled or rss_end, strict=True)]
    if max(growth) > MAX_RSS_GROWTH:
        state.problems.append(f"memory grew to {growth} of what it was")
    return {
        "minutes": minutes,
        "num_requests": sum(state.statuses.values()),
        "by_kind": dict(sorted(state.statuses.items())),
        "num_answers_compared": num_compared,
        "num_aborted": _gauge(metrics, "llmbench:aborted_requests_total"),
        "num_preemptions": _gauge(metrics, "vllm:num_preemptions_total"),
        "rss_mib": [round(rss / 2**20) for rss in rss_end],
        "rss_growth": [round(share, 3) for share in growth],
        "num_problems": len(state.problems),
        "problems": state.problems[:10],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=20.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    options, for_server = parser.parse_known_args()
    # Few blocks, so that requests are preempted and cached blocks evicted.
    argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", MODEL, "--port", "0"]
    process = subprocess.Popen([*argv, "--num-blocks", "64", *for_server], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = next(int(found[1]) for line in process.stderr if (found := re.search(r"http://127.0.0.1:(\d+)", line)))
        log = subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL)
        result = asyncio.run(soak(port, psutil.Process(process.pid), options.minutes, options.rate, options.seed))
    finally:
        process.terminate()
    result["exit_code"] = process.wait(timeout=20)
    log.wait(timeout=20)
    print(json.dumps(result))
    return 1 if result["problems"] or result["exit_code"] else 0


if __name__ == "__main__":
    sys.exit(main())
