"""Tokenizers of every family, trained in seconds on English that Python itself carries."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from small_pieces import write_pieces
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from llmbench.workloads.tokenizer import FileTokenizer, load_tokenizer

CORPUS = [topics[name] for name in sorted(topics)[:40]]


def byte_level() -> Tokenizer:
    """GPT-2 and Llama 3: byte-level BPE with a BOS in front."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=2000,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def metaspace() -> Tokenizer:
    """Llama 2 and Mistral: blanks are letters, and the first word gets one."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    # One long pre-token per text: merges over word borders are what makes this family hard to count.
    words = [" ".join(text.split()[start : start + 6]) for text in CORPUS[:12] for start in range(0, 600, 6)]
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def wordpiece() -> Tokenizer:
    """BERT: lower case, a special token on both sides."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=1500, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def byte_only() -> Tokenizer:
    """No merges: one token per byte, so that no word costs a single token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "byte_level": byte_level,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
    "byte_only": byte_only,
}


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for family, train in FAMILIES.items():
        folders[family] = tmp_path_factory.mktemp(family)
        train().save(str(folders[family] / "tokenizer.json"))
    folders["sentencepiece"] = tmp_path_factory.mktemp("sentencepiece")
    sentences = (line for text in CORPUS for line in text.splitlines())
    write_pieces(folders["sentencepiece"], sentences, vocab_size=1200, model_type="bpe")
    return folders


@pytest.fixture(scope="session", params=[*FAMILIES, "sentencepiece"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer_folders: dict[str, Path]) -> FileTokenizer:
    return load_tokenizer(tokenizer_folders[request.param])


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folders: dict[str, Path]) -> FileTokenizer:
    return load_tokenizer(tokenizer_folders["byte_level"])
