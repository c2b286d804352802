"""Where a workload may say that an engine listens, and whom it trusts there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmbench.workloads.errors import WorkloadError
from llmbench.workloads.loader import loads


def written(folder: Path, engine: str) -> Any:
    [spec] = loads(f"name: t\nmodel: m\nengines: [{{openai: {engine}}}]\n", folder=folder).engines
    return spec


def test_unix_sockets(tmp_path: Path) -> None:
    assert written(tmp_path, "{url: 'unix:///run/e.sock'}").url == "unix:///run/e.sock"


def test_an_authority_lies_beside_the_workload(tmp_path: Path) -> None:
    spec = written(tmp_path, "{url: 'https://h', tls_ca: ca.pem}")
    assert spec.tls_ca == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("engine", "problem"),
    [
        ("{url: 'unix:e.sock'}", "allowed: unix:// and an absolute path"),
        ("{url: 'unix://e.sock'}", "allowed: unix:// and an absolute path"),
        (f"{{url: 'unix:///{'x' * 107}'}}", "107 bytes at most"),
        ("{url: 'http://h', tls_ca: ca.pem}", "field 'engines.0.tls_ca': there is nothing to trust without TLS"),
        ("{url: 'http://h', prefix: [nice]}", "field 'engines.0.prefix': a server with a url runs already"),
        ("{url: 'http://h', restart: false}", "field 'engines.0.restart': a server with a url is not started here"),
        ("{tls_ca: ca.pem}", "field 'engines.0.tls_ca': there is nothing to trust without TLS"),
    ],
)
def test_what_is_refused(tmp_path: Path, engine: str, problem: str) -> None:
    with pytest.raises(WorkloadError) as refused:
        written(tmp_path, engine)
    assert problem in str(refused.value)
