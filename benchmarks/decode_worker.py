"""Times one engine with one model and prints one JSON object. Runs in the engine's own environment.

    python decode_worker.py ENGINE FORMAT MODEL '{"threads": 2, "batches": [1, 8], "num_tokens": 64, …}'

Decode: every sequence of the batch has a prompt of `prompt_len` tokens in the cache; the time of `num_tokens` more is
taken. Engines that only offer a whole generation are timed twice, with one token and with num_tokens + 1, and the
difference counts: on two batches of prompts, as some keep what they have seen and would not compute it again. Prefill:
the time to the first token of one prompt. One untimed round of each comes first.
"""

from __future__ import annotations

import json
import random
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol


class Subject(Protocol):
    def generate(self, prompts: list[list[int]], num_tokens: int) -> float:
        """Seconds of the decode steps that made num_tokens per prompt, greedily, without the prefill."""
        ...

    def prefill(self, prompt: list[int]) -> float:
        """Seconds from the prompt to its first token."""
        ...


def main() -> None:
    engine, weight_format, model, settings_text = sys.argv[1:]
    settings: dict[str, Any] = json.loads(settings_text)
    subject: Subject = SUBJECTS[engine](Path(model), weight_format, settings)
    rng = random.Random(settings["seed"])

    def prompt(length: int) -> list[int]:
        return [rng.randrange(10, settings["vocab_size"]) for _ in range(length)]

    num_tokens = settings["num_tokens"]
    decode: dict[int, list[float]] = {}
    for batch in settings["batches"]:
        for round_index in range(settings["rounds"] + 1):
            seconds = subject.generate([prompt(settings["prompt_len"]) for _ in range(batch)], num_tokens)
            if round_index:
                decode.setdefault(batch, []).append(batch * num_tokens / seconds)
    prefill: list[float] = []
    for round_index in range(settings["rounds"] + 1):
        seconds = subject.prefill(prompt(settings["prefill_len"]))
        if round_index:
            prefill.append(settings["prefill_len"] / seconds)
    print(json.dumps({"decode": decode, "prefill": prefill}))


class Reference:
    """Our engine by its public interface: scheduler, sampler and all."""

    def __init__(self, model: Path, weight_format: str, settings: dict[str, Any]) -> None:
        from llmbench.reference_engine.config import EngineConfig
        from llmbench.reference_engine.engine import Engine
        from llmbench.reference_engine.sampling import SamplingParams

        self.params = SamplingParams
        self.engine = Engine(
            EngineConfig(
                model_path=model,
                dtype="bfloat16",
                quantization=None if weight_format == "bfloat16" else weight_format,  # type: ignore[arg-type]
                kernels="cpp",
                num_threads=settings["threads"],
                max_model_len=settings["max_model_len"],
                kv_cache_gib=1.0,
            )
        )

    def generate(self, prompts: list[list[int]], num_tokens: int) -> float:
        params = self.params(max_tokens=num_tokens + 1, temperature=0, ignore_eos=True)
        for index, prompt in enumerate(prompts):
            self.engine.add_request(str(index), prompt, params)
        num_started = 0
        while num_started < len(prompts):  # the prefills, with one token each
            num_started += len(self.engine.step())
        start = time.perf_counter()
        while self.engine.has_work():
            self.engine.step()
        return time.perf_counter() - start

    def prefill(self, prompt: list[int]) -> float:
        start = time.perf_counter()
        self.engine.add_request("prefill", prompt, self.params(max_tokens=1, temperature=0, ignore_eos=True))
        while self.engine.has_work():
            self.engine.step()
        return time.perf_counter() - start


class WholeGenerations(ABC):
    """For engines that take prompts and a number of tokens, and come back when all is done."""

    @abstractmethod
    def run(self, prompts: list[list[int]], num_tokens: int) -> float: ...

    def generate(self, prompts: list[list[int]], num_tokens: int) -> float:
        # Other prompts of the same lengths: with a prefix cache the second run would have no prefill to take away.
        first = self.run([prompt[::-1] for prompt in prompts], 1)
        return self.run(prompts, num_tokens + 1) - first

    def prefill(self, prompt: list[int]) -> float:
        return self.run([prompt], 1)


class Transformers(WholeGenerations):
    def __init__(self, model: Path, weight_format: str, settings: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_num_threads(settings["threads"])
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, weight_format)).eval()

    def run(self, prompts: list[list[int]], num_tokens: int) -> float:
        ids = self.torch.tensor(prompts)
        start = time.perf_counter()
        with self.torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=self.torch.ones_like(ids),
                min_new_tokens=num_tokens,
                max_new_tokens=num_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        seconds = time.perf_counter() - start
        assert out.shape[1] == len(prompts[0]) + num_tokens
        return seconds


