"""A server of the reference engine under random load for a while: nothing leaks, hangs, or changes an answer.

    python benchmarks/server_soak.py --minutes 10 [--speculative ngram …]

Options that it does not know are the server's. Requests of all kinds (soak_requests.py) arrive at random by every door
(soak_doors.py), completions and chats, streamed and not, most of them from a pool and many with a prompt that nobody
sent before; some are cancelled, some have prompts beyond the context, some are no requests at all. At the end every
status was the right one, all KV blocks are free, both processes' memory is what it was after the first minute, and what
the server's options ask for has happened: preemptions, evictions, swaps, drafts that were accepted.

Then a fresh server, with those of the options alone that decide numbers (weights, KV format, kernels) and no prefix
cache, is asked every distinct request once, one by one and by HTTP: each answer of the storm must be this one, token by
token and to the last bit of each log-probability. Of an answer that was cancelled, what came must be how this one
begins.

That much can be asked, of quantised weights and KV caches and of drafts too: the C++ kernels compute a row by the same
operations in the same order, whatever else is in the step and however a prompt was cut into chunks, so that the cache
holds the same numbers; and what is drawn depends on the seed and the token's place alone. It cannot be asked of
`--kernels torch`: how its matrix products are summed depends on the number of rows, and log-probabilities differ in
their last digits.

Exits 1 if anything was otherwise; the last line is the run as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from soak_doors import CHAT, Patience, Ports, Reply, by_grpc, by_http, by_websocket, for_grpc
from soak_requests import CONTEXT, MODEL, answer_content, is_beginning, request

DOORS = (by_http, by_websocket, by_grpc)
MAX_RSS_GROWTH = 1.05
MAX_IN_FLIGHT = 48
POOL_SIZE = 200
SHARE_OF_NEW = 0.3
# Beyond what a low priority waits where the machine has other work: a thousand arrivals go ahead of it.
LONGEST_WAIT_S = 300.0
START_S = 120.0
ZERO_AT_THE_END = (
    *("llmbench:kv_blocks_used", "llmbench:swap_blocks_used"),
    *("vllm:num_requests_running", "vllm:num_requests_waiting"),
)
# What a request's answer may depend on; everything else decides when it is computed, and beside whom.
DECIDE_NUMBERS = ("--dtype", "--device", "--kernels", "--quantization", "--kv-cache-dtype", "--graphs", "--block-size")
DECIDE_NUMBERS += ("--threads", "--max-model-len", "--model", "--served-model-name")


class Question(NamedTuple):
    """What was asked, without what may not change the answer. gRPC's replies do not say which text ended them."""

    path: str
    body: str
    by_grpc: bool


