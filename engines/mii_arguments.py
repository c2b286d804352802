"""What DeepSpeed-MII is told about a request, by the names of its own generation arguments."""

from __future__ import annotations

from typing import Any

from llmbench.engines.adapter import EngineError
from llmbench.engines.wire import GenerationRequest


def prompt_of(engine: str, request: GenerationRequest) -> str:
    """The prompt. Raises EngineError for a chat."""
    if request.prompt is None:
        raise EngineError(f"{engine} takes prompts and no chats: set request.api to completions.")
    return request.prompt


def generation_arguments(engine: str, request: GenerationRequest) -> dict[str, Any]:
    """The arguments that decide the answer's tokens. Raises EngineError for what MII has no argument for."""
    if len(request.stop) > 1:
        raise EngineError(f"{engine} takes one stop text; request.stop has {len(request.stop)}.")
    if request.seed is not None:
        raise EngineError(f"{engine} takes no seed: leave request.seed out.")
    is_greedy = request.temperature == 0
    arguments: dict[str, Any] = {
        "max_new_tokens": request.max_tokens,
        "ignore_eos": request.ignore_eos,
        "return_full_text": False,
        # Temperature 0 is refused: greedy is said by not sampling.
        "do_sample": not is_greedy,
        "temperature": None if is_greedy else request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop[0] if request.stop else None,
    }
    # None is no value to MII: it has to be left out.
    return {name: value for name, value in arguments.items() if value is not None}
