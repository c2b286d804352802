"""What a request to Triton asks of the engine, read from its tensors; needs nothing of Triton's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.tokenizer import StopStrings

_SAMPLING = ("max_tokens", "temperature", "top_k", "top_p", "seed", "ignore_eos", "min_tokens")


@dataclass(frozen=True, slots=True)
class Question:
    """One request. `stream` asks for a response per step instead of one in all."""

    prompt: str
    params: SamplingParams
    stop: tuple[str, ...]
    stream: bool
    wants_finish_reason: bool
    wants_num_prompt_tokens: bool
    wants_num_output_tokens: bool

    def stop_strings(self) -> StopStrings:
        return StopStrings(self.stop)


def read_question(inputs: Mapping[str, Any]) -> Question:
    """The question in `inputs`, tensors of one element by name. Raises RequestError for what the engine cannot do."""
    asked = _sampling(inputs.get("sampling_parameters", "{}"))
    stop = asked.pop("stop", None) or []
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise RequestError("sampling_parameters.stop must be a text or a list of texts.")
    unknown = [name for name in asked if name not in _SAMPLING]
    if unknown:
        raise RequestError(f"sampling_parameters has no {unknown[0]!r} here; it knows stop, {', '.join(_SAMPLING)}.")
    stream = bool(inputs.get("stream", False))
    if not stream and not inputs.get("exclude_input_in_output", False):
        raise RequestError("An answer in one piece comes without its prompt here: set exclude_input_in_output.")
    try:
        params = SamplingParams(**{name: value for name, value in asked.items() if value is not None})
    except TypeError as error:
        raise RequestError(f"sampling_parameters holds a value of the wrong type: {error}.") from None
    return Question(
        prompt=inputs["text_input"],
        params=params,
        stop=tuple(texts),
        stream=stream,
        wants_finish_reason=bool(inputs.get("return_finish_reason", False)),
        wants_num_prompt_tokens=bool(inputs.get("return_num_input_tokens", False)),
        wants_num_output_tokens=bool(inputs.get("return_num_output_tokens", False)),
    )


def _sampling(text: str) -> dict[str, Any]:
    try:
        asked = json.loads(text)
    except ValueError as error:
        raise RequestError(f"sampling_parameters is no JSON: {error}.") from None
    if not isinstance(asked, dict):
        raise RequestError("sampling_parameters must be a JSON object.")
    return asked
