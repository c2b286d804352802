"""Every Triton-language kernel compiles ahead of time for Hopper (sm_90): no GPU is needed for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_every_kernel_compiles_for_sm_90() -> None:
    # In a process of its own: this one has the interpreter's versions of the kernels.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).parents[2] / "support" / "compile_triton_lang.py"
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    kernels = done.stdout.split()
    for with_a_cache in ("rotary_kv_kernel", "decode_part_kernel", "prefill_kernel"):
        assert kernels.count(with_a_cache) >= 3, "one each for a float, an int8 and an fp8 cache"
    assert len(kernels) >= 22
