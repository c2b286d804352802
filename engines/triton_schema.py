"""How a model behind NVIDIA's Triton Inference Server names its inputs and outputs: data, one schema per backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from llmbench.engines.adapter import EngineError
from llmbench.engines.settings import refuse_unknown


@dataclass(frozen=True, slots=True)
class TritonSchema:
    """Names of tensors, by what they hold; None where a model has no such tensor.

    Inputs: `prompt`, `stream` and what decides the sampling. `sampling_json` names one input that takes the sampling as
    a JSON object with vLLM's field names, instead of tensors of its own. Outputs: `text`, `finish_reason`, and the
    number of tokens in a response or of the prompt; `token_ids` are the whole answer's, in its last response, where a
    model has them. `is_cumulative` says that each response holds the text so far.
    `always` is sent with every request. By gRPC an input's type follows from its value unless `datatypes` names it, and
    `is_batched` gives every tensor a first dimension of 1. `zero_is_greedy` says that temperature 0 may be sent; else
    top_k 1 is.
    """

    prompt: str = "text_input"
    text: str = "text_output"
    stream: str | None = "stream"
    max_tokens: str | None = "max_tokens"
    temperature: str | None = "temperature"
    top_p: str | None = "top_p"
    top_k: str | None = "top_k"
    seed: str | None = "seed"
    stop: str | None = "stop_words"
    ignore_eos: str | None = None
    sampling_json: str | None = None
    finish_reason: str | None = None
    num_output_tokens: str | None = None
    num_prompt_tokens: str | None = None
    token_ids: str | None = None
    is_cumulative: bool = False
    zero_is_greedy: bool = True
    always: Mapping[str, Any] = field(default_factory=dict)
    datatypes: Mapping[str, str] = field(default_factory=dict)
    is_batched: bool = False


SCHEMAS: Mapping[str, TritonSchema] = {
    # triton-inference-server/vllm_backend: run, and captured.
    "vllm": TritonSchema(
        stop="stop",
        ignore_eos="ignore_eos",
        sampling_json="sampling_parameters",
        finish_reason="finish_reason",
        num_output_tokens="num_output_tokens",
        num_prompt_tokens="num_input_tokens",
        # The bundled engine alone has it.
        token_ids="token_ids",  # noqa: S106
        always={
            # Without it an answer in one piece begins with its prompt.
            "exclude_input_in_output": True,
            "return_finish_reason": True,
            "return_num_input_tokens": True,
            "return_num_output_tokens": True,
        },
    ),
    # TensorRT-LLM's `ensemble` and `tensorrt_llm_bls`: read in its sources; run with stand-in models of these shapes.
    "trtllm": TritonSchema(
        num_output_tokens="num_output_tokens",
        num_prompt_tokens="num_input_tokens",
        zero_is_greedy=False,
        datatypes={"seed": "UINT64"},
        is_batched=True,
        # An ensemble whose required input is missing answers HTTP 200 and nothing else.
        always={"bad_words": "", "stop_words": "", "exclude_input_in_output": True, "return_num_output_tokens": True},
    ),
    # TensorRT-LLM's LLM-API backend: read in its sources; run with a stand-in model of this shape.
    "llmapi": TritonSchema(
        stream="streaming",
        max_tokens="sampling_param_max_tokens",
        temperature="sampling_param_temperature",
        top_p="sampling_param_top_p",
        top_k="sampling_param_top_k",
        seed="sampling_param_seed",
        stop="sampling_param_stop",
        finish_reason="finish_reason",
        is_cumulative=True,
        datatypes={"sampling_param_seed": "UINT64"},
        zero_is_greedy=False,
        always={"sampling_param_exclude_input_from_output": True, "return_finish_reason": True},
    ),
}


def read_schema(setting: object) -> TritonSchema:
    """The schema that a workload's setting names, or describes as a mapping; `like` in it names the one to start from.

    Raises EngineError for an unknown schema or field.
    """
    if isinstance(setting, str):
        if setting not in SCHEMAS:
            raise EngineError(
                f"triton has no schema {setting!r}; it knows {', '.join(SCHEMAS)}, or a mapping of names."
            )
        return SCHEMAS[setting]
    if not isinstance(setting, Mapping):
        raise EngineError(f"settings.schema of triton must be a name or a mapping of names; got {setting!r}.")
    changes = dict(setting)
    base = read_schema(changes.pop("like")) if "like" in changes else TritonSchema()
    known = {found.name: found.type for found in fields(TritonSchema)}
    refuse_unknown("settings.schema of triton", changes, [*known, "like"])
    for name, value in changes.items():
        mappings = ("always", "datatypes")
        wanted = "a mapping" if name in mappings else "a name"
        if name.startswith(("is_", "zero_")):
            wanted = "true or false"
        kind = {"true or false": bool, "a mapping": Mapping, "a name": str}[wanted]
        optional = str(known[name]).endswith("None")
        if not isinstance(value, kind) and not (optional and value is None):
            raise EngineError(f"settings.schema.{name} of triton must be {wanted}; got {value!r}.")
    return replace(base, **changes)
