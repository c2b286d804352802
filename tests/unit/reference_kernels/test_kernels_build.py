"""What a user without a compiler, or with a broken one, is told; and that the engine then runs on torch."""

from __future__ import annotations

import logging
import platform
from pathlib import Path

import pytest

from llmbench.reference_engine.errors import ConfigError, KernelsUnavailableError
from llmbench.reference_engine.kernels import build, dispatch

linux_only = pytest.mark.skipif(platform.system() != "Linux", reason="the C++ kernels are for Linux")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a library that counts as not loaded yet."""
    monkeypatch.setenv("LLMBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "load_library", build.load_library.__wrapped__)


@linux_only
def test_without_a_compiler_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelsUnavailableError, match=r"no compiler was found: install g\+\+, or set CXX"):
        build.load_library()


@linux_only
def test_a_compiler_that_fails_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "broken++"
    compiler.write_text('#!/bin/sh\ntest "$1" = --version && echo 1.0 && exit 0\necho "no such flag" >&2; exit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(KernelsUnavailableError, match=r"(?s)did not compile: .*no such flag"):
        build.load_library()
    assert not list(tmp_path.rglob("*.so"))


@linux_only
def test_a_compiler_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(KernelsUnavailableError, match=r"/nowhere/g\+\+ does not run"):
        build.load_library()


def test_auto_falls_back_to_torch_and_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from llmbench.reference_engine.kernels import cpp_kernels

    def unavailable() -> Path:
        raise KernelsUnavailableError("There is no compiler.")

    monkeypatch.setattr(cpp_kernels, "load_library", unavailable)
    with caplog.at_level(logging.WARNING):
        assert dispatch.load("auto", 1).name == "torch"
    assert "There is no compiler." in caplog.text
    with pytest.raises(KernelsUnavailableError):
        dispatch.load("cpp", 1)


def test_unknown_kernels_are_refused_with_the_names_there_are() -> None:
    with pytest.raises(ConfigError, match="must be one of auto, torch, cpp"):
        dispatch.load("cuda", 1)
