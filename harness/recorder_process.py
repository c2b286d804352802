"""The recorder's own side: `python -m llmbench.harness.recorder_process`, fed by `harness/recorder.py`.

Owns the run directory: nothing else writes to it but the engines' logs.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any, assert_never

from llmbench.engines import registry
from llmbench.harness.kept_answers import KeptAnswers
from llmbench.harness.own_stdout import own_stdout
from llmbench.harness.plan import PlannedRequest, Trial
from llmbench.harness.progress import Progress
from llmbench.harness.recorder import (
    Answered,
    Closing,
    ManifestChanges,
    Opening,
    Phase,
    Recall,
    TrialBegins,
    Verdict,
    read_messages,
)
from llmbench.harness.records import to_records
from llmbench.harness.validity import judge, judge_windows
from llmbench.results.answers import ANSWERS_JOURNAL
from llmbench.results.records import RequestRecord
from llmbench.results.run_directory import RunDirectory, RunError
from llmbench.results.window import Rules

Message = Answered | TrialBegins | Phase | ManifestChanges | Closing


def main() -> None:
    replies = own_stdout()
    try:
        _record(read_messages(sys.stdin.buffer), replies)
    except Exception as error:
        if isinstance(error, RunError):
            _answer(replies, error)
        else:
            traceback.print_exc()
        replies.close()
        sys.stderr.flush()
        # Not sys.exit, which would wait for the thread that reads until the harness closes the pipe.
        os._exit(1)


def _record(messages: Iterator[Any], replies: IO[bytes]) -> None:
    opening: Opening = next(messages)
    directory = RunDirectory.create(opening.path, opening.manifest)
    with Progress(opening.num_requests, draw=opening.draw) as progress:
        recording = Recording(opening, directory, progress)
        _answer(replies, {label: directory.log_path(label) for label in opening.adapters})
        for message in messages:
            if isinstance(message, Recall):
                _answer(replies, recording.recalled())
                continue
            verdict = recording.take(message)
            if verdict is not None:
                progress.stop()
                _answer(replies, verdict)
    # Without a verdict the harness is gone: what it handed over is in the journal, and the directory itself says that
    # it is unfinished.


class Recording:
    """Decodes each answer with its engine's adapter and appends it to the run directory."""

    def __init__(self, opening: Opening, directory: RunDirectory, progress: Progress) -> None:
        self._opening = opening
        self._directory = directory
        self._progress = progress
        self._adapters = {label: registry.get(*adapter) for label, adapter in opening.adapters.items()}
        self._asked: dict[str, tuple[Trial, PlannedRequest]] = {}
        self._records: list[RequestRecord] = []
        self._num_before_trial = 0
        tokenize = self._tokenizer()
        self._count_tokens = None if tokenize is None else lambda text: len(tokenize(text))
        self._kept = KeptAnswers(directory.path / ANSWERS_JOURNAL, opening.answer_bytes, opening.num_trials, tokenize)

    def take(self, message: Message) -> Verdict | None:
        match message:
            case TrialBegins(trial):
                self._num_before_trial = len(self._records)
                self._kept.begin(trial)
                self._asked = {each.request_id: (trial, each) for each in (*trial.warmup, *trial.requests)}
            case Answered(request_id, timeline):
                trial, planned = self._asked[request_id]
                adapter = self._adapters[trial.engine.label]
                decoded = to_records(trial, planned, timeline, adapter, self._count_tokens)
                record = decoded.record
                self._directory.append(record, decoded.chunks)
                self._kept.add(request_id, record, decoded.text, decoded.token_ids)
                if timeline.retry_due_ns is None:
                    self._records.append(record)
                    self._progress.add(record)
            case Phase(text):
                self._progress.say(text)
            case ManifestChanges(changes):
                self._directory.update_manifest(**changes)
            case Closing(status, findings):
                opening = self._opening
                keeps_lengths = {label: adapter.capabilities.ignore_eos for label, adapter in self._adapters.items()}
                judged = judge(
                    self._records, keeps_lengths, opening.lag_matters, opening.exact_lengths, opening.constant_load
                )
                judged += judge_windows(self._records, Rules.of(opening.manifest.workload))
                verdict = Verdict(tuple(sorted([*findings, *judged], key=lambda finding: not finding.invalid)))
                self._kept.close()
                self._directory.update_manifest(invalid=verdict.reasons)
                self._directory.finish(status, problems=[finding.text for finding in verdict.findings])
                return verdict
            case _:
                assert_never(message)
        return None

    def recalled(self) -> list[RequestRecord]:
        """The measured requests of the last trial that have ended."""
        return [record for record in self._records[self._num_before_trial :] if not record.warmup]

    def _tokenizer(self) -> Callable[[str], list[int]] | None:
        path = self._opening.tokenizer_path
        if path is None:
            return None
        from llmbench.workloads.prompts import load_tokenizer

        return load_tokenizer(path).encode


def _answer(replies: IO[bytes], reply: object) -> None:
    pickle.dump(reply, replies)
    replies.flush()


if __name__ == "__main__":
    main()
