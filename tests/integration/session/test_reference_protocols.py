"""One run over every protocol of the bundled engine's server, by real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_pieces import write_pieces

from llmbench.reference_engine.models.synthetic import create
from llmbench.results.run_directory import Run

SETTINGS = {"threads": 1, "kernels": "torch"}


def test_http_websocket_and_grpc_bring_the_same_tokens(workplace: Any, tmp_path: Path) -> None:
    engines = [
        {"reference": {"label": protocol, "settings": {**SETTINGS, "protocol": protocol}}}
        for protocol in ("http", "websocket", "grpc")
    ]
    workload = workplace.workload(model="synthetic:llama-tiny", engines=engines)
    done = workplace.run("run", workload, "--out", "out", "--allow-invalid", env={"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    run = Run.open(workplace.folder / "out")
    rows = run.requests.to_pylist()
    assert {row["status"] for row in rows} == {"ok"}
    by_engine: dict[str, list[Any]] = {}
    for row in sorted(rows, key=lambda row: str(row["request_id"])):
        seen = (row["prompt_tokens"], row["output_tokens"], row["finish_reason"])
        by_engine.setdefault(row["engine"], []).append(seen)
    assert set(by_engine) == {"http", "websocket", "grpc"}
    assert by_engine["http"] == by_engine["websocket"] == by_engine["grpc"]
    assert all(row["output_tokens"] == 5 for row in rows)
    assert {row["token_source"] for row in rows if row["engine"] == "grpc"} == {"token_ids"}


def test_a_protocol_that_is_none_is_said_before_anything_starts(workplace: Any) -> None:
    engine = {"reference": {"settings": {"protocol": "smtp"}}}
    done = workplace.run("run", workplace.workload(model="synthetic:llama-tiny", engines=[engine]))
    assert done.returncode == 2
    assert "settings.protocol of reference must be one of http, websocket, grpc; got 'smtp'" in done.stderr


def test_a_checkpoint_with_a_sentencepiece_tokenizer_alone(workplace: Any, tmp_path: Path) -> None:
    """Prompts of exact lengths are written with it, and counted by the server as they were planned."""
    checkpoint = create("synthetic:llama-tiny", out=tmp_path / "checkpoint")
    (checkpoint / "tokenizer_config.json").unlink(missing_ok=True)
    write_pieces(checkpoint, model_type="bpe")
    workload = workplace.workload(
        model=str(checkpoint),
        engines=[{"reference": {"settings": SETTINGS}}],
        prompts={"kind": "synthetic", "prompt_tokens": 33, "output_tokens": 5},
    )
    done = workplace.run("run", workload, "--out", "out", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    rows = Run.open(workplace.folder / "out").requests.to_pylist()
    assert {(row["status"], row["prompt_tokens"], row["output_tokens"]) for row in rows} == {("ok", 33, 5)}
