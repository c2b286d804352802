"""Answers of a given form where a text's first space is not shown: with SentencePiece's models, and with a
tokenizer.json that was made from one. The text that is shown keeps the form."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pieces import write_pieces

from llmbench.reference_engine.answer_vocabulary import vocabulary_of_json, vocabulary_of_pieces
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import RequestError
from llmbench.reference_engine.guidance import choice_grammar, json_grammar, regex_grammar
from llmbench.reference_engine.guides import GuideMaker
from llmbench.reference_engine.models import synthetic
from llmbench.reference_engine.models.synthetic_text import lines
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.sentencepiece_model import SentencePieceModel
from llmbench.reference_engine.tokenizer import Tokenizer

# Of the model; its tokenizer has fewer.
VOCAB_SIZE = 1024
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "at": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "kind": {"enum": ["naïve", "to be", None]},
    },
    "required": ["name", "at", "kind"],
    "additionalProperties": False,
}


LLAMAS = {"model_type": "bpe", "remove_extra_whitespaces": False, "user_defined_symbols": "\u2581\u2581"}


def write_model(folder: Path, vocab_size: int = 420, **options: Any) -> None:
    sentences = [*lines(300, 80, seed=2), "été über naïve", *["to be or  not   to be"] * 50]
    write_pieces(folder, sentences, vocab_size=vocab_size, normalization_rule_name="identity", **options)


def write_json(folder: Path, **settings_: Any) -> None:
    """The pieces of a tokenizer.model as a tokenizer.json, with the decoder that Llama's and Mistral's have."""
    write_model(folder, **(settings_ or LLAMAS))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    (folder / "tokenizer.model").unlink()
    vocab = {pieces.id_to_piece(token_id): token_id for token_id in range(pieces.vocab_size())}
    merges = [
        (piece[:place], piece[place:])
        for piece in vocab
        for place in range(1, len(piece))
        if piece[:place] in vocab and piece[place:] in vocab and not piece.startswith("<")
    ]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="<unk>"))
    tokenizer.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("\u2581"), tokenizers.normalizers.Replace(" ", "\u2581")]
    )
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "bpe": lambda folder: write_model(folder, **LLAMAS),
    "unigram": lambda folder: write_model(folder, model_type="unigram", remove_extra_whitespaces=True),
    "first space shown": lambda folder: write_model(folder, add_dummy_prefix=False, **LLAMAS),
    "json": write_json,
}


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = synthetic.create("synthetic:llama-tiny", out=tmp_path_factory.mktemp("models") / "tiny")
    WRITERS[request.param](made)
    return made


@pytest.fixture(scope="module")
def answers(folder: Path) -> Callable[..., list[str]]:
    """The text that is shown of each request's answer, all of them in one batch."""
    config = EngineConfig(model_path=folder, kernels="torch", num_threads=1)
    engines = {None: Engine(config), "ngram": Engine(EngineConfig(**{**_fields(config), "speculative": "ngram"}))}
    tokenizer = Tokenizer(folder)

    def ask(params: list[SamplingParams], engine_name: str | None = None) -> list[str]:
        engine = engines[engine_name]
        for number, each in enumerate(params):
            engine.add_request(str(number), [5, 6, 7, 5, 6, 7], each)
        streams = [tokenizer.stream() for _ in params]
        texts = [""] * len(params)
        while engine.has_work():
            for output in engine.step():
                number = int(output.request_id)
                texts[number] += "".join(map(streams[number].push, output.new_token_ids))
                assert output.finish_reason in (None, "stop"), texts[number]
        return texts

    return ask


def _fields(config: EngineConfig) -> Mapping[str, Any]:
    return {name: getattr(config, name) for name in EngineConfig.__dataclass_fields__}


def test_json_is_valid_under_its_schema_and_drafts_change_nothing(answers: Callable[..., list[str]]) -> None:
    params = [
        SamplingParams(max_tokens=300, grammar=json_grammar(SCHEMA), temperature=temperature, seed=seed)
        for temperature in (0.0, 1.0)
        for seed in range(6)
    ]
    told = answers(params)
    for text in told:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert len(set(told)) > 3
    assert answers(params, "ngram") == told


