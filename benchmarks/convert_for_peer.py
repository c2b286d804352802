"""A Llama checkpoint in Hugging Face layout to the format of one peer. Runs in the peers' environment.

python convert_for_peer.py llama_cpp|openvino|ctranslate2 FORMAT CHECKPOINT TARGET
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    engine, weight_format, checkpoint, target = sys.argv[1:]
    work = Path(target + ".part")
    CONVERTERS[engine](Path(checkpoint), work, weight_format)
    work.rename(target)  # a conversion that was cut short is not taken for a whole one


def to_openvino(checkpoint: Path, target: Path, weight_format: str) -> None:
    command = ["-m", "optimum.commands.optimum_cli", "export", "openvino", "--task", "text-generation-with-past"]
    # Groups of 128 and the whole model in int4, the head included, as the others have it.
    shape = ["--ratio", "1.0", "--group-size", "128"] if weight_format == "int4" else []
    options = ["--model", str(checkpoint), "--weight-format", weight_format, *shape, str(target)]
    subprocess.run([sys.executable, *command, *options], check=True)


def to_ctranslate2(checkpoint: Path, target: Path, weight_format: str) -> None:
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(checkpoint)).convert(str(target), quantization=weight_format)


def to_gguf(checkpoint: Path, target: Path, weight_format: str) -> None:
    """Weights without a vocabulary: the benchmark speaks in token ids."""
    if weight_format == "f16":
        _write_gguf(checkpoint, target)
        return
    import llama_cpp

    whole = target.with_suffix(".f16")
    _write_gguf(checkpoint, whole)
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}[
        weight_format
    ]
    settings.pure = True  # otherwise a q4_0 file has its head in q6_k
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(target).encode(), settings) != 0:
        raise SystemExit(f"llama.cpp did not quantise {whole} to {weight_format}")
    whole.unlink()


def _write_gguf(checkpoint: Path, target: Path) -> None:
    import gguf
    import numpy as np
    import torch
    from safetensors import safe_open

    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - safe_open is no mapping
                tensor = tensors.get_tensor(name)
                for part, count in (("q_proj", heads), ("k_proj", kv_heads)):
                    if part in name:  # llama.cpp rotates neighbours, Hugging Face halves
                        rows, columns = tensor.shape
                        tensor = (
                            tensor.view(count, 2, rows // count // 2, columns).transpose(1, 2).reshape(rows, columns)
                        )
                dtype = torch.float32 if tensor.dim() == 1 else torch.float16
                target_name = names.get_name(name, try_suffixes=(".weight",))
                writer.add_tensor(target_name, np.ascontiguousarray(tensor.to(dtype).numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


CONVERTERS = {"openvino": to_openvino, "ctranslate2": to_ctranslate2, "llama_cpp": to_gguf}

if __name__ == "__main__":
    main()
