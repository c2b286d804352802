"""What compaction gives back after a burst of requests, what it costs, and what it leaves alone.

    python benchmarks/compaction.py [--model synthetic:llama-20m] [--prompt-tokens 1024] [--rounds 5]

Each round sends the same burst to a fresh engine with compaction off and one with compaction = idle, in turns. Prompts
are random, so that all their blocks stay cached. When every request has had --tokens tokens, all are given up, and the
engine is left alone: what it does then is compaction. Resident memory is this process's, less what it was before the
engine was made. The prefill is the first to write to the cache, and with compaction pays for its pages. Medians of the
rounds stand here, behind ± half the interquartile range.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import psutil
import script

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.models.sources import checkpoint_folder
from llmbench.reference_engine.sampling import SamplingParams


class Round(NamedTuple):
    loaded_mib: float
    busy_mib: float
    quiet_mib: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    num_moved: int
    steps_s: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="synthetic:llama-20m")
    parser.add_argument("--requests", type=script.at_least(1), default=32, help="at most as many as run at once, 32")
    parser.add_argument("--prompt-tokens", type=script.at_least(1), default=1024)
    parser.add_argument("--tokens", type=script.at_least(2), default=64)
    parser.add_argument("--rounds", type=script.at_least(1), default=5)
    parser.add_argument("--threads", type=script.at_least(1), default=2)
    arguments = parser.parse_args()
    if arguments.requests > 32:
        parser.error("--requests: 32 run at once, and those that wait would not be part of the burst")
    modes: tuple[Literal["off", "idle"], ...] = ("off", "idle")
    rounds: dict[str, list[Round]] = {mode: [] for mode in modes}
    for number in range(-1, arguments.rounds):
        for mode in modes if number % 2 else reversed(modes):
            measured = measure(mode, arguments)
            if number >= 0:  # the first one warms up
                rounds[mode].append(measured)
    titles = ["compaction", "loaded, MiB", "after the burst", "quiet again", "blocks moved"]
    titles += ["compaction, ms", "longest step", "prefill, tokens/s", "decode"]
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for mode, measured_rounds in rounds.items():
        cells = [
            spread([each.loaded_mib for each in measured_rounds], ".0f"),
            spread([each.busy_mib for each in measured_rounds], ".0f"),
            spread([each.quiet_mib for each in measured_rounds], ".0f"),
            spread([each.num_moved for each in measured_rounds], ".0f"),
            spread([sum(each.steps_s) * 1e3 for each in measured_rounds], ".1f"),
            spread([max(each.steps_s, default=0) * 1e3 for each in measured_rounds], ".1f"),
            spread([each.prefill_tokens_per_s for each in measured_rounds], ".0f"),
            spread([each.decode_tokens_per_s for each in measured_rounds], ".0f"),
        ]
        print(f"| {mode} | " + " | ".join(cells) + " |")
    pairs = list(zip(*rounds.values(), strict=True))
    prefill = [idle.prefill_tokens_per_s / off.prefill_tokens_per_s for off, idle in pairs]
    decode = [idle.decode_tokens_per_s / off.decode_tokens_per_s for off, idle in pairs]
    print(f"idle over off, within a round: prefill {spread(prefill, '.2f')}, decode {spread(decode, '.2f')}")


def measure(mode: Literal["off", "idle"], arguments: argparse.Namespace) -> Round:
    folder = checkpoint_folder(arguments.model)
    gc.collect()
    before = resident_mib()
    engine = Engine(EngineConfig(model_path=folder, compaction=mode, num_threads=arguments.threads))
    loaded = resident_mib() - before
    rng = random.Random(1)
    # The first of them decode while the last are prefilled, and none may end by itself before all are given up.
    longest = max(arguments.tokens, engine.max_model_len - arguments.prompt_tokens)
    names = [str(index) for index in range(arguments.requests)]
    for name in names:
        prompt = [rng.randrange(10, engine.model_config.vocab_size) for _ in range(arguments.prompt_tokens)]
        engine.add_request(name, prompt, SamplingParams(max_tokens=longest, temperature=0, ignore_eos=True))
    num_tokens = dict.fromkeys(names, 0)
    speeds = []
    for least in (1, arguments.tokens):
        start, before_phase = time.perf_counter(), engine.stats().num_computed_tokens
        while min(num_tokens.values()) < least:
            for output in engine.step():
                num_tokens[output.request_id] += len(output.new_token_ids)
        speeds.append((engine.stats().num_computed_tokens - before_phase) / (time.perf_counter() - start))
    busy = resident_mib() - before
    for name in names:
        engine.abort(name)
    steps_s = []
    while engine.has_work():
        start = time.perf_counter()
        engine.step()
        steps_s.append(time.perf_counter() - start)
    stats = engine.stats()
    quiet = resident_mib() - before
    return Round(loaded, busy, quiet, *speeds, stats.num_moved_blocks, steps_s)


def resident_mib() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def spread(values: Sequence[float], form: str) -> str:
    return script.spread(values, form, form, " ± ")


if __name__ == "__main__":
    script.run(main)
