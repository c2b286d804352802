"""The environment of the engines that ours is measured beside, and the model in the format that each of them reads."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

from llmbench.reference_engine.cache_root import cache_root

PACKAGES = ("transformers", "optimum-intel", "nncf", "openvino-genai", "ctranslate2", "gguf", "llama-cpp-python")
# Where PyTorch keeps its builds for processors, as its installation page says. Those elsewhere bring CUDA, several
# gigabytes of it, for nothing.
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
FORMATS = {
    "llama_cpp": ("f16", "q8_0", "q4_0"),
    "openvino": ("fp16", "int8", "int4"),
    "ctranslate2": ("int8",),
    "transformers": ("bfloat16",),
}


def environment() -> Path:
    """The peers' Python; made on first use, which takes gigabytes and a compiler (llama-cpp-python has no wheel)."""
    folder = cache_root() / "benchmark-peers" / "venv"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        # The release that runs here, and first by itself: what is there already is what the peers take. An index that
        # cannot be reached is passed over, and the build is then the usual index's.
        torch = f"torch=={importlib.metadata.version('torch').partition('+')[0]}"
        install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, "--no-deps", "--extra-index-url", CPU_BUILDS, torch], check=True)
        # Compiled for this processor, as its documentation advises; the wheel of a distribution would be slower.
        settings = {**os.environ, "CMAKE_ARGS": "-DGGML_NATIVE=ON"}
        subprocess.run([*install, torch, *PACKAGES], check=True, env=settings)
        ready.touch()
    return python


def converted(python: Path, checkpoint: Path, engine: str, weight_format: str) -> Path:
    """The checkpoint in the engine's own format; converted once."""
    if engine == "transformers":
        return checkpoint
    target = cache_root() / "benchmark-peers" / "models" / f"{checkpoint.name}-{engine}-{weight_format}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        script = Path(__file__).with_name("convert_for_peer.py")
        subprocess.run([python, script, engine, weight_format, checkpoint, target], check=True)
    return target
