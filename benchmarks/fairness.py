"""What a user who sends little waits for beside one who floods the server: order of arrival against fair shares.

    python benchmarks/fairness.py [--model synthetic:llama-20m] [--flood 64] [--seats 8] [--rounds 6]

Two servers of the bundled engine, --fairness fcfs and vtc, are loaded before the first round, and one is idle while the
other computes; rounds go A B B A. In a round one user sends `--flood` requests at once, another a short one every half
second, `--few` in all. Printed are times to the first token by user, and the tokens/s of both together, from the first
request to the last token. The last line is the run as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import NamedTuple

import script

from llmbench.reference_engine.models.sources import checkpoint_folder

POLICIES = ("fcfs", "vtc")
EVERY_S = 0.5
# Ids below it are in every model's vocabulary.
SMALLEST_VOCAB = 1000


class Round(NamedTuple):
    """Times to the first token in ms, one per request, and the tokens/s of all."""

    few_ms: list[float]
    flood_ms: list[float]
    tokens_per_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:llama-20m")
    parser.add_argument("--flood", type=script.at_least(1), default=64, help="requests of the user who sends many")
    parser.add_argument("--few", type=script.at_least(1), default=4, help="requests of the other")
    parser.add_argument(
        "--prompt-tokens", type=script.at_least(1), default=64, help="of the many; the few have a quarter"
    )
    parser.add_argument(
        "--tokens", type=script.at_least(1), default=64, help="of an answer, give or take half; the few have a quarter"
    )
    parser.add_argument("--seats", type=script.at_least(1), default=8)
    parser.add_argument("--rounds", type=script.at_least(1), default=6)
    parser.add_argument("--threads", type=script.at_least(1), default=2)
    arguments = parser.parse_args()
    longest = arguments.prompt_tokens + arguments.tokens * 3 // 2
    most = script.context_len(checkpoint_folder(arguments.model), sys.maxsize)
    if longest > most:
        parser.error(f"{arguments.model} holds {most} tokens; --prompt-tokens and 1.5 times --tokens make {longest}")
    rounds: dict[str, list[Round]] = {policy: [] for policy in POLICIES}
    with ExitStack() as servers:
        ports = {policy: start_server(servers, arguments, policy) for policy in POLICIES}
        for number in range(-1, arguments.rounds):  # the first warms both up
            for policy in POLICIES if number % 2 else reversed(POLICIES):
                measured = asyncio.run(run_round(ports[policy], arguments, number))
                if number >= 0:
                    rounds[policy].append(measured)
    report(arguments, rounds)


def start_server(servers: ExitStack, arguments: argparse.Namespace, policy: str) -> int:
    argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", arguments.model, "--port", "0"]
    argv += ["--served-model-name", arguments.model]
    argv += ["--dtype", "bfloat16", "--threads", str(arguments.threads), "--max-num-seqs", str(arguments.seats)]
    server = servers.enter_context(subprocess.Popen([*argv, "--fairness", policy], stderr=subprocess.PIPE, text=True))
    servers.callback(server.terminate)
    assert server.stderr is not None
    port = script.port_of(server)
    servers.enter_context(subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL))
    servers.callback(server.terminate)
    return port


async def run_round(port: int, arguments: argparse.Namespace, seed: int) -> Round:
    draw = random.Random(seed)
    few_tokens = max(arguments.tokens // 4, 1)
    # Of one length they would end together, in waves, and whoever came between would cost a last wave of few.
    lengths = [draw.randint(arguments.tokens // 2, arguments.tokens * 3 // 2) for _ in range(arguments.flood)]

    async def ask(user: str, num_prompt_tokens: int, num_tokens: int) -> float:
        """ms to the first token; returns when the answer has ended."""
        prompt = [draw.randrange(5, SMALLEST_VOCAB) for _ in range(num_prompt_tokens)]
        body = {"model": arguments.model, "prompt": prompt, "max_tokens": num_tokens, "user": user, "stream": True}
        payload = json.dumps({**body, "temperature": 0, "ignore_eos": True}).encode()
        head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        begun_ns = time.perf_counter_ns()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head % len(payload) + payload)
        await reader.readuntil(b"data: {")
        first_ns = time.perf_counter_ns()
        answer = await reader.read(-1)
        writer.close()
        assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), answer[-300:]
        return (first_ns - begun_ns) / 1e6

    async def one_of_few(index: int) -> float:
        await asyncio.sleep(EVERY_S * (index + 1))
        return await ask("few", max(arguments.prompt_tokens // 4, 1), few_tokens)

    begun_ns = time.perf_counter_ns()
    flood = [ask("flood", arguments.prompt_tokens, num_tokens) for num_tokens in lengths]
    took_ms = await asyncio.gather(*map(one_of_few, range(arguments.few)), *flood)
    elapsed_s = (time.perf_counter_ns() - begun_ns) / 1e9
    num_tokens = sum(lengths) + arguments.few * few_tokens
    return Round(took_ms[: arguments.few], took_ms[arguments.few :], num_tokens / elapsed_s)


def report(arguments: argparse.Namespace, rounds: dict[str, list[Round]]) -> None:
    print(f"{'':5} TTFT of the few, ms    of the flood, ms      all together, tokens/s")
    print(f"{'':5} median  low    high     median  low    high   median  low    high   of {arguments.rounds} rounds")
    for policy, measured in rounds.items():
        few = [ms for each in measured for ms in each.few_ms]
        flood = [ms for each in measured for ms in each.flood_ms]
        columns = (few, flood, [each.tokens_per_s for each in measured])
        print(f"{policy:5} " + "   ".join(f"{statistics.median(c):6.0f} {min(c):6.0f} {max(c):6.0f}" for c in columns))
    as_json = {policy: [each._asdict() for each in measured] for policy, measured in rounds.items()}
    print(json.dumps({**vars(arguments), "rounds_of": as_json}))


if __name__ == "__main__":
    script.run(main)
