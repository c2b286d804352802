"""What engines' logs say of their number formats: vLLM's own line, and ours as it is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from llmbench.engines import reference, vllm
from llmbench.engines.adapter import LogFacts
from llmbench.harness.log_facts import read_log_facts

# Captured from vLLM 0.32, shortened in the middle.
VLLM_LINE = (
    "(EngineCore pid=9937) INFO 11-25 20:26:57 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: "
    "model='/root/models/llama', speculative_config=None, dtype=torch.float32, max_seq_len=1024, load_format=auto, "
    "quantization=None, quantization_config=None, enforce_eager=True, kv_cache_dtype=auto, device_config=cpu\n"
)


def read(tmp_path: Path, text: str, facts: LogFacts | None) -> dict[str, str]:
    (tmp_path / "engine.log").write_text(text)
    return read_log_facts(tmp_path / "engine.log", facts)


def test_vllm_s_line(tmp_path: Path) -> None:
    told = read(tmp_path, "dtype=torch.int8 elsewhere\n" + VLLM_LINE + "more\n", vllm.LOG_FACTS)
    assert told == {"dtype": "float32", "kv_cache_dtype": "auto", "max_model_len": "1024"}


def test_an_engine_that_was_started_again_is_as_it_said_last(tmp_path: Path) -> None:
    told = read(tmp_path, VLLM_LINE + VLLM_LINE.replace("float32", "bfloat16"), vllm.LOG_FACTS)
    assert told["dtype"] == "bfloat16"


def test_our_own_line_is_what_is_looked_for(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom llmbench.reference_engine.config import EngineConfig\n"
        "from llmbench.reference_engine.server.logs import configure_logging, log_loaded\n"
        "configure_logging('text')\n"
        "log_loaded(EngineConfig(model_path=Path('.'), dtype='bfloat16', quantization='int4'), 512)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert read(tmp_path, done.stderr, reference.LOG_FACTS) == {
        "dtype": "bfloat16",
        "kv_cache_dtype": "auto",
        "quantization": "int4",
        "device": "cpu",
        "max_model_len": "512",
    }


def test_nothing_told_is_nothing_known(tmp_path: Path) -> None:
    assert read(tmp_path, "no such line\n", vllm.LOG_FACTS) == {}
    assert read(tmp_path, VLLM_LINE, None) == {}
    assert read_log_facts(tmp_path / "no.log", vllm.LOG_FACTS) == {}
