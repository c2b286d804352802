"""Failures of one HTTP request, as OpenAI's clients expect them."""

from __future__ import annotations

import json
from http import HTTPStatus

from llmbench.reference_engine.errors import RequestError


class ApiError(Exception):
    """An answer that is no generation: an HTTP status, one sentence, and the parameter that it is about."""

    def __init__(
        self, status: HTTPStatus, message: str, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}

    def body(self) -> bytes:
        # "BadRequestError", "NotFoundError": the names of the openai client's exceptions.
        kind = "".join(word.capitalize() for word in self.status.name.split("_")) + "Error"
        kind = kind.replace("ErrorError", "Error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": int(self.status)}
        return json.dumps({"error": error}).encode()


class EngineDiedError(Exception):
    """The engine process ended while it was needed; its own last words are in the log."""


class BusyError(Exception):
    """As many requests are running and waiting as may."""

    def __init__(self, max_requests: int) -> None:
        super().__init__(f"{max_requests} requests are running or waiting, which is the limit; try again later.")


class StoppingError(Exception):
    """The server was told to stop: a request comes too late, or is not done when the time for running ones is over."""


class EngineStartError(Exception):
    """The engine process could not load the model: one sentence for the user."""


def as_api_error(error: Exception) -> ApiError:
    """The answer to a request that failed with `error`. Anything unknown is a bug, whose traceback is not theirs."""
    match error:
        case ApiError():
            return error
        case RequestError():
            return ApiError(HTTPStatus.BAD_REQUEST, str(error))
        case BusyError():
            return ApiError(HTTPStatus.TOO_MANY_REQUESTS, str(error), retry_after_s=1)
        case EngineDiedError():
            return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "The engine ended unexpectedly; the server is stopping.")
        case StoppingError():
            return ApiError(HTTPStatus.SERVICE_UNAVAILABLE, "The server is stopping.", retry_after_s=1)
        case _:
            return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal server error; the server's log says more.")
