"""What an engine computes with, said once it is loaded: who compares engines reads it in the log.

Needs no package, so that a host process that has its own logging can say it too.
"""

from __future__ import annotations

from llmbench.reference_engine.config import EngineConfig, QuantizationName

EVENT = "engine loaded"


def loaded_facts(
    config: EngineConfig, max_model_len: int, stored_quantization: QuantizationName | None = None
) -> dict[str, object]:
    """By the names that follow EVENT on its line. A checkpoint that is quantised already needs no setting to be so."""
    return {
        "dtype": config.dtype,
        "kv_cache_dtype": config.kv_cache_dtype,
        "quantization": config.quantization or stored_quantization,
        "device": config.device,
        "max_model_len": max_model_len,
    }
