"""Servers that differ from the plain OpenAI protocol only in what they add to it: one dialect each.

What a dialect states was read in each server's own sources or documentation, and has not been run against it, but for
llama.cpp's server, MLX's and `transformers serve`, whose answers are in tests/data/wire.
"""

from __future__ import annotations

from functools import partial

from llmbench.engines import metric_map
from llmbench.engines.openai import Dialect, OpenAIAdapter

_GROWING_USAGE = {"include_usage": True, "continuous_usage_stats": True}

SGLANG = partial(
    OpenAIAdapter,
    Dialect(name="sglang", stream_options=_GROWING_USAGE, exact_token_counts=True, metrics=metric_map.SGLANG),
)

# llama.cpp samples from 40 tokens and drops improbable ones unless told otherwise: 0 turns either off. It closes the
# connection after a stream although it says that it keeps it, so that the next request on it would be lost.
LLAMACPP = partial(
    OpenAIAdapter,
    Dialect(
        name="llamacpp",
        extra_body={"top_k": 0, "min_p": 0.0},
        headers={"connection": "close"},
        metrics=metric_map.LLAMACPP,
    ),
)

# trtllm-serve refuses fields that it does not know, so nothing is sent here that its request classes do not name.
TRTLLM = partial(
    OpenAIAdapter,
    Dialect(name="trtllm", stream_options=_GROWING_USAGE, exact_token_counts=True, metrics=metric_map.TRTLLM),
)

# LMDeploy samples from 40 tokens unless told otherwise; the ids it returns are called gen_tokens.
LMDEPLOY = partial(
    OpenAIAdapter,
    Dialect(
        name="lmdeploy",
        extra_body={"top_k": 0, "return_token_ids": True},
        exact_token_counts=True,
        metrics=metric_map.LMDEPLOY,
    ),
)

# MLX's server drops fields that it does not know without a word, ignore_eos among them. `default_model` is what it was
# started with; any other name it looks up in a model hub.
MLX = partial(
    OpenAIAdapter,
    Dialect(name="mlx", ignore_eos=False),
)

# Ollama takes neither ignore_eos nor top_k here: answers may be shorter than asked, and the report says so.
OLLAMA = partial(
    OpenAIAdapter,
    Dialect(name="ollama", ignore_eos=False),
)

# `transformers serve` refuses fields that it does not know, ends at the end token, and sends no [DONE].
TRANSFORMERS = partial(
    OpenAIAdapter,
    Dialect(name="transformers", stream_options={}, ignore_eos=False, ends_with_done=False),
)

# TGI's router has no way to go on after the end token.
TGI_OPENAI = partial(
    OpenAIAdapter,
    Dialect(name="tgi-openai", ignore_eos=False, metrics=metric_map.TGI),
)

# DeepSpeed-MII's server always samples, knows no usage in a stream, and ends at the end token whatever is asked.
MII_OPENAI = partial(
    OpenAIAdapter,
    Dialect(name="mii-openai", stream_options={}, ignore_eos=False, zero_is_greedy=False),
)
