"""How both processes of the server write their log: one line per event to stderr, for people or for machines."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Literal

from llmbench.reference_engine.config import EngineConfig

LogFormat = Literal["text", "json"]


def configure_logging(log_format: LogFormat) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def log_event(logger: logging.Logger, event: str, **fields: object) -> None:
    """An event with named values, which the JSON format keeps apart."""
    logger.info(event, extra={"fields": fields})


def log_loaded(config: EngineConfig, max_model_len: int) -> None:
    """What the engine computes with, on a line of its own: who compares engines reads it here."""
    log_event(
        logging.getLogger("llmbench.reference_engine"),
        "engine loaded",
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        quantization=config.quantization,
        device=config.device,
        max_model_len=max_model_len,
    )


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        return super().formatMessage(record) + fields


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def _fields(record: logging.LogRecord) -> Mapping[str, object]:
    fields: Mapping[str, object] = getattr(record, "fields", {})
    return fields
