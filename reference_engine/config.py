"""The settings of one engine, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from llmbench.reference_engine.errors import ConfigError

DTypeName = Literal["float32", "bfloat16"]
DeviceName = Literal["cpu", "cuda"]
GraphsName = Literal["auto", "off", "cpu", "cuda", "compile"]
KVCacheDTypeName = Literal["auto", "int8", "fp8"]
QuantizationName = Literal["int8", "int4", "fp8", "int8-weight-only", "int4-weight-only"]
EvictionName = Literal["lru", "fifo", "age"]
BatchingName = Literal["continuous", "dynamic", "static"]
PreemptionName = Literal["recompute", "swap"]
CompactionName = Literal["off", "idle"]
StepOrder = Literal["decode-first", "prefill-first"]
FairnessName = Literal["fcfs", "vtc"]

# Field to the names that it takes.
_NAMES = {
    "dtype": get_args(DTypeName),
    "device": get_args(DeviceName),
    "graphs": get_args(GraphsName),
    "kv_cache_dtype": get_args(KVCacheDTypeName),
    "quantization": get_args(QuantizationName),
    "eviction": get_args(EvictionName),
    "batching": get_args(BatchingName),
    "preemption": get_args(PreemptionName),
    "compaction": get_args(CompactionName),
    "step_order": get_args(StepOrder),
    "fairness": get_args(FairnessName),
}

DEFAULT_KV_CACHE_GIB = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine. Raises ConfigError when made with values that no model could run with.

    model_path: folder with config.json and *.safetensors in Hugging Face layout.
    dtype: weights, activations and KV cache; attention and sampling accumulate in float32 either way.
    kv_cache_dtype: what keys and values are stored as: "auto" is dtype, "int8" has a scale per token and head, "fp8" is
        e4m3; see quantization/kv_formats.py.
    device: of weights, KV cache and computation; a HIP device is called cuda too, as torch calls it.
    block_size: tokens per KV block; as many as max_model_len makes the cache contiguous, one region per sequence.
    num_blocks, kv_cache_gib: size of the KV cache; at most one is given, neither means 1 GiB. num_blocks is exactly
        that many; kv_cache_gib is a limit, never used beyond what max_num_seqs sequences of max_model_len can fill.
    max_num_seqs: sequences that hold KV blocks at once; the others wait.
    max_num_batched_tokens: tokens computed in one step, decodes and prefill chunks together; at least max_num_seqs, so
        that a decode never waits for budget.
    max_model_len: prompt and output together; None means what the model was trained for, or what the KV cache holds if
        that is less.
    num_threads: of the kernels, for the whole process; None is torch's number of threads.
    kernels: a name in kernels.dispatch.BACKENDS, or "auto" for the fastest that runs here with the model.
    graphs: "cpu" records decode steps of the C++ kernels and replays each in one call; "cuda" records those of the
        Triton kernels as CUDA or HIP graphs; "compile" compiles them by torch.compile on a CPU, which goes with the
        torch kernels; "off" runs one kernel after another from Python. "auto" is "cpu" and "cuda" where they can be,
        and else "off". See graphs.py.
    quantization: of the linear layers' weights, in groups of 64, when the checkpoint is loaded; None leaves them dtype,
        or as a quantised checkpoint stores them, see models/stored_weights.py.
        With int8 and int4 the layers' inputs are rounded to 8 bits in every step (W8A8, W4A8 with dynamic scales); with
        fp8 (e4m3), int8-weight-only and int4-weight-only they are not.
    prefix_cache: keep computed KV blocks for as long as nobody needs their place, for prompts with the same beginning.
    eviction: which cached block gives way first; see cache/eviction.py.
    preemption: what becomes of the KV blocks of a sequence that has to wait again: computed again later, or copied to
        host memory and back, which has room for num_swap_blocks, None for as many as the KV cache.
    compaction: "idle" shrinks a KV cache that held more than twice num_kept_blocks to that many, once no more are in
        use, and gives the rest of its memory back to the system; None for an eighth of the cache. See
        cache/compaction.py.
    batching: when waiting requests may join the running ones; see batching.py. max_batch_delay_ms is the time that a
        dynamic batch waits for more requests.
    step_order: whether a step begins with decodes or with prefills; see scheduler.py.
    fairness: who is served first: "fcfs" whoever came first, "vtc" the user who was served least; see fairness.py.
    speculative: where drafts of the next tokens come from: "ngram" for the text itself, or the folder of a draft model
        with the same vocabulary; None decodes one by one. num_speculative_tokens is the largest number of drafts that
        one step verifies for one sequence. While more than speculative_max_seqs sequences decode, none are drafted:
        a large batch keeps the processor busy without them. None drafts for any number.
    seed: decides the output of sampled requests that bring no seed of their own, together with their order of arrival.
    """

    model_path: Path
    dtype: DTypeName = "float32"
    kv_cache_dtype: KVCacheDTypeName = "auto"
    device: DeviceName = "cpu"
    block_size: int = 16
    num_blocks: int | None = None
    kv_cache_gib: float | None = None
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    max_model_len: int | None = None
    num_threads: int | None = None
    kernels: str = "auto"
    graphs: GraphsName = "auto"
    quantization: QuantizationName | None = None
    prefix_cache: bool = True
    eviction: EvictionName = "lru"
    preemption: PreemptionName = "recompute"
    num_swap_blocks: int | None = None
    compaction: CompactionName = "off"
    num_kept_blocks: int | None = None
    batching: BatchingName = "continuous"
    max_batch_delay_ms: float = 5.0
    step_order: StepOrder = "decode-first"
    fairness: FairnessName = "fcfs"
    speculative: Literal["ngram"] | Path | None = None
    num_speculative_tokens: int = 4
    speculative_max_seqs: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in _NAMES.items():
            value = getattr(self, name)
            if value not in known and not (value is None and name == "quantization"):
                raise ConfigError(f"{name} must be one of {', '.join(known)}; {value!r} was given.")
        for name in (
            "block_size",
            "num_blocks",
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
            "num_threads",
            "num_speculative_tokens",
            "speculative_max_seqs",
            "num_swap_blocks",
            "num_kept_blocks",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1; {value} was given.")
        if self.graphs == "cuda" and self.device != "cuda":
            raise ConfigError(
                f"graphs = cuda records what a GPU does, and the device is {self.device}; graphs = cpu is its "
                "counterpart on a CPU."
            )
        if self.graphs == "cpu" and (self.device != "cpu" or self.kernels not in ("auto", "cpp")):
            raise ConfigError(
                "graphs = cpu is for device = cpu and kernels = cpp; "
                f"device is {self.device} and kernels is {self.kernels}."
            )
        if self.graphs == "compile" and (self.device, self.kernels) != ("cpu", "torch"):
            raise ConfigError(
                "graphs = compile is for device = cpu and kernels = torch; "
                f"device is {self.device} and kernels is {self.kernels}."
            )
        if self.num_blocks is not None and self.kv_cache_gib is not None:
            raise ConfigError("num_blocks and kv_cache_gib both size the KV cache: give one of them, not both.")
        if isinstance(self.speculative, str) and self.speculative != "ngram":
            raise ConfigError(
                f'speculative must be "ngram" or the path of a draft model; {self.speculative!r} was given.'
            )
        if self.num_swap_blocks is not None and self.preemption != "swap":
            raise ConfigError('num_swap_blocks is the room for preemption = "swap"; give both, or neither.')
        if self.num_kept_blocks is not None and self.compaction != "idle":
            raise ConfigError('num_kept_blocks is what compaction = "idle" leaves in memory; give both, or neither.')
        if self.compaction == "idle" and self.device != "cpu":
            raise ConfigError(
                f"compaction = idle is for device = cpu; device is {self.device}, where the KV cache is one allocation "
                "of which no part can be given back: leave compaction off."
            )
        # `not >` and not `<=`: nan must be refused too.
        if self.kv_cache_gib is not None and not 0 < self.kv_cache_gib < float("inf"):
            raise ConfigError(f"kv_cache_gib must be a finite number above 0; {self.kv_cache_gib} was given.")
        if not 0 <= self.max_batch_delay_ms < float("inf"):
            raise ConfigError(
                f"max_batch_delay_ms must be a finite number of at least 0; {self.max_batch_delay_ms} was given."
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({self.max_num_batched_tokens}) must be at least max_num_seqs "
                f"({self.max_num_seqs}): every running sequence decodes one token per step."
            )
