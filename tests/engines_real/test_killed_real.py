"""A SIGKILL of the real vLLM, tritonserver and MII while loading, between two requests and in the middle of a stream.

llmbench engines install vllm triton mii && pytest tests/engines_real/test_killed_real.py
"""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest
from killed_engines import (
    DELAY_S,
    OTHER,
    TRAFFIC,
    Moment,
    assert_killed_while_loading,
    assert_killed_while_serving,
    run_and_kill,
)
from workplace import Workplace, eventually, num_stored

from llmbench.engines import registry
from llmbench.engines.environments import environment, install_command
from llmbench.harness.models import ModelRef
from llmbench.harness.process import free_port
from llmbench.results.run import Run

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(900)]

MODEL = "synthetic:llama-20m"
SETTINGS = {
    "vllm": {"enforce_eager": True, "dtype": "float32", "max_model_len": 512},
    "triton": {"kernels": "torch", "threads": 1, "dtype": "float32"},
}
TIMEOUT_S = 400.0
DEPLOYMENT = Path(__file__).parents[1] / "data" / "mii_deployment.py"


@pytest.fixture
def workplace(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path)


@pytest.fixture(params=["vllm", "triton"])
def engine(request: pytest.FixtureRequest, model: ModelRef) -> str:
    wanted = environment(registry.recipes()[request.param])
    if not wanted.is_complete:
        pytest.skip(f"{request.param} is not installed here: {install_command(wanted)}")
    name: str = request.param
    return name


def test_killed_while_loading_it_is_left_out(workplace: Workplace, engine: str) -> None:
    killed = run_and_kill(workplace, engine, "loading", model=MODEL, timeout_s=TIMEOUT_S, settings=SETTINGS[engine])
    assert_killed_while_loading(killed)


@pytest.mark.parametrize(
    ("moment", "kinds", "rounds"), [("idle", ["connect"], 1), ("mid-stream", ["truncated", "connect"], 2)]
)
def test_killed_while_serving_it_leaves_failures_and_is_started_again(
    workplace: Workplace, engine: str, moment: Moment, kinds: list[str], rounds: int
) -> None:
    killed = run_and_kill(
        workplace, engine, moment, model=MODEL, rounds=rounds, timeout_s=TIMEOUT_S, settings=SETTINGS[engine]
    )
    assert_killed_while_serving(killed, *kinds)
    if moment == "mid-stream":
        assert any(row["output_tokens"] for row in killed.victim[0] if row["error_kind"] == "truncated")


@pytest.mark.parametrize("moment", ["idle", "mid-stream"])
def test_mii_is_nobodys_to_start_again(workplace: Workplace, model: ModelRef, moment: Moment) -> None:
    """Attached to by url: nobody answers while it loads, and after its death everything fails."""
    wanted = environment(registry.recipes()["mii"])
    if not wanted.is_complete:
        pytest.skip(f"mii is not installed here: {install_command(wanted)}")
    pytest.importorskip("grpc", reason="the extra llmbench[grpc] is not installed")
    replica, balancer, ready = free_port(), free_port(), free_port()
    python = str(wanted.path / "bin" / "python")
    argv = [python, str(DEPLOYMENT), "serve", str(model.path), str(replica), str(balancer), str(ready)]
    engine = {"mii": {"label": "victim", "url": f"grpc://127.0.0.1:{balancer}"}}
    workload = workplace.workload(
        model=MODEL,
        engines=[engine, OTHER],
        prompts={
            "kind": "text",
            "path": "prompts.txt",
            "prompt_tokens": 16,
            "output_tokens": 120 if moment == "mid-stream" else 4,
        },
        traffic=TRAFFIC[moment],
    )
    with (workplace.folder / "mii.log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log) as server:
        try:
            early = workplace.run("run", workload, "--out", "early", timeout_s=TIMEOUT_S)
            assert early.returncode == 4, early.stderr
            assert "victim did not start; other was measured." in early.stdout
            eventually(lambda: _answers(ready), TIMEOUT_S)
            run = workplace.start("run", workload, "--out", "out")
            eventually(lambda: num_stored(workplace.folder / "out") >= 3, TIMEOUT_S)
            time.sleep(DELAY_S)
        finally:
            server.kill()
    stdout, stderr = run.communicate(timeout=TIMEOUT_S)
    assert run.returncode == 5, stderr
    rows = [row for row in Run.open(workplace.folder / "out").requests.to_pylist() if not row["warmup"]]
    assert {row["status"] for row in rows if row["engine"] == "victim"} == {"ok", "failed"}
    failures = {row["error_kind"] for row in rows if row["engine"] == "victim" and row["status"] == "failed"}
    assert failures == ({"connect"} if moment == "idle" else {"truncated", "connect"})
    assert {row["status"] for row in rows if row["engine"] == "other"} == {"ok"}
    assert "victim no longer answers at" in stdout


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
