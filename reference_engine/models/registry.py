"""The supported architectures: one line per name in config.json's `architectures`."""

from __future__ import annotations

from llmbench.reference_engine.models import gpt2, gpt_neox, llama, mistral, qwen2, qwen3
from llmbench.reference_engine.models.base import Family

FAMILIES = {
    "LlamaForCausalLM": Family(llama.read_config, llama.Llama),
    "MistralForCausalLM": Family(mistral.read_config, llama.Llama),
    "Qwen2ForCausalLM": Family(qwen2.read_config, llama.Llama),
    "Qwen3ForCausalLM": Family(qwen3.read_config, llama.Llama),
    "GPT2LMHeadModel": Family(gpt2.read_config, gpt2.GPT2),
    "GPTNeoXForCausalLM": Family(gpt_neox.read_config, gpt_neox.GPTNeoX),
}
