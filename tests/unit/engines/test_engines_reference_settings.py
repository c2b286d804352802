"""Settings of the reference engine: refused here as its own command line would, before anything is started."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from llmbench.engines import registry
from llmbench.engines.adapter import EngineError, EngineOptions
from llmbench.engines.reference_settings import SETTINGS, check


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("max_num_seqs", "abc", "a whole number from 1"),
        ("max_num_seqs", 0, "a whole number from 1"),
        ("max_num_seqs", 1.5, "a whole number from 1"),
        ("max_num_seqs", True, "a whole number from 1"),
        ("seed", "x", "a whole number"),
        ("kv_cache_gib", 0, "a number above 0"),
        ("kv_cache_gib", "nan", "a number above 0"),
        ("max_batch_delay_ms", -1, "a number of 0 or more"),
        ("no_prefix_cache", "yes", "true or false"),
        ("device", "gpu", "one of cpu, cuda"),
        ("kernels", "cuda", "one of auto, torch, cpp, triton"),
        ("graphs", ["off"], "one of auto, off, cpu, cuda, compile"),
        ("speculative", 4, "ngram, bundled:NAME, synthetic:NAME or the folder of a draft model"),
    ],
)
def test_a_value_that_no_start_could_use_is_refused(name: str, value: object, allowed: str) -> None:
    with pytest.raises(EngineError) as refused:
        registry.get("reference", {name: value})
    assert str(refused.value) == f"settings.{name} of reference must be {allowed}; got {value!r}."


def test_a_draft_model_is_looked_for_where_the_engine_is_started(tmp_path: Path) -> None:
    adapter = registry.get("reference", {"speculative": "nosuch"})  # as a worker on another host knows it
    with pytest.raises(EngineError, match=r"settings\.speculative of reference must be ngram, .*; got 'nosuch'\."):
        adapter.launch_plan(EngineOptions("reference", "t", "/models/t", settings={"speculative": "nosuch"}), 8100)
    for draft in ("ngram", "bundled:python-draft", "synthetic:llama-tiny", str(tmp_path)):
        options = EngineOptions("reference", "t", "/models/t", settings={"speculative": draft})
        plan = adapter.launch_plan(options, 8100)
        assert plan is not None
        assert f"--speculative={draft}" in plan.argv


def test_what_the_engine_takes_is_taken() -> None:
    check({"max_num_seqs": 8, "threads": "2", "seed": -1, "kv_cache_gib": 0.5, "max_batch_delay_ms": 0}, "reference")
    check(dict.fromkeys(SETTINGS), "reference")
    check({"no_prefix_cache": True, "quantization": None, "speculative": False}, "reference")


def test_the_settings_are_those_of_the_command_line_with_its_choices() -> None:
    # Else a choice that the engine gains could not be measured, and one that it loses would fail at the start.
    pytest.importorskip("torch")
    from llmbench.reference_engine.cli import serve
    from llmbench.reference_engine.kernels.dispatch import AUTO, BACKENDS

    hints = get_type_hints(serve)
    names = {"prefix_cache": "no_prefix_cache"}
    options = {names.get(name, name): hints[name] for name in inspect.signature(serve).parameters}
    not_settings = {"model", "host", "port", "served_model_name", "max_waiting", "log_format", "drain_s", "grpc_port"}
    assert set(SETTINGS) == set(options) - not_settings
    for name in SETTINGS:
        choices = _choices(options[name]) if name != "kernels" else (AUTO, *BACKENDS)
        for choice in choices:
            check({name: choice}, "reference")
        if choices:
            with pytest.raises(EngineError, match=f"one of {', '.join(choices)}; got"):
                check({name: "no such choice"}, "reference")


def _choices(hint: object) -> tuple[str, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    return tuple(choice for part in get_args(hint) for choice in _choices(part))
