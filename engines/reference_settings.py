"""The settings of the reference engine that become options of its command line, and which values each takes.

Known here by name alone, as its package is not imported: a wrong value is then refused before anything is started, and
not by an engine that ends at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

from llmbench.engines.adapter import EngineError

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "batching": ("continuous", "dynamic", "static"),
    "compaction": ("off", "idle"),
    "device": ("cpu", "cuda"),
    "dtype": ("float32", "bfloat16"),
    "eviction": ("lru", "fifo", "age"),
    "fairness": ("fcfs", "vtc"),
    "graphs": ("auto", "off", "cpu", "cuda", "compile"),
    "kernels": ("auto", "torch", "cpp", "triton"),
    "kv_cache_dtype": ("auto", "int8", "fp8"),
    "preemption": ("recompute", "swap"),
    "quantization": ("int8", "int4", "fp8", "int8-weight-only", "int4-weight-only"),
    "step_order": ("decode-first", "prefill-first"),
}
_COUNTS = (
    "block_size",
    "max_model_len",
    "max_num_batched_tokens",
    "max_num_seqs",
    "num_blocks",
    "num_kept_blocks",
    "num_speculative_tokens",
    "num_swap_blocks",
    "speculative_max_seqs",
    "threads",
)
_NAMED_MODELS = ("bundled:", "synthetic:")
_DRAFTS = "ngram, bundled:NAME, synthetic:NAME or the folder of a draft model"


def _is_count(value: object) -> bool:
    return _is_whole(value) and int(str(value)) >= 1


def _is_whole(value: object) -> bool:
    # Text too: `--set` and a quoted number mean the same on a command line.
    return not isinstance(value, bool) and str(value).removeprefix("-").isdecimal()


def _is_number(value: object) -> bool:
    try:
        return not isinstance(value, bool) and 0 <= float(str(value)) < math.inf
    except ValueError:
        return False


# Setting to whether a value is allowed, and which are, in words.
_RULES: Mapping[str, tuple[Callable[[object], bool], str]] = {
    **dict.fromkeys(_COUNTS, (_is_count, "a whole number from 1")),
    "kv_cache_gib": (lambda value: _is_number(value) and float(str(value)) > 0, "a number above 0"),
    "max_batch_delay_ms": (_is_number, "a number of 0 or more"),
    "no_prefix_cache": (lambda value: isinstance(value, bool), "true or false"),
    "seed": (_is_whole, "a whole number"),
    "speculative": (lambda value: isinstance(value, str), _DRAFTS),
}

SETTINGS = tuple(sorted((*_CHOICES, *_RULES)))


def check(settings: Mapping[str, object], engine: str) -> None:
    """Raise EngineError for the first value that the engine would refuse; null and false leave a setting out."""
    for name, value in settings.items():
        if value is None or value is False:
            continue
        if name in _CHOICES and value not in _CHOICES[name]:
            raise EngineError(f"settings.{name} of {engine} must be one of {', '.join(_CHOICES[name])}; got {value!r}.")
        if name in _RULES and not _RULES[name][0](value):
            raise EngineError(f"settings.{name} of {engine} must be {_RULES[name][1]}; got {value!r}.")


def check_draft(settings: Mapping[str, object], engine: str) -> None:
    """Raise EngineError where `speculative` is neither a name of drafts nor a folder on this machine, which is to start
    the engine."""
    draft = settings.get("speculative")
    if isinstance(draft, str) and draft != "ngram" and not draft.startswith(_NAMED_MODELS) and not Path(draft).is_dir():
        raise EngineError(f"settings.speculative of {engine} must be {_DRAFTS}; got {draft!r}.")
