"""The engine behind Triton's Python backend: requests as tensors in, one response per step out."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]  # exists in Triton's stub only

from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.engine_thread import EngineThread
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.loaded import EVENT, loaded_facts
from llmbench.reference_engine.outputs import EngineStats, StepOutput
from llmbench.reference_engine.tokenizer import Tokenizer
from llmbench.reference_engine.triton_server.metrics import EngineMetrics
from llmbench.reference_engine.triton_server.question import Question, read_question

logger = logging.getLogger("llmbench.reference_engine")

# Asking whether the client has left is a round trip to the server's process.
STEPS_PER_CANCEL_CHECK = 8


class TritonPythonModel:
    """Its settings are `engine.json` beside it: the fields of EngineConfig."""

    def initialize(self, args: Mapping[str, str]) -> None:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
        folder = Path(args["model_repository"]) / args["model_version"]
        settings: dict[str, Any] = json.loads((folder / "engine.json").read_text())
        for name in ("model_path", "speculative"):
            if settings.get(name) not in (None, "ngram"):
                settings[name] = Path(settings[name])
        config = EngineConfig(**settings)
        self._tokenizer = Tokenizer(config.model_path)
        engine = Engine(config)
        facts = loaded_facts(config, engine.limits.max_model_len, engine.stored_quantization)
        logger.info("%s %s", EVENT, " ".join(f"{name}={value}" for name, value in facts.items()))
        self._model_name = args["model_name"]
        self._metrics: EngineMetrics | None = None
        self._engine = EngineThread(engine, self._tell)
        self._request_numbers = itertools.count()

    def execute(self, requests: Sequence[Any]) -> None:
        """Queue the requests; their responses follow from the engine's thread."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                question = read_question(_inputs(request))
                prompt_token_ids = self._tokenizer.encode(question.prompt)
            except RequestError as error:
                _refuse(sender, error)
                continue
            answer = _Answer(sender, question, self._tokenizer, prompt_token_ids, self._first_token_took)
            # Ours and not the client's: two of its requests may carry the same id at the same time.
            number = str(next(self._request_numbers))
            self._engine.submit(number, prompt_token_ids, question.params, answer.take, question.user)

    def finalize(self) -> None:
        self._engine.stop()
        self._metrics = None

    def _tell(self, stats: EngineStats) -> None:
        # Made here and not in initialize(): metrics are for one thread alone, and this is the engine's.
        if self._metrics is None:
            self._metrics = EngineMetrics(self._model_name)
        self._metrics.tell(stats)

    def _first_token_took(self, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.first_token_took(seconds)


class _Answer:
    """Turns one request's outputs into responses: one per step, or one in all."""

    def __init__(
        self,
        sender: Any,
        question: Question,
        tokenizer: Tokenizer,
        prompt_token_ids: list[int],
        first_token_took: Callable[[float], None],
    ) -> None:
        self._accepted_s = time.perf_counter()
        self._first_token_took = first_token_took
        self._sender = sender
        self._question = question
        self._detokenizer = tokenizer.stream(prompt_token_ids)
        self._stop = question.stop_strings()
        self._num_prompt_tokens = len(prompt_token_ids)
        self._num_steps = 0
        self._held_text = ""
        self._held_tokens = 0
        self._token_ids: list[int] = []

    def take(self, output: StepOutput | Exception) -> bool:
        """True once no more outputs are wanted."""
        if isinstance(output, Exception):
            _refuse(self._sender, output)
            return True
        if not self._token_ids and output.new_token_ids:
            self._first_token_took(time.perf_counter() - self._accepted_s)
        self._num_steps += 1
        finish_reason = output.finish_reason
        for token_id in output.new_token_ids:
            shown, found = self._stop.push(self._detokenizer.push(token_id))
            self._held_text += shown
            self._held_tokens += 1
            self._token_ids.append(token_id)
            if found is not None:
                finish_reason = "stop"
                break
        else:
            if finish_reason is not None:
                self._held_text += self._stop.flush()
        if finish_reason is None and self._num_steps % STEPS_PER_CANCEL_CHECK == 0 and self._sender.is_cancelled():
            self._sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return True
        if finish_reason is not None or self._question.stream:
            self._send(finish_reason)
        return finish_reason is not None

    def _send(self, finish_reason: str | None) -> None:
        question = self._question
        # As vLLM's backend: Python's None in words, until there is a reason.
        values: list[tuple[bool, str, Any, Any]] = [
            (True, "text_output", self._held_text, np.object_),
            (question.wants_finish_reason, "finish_reason", str(finish_reason), np.object_),
            (question.wants_num_prompt_tokens, "num_input_tokens", self._num_prompt_tokens, np.uint32),
            (question.wants_num_output_tokens, "num_output_tokens", self._held_tokens, np.uint32),
        ]
        tensors = [pb_utils.Tensor(name, np.array([value], dtype)) for wanted, name, value, dtype in values if wanted]
        if finish_reason is not None and question.wants_num_output_tokens:
            # At once with the last response: one more tensor in each would slow every step down.
            tensors.append(pb_utils.Tensor("token_ids", np.array(self._token_ids, np.int32)))
        self._held_text, self._held_tokens = "", 0
        flags = 0 if finish_reason is None else pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        self._sender.send(pb_utils.InferenceResponse(output_tensors=tensors), flags=flags)


def _inputs(request: Any) -> dict[str, Any]:
    found = {}
    for tensor in request.inputs():
        value = tensor.as_numpy().reshape(-1)[0]
        found[tensor.name()] = value.decode(errors="replace") if isinstance(value, bytes) else value
    return found


def _refuse(sender: Any, error: Exception) -> None:
    sender.send(
        pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))),
        flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
    )