# A space that the pattern wants at the beginning must be shown, and one that it does not want must not.
@pytest.mark.parametrize("pattern", ["to be", " to be", " {0,3}(to be)+ or", "(été|über) ?", "[a-c ]{4}", "𓀀\n"])
def test_shown_text_is_what_the_pattern_matches(answers: Callable[..., list[str]], pattern: str) -> None:
    grammar = regex_grammar(pattern)
    params = [SamplingParams(max_tokens=200, grammar=grammar, temperature=3.0, seed=seed) for seed in range(12)]
    for text in answers(params):
        assert re.fullmatch(pattern, text), repr(text)


def test_choice_can_be_spelt_as_the_model_would_spell_it(folder: Path) -> None:
    """The token of a whole first word, with its space, is allowed: a model that was trained with it begins so."""
    tokenizer = Tokenizer(folder)
    guide = GuideMaker(folder, VOCAB_SIZE, [2]).guide(choice_grammar(["to be", "or"]))
    ids = tokenizer.encode("to be", add_special_tokens=False)
    if tokenizer.decode(ids[:1]) == "":  # a space by itself, which is not shown: the model has to begin with a letter
        ids = ids[1:]
    for place, token_id in enumerate(ids):
        allowed = guide.allowed([])
        assert allowed is not None
        assert allowed.shape == (VOCAB_SIZE,)
        assert allowed[token_id]
        assert guide.allowed(ids[place:]) is not None
        assert (guide.allowed([]) == allowed).all(), "what was only looked at is forgotten"
        guide.advance(token_id)
    assert guide.is_complete


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bytes_of_tokens_are_the_text_that_is_shown(folder: Path, data: st.DataObject) -> None:
    model = Tokenizer(folder).model
    make = vocabulary_of_pieces if isinstance(model, SentencePieceModel) else vocabulary_of_json
    known, places = make(model, VOCAB_SIZE, [2])  # type: ignore[arg-type]
    assert places is not None

    def with_bytes(ids: Mapping[int, int]) -> dict[int, bytes]:
        read = {token_id: known.decode_bytes([known_id]) for token_id, known_id in ids.items()}
        # The library shows a token without bytes by its number; 255, which no text has, marks its special tokens.
        return {token_id: text for token_id, text in read.items() if text not in (b"", b"<[%d]>" % ids[token_id])}

    usual = with_bytes({token_id: token_id for token_id in range(3, model.vocab_size)})
    opening = with_bytes({token_id: int(places[token_id]) for token_id in usual})
    assert len(opening) > 300
    first = data.draw(st.sampled_from(list(opening)))
    rest = data.draw(st.lists(st.sampled_from(list(usual)), max_size=12))
    spelt = opening[first] + b"".join(usual[token_id] for token_id in rest)
    # Bytes that are no character are shown otherwise, and no form has them.
    if spelt.decode(errors="replace").encode() == spelt:
        assert model.decode([first, *rest]) == spelt.decode()


def test_tokenizer_without_bytes_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, vocab_size=300, byte_fallback=False)
    with pytest.raises(RequestError, match=r"tokenizer\.model does not have: it was trained without byte_fallback"):
        GuideMaker(tmp_path, VOCAB_SIZE, [2]).guide(json_grammar(SCHEMA))


def test_form_that_no_token_begins_is_refused(tmp_path: Path) -> None:
    """Without a piece of two spaces, of which one is shown, no answer can begin with a space."""
    write_json(tmp_path, remove_extra_whitespaces=False)
    guides = GuideMaker(tmp_path, VOCAB_SIZE, [2])
    guides.guide(regex_grammar("to be"))
    with pytest.raises(RequestError, match="no token of this model is how it begins"):
        guides.guide(regex_grammar(" to be"))
