"""What can go wrong that a user can mend: each message is one sentence saying what is wrong and what would be right."""

from __future__ import annotations


class ReferenceEngineError(Exception):
    """Base of the errors below; the command line prints the message and exits with 2."""


class ConfigError(ReferenceEngineError):
    """The engine cannot run with these settings."""


class CheckpointError(ReferenceEngineError):
    """The checkpoint folder cannot be read as a model."""


class RequestError(ReferenceEngineError):
    """One request cannot be served; the engine and every other request are unaffected."""


class KernelsUnavailableError(ConfigError):
    """The compiled kernels cannot run here; the torch kernels can."""
