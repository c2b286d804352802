"""What drafts save when code is completed by one user at a time: tokens/s with and without them, side by side.

    python benchmarks/speculation.py [--dtype float32] [--prompts 8] [--rounds 3] [--tokens 128]

The bundled pair completes held-out files of the standard library, greedily. Each prompt is answered by every variant in
turn before the next prompt, in reversed order every other time, so that a drift of the machine hits all alike. A ratio
is of one prompt's two answers; the medians of them stand here, behind ± half the interquartile range.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import script

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.models.sources import checkpoint_folder
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.tokenizer import Tokenizer
from llmbench.reference_engine.training import corpus

PLAIN = "no drafts"
PROMPT_TOKENS = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="bundled:python-target")
    parser.add_argument("--draft", default="bundled:python-draft")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--prompts", type=script.at_least(1), default=8)
    parser.add_argument("--rounds", type=script.at_least(1), default=3)
    parser.add_argument("--tokens", type=script.at_least(2), default=128)
    parser.add_argument("--num-drafts", type=script.at_least(1), nargs="+", default=[3, 6])
    arguments = parser.parse_args()
    target, draft = checkpoint_folder(arguments.target), checkpoint_folder(arguments.draft)
    variants: dict[str, dict[str, Any]] = {PLAIN: {}}
    for number in arguments.num_drafts:
        variants[f"n-gram, {number}"] = {"speculative": "ngram", "num_speculative_tokens": number}
        variants[f"draft model, {number}"] = {"speculative": draft, "num_speculative_tokens": number}
    engines = {
        name: Engine(
            EngineConfig(
                model_path=target,
                dtype=arguments.dtype,
                kernels=arguments.kernels,
                max_num_seqs=1,
                prefix_cache=False,
                **settings,
            )
        )
        for name, settings in variants.items()
    }
    prompts = held_out_prompts(Tokenizer(target), arguments.prompts)
    for engine in engines.values():
        complete(engine, prompts[0], arguments.tokens)
    rates: dict[str, list[float]] = {name: [] for name in engines}
    for index, prompt in enumerate(prompts * arguments.rounds):
        answers = set()
        for name in list(engines)[:: -1 if index % 2 else 1]:
            token_ids, seconds = complete(engines[name], prompt, arguments.tokens)
            answers.add(tuple(token_ids))
            rates[name].append((len(token_ids) - 1) / seconds)
        assert len(answers) == 1, "drafts changed an answer"
    print(f"{len(prompts)} prompts of {PROMPT_TOKENS} tokens, {arguments.rounds} rounds, {arguments.tokens} new tokens")
    print(f"{'':16} {'tokens/s':>14} {'ratio':>13} {'accepted':>9} {'tokens/step':>12}")
    for name, engine in engines.items():
        stats = engine.stats()
        ratios = [ours / plain for ours, plain in zip(rates[name], rates[PLAIN], strict=True)]
        accepted = stats.num_accepted_tokens / stats.num_draft_tokens if stats.num_draft_tokens else None
        print(
            f"{name:16} {script.spread(rates[name], '6.0f', '4.0f'):>14} {script.spread(ratios, '5.2f', '4.2f'):>12}× "
            f"{'' if accepted is None else f'{accepted:.0%}':>9} {stats.num_generated_tokens / stats.num_steps:12.2f}"
        )


def held_out_prompts(tokenizer: Tokenizer, number: int) -> list[list[int]]:
    """The beginnings of so many held-out files that are long enough to be completed."""
    texts = [text for text in corpus.texts()[1] if len(text) > 20 * PROMPT_TOKENS]
    return [tokenizer.encode(text)[:PROMPT_TOKENS] for text in texts[:number]]


def complete(engine: Engine, prompt: list[int], num_tokens: int) -> tuple[list[int], float]:
    """The answer, and the seconds from its first token to its last."""
    engine.add_request("a", prompt, SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True))
    token_ids: list[int] = []
    begun = time.perf_counter()
    while engine.has_work():
        is_first = not token_ids
        for output in engine.step():
            token_ids += output.new_token_ids
        if is_first:
            begun = time.perf_counter()
    return token_ids, time.perf_counter() - begun


if __name__ == "__main__":
    script.run(main)
