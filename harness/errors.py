"""What can stop the harness that a user can mend, and the exit code each ends in."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `llmbench`, stable across versions."""

    OK = 0
    CONFIG = 2
    MISSING_PACKAGE = 3
    ENGINE = 4
    INVALID = 5
    REGRESSION = 6
    INTERRUPTED = 130


class HarnessError(Exception):
    """Base of the errors below: one sentence for the user, and the exit code of the command."""

    exit_code = ExitCode.ENGINE


class ConfigError(HarnessError):
    """What was asked cannot be run; the message names the field and what would be right."""

    exit_code = ExitCode.CONFIG


class MissingExtraError(HarnessError):
    """A package of an extra is not installed; the message holds the pip command that mends it."""

    exit_code = ExitCode.MISSING_PACKAGE


class EngineStartError(HarnessError):
    """An engine did not become ready: `sentence` says why, and the message ends in its last log lines and their file.

    A report shows the sentence alone: its reader has the log beside it, and no use for a path of this machine.
    """

    exit_code = ExitCode.ENGINE

    def __init__(self, sentence: str, log_tail: str = "") -> None:
        super().__init__(sentence + log_tail)
        self.sentence = sentence
