"""What both processes of the server log: one line per request and per event, to stderr, for people or for machines.

A line has counts, times, the names of parameters, and of the request its path and its x-request-id. It never has what
else a request says: no prompt, no answer, no other header, and of a parameter only its name, if it is one of ours. So
an unexpected error is logged by its type and place, not by its message, which may quote what it failed on. The errors
that end the engine excepted: it sees token ids, and of texts only stop texts and forms of answers.
"""

from __future__ import annotations

import logging
import sys
import traceback
from http import HTTPStatus
from typing import Literal

import structlog

from llmbench.reference_engine.config import EngineConfig, QuantizationName
from llmbench.reference_engine.loaded import EVENT, loaded_facts
from llmbench.reference_engine.server.errors import ApiError
from llmbench.reference_engine.server.schemas import ChatBody, CompletionBody

LogFormat = Literal["text", "json"]

CLIENT_LEFT = "client left"
# Of what a client has chosen, so that no request fills the log.
_MAX_CHARS = 256

_PARAMETERS = {*CompletionBody.model_fields, *ChatBody.model_fields}

log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger("llmbench.reference_engine")


def configure_logging(log_format: LogFormat) -> None:
    """Lines of this package and of its libraries alike. "text" is logfmt behind time, level and event."""
    head: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _place_of_exception,
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=head,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer() if log_format == "json" else _as_text,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    structlog.configure(
        processors=[*head, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def log_loaded(config: EngineConfig, max_model_len: int, stored_quantization: QuantizationName | None = None) -> None:
    """What the engine computes with, on a line of its own."""
    log.info(EVENT, **loaded_facts(config, max_model_len, stored_quantization))


def log_failure(request_id: str, path: str, failure: ApiError, error: Exception) -> None:
    """The line of a request that got no answer, or not all of it: refused, or failed by our own fault."""
    fields = {"request_id": request_id, "path": path[:_MAX_CHARS], "status": int(failure.status)}
    if failure.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("failed", **fields, exc_info=error)
        return
    name = (failure.param or "").split(".")[0]
    log.info("refused", **fields, **({"param": name} if name in _PARAMETERS else {}))


def _place_of_exception(
    logger: logging.Logger, method: str, event: structlog.types.EventDict
) -> structlog.types.EventDict:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = type(error).__qualname__
        frames = traceback.extract_tb(error.__traceback__)
        event["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    return event


_as_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def _as_text(logger: logging.Logger, method: str, event: structlog.types.EventDict) -> str:
    head = f"{event.pop('time')} {event.pop('level').upper()} {event.pop('event')}"
    frames = [f"    {frame}" for frame in event.pop("where", ())]
    fields = _as_logfmt(logger, method, event)
    return "\n".join(map(_printable, [f"{head} {fields}" if fields else head, *frames]))


def _printable(line: str) -> str:
    """A path may be of any characters, and a terminal obeys some."""
    if line.isprintable():
        return line
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
