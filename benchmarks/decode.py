"""Tokens per second of the reference engine on CPU, beside the engines that people would pick, in one run.

    python benchmarks/decode.py                       # ours: synthetic:llama-150m and tinyllama-1.1b
    python benchmarks/decode.py --peers               # and llama.cpp, OpenVINO GenAI, CTranslate2, transformers

Random weights of real shapes; greedy; decode at batch 1, 8 and 16 after prompts of 32 tokens, and the prefill of one
prompt of 512. Each engine and format is its own process, and the processes take turns: all of them once, then all of
them again in the opposite order, so that a slow minute of the machine is nobody's alone. The table has the median of
all rounds and, behind ±, half the distance from the 25th to the 75th percentile. The last line is the run as JSON.

Roofline: the bytes that a decode step must read, every weight of every linear layer once, times the steps per second,
as a share of the machine's read bandwidth. That is measured by the kernels' own threads over more memory than any
cache holds, before and after the run; the larger one counts. Only batch 1 is bounded by it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import peers
import script
import torch

from llmbench.reference_engine.models.loader import read_model_config
from llmbench.reference_engine.models.sources import checkpoint_folder
from llmbench.reference_engine.profiling.roofline import read_bandwidth

# Scales included: one of 16 bits per group of inputs, which are 64 with ours, 32 with llama.cpp, 128 with OpenVINO's
# int4, and a whole row where none is counted.
BYTES_PER_WEIGHT = {
    ("reference", "bfloat16"): 2.0,
    ("reference", "int8"): 1 + 2 / 64,
    ("reference", "int4"): 0.5 + 2 / 64,
    ("llama_cpp", "f16"): 2.0,
    ("llama_cpp", "q8_0"): 1 + 2 / 32,
    ("llama_cpp", "q4_0"): 0.5 + 2 / 32,
    ("openvino", "fp16"): 2.0,
    ("openvino", "int8"): 1.0,
    ("openvino", "int4"): 0.5 + 2 / 128,
    ("ctranslate2", "int8"): 1.0,
    ("transformers", "bfloat16"): 2.0,
}
PROMPT_LEN = 32
WORKER = Path(__file__).with_name("decode_worker.py")


def main() -> None:
    arguments = parse_arguments()
    bandwidth = read_bandwidth(arguments.threads)
    engines = ["reference", *(arguments.peers or [])]
    kinds = [kind for kind in BYTES_PER_WEIGHT if kind[0] in engines and kind[1] in (arguments.formats or kind)]
    rows = [(model, *kind) for model in arguments.models for kind in kinds]
    samples: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for turn in range(arguments.turns):
        for row in rows if turn % 2 == 0 else rows[::-1]:
            sample = measure(row, arguments)
            if sample is not None:
                samples.setdefault(row, []).append(sample)
    if not samples:
        sys.exit("Nothing ran: the reasons stand above, or --formats names what no engine here has.")
    bandwidth = max(bandwidth, read_bandwidth(arguments.threads))
    report(samples, arguments, bandwidth)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["synthetic:llama-150m", "synthetic:tinyllama-1.1b"])
    parser.add_argument("--batches", nargs="+", type=script.at_least(1), default=[1, 8, 16])
    parser.add_argument("--threads", type=script.at_least(1), default=torch.get_num_threads())
    parser.add_argument("--tokens", type=script.at_least(1), default=48, help="decoded per sequence (default 48)")
    parser.add_argument(
        "--prefill", type=script.at_least(1), help="tokens of that prompt (default 512, or half a shorter context)"
    )
    parser.add_argument("--rounds", type=script.at_least(1), default=3, help="timed rounds per process (default 3)")
    parser.add_argument(
        "--turns", type=script.at_least(1), default=2, help="processes per engine and format (default 2)"
    )
    parser.add_argument("--peers", nargs="*", choices=list(peers.FORMATS), help="these peers; all if none is named")
    parser.add_argument("--formats", nargs="*", help="these weight formats alone, by the engines' own names")
    arguments = parser.parse_args()
    if arguments.peers == []:
        arguments.peers = list(peers.FORMATS)
    context, model = min((script.context_len(checkpoint_folder(model)), model) for model in arguments.models)
    if arguments.prefill is None:
        arguments.prefill = min(512, context // 2)
    for name, most in (("--prefill", context - 1), ("--tokens", context - PROMPT_LEN - 1)):
        if getattr(arguments, name.removeprefix("--")) > most:
            parser.error(f"{name}: {model} holds {context} tokens, so {most} at most")
    return arguments


def measure(row: tuple[str, str, str], arguments: argparse.Namespace) -> dict[str, Any] | None:
    """One process of one row; None, with the reason on stderr, if it does not run here."""
    model, engine, weight_format = row
    checkpoint = checkpoint_folder(model)
    settings = {
        "threads": arguments.threads,
        "batches": arguments.batches,
        "num_tokens": arguments.tokens,
        "rounds": arguments.rounds,
        "prompt_len": PROMPT_LEN,
        "prefill_len": arguments.prefill,
        "max_model_len": script.context_len(checkpoint),
        "vocab_size": read_model_config(checkpoint).vocab_size,
        "seed": 0,
    }
    print(f"{model} {engine} {weight_format} …", file=sys.stderr, flush=True)
    try:
        python, path = Path(sys.executable), checkpoint
        if engine != "reference":
            python = peers.environment()
            path = peers.converted(python, checkpoint, engine, weight_format)
        command = [python, WORKER, engine, weight_format, path, json.dumps(settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        complaint = (error.stderr or "").strip().splitlines()[-1:]
        print(f"{engine} {weight_format} did not run: {' '.join(complaint)}", file=sys.stderr)
        return None
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps({"row": row, "result": result}), file=sys.stderr, flush=True)  # a run that is cut short has it
    return result


def report(
    samples: dict[tuple[str, str, str], list[dict[str, Any]]], arguments: argparse.Namespace, bandwidth: float
) -> None:
    batches = [str(batch) for batch in arguments.batches]
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, {bandwidth / 1e9:.1f} GB/s read")
    print("tokens/s: median ± half the interquartile range")
    heads = [*(f"decode b{batch}" for batch in batches), f"prefill {arguments.prefill}"]
    print(f"{'model':24} {'engine':13} {'format':9} " + " ".join(f"{head:>15}" for head in heads) + "  roofline b1")
    for (model, engine, weight_format), results in samples.items():
        cells = [[value for result in results for value in result["decode"][batch]] for batch in batches]
        cells.append([value for result in results for value in result["prefill"]])
        share = ""
        num_weights = script.num_linear_weights(checkpoint_folder(model))
        if "1" in batches and num_weights is not None:
            num_bytes = num_weights * BYTES_PER_WEIGHT[engine, weight_format]
            share = f"{num_bytes * statistics.median(cells[batches.index('1')]) / bandwidth:11.0%}"
        print(f"{model:24} {engine:13} {weight_format:9} " + " ".join(map(cell, cells)) + f"  {share}")
    rows = [{"row": row, "results": results} for row, results in samples.items()]
    print(json.dumps({"bandwidth_bytes_per_s": bandwidth, "threads": arguments.threads, "samples": rows}))


def cell(values: list[float]) -> str:
    return f"{script.spread(values, '8.1f', '5.1f'):>15}"


if __name__ == "__main__":
    script.run(main)
