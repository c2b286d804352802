"""A package with an entry point in the group `llmbench.engines` is an engine like any other, once installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parent / "plugin"
USE_IT = """
from llmbench.engines import registry
from llmbench.engines.wire import Endpoint, GenerationRequest, Timeline

assert "echo" in registry.names()
[info] = [info for info in registry.describe() if info.name == "echo"]
assert info.summary == "From llmbench-echo 1.2.", info
echo = registry.get("echo")
request = GenerationRequest("r", "m", 4, prompt="hello")
assert b"POST /echo HTTP/1.1" in echo.encode(request, Endpoint("h", 1)).payload
answer = echo.decode(request, Timeline(0, status=200, chunk_ns=[1, 2], chunk_bytes=[b"hel", b"lo"]))
assert (answer.text, answer.output_tokens) == ("hello", 2)
try:
    registry.get("echo", {"loud": True})
except registry.EngineError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin installed by pip, beside the environment and not in it."""
    source = tmp_path_factory.mktemp("plugin") / "source"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = source.parent / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, timeout=100)
    return target


def test_an_installed_engine_is_listed_and_used(installed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", USE_IT], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "echo has no settings; leave out loud."
