"""The history: the same answers from SQLite and from a real PostgreSQL server, whoever writes at the same time."""

from __future__ import annotations

import ctypes
import math
import os
import pwd
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sql
from made_runs import entry, manifest

from llmbench.results.comparison_set import compare_sides
from llmbench.results.errors import RunError
from llmbench.results.history import History
from llmbench.results.history_schema import HISTORY_VERSION
from llmbench.results.matching import side_of
from llmbench.results.run import Run
from llmbench.results.run_directory import RunDirectory

RIG = {"cpu": "Some CPU", "git": {"commit": "c0ffee", "dirty": False}}


def _postgres_programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    return None if initdb is None else Path(initdb).parent


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed")
    # The server refuses to run as root, its folder must be its own, and a socket's path must be short.
    folder = Path("/tmp") / f"llmbench-postgres-{os.getpid()}"
    folder.mkdir(mode=0o700)
    user: dict = {}
    if os.geteuid() == 0:
        try:
            account = pwd.getpwnam("postgres")
        except KeyError:
            folder.rmdir()
            pytest.skip("PostgreSQL does not run as root, and there is no account called postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        user = {"user": "postgres", "group": account.pw_gid, "extra_groups": []}
    data, url = folder / "data", f"postgresql://llmbench@/postgres?host={folder}"
    initdb = [programs / "initdb", "-D", data, "-U", "llmbench", "-A", "trust", "--no-sync"]
    settings = ["listen_addresses=", f"unix_socket_directories={folder}", "fsync=off"]
    server = [programs / "postgres", "-D", data, *(part for setting in settings for part in ("-c", setting))]
    try:
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, timeout=60, **user)
        with (folder / "log").open("wb") as log:
            started = subprocess.Popen(server, stdout=log, stderr=log, cwd=folder, preexec_fn=_die_with_parent, **user)
        try:
            _wait_until_ready(url, started)
            yield url
        finally:
            started.send_signal(signal.SIGINT)
            started.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _die_with_parent() -> None:
    # A test run that is killed leaves no server behind.
    ctypes.CDLL(None).prctl(1, signal.SIGQUIT)


def _wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "history.db")
    url: str = request.getfixturevalue("postgres_url")
    engine = sql.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(sql.text("DROP SCHEMA public CASCADE"))
        connection.execute(sql.text("CREATE SCHEMA public"))
    engine.dispose()
    return url


def made(folder: Path, name: str, *, day: int = 1, itl: float = 5, ok: bool = True, **changes) -> Run:
    fields = {
        "run_id": name,
        "created_utc": f"2026-01-{day:02d}T00:00:00Z",
        "environment": RIG,
        "workload": {"name": "w", "traffic": {"requests": 10}},
    }
    directory = RunDirectory.create(folder / name, manifest(**(fields | changes)))
    for number in range(5):
        for index in range(10):
            due = 100.0 * (10 * number + index)
            stamps = [due + 20 + itl * step * (1 + 0.001 * ((index + number) % 3)) for step in range(5)]
            rows = entry(index, due=due, sent=due, tokens=[(stamp, 1) for stamp in stamps], round=number, ok=ok)
            directory.append(*rows)
    directory.finish("complete")
    return Run.open(directory.path)


def test_a_run_is_stored_once_and_found_again(store: str, tmp_path: Path) -> None:
    later, earlier = made(tmp_path, "later", day=9), made(tmp_path, "earlier", day=2)
    with History.open(store) as history:
        assert history.add(later)
        assert history.add(earlier)
        assert not history.add(later)
    with History.open(store) as history:
        found = history.runs()
    assert [run.run_id for run in found] == ["earlier", "later"]
    assert {run.git_commit for run in found} == {"c0ffee"}
    assert len({(run.fingerprint, run.question) for run in found}) == 1


def test_a_trend_is_of_one_figure_in_order_of_time(store: str, tmp_path: Path) -> None:
    runs = [made(tmp_path, f"run{day}", day=day, itl=5 + day) for day in (3, 1, 2)]
    with History.open(store) as history:
        for run in runs:
            history.add(run)
        points = history.trend("tpot_p50", engine="a", level="closed 1")
        assert [round(point.value) for point in points] == [6, 7, 8]
        assert all(point.log_error is not None and point.n == 50 for point in points)
        assert history.trend("tpot_p50", engine="b", level="closed 1") == []
        assert history.trend("tpot_p50", engine="a", level="closed 1", fingerprint="other") == []
        assert history.levels("tpot_p50", engine="a") == ["closed 1"]


def test_infinity_comes_back_as_infinity(store: str, tmp_path: Path) -> None:
    with History.open(store) as history:
        history.add(made(tmp_path, "lost", ok=False))
        [point] = history.trend("e2e_p50", engine="a", level="closed 1")
    assert point.value == math.inf


