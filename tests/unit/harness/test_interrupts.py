"""Ctrl-C, once and again."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from llmbench.harness.cli import main
from llmbench.harness.interrupts import Interrupts


def test_the_first_sets_the_flag_and_the_second_raises() -> None:
    said: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with Interrupts(on_first=lambda: said.append("stopping")) as interrupts:
        assert not interrupts.stop.is_set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert said == ["stopping"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts(on_first=lambda: None) as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupts.stop.is_set()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_ctrl_c_before_anything_is_measured_exits_130_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmbench.workloads.loader.load", interrupted)
    monkeypatch.setattr(sys, "argv", ["llmbench", "run", "quickstart"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err
