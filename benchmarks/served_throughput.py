"""What serving costs: tokens/s of the engine over HTTP beside the same engine called in its own process.

    python benchmarks/served_throughput.py [--model synthetic:llama-150m] [--quantization int8] [--streams 16]

Both are loaded before the first round, each in a process of its own, and one is idle while the other computes; rounds
go A B B A. A round is so many requests at once, streamed, each of the same number of tokens; its time is from the first
request to the last token. The client runs on the same cores as the server, and its work counts as serving. The last
line is the run as JSON.
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

import script

from llmbench.reference_engine.models.sources import checkpoint_folder

PROMPT_TOKENS = 32
# Ids below it are in every model's vocabulary.
SMALLEST_VOCAB = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:llama-150m")
    parser.add_argument("--quantization", default="int8", choices=["int8", "int4", "none"])
    parser.add_argument("--streams", type=script.at_least(1), default=16)
    parser.add_argument("--tokens", type=script.at_least(1), default=64, help="of each answer")
    parser.add_argument("--rounds", type=script.at_least(1), default=6)
    parser.add_argument("--threads", type=script.at_least(1), default=2)
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        answer_rounds(arguments)
        return
    max_model_len = script.context_len(checkpoint_folder(arguments.model))
    if PROMPT_TOKENS + arguments.tokens > max_model_len:
        most = max_model_len - PROMPT_TOKENS
        parser.error(f"--tokens: {arguments.model} holds {max_model_len} tokens, so {most} at most")
    argv = [sys.executable, __file__, "--in-process"]
    for name in ("model", "quantization", "streams", "tokens", "threads"):
        argv += [f"--{name}", str(getattr(arguments, name))]
    with (
        subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engine,
        subprocess.Popen(server_command(arguments), stderr=subprocess.PIPE, text=True) as server,
    ):
        try:
            assert engine.stdin is not None
            assert engine.stdout is not None
            assert server.stderr is not None
            port = script.port_of(server)
            drain = subprocess.Popen(["cat"], stdin=server.stderr, stdout=subprocess.DEVNULL)
            if not engine.stdout.readline():  # it is loaded
                sys.exit("The engine in the other process ended; its reason stands above.")
            rates: dict[str, list[float]] = {"in-process": [], "served": []}
            for number in range(-1, arguments.rounds):  # the first warms both up
                order = ("in-process", "served") if number % 2 else ("served", "in-process")
                for side in order:
                    if side == "served":
                        rate = asyncio.run(serve_round(port, arguments, number))
                    else:
                        engine.stdin.write(f"{number}\n")
                        engine.stdin.flush()
                        rate = float(engine.stdout.readline())
                    if number >= 0:
                        rates[side].append(rate)
                        print(f"round {number} {side:10} {rate:8.1f} tokens/s", flush=True)
        finally:
            server.terminate()
            engine.terminate()
        server.wait()
        drain.wait()
    report(arguments, rates)


def report(arguments: argparse.Namespace, rates: dict[str, list[float]]) -> None:
    ratios = [served / alone for served, alone in zip(rates["served"], rates["in-process"], strict=True)]
    print(f"\n{'':10} median  lowest  highest")
    for side, values in rates.items():
        print(f"{side:10} {statistics.median(values):6.1f}  {min(values):6.1f}  {max(values):7.1f}  tokens/s")
    print(f"{'ratio':10} {statistics.median(ratios):6.3f}  {min(ratios):6.3f}  {max(ratios):7.3f}")
    print(json.dumps({**vars(arguments), "tokens_per_s": rates, "ratios": ratios}))


def prompts(streams: int, seed: int) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(5, SMALLEST_VOCAB) for _ in range(PROMPT_TOKENS)] for _ in range(streams)]


def server_command(arguments: argparse.Namespace) -> list[str]:
    argv = [sys.executable, "-m", "llmbench.reference_engine", "serve", "--model", arguments.model, "--port", "0"]
    max_model_len = script.context_len(checkpoint_folder(arguments.model))
    argv += ["--served-model-name", arguments.model, "--max-model-len", str(max_model_len)]
    argv += ["--dtype", "bfloat16", "--threads", str(arguments.threads)]
    return argv if arguments.quantization == "none" else [*argv, "--quantization", arguments.quantization]


async def serve_round(port: int, arguments: argparse.Namespace, seed: int) -> float:
    """Tokens/s of one round over HTTP. The client counts events, and reads nothing in them."""

    async def stream(prompt: list[int]) -> int:
        body = {"model": arguments.model, "prompt": prompt, "max_tokens": arguments.tokens, "stream": True}
        payload = json.dumps({**body, "temperature": 0, "ignore_eos": True}).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(payload) + payload)
        answer = await reader.read(-1)
        writer.close()
        if b"data: [DONE]" not in answer:
            sys.exit(f"The server answered: {answer[:1000].decode(errors='replace')}")
        return answer.count(b"data: {")

    begun_ns = time.perf_counter_ns()
    counts = await asyncio.gather(*map(stream, prompts(arguments.streams, seed)))
    elapsed_ns = time.perf_counter_ns() - begun_ns
    # An event may carry more than one token, never less.
    assert max(counts) <= arguments.tokens
    return arguments.streams * arguments.tokens / (elapsed_ns / 1e9)


def answer_rounds(arguments: argparse.Namespace) -> None:
    """The other process: a round for each line of its input, and its tokens/s as a line of its output."""
    from llmbench.reference_engine.config import EngineConfig
    from llmbench.reference_engine.engine import Engine
    from llmbench.reference_engine.sampling import SamplingParams

    quantization = None if arguments.quantization == "none" else arguments.quantization
    folder = checkpoint_folder(arguments.model)
    engine = Engine(
        EngineConfig(
            model_path=folder,
            dtype="bfloat16",
            quantization=quantization,
            num_threads=arguments.threads,
            max_model_len=script.context_len(folder),
        )
    )
    params = SamplingParams(max_tokens=arguments.tokens, temperature=0, ignore_eos=True)
    print("loaded", flush=True)
    for line in sys.stdin:
        begun_ns = time.perf_counter_ns()
        for index, prompt in enumerate(prompts(arguments.streams, int(line))):
            engine.add_request(str(index), prompt, params)
        num_tokens = 0
        while engine.has_work():
            num_tokens += sum(len(output.new_token_ids) for output in engine.step())
        assert num_tokens == arguments.streams * arguments.tokens
        print(num_tokens / ((time.perf_counter_ns() - begun_ns) / 1e9), flush=True)


if __name__ == "__main__":
    script.run(main)