class OpenVINO(WholeGenerations):
    def __init__(self, model: Path, weight_format: str, settings: dict[str, Any]) -> None:
        import numpy as np
        import openvino as ov
        import openvino_genai as genai

        self.np, self.ov, self.genai = np, ov, genai
        self.pipeline = genai.LLMPipeline(str(model), "CPU", INFERENCE_NUM_THREADS=settings["threads"])

    def run(self, prompts: list[list[int]], num_tokens: int) -> float:
        ids = self.ov.Tensor(self.np.array(prompts, dtype=self.np.int64))
        mask = self.ov.Tensor(self.np.ones((len(prompts), len(prompts[0])), dtype=self.np.int64))
        config = self.genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = num_tokens
        config.ignore_eos, config.do_sample = True, False
        start = time.perf_counter()
        out = self.pipeline.generate(self.genai.TokenizedInputs(ids, mask), config)
        seconds = time.perf_counter() - start
        assert [len(tokens) for tokens in out.tokens] == [num_tokens] * len(prompts)
        return seconds


class CTranslate2(WholeGenerations):
    def __init__(self, model: Path, weight_format: str, settings: dict[str, Any]) -> None:
        import ctranslate2

        self.vocabulary = json.loads((model / "vocabulary.json").read_text())
        self.generator = ctranslate2.Generator(
            str(model), device="cpu", compute_type=weight_format, inter_threads=1, intra_threads=settings["threads"]
        )

    def run(self, prompts: list[list[int]], num_tokens: int) -> float:
        texts = [[self.vocabulary[token] for token in prompt] for prompt in prompts]
        start = time.perf_counter()
        out = self.generator.generate_batch(
            texts,
            max_length=num_tokens,
            min_length=num_tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            max_batch_size=0,
        )
        seconds = time.perf_counter() - start
        assert [len(result.sequences_ids[0]) for result in out] == [num_tokens] * len(prompts)
        return seconds


class LlamaCpp:
    """By its C interface: one llama_decode per step, all sequences in one batch, the most probable token chosen."""

    def __init__(self, model: Path, weight_format: str, settings: dict[str, Any]) -> None:
        import ctypes

        import llama_cpp
        import numpy as np

        self.api, self.np, self.ctypes = llama_cpp, np, ctypes
        quiet = llama_cpp.llama_log_callback(lambda *_: None)
        self._kept = quiet
        llama_cpp.llama_log_set(quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(str(model).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {model}")
        config = llama_cpp.llama_context_default_params()
        config.n_ctx, config.n_batch, config.n_ubatch = 4096, 512, 512
        config.n_seq_max = max(settings["batches"])
        config.kv_unified = True
        config.n_threads = config.n_threads_batch = settings["threads"]
        self.context = llama_cpp.llama_init_from_model(self.model, config)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.vocab_size = settings["vocab_size"]

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> list[int]:
        """(token, position, sequence, wants logits) of one step; the chosen tokens of those that want logits."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for index, (token, position, sequence, wants_logits) in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, sequence, wants_logits
        if self.api.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama_decode failed")
        chosen: list[int] = []
        for index, token in enumerate(tokens):
            if token[3]:
                logits = self.api.llama_get_logits_ith(self.context, index)
                chosen.append(int(self.np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax()))
        return chosen

    def _clear(self) -> None:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def _prompt(self, prompt: list[int], sequence: int) -> int:
        last = len(prompt) - 1
        return self._decode([(token, i, sequence, i == last) for i, token in enumerate(prompt)])[0]

    def generate(self, prompts: list[list[int]], num_tokens: int) -> float:
        self._clear()
        current = [self._prompt(prompt, sequence) for sequence, prompt in enumerate(prompts)]
        start = time.perf_counter()
        for step in range(num_tokens):
            current = self._decode([(token, len(prompts[0]) + step, s, True) for s, token in enumerate(current)])
        return time.perf_counter() - start

    def prefill(self, prompt: list[int]) -> float:
        self._clear()
        start = time.perf_counter()
        self._prompt(prompt, 0)
        return time.perf_counter() - start


SUBJECTS: dict[str, Any] = {
    "reference": Reference,
    "transformers": Transformers,
    "openvino": OpenVINO,
    "ctranslate2": CTranslate2,
    "llama_cpp": LlamaCpp,
}

if __name__ == "__main__":
    main()
