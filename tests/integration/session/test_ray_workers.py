"""Load workers on a real Ray cluster of two nodes on this host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shy_server import asks_at_once, attempts_of_which_half_were_lost, shy_server
from workplace import num_stored

from llmbench.results.run_directory import Run

pytest.importorskip("ray")

LENIENT = "--allow-invalid"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    def start() -> Any:
        return Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})

    try:
        started = start()
    except Exception as error:  # Ray gives its head 30 s, which a busy machine may need more than
        if "timed out during startup" not in str(error):
            raise
        started = start()
    try:
        yield started
    finally:
        started.shutdown()


def rows(folder: Path) -> tuple[Run, dict[str, list[Any]]]:
    run = Run.open(folder)
    assert run.finished
    return run, run.requests.sort_by("index").to_pydict()


@pytest.mark.timeout(240)
def test_a_node_that_dies_takes_its_requests_and_nobody_else(workplace: Any, cluster: Any, eventually: Any) -> None:
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    traffic = {"requests": 200, "warmup_requests": 0, "arrivals": {"kind": "constant", "rate": 20}}
    process = workplace.start(
        "run", workplace.workload(traffic=traffic), "--workers", "2", "--on", cluster.address, "--out", "out"
    )
    eventually(lambda: num_stored(workplace.folder / "out") >= 3 or process.poll() is not None, 120)
    cluster.remove_node(second, allow_graceful=False)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 5, stdout + stderr
    run, found = rows(workplace.folder / "out")
    assert len(found["status"]) == 200
    lost = [index for index, kind in enumerate(found["error_kind"]) if kind == "cancelled"]
    assert lost
    assert len({index % 2 for index in lost}) == 1, "only those of the node that died"
    assert found["status"].count("ok") >= 100
    assert any("of its requests were lost" in reason for reason in run.manifest.invalid)
    [trial] = run.manifest.trials
    assert trial.instrument is not None
    assert trial.instrument.clock_error_ns == 0, "one host, one clock"
    assert [due - trial.start_ns for due in found["due_ns"]] == [index * 50_000_000 for index in range(200)]


@pytest.mark.timeout(240)
def test_what_failed_is_sent_again_by_the_node_that_had_sent_it_and_is_lost_with_it(
    workplace: Any, cluster: Any, eventually: Any
) -> None:
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    with shy_server(1) as shy:
        workload = asks_at_once(workplace, shy, wait_s=20.0)
        process = workplace.start("run", workload, "--workers", "2", "--on", cluster.address, "--out", "out")
        eventually(lambda: num_stored(workplace.folder / "out") == 6 or process.poll() is not None, 120)
        cluster.remove_node(second, allow_graceful=False)
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 5, stdout + stderr
    found, lost = attempts_of_which_half_were_lost(Run.open(workplace.folder / "out"), wait_s=20.0)
    assert all("was lost with its Ray actor" in found["error"][row] for row in lost)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:many"])
def test_without_a_cluster_the_address_is_named(workplace: Any, address: str) -> None:
    done = workplace.run("run", workplace.workload(), "--on", address)
    assert done.returncode == 2, done.stderr
    assert f"--on {address}: no Ray cluster answers" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (workplace.folder / "runs").exists()
