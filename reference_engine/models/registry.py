"""The supported architectures: one line per name in config.json's `architectures`."""

from __future__ import annotations

from llmbench.reference_engine.models import llama
from llmbench.reference_engine.models.base import Family

FAMILIES = {
    "LlamaForCausalLM": Family(llama.read_config, llama.Llama),
}
