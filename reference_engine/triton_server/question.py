"""What a request to Triton asks of the engine, read from its tensors; needs nothing of Triton's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.limits import MAX_USER_CHARS
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.tokenizer import StopStrings

_WHOLE, _REAL, _TRUTH = "a whole number", "a number", "true or false"
_SAMPLING = {
    "max_tokens": _WHOLE,
    "temperature": _REAL,
    "top_k": _WHOLE,
    "top_p": _REAL,
    "seed": _WHOLE,
    "ignore_eos": _TRUTH,
    "min_tokens": _WHOLE,
}
_TYPES: Mapping[str, tuple[type, ...]] = {_WHOLE: (int,), _REAL: (int, float), _TRUTH: (bool,)}
# Larger whole numbers overflow somewhere behind the sampler's own checks.
_MAX_WHOLE = 2**64


@dataclass(frozen=True, slots=True)
class Question:
    """One request, of `user` if it says whose. `stream` asks for a response per step instead of one in all."""

    prompt: str
    params: SamplingParams
    stop: tuple[str, ...]
    user: str | None
    stream: bool
    wants_finish_reason: bool
    wants_num_prompt_tokens: bool
    wants_num_output_tokens: bool

    def stop_strings(self) -> StopStrings:
        return StopStrings(self.stop, self.params.min_tokens)


def read_question(inputs: Mapping[str, Any]) -> Question:
    """The question in `inputs`, tensors of one element by name. Raises RequestError for what the engine cannot do."""
    asked = _sampling(inputs.get("sampling_parameters", "{}"))
    stop = asked.pop("stop", None) or []
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        raise RequestError("sampling_parameters.stop must be a text or a list of texts.")
    user = asked.pop("user", None)
    if user is not None and not (isinstance(user, str) and len(user) <= MAX_USER_CHARS):
        raise RequestError(f"sampling_parameters.user must be a text of at most {MAX_USER_CHARS} characters.")
    asked = {name: value for name, value in asked.items() if value is not None}
    for name, value in asked.items():
        _check(name, value)
    stream = bool(inputs.get("stream", False))
    if not stream and not inputs.get("exclude_input_in_output", False):
        raise RequestError("An answer in one piece comes without its prompt here: set exclude_input_in_output.")
    return Question(
        prompt=inputs["text_input"],
        params=SamplingParams(**asked),
        stop=tuple(texts),
        user=user,
        stream=stream,
        wants_finish_reason=bool(inputs.get("return_finish_reason", False)),
        wants_num_prompt_tokens=bool(inputs.get("return_num_input_tokens", False)),
        wants_num_output_tokens=bool(inputs.get("return_num_output_tokens", False)),
    )


def _check(name: str, value: object) -> None:
    if name not in _SAMPLING:
        raise RequestError(f"sampling_parameters has no {name!r} here; it knows stop, user, {', '.join(_SAMPLING)}.")
    kind = _SAMPLING[name]
    fits = isinstance(value, _TYPES[kind]) and (isinstance(value, bool) == (kind is _TRUTH))
    if not fits or (isinstance(value, int) and abs(value) > _MAX_WHOLE):
        raise RequestError(f"sampling_parameters.{name} must be {kind}; {str(value)[:80]} was given.")


def _sampling(text: str) -> dict[str, Any]:
    try:
        asked = json.loads(text)
    except ValueError as error:
        raise RequestError(f"sampling_parameters is no JSON: {error}.") from None
    if not isinstance(asked, dict):
        raise RequestError("sampling_parameters must be a JSON object.")
    return asked
