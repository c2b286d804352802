"""Whatever was appended can be read again: finished or not, torn or whole, with any text in any field."""

from __future__ import annotations

import json
import tempfile
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import MakeRun, entry, manifest

from llmbench.results import journal as journal_module
from llmbench.results import run_directory
from llmbench.results.journal import JOURNAL
from llmbench.results.records import ChunkRecord, RequestRecord
from llmbench.results.run_directory import Run, RunDirectory, RunError
from llmbench.results.schema import REQUEST_COLUMNS, chunk_schema, request_schema

INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)
BY_TYPE = {"string": st.text(max_size=20), "int32": INT32, "int64": INT64, "bool": st.booleans()}


def _field(name: str, kind: str, nullable: bool) -> st.SearchStrategy[object]:
    if name == "status":
        return st.sampled_from(["ok", "failed"])
    return BY_TYPE[kind] | st.none() if nullable else BY_TYPE[kind]


RECORDS = st.builds(
    RequestRecord, **{column.name: _field(column.name, column.type, column.nullable) for column in REQUEST_COLUMNS}
)
CHUNKS = st.lists(st.tuples(INT32, INT64, INT32, INT32, INT64 | st.none(), st.booleans()), max_size=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(RECORDS, CHUNKS), max_size=5), st.booleans())
def test_rows_come_back_as_they_were_appended(rows: list[tuple[RequestRecord, list[tuple]]], finish: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder) / "run", manifest())
        for record, chunks in rows:
            directory.append(record, [ChunkRecord(record.request_id, *chunk) for chunk in chunks])
        if finish:
            directory.finish("complete")
        else:
            directory.close()
        run = Run.open(directory.path)
        assert run.finished == finish
        assert run.requests.schema == request_schema()
        assert run.chunks.schema == chunk_schema()
        stored = [tuple(row.values()) for row in run.requests.to_pylist()]
        assert stored == [(*astuple(record), len(chunks)) for record, chunks in rows]
        assert [tuple(row.values()) for row in run.chunks.to_pylist()] == [
            (record.request_id, *chunk) for record, chunks in rows for chunk in chunks
        ]


@given(torn=st.integers(1, 200))
@settings(max_examples=20, deadline=None)
def test_a_torn_last_line_costs_that_request_only(torn: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory.create(Path(folder) / "run", manifest())
        for index in range(3):
            directory.append(*entry(index))
        directory.close()
        path = directory.path / JOURNAL
        path.write_bytes(path.read_bytes()[:-torn])
        run = Run.open(directory.path)
        assert not run.finished
        assert run.requests.column("index").to_pylist() == [0, 1]
        assert run.chunks.num_rows == 4


def test_a_line_broken_in_the_middle_is_named(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "run", manifest())
    for index in range(3):
        directory.append(*entry(index))
    directory.close()
    path = directory.path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"[[\n" + lines[2])
    with pytest.raises(RunError, match=rf"{JOURNAL}:2 is not JSON"):
        _ = Run.open(directory.path).requests


def test_half_a_surrogate_pair_does_not_cost_the_run(make_run: MakeRun) -> None:
    record, chunks = entry(ok=False, error="bad \ud83d text")
    run = make_run([(record, chunks)])
    assert run.requests.column("error").to_pylist() == ["bad ? text"]


def test_an_absurd_count_is_missing_and_an_absurd_stamp_is_refused(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "run", manifest())
    directory.append(*entry(0, output_tokens=2**40))
    with pytest.raises(RunError, match=r"due_ns = 9223372036854775808 does not fit"):
        directory.append(*entry(1, due_ns=2**63))
    directory.finish("complete")
    run = Run.open(directory.path)
    assert run.requests.column("output_tokens").to_pylist() == [None]


@pytest.mark.parametrize("cut_at", ["tables", "manifest"])
def test_killed_while_finishing_it_still_holds_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_at: str
) -> None:
    directory = RunDirectory.create(tmp_path / "run", manifest())
    for index in range(3):
        directory.append(*entry(index))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    target = (run_directory, "_write_tables") if cut_at == "tables" else (RunDirectory, "update_manifest")
    monkeypatch.setattr(*target, killed)
    with pytest.raises(KeyboardInterrupt):
        directory.finish("complete")
    run = Run.open(directory.path)
    assert not run.finished
    assert run.requests.num_rows == 3


def test_a_full_disk_leaves_the_rows_before_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Filling:
        """A file that takes half a line and then has no room."""

        def __init__(self, file: object) -> None:
            self.file, self.calls = file, 0

        def write(self, data: bytes) -> int:
            self.calls += 1
            if self.calls % 2 == 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data[: len(data) // 2])

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

    journal = journal_module.Journal(tmp_path / JOURNAL)
    journal.append(*entry(0))
    plain = journal._file
    journal._file = Filling(plain)
    with pytest.raises(RunError, match="No space left"):
        journal.append(*entry(1))
    journal._file = plain
    journal.append(*entry(2))
    journal.close()
    [(requests, _)] = journal_module.read_batches(tmp_path / JOURNAL)
    assert requests.column("index").to_pylist() == [0, 2]


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match="is not empty"):
        RunDirectory.create(tmp_path, manifest())
    with pytest.raises(RunError, match=r"notes\.txt cannot be made a run directory"):
        RunDirectory.create(tmp_path / "notes.txt", manifest())


def test_logs_stay_in_the_directory_and_apart(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "run", manifest())
    labels = ["vllm", "../../etc/passwd", "a/b", "a b", "a:b", "", ".", "..", "é" * 300, "e" * 300, "x\0y"]
    paths = [directory.log_path(label) for label in labels]
    assert len({str(path).lower() for path in paths}) == len(labels)
    assert all(path.parent == directory.path / "logs" for path in paths)
    assert directory.log_path("vllm").name == "vllm.log"
    for path in paths:
        path.write_text("a log")
    directory.close()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not valid JSON"),
        ("[]", "holds no JSON object"),
        ("{}", "has no schema_version"),
        ('{"schema_version": 99}', "pip install --upgrade llmbench"),
        ('{"schema_version": 1, "run_id": 5}', "does not hold what a manifest of version 3 holds"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_why(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=complaint):
        Run.open(tmp_path)


def test_a_folder_that_is_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no manifest\.json"):
        Run.open(tmp_path)
    with pytest.raises(RunError, match="is no folder"):
        Run.open(tmp_path / "nowhere")


def test_the_manifest_changes_as_a_whole(tmp_path: Path) -> None:
    directory = RunDirectory.create(tmp_path / "run", manifest())
    directory.update_manifest(problems=("The disk is slow.",))
    assert json.loads((directory.path / "manifest.json").read_text())["problems"] == ["The disk is slow."]
    assert not list(directory.path.glob(".*"))
    directory.close()