def test_the_newest_comparable_run_is_the_baseline(store: str, tmp_path: Path) -> None:
    old, new = made(tmp_path, "old", day=1), made(tmp_path, "new", day=2)
    elsewhere = made(tmp_path, "elsewhere", day=3, environment=RIG | {"cpu": "Another CPU"})
    other = made(tmp_path, "other", day=4, workload={"name": "w", "traffic": {"requests": 11}})
    mine = made(tmp_path, "mine", day=5, itl=6)
    side = side_of(mine)
    with History.open(store) as history:
        assert history.latest_like(side.identity) is None
        for run in (old, new, elsewhere, other, mine):
            history.add(run)
        found = history.latest_like(side.identity, but="mine")
    assert found is not None
    assert found.name == "new"
    compared = compare_sides([side], found)
    assert not compared.fatal
    assert {each.spec.name: each.verdict for each in compared.comparisons}["tpot_p50"] == "slower"


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"invalid": ("The clock stood still.",)}, "The clock stood still."), ({}, "did not come to its end")],
)
def test_what_must_not_be_used_is_not_stored(store: str, tmp_path: Path, changes: dict, why: str) -> None:
    if changes:
        run = made(tmp_path, "bad", **changes)
    else:
        directory = RunDirectory.create(tmp_path / "cut", manifest())
        directory.close()
        run = Run.open(directory.path)
    with History.open(store) as history:
        with pytest.raises(RunError, match=why):
            history.add(run)
        assert history.runs() == []


def test_writers_at_the_same_time_lose_nothing(store: str, tmp_path: Path) -> None:
    runs = [made(tmp_path, f"run{index}", day=index + 1) for index in range(8)]

    def write(index: int) -> None:
        with History.open(store) as history:
            for run in runs[index:] + runs[:index]:
                history.add(run)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    with History.open(store) as history:
        assert [run.run_id for run in history.runs()] == [f"run{index}" for index in range(8)]
        assert len(history.trend("tpot_p50", engine="a", level="closed 1")) == 8


def test_processes_that_open_a_new_store_at_once_both_find_it_made(store: str) -> None:
    program = "import sys; from llmbench.results.history import History; History.open(sys.argv[1]).close()"
    started = [subprocess.Popen([sys.executable, "-c", program, store], stderr=subprocess.PIPE) for _ in range(2)]
    assert [(process.communicate()[1], process.returncode) for process in started] == [(b"", 0)] * 2
    with History.open(store) as history:
        assert history.runs() == []


def _execute(store: str, *statements: str) -> None:
    address = store.replace("postgresql://", "postgresql+psycopg://") if "://" in store else f"sqlite:///{store}"
    engine = sql.create_engine(address)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(sql.text(statement))
    engine.dispose()


@pytest.mark.parametrize("version", [1, 2])
def test_an_older_store_is_upgraded_with_its_rows(store: str, tmp_path: Path, version: int) -> None:
    with History.open(store) as history:
        history.add(made(tmp_path, "before"))
        [point] = history.trend("tpot_p50", engine="a", level="closed 1")
    later = ["ALTER TABLE llmbench_runs DROP COLUMN note", "ALTER TABLE llmbench_figures DROP COLUMN freedom"]
    _execute(store, *later[version - 1 :], f"UPDATE llmbench_history SET version = {version}")
    with History.open(store) as history:
        assert history.trend("tpot_p50", engine="a", level="closed 1") == [point]
        assert history.add(made(tmp_path, "after", day=2))
    with History.open(store) as history:
        assert len(history.runs()) == 2
        assert {each.freedom for each in history.trend("tpot_p50", engine="a", level="closed 1")} == {point.freedom}
    assert point.freedom


def test_a_store_says_what_it_has(store: str, tmp_path: Path) -> None:
    run = made(tmp_path, "run")
    with History.open(store) as history:
        assert history.engines() == []
        history.add(run)
        assert (history.engines(), history.levels(engine="a")) == (["a"], ["closed 1"])
        assert {"tpot_p50", "success_share"} <= history.names(engine="a", level="closed 1")
        assert history.hardware(side_of(run).identity.fingerprint) == {"cpu": "Some CPU"}
        assert history.hardware("unknown") == {}


def test_a_newer_store_is_refused_with_the_remedy(store: str) -> None:
    History.open(store).close()
    _execute(store, f"UPDATE llmbench_history SET version = {HISTORY_VERSION + 1}")
    with pytest.raises(RunError, match="pip install --upgrade llmbench"):
        History.open(store)


def test_a_store_that_cannot_be_reached_says_so_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is no folder"):
        History.open(str(tmp_path / "nowhere" / "history.db"))
    (tmp_path / "text.db").write_text("This is no database, though it is long enough to be taken for one. " * 20)
    with pytest.raises(RunError, match="cannot be used: file is not a database"):
        History.open(str(tmp_path / "text.db"))
    with pytest.raises(RunError) as raised:
        History.open(f"postgresql://someone:secret@/db?host={tmp_path}")
    assert "secret" not in str(raised.value)


def test_a_store_survives_a_writer_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with History.open(str(path)) as history:
        history.add(made(tmp_path, "kept"))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM llmbench_runs")
    connection.close()
    with History.open(str(path)) as history:
        assert [run.run_id for run in history.runs()] == ["kept"]