@dataclass
class Storm:
    """What was seen so far. By question: how often it got which answer, as JSON, whole or cancelled."""

    ports: Ports
    statuses: Counter[str] = field(default_factory=Counter)
    by_door: Counter[str] = field(default_factory=Counter)
    longest_s: dict[int, float] = field(default_factory=dict)  # by priority, to a whole answer
    answers: dict[Question, Counter[str]] = field(default_factory=dict)
    cancelled: dict[Question, Counter[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    async def one(self, draw: random.Random, pool: Sequence[tuple[str, dict[str, Any]]]) -> None:
        kind = draw.choices(("answer", "cancel", "too long", "not JSON", "unknown field"), (70, 15, 5, 5, 5))[0]
        path, body = request(draw) if draw.random() < SHARE_OF_NEW else draw.choice(pool)
        door = draw.choices(DOORS, (60, 20, 20))[0]
        if door is by_grpc and (asked := for_grpc(body)) is not None:
            body = asked
        elif door is by_grpc:
            door = by_http
        sent = {**body, "stream": draw.random() < 0.7, "priority": draw.choice((0, 0, 0, -1, 1))}
        sent["user"] = draw.choice((None, "ann", "bob"))
        if kind == "too long" and path == CHAT:
            sent["messages"] = [{"role": "user", "content": "if x == 1:\n    y()\n" * CONTEXT}]
        elif kind == "too long":
            sent["prompt"] = [10] * draw.randint(CONTEXT, 3 * CONTEXT)
        elif kind == "unknown field":
            sent["grammar"] = "none"
        payload = b"{" if kind == "not JSON" else json.dumps(sent).encode()
        patience = Patience(LONGEST_WAIT_S)
        if kind == "cancel" and draw.random() < 0.5:
            patience = Patience(draw.choice((0, draw.uniform(0, 1))))
        elif kind == "cancel":
            patience = Patience(LONGEST_WAIT_S, draw.randint(1, 8))
        self.by_door[f"{door.__name__} {path}"] += 1
        begun = time.monotonic()
        try:
            reply = await door(self.ports, path, payload, patience)
            if reply.is_whole:
                waited = self.longest_s.get(sent["priority"], 0.0)
                self.longest_s[sent["priority"]] = max(waited, time.monotonic() - begun)
            how = f"{door.__name__}, priority {sent['priority']}"
            self._note(kind, Question(path, json.dumps(body), door is by_grpc), reply, how)
        except Exception as error:  # whatever it is, it is what the soak looks for
            self.problems.append(f"{kind} {door.__name__}: {error!r} after {payload[:300]!r}")

    def _note(self, kind: str, question: Question, reply: Reply, how: str) -> None:
        self.statuses[f"{kind}: {reply.status if reply.is_whole else 'left'}"] += 1
        if not reply.is_whole and kind != "cancel":
            self.problems.append(f"{kind} had no answer in {LONGEST_WAIT_S} s, {how}: {question}")
        elif reply.status != 200:
            if reply.is_whole and reply.status != (200 if kind in ("answer", "cancel") else 400):
                self.problems.append(f"{kind} was answered {reply.status}: {reply.payloads} {question}")
        elif kind in ("answer", "cancel"):
            if reply.is_whole or reply.payloads:
                seen = self.answers if reply.is_whole else self.cancelled
                content = json.dumps(answer_content(reply.payloads))
                seen.setdefault(question, Counter())[content] += 1
        else:
            self.problems.append(f"{kind} was answered {reply.status}: {reply.payloads} {question}")


async def storm(ports: Ports, server: psutil.Process, options: argparse.Namespace) -> tuple[Storm, dict[str, Any]]:
    """Send for so many minutes and wait for every answer; returns what was seen, and the end's figures."""
    seen, draw = Storm(ports), random.Random(options.seed)
    pool = [request(draw) for _ in range(POOL_SIZE)]
    processes = [server, *server.children()]
    begun = time.monotonic()
    tasks: set[asyncio.Task[None]] = set()
    rss_settled: list[int] | None = None
    while (elapsed := time.monotonic() - begun) < options.minutes * 60:
        task = asyncio.create_task(seen.one(random.Random(draw.getrandbits(64)), pool))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        if rss_settled is None and elapsed > min(60, options.minutes * 20):
            rss_settled = [process.memory_info().rss for process in processes]
        await asyncio.sleep(draw.expovariate(options.rate))
        # Arrivals wait where the machine does not keep up: what is looked for is a leak, not a backlog.
        while len(tasks) >= MAX_IN_FLIGHT:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.gather(*tasks)
    await asyncio.sleep(0.5)
    rss_end = [process.memory_info().rss for process in processes]
    growth = [end / settled for end, settled in zip(rss_end, rss_settled or rss_end, strict=True)]
    if max(growth) > MAX_RSS_GROWTH:
        seen.problems.append(f"memory grew to {growth} of what it was")
    return seen, {"rss_mib": [round(rss / 2**20) for rss in rss_end], "rss_growth": [round(each, 3) for each in growth]}


async def end_state(port: int, server_options: Sequence[str]) -> tuple[dict[str, float], list[str]]:
    """The counters that tell what has happened, and the problems: what is not free, and what has not happened."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n")
    text = (await reader.read(-1)).decode()
    writer.close()
    value = {name: float(number) for name, number in re.findall(r"^([\w:]+){[^}]*} (\S+)$", text, re.MULTILINE)}
    problems = [f"{name} is {value[name]} at the end" for name in ZERO_AT_THE_END if value[name] != 0]
    counts = {
        "num_preemptions": value["vllm:num_preemptions_total"],
        "num_aborted": value["llmbench:aborted_requests_total"],
    }
    if "--no-prefix-cache" not in server_options:
        counts["num_evicted_blocks"] = value["llmbench:evicted_blocks_total"]
        counts["num_prefix_hit_tokens"] = value["vllm:prefix_cache_hits_total"]
    if "swap" in server_options:
        counts["num_swapped_requests"] = value["llmbench:swapped_requests_total"]
    # Beams always are; other requests where the swap space is full, or where there is none.
    counts["num_recomputed_requests"] = counts["num_preemptions"] - counts.get("num_swapped_requests", 0)
    if "--speculative" in server_options:
        counts["num_accepted_drafts"] = value["vllm:spec_decode_num_accepted_tokens_total"]
    return counts, problems + [f"{name} is 0: the run has not shown it" for name, count in counts.items() if not count]


async def compare(ports: Ports, seen: Storm) -> dict[str, int]:
    """Ask each request alone and by HTTP, and hold what it got in the storm against that."""
    counts = Counter[str](
        num_answers_compared=0, num_answers_differ=0, num_cancelled_compared=0, num_cancelled_differ=0
    )
    questions = sorted({*seen.answers, *seen.cancelled})
    for question in questions:
        body = json.dumps({**json.loads(question.body), "stream": False})
        reply = await by_http(ports, question.path, body.encode(), Patience(LONGEST_WAIT_S))
        if reply.status != 200:
            seen.problems.append(f"alone, {question} is answered {reply.status}: {reply.payloads}")
            continue
        alone = answer_content(reply.payloads)
        if question.by_grpc:
            alone = [{**choice, "stop_reason": None} for choice in alone]
        for content, times in seen.answers.get(question, Counter[str]()).items():
            counts["num_answers_compared"] += times
            if json.loads(content) != alone:
                counts["num_answers_differ"] += times
                seen.problems.append(f"{question} was answered {content}, and alone {json.dumps(alone)}")
        for content, times in seen.cancelled.get(question, Counter[str]()).items():
            counts["num_cancelled_compared"] += times
            if not is_beginning(json.loads(content), alone):
                counts["num_cancelled_differ"] += times
                seen.problems.append(f"{question}, cancelled, began {content}, and alone {json.dumps(alone)}")
    return {"num_distinct_requests": len(questions), **counts}


@contextmanager
def serving(options: Sequence[str]) -> Iterator[tuple[Ports, psutil.Process]]:
    """Ports and process of a server, which must end well when it is told to."""
    argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", MODEL]
    argv += ["--port", "0", "--grpc-port", "0", *options]
    with tempfile.NamedTemporaryFile("w+") as log:
        process = subprocess.Popen(argv, stderr=log, text=True)
        try:
            give_up = time.monotonic() + START_S
            while (found := re.search(r"http://127.0.0.1:(\d+)", Path(log.name).read_text())) is None:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise RuntimeError(f"The server did not start:\n{Path(log.name).read_text()}")
                time.sleep(0.1)
            second = re.search(r"gRPC on port (\d+)", Path(log.name).read_text())
            assert second is not None
            yield Ports(int(found[1]), int(second[1])), psutil.Process(process.pid)
        finally:
            process.terminate()
            exit_code = process.wait(timeout=60)
        if exit_code != 0:
            raise RuntimeError(f"The server ended with {exit_code}:\n{Path(log.name).read_text()[-2000:]}")


def numbers_alone(options: Sequence[str]) -> list[str]:
    return [each for place, name in enumerate(options) if name in DECIDE_NUMBERS for each in options[place : place + 2]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=60.0, help="requests per second, as far as they are answered")
    parser.add_argument("--seed", type=int, default=0)
    options, for_server = parser.parse_known_args()
    # Few blocks, so that requests are preempted and cached blocks evicted.
    for_server = ["--num-blocks", "40", *for_server]
    with serving(for_server) as (ports, process):
        seen, memory = asyncio.run(storm(ports, process, options))
        counts, problems = asyncio.run(end_state(ports.http, for_server))
    with serving([*numbers_alone(for_server), "--no-prefix-cache"]) as (ports, _):
        compared = asyncio.run(compare(ports, seen))
    seen.problems += problems
    print(
        f"{compared['num_answers_compared']} answers to {compared['num_distinct_requests']} different requests were "
        f"compared with the same request's alone: {compared['num_answers_differ']} differ. "
        f"Of {compared['num_cancelled_compared']} that were cancelled the beginning was: "
        f"{compared['num_cancelled_differ']} differ."
    )
    result = {
        "options": for_server,
        "minutes": options.minutes,
        "num_requests": sum(seen.statuses.values()),
        "by_kind": dict(sorted(seen.statuses.items())),
        "by_door": dict(sorted(seen.by_door.items())),
        "longest_s_by_priority": {level: round(seen.longest_s[level], 1) for level in sorted(seen.longest_s)},
        **compared,
        **counts,
        **memory,
        "num_problems": len(seen.problems),
        "problems": [problem[:1500] for problem in seen.problems[:10]],
    }
    for problem in result["problems"]:
        print(f"problem: {problem}")
    if len(seen.problems) > len(result["problems"]):
        print(f"and {len(seen.problems) - len(result['problems'])} more problems")
    print(json.dumps(result))
    return 1 if seen.problems else 0


if __name__ == "__main__":
    sys.exit(main())
