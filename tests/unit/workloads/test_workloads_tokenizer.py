"""Tokenizers as they lie in a checkpoint's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from llmbench.workloads.loader import WorkloadError
from llmbench.workloads.prompts import FileTokenizer, load_tokenizer


def test_a_folder_without_a_tokenizer_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"holds no tokenizer.json.*set `tokenizer`"):
        load_tokenizer(tmp_path)
    with pytest.raises(WorkloadError, match="no such file or folder"):
        load_tokenizer(tmp_path / "nowhere")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WorkloadError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_control_tokens_of_a_sentencepiece_model_are_read_and_put_around_a_prompt(
    tokenizer_folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tokenizer_folders["sentencepiece"]
    tokenizer = load_tokenizer(folder)
    plain = tokenizer.encode("a loop")
    assert tokenizer.encode("<s>a loop") == [1, *plain]
    assert tokenizer.encode("a loop", add_special_tokens=True) == [1, *plain]
    assert tokenizer.decode([1, *plain, tokenizer.vocab_size]) == "a loop"
    (tmp_path / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false, "add_eos_token": true}')
    assert load_tokenizer(tmp_path).encode("a loop", add_special_tokens=True) == [*plain, 2]
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(WorkloadError, match="not a model that sentencepiece can read"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_truncates_still_counts_all(tmp_path: Path, tokenizer: FileTokenizer) -> None:
    truncating = Tokenizer.from_file(str(tokenizer.path))
    truncating.enable_truncation(max_length=8)
    truncating.enable_padding(length=16)
    truncating.save(str(tmp_path / "tokenizer.json"))
    text = "the raise statement " * 20
    assert load_tokenizer(tmp_path).encode(text) == tokenizer.encode(text)
