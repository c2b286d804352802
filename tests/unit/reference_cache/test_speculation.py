"""Speculation changes no output, only the number of steps; and where drafts come from."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from llmbench.reference_engine.cache.block_pool import BlockPool
from llmbench.reference_engine.cache.block_tables import BlockTables
from llmbench.reference_engine.config import EngineConfig
from llmbench.reference_engine.engine import Engine
from llmbench.reference_engine.errors import ConfigError
from llmbench.reference_engine.models.bundled import bundled_folder
from llmbench.reference_engine.sampler import sample
from llmbench.reference_engine.sampling import SamplingParams
from llmbench.reference_engine.scheduler import Scheduler
from llmbench.reference_engine.sequence import Sequence
from llmbench.reference_engine.speculative.ngram import NGRAM_SIZES, NgramIndex, NgramProposer, continuation
from llmbench.reference_engine.speculative.proposer import Proposer, next_draft_limit

MakeEngine = Callable[..., Engine]
Serve = Callable[..., dict[str, list[int]]]


def repetitive_requests(count: int, **params: Any) -> dict[str, tuple[list[int], SamplingParams]]:
    """Prompts that repeat themselves, some with an end that does not fit."""
    rng = random.Random(7)
    requests = {}
    for index in range(count):
        phrase = [rng.randrange(64) for _ in range(rng.randint(2, 6))]
        prompt = phrase * rng.randint(1, 4) + [rng.randrange(64)] * (index % 2)
        chosen = {"max_tokens": rng.randint(1, 40), "ignore_eos": True, "temperature": 0, **params}
        requests[f"r{index}"] = (prompt, SamplingParams(**chosen))
    return requests


@pytest.fixture(params=["ngram", "same model", "other model"])
def speculative(request: pytest.FixtureRequest, tiny_checkpoint: Callable[..., Path]) -> str | Path:
    if request.param == "ngram":
        return "ngram"
    return tiny_checkpoint() if request.param == "same model" else tiny_checkpoint(21)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.7, "seed": 3},
        {
            "temperature": 1.0,
            "seed": 4,
            "top_p": 0.8,
            "min_p": 0.02,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.3,
        },
    ],
    ids=["greedy", "seeded", "penalised"],
)
def test_output_is_the_same(
    tiny_engine: MakeEngine,
    tiny_checkpoint: Callable[..., Path],
    serve: Serve,
    speculative: str | Path,
    params: dict[str, Any],
) -> None:
    requests = repetitive_requests(6, **params)
    expected = serve(tiny_engine(), requests)
    engine = tiny_engine(speculative=speculative, num_speculative_tokens=5, max_num_seqs=4, max_num_batched_tokens=32)
    assert serve(engine, requests) == expected
    stats = engine.stats()
    assert stats.num_generated_tokens == sum(map(len, expected.values()))
    if speculative == "ngram" and "repetition_penalty" in params:
        return  # penalised text may hold no n-gram twice, and then nothing is drafted
    assert stats.num_draft_tokens > 0
    # Between random models nothing has to agree; with itself a model always does.
    assert (stats.num_accepted_tokens == stats.num_draft_tokens) == (speculative == tiny_checkpoint())


def test_output_is_the_same_when_blocks_are_scarce(
    tiny_engine: MakeEngine, serve: Serve, speculative: str | Path
) -> None:
    requests = repetitive_requests(6, max_tokens=30)
    engine = tiny_engine(speculative=speculative, num_blocks=22, max_model_len=80, max_num_batched_tokens=40)
    assert serve(engine, requests) == serve(tiny_engine(), requests)
    assert engine.stats().num_preemptions > 0


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_perfect_draft_model_saves_the_steps_it_should(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], temperature: float
) -> None:
    """The model as its own draft: every draft is kept, so each step brings 1 + 4 tokens of 41."""
    engine = tiny_engine(speculative=tiny_checkpoint(), num_speculative_tokens=4)
    params = SamplingParams(max_tokens=41, temperature=temperature, seed=1, ignore_eos=True)
    engine.add_request("a", [1, 2, 3], params)
    sizes = []
    while engine.has_work():
        for output in engine.step():
            sizes.append(len(output.new_token_ids))
            assert output.num_draft_tokens == output.num_accepted_tokens == sizes[-1] - 1
    assert sizes == [1] + [5] * 8
    assert engine.stats().num_accepted_tokens == engine.stats().num_draft_tokens == 32


def test_rejected_drafts_leave_no_keys_in_the_draft_model(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path]
) -> None:
    """What it drafts is what a draft model would that sees the text for the first time; also after steps without it, as
    there are while a batch is large."""

    def proposer() -> Proposer:
        made = tiny_engine(speculative=tiny_checkpoint(21), num_speculative_tokens=4)._proposer
        assert made is not None
        return made

    def sequence(token_ids: list[int]) -> Sequence:
        made = Sequence("s", token_ids, SamplingParams(max_tokens=60, temperature=0), seed=0)
        made.draft_limit = 4
        return made

    used, target = proposer(), sequence([1, 2, 3])
    for num_kept, num_unasked in ((0, 0), (2, 0), (1, 3), (3, 0), (4, 2), (0, 6), (2, 1), (0, 0)):
        used.propose([target])
        fresh = sequence(target.token_ids)
        proposer().propose([fresh])
        assert target.draft_token_ids == fresh.draft_token_ids
        kept, rejected = target.draft_token_ids[:num_kept], target.draft_token_ids[num_kept:]
        target.token_ids += [*kept, (rejected[0] + 31) % 64 if rejected else 5, *range(7, 7 + num_unasked)]


def test_end_of_sequence_among_drafts_ends_the_request(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], serve: Serve
) -> None:
    plain = serve(tiny_engine(), {"a": ([1, 2], SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))})["a"]
    for place in range(1, 12):
        stop = plain[place]
        params = SamplingParams(max_tokens=20, temperature=0, stop_token_ids=(stop,), logprobs=1)
        engine = tiny_engine(speculative=tiny_checkpoint(), num_speculative_tokens=7)
        engine.add_request("a", [1, 2], params)
        tokens, reasons = [], []
        while engine.has_work():
            for output in engine.step():
                tokens += output.new_token_ids
                reasons.append(output.finish_reason)
                assert output.logprobs is not None
                assert [entry.token_id for entry in output.logprobs] == output.new_token_ids
        assert tokens == plain[: plain.index(stop) + 1]
        assert reasons == [None] * (len(reasons) - 1) + ["stop"]
        assert engine.stats().num_blocks_used == 0


def test_accepted_tokens_follow_the_model_s_distribution() -> None:
    """First two tokens after 6 000 verifications of a bad draft, against products of the row's probabilities.

    The rows after a rejected draft are not looked at, as in the engine. Chi-square at p = 1e-6 with fixed seeds: of a
    million choices of these seeds, one fails a right rule.
    """
    n, vocab_size, draft = 6_000, 5, 2
    generator = torch.Generator().manual_seed(11)
    first = torch.randn(vocab_size, generator=generator) / 2
    # What follows depends on what came first, so that a wrong continuation would show.
    second = torch.randn(vocab_size, vocab_size, generator=generator) / 2
    sequences = [Sequence("s", [1], SamplingParams(temperature=1.0), seed) for seed in range(n)]
    verified = sample(torch.stack([first, second[draft]]).repeat(n, 1), sequences, (), drafts=[[draft]] * n)
    at_draft = [token.token_id for token in verified[::2]]
    for sequence, token_id in zip(sequences, at_draft, strict=True):
        sequence.token_ids.append(token_id)
    decoded = sample(second[at_draft], sequences, ())
    counts = np.zeros((vocab_size, vocab_size))
    for token_id, after_draft, otherwise in zip(at_draft, verified[1::2], decoded, strict=True):
        counts[token_id, (after_draft if token_id == draft else otherwise).token_id] += 1
    num_accepted = at_draft.count(draft)
    expected = n * first.softmax(0).double()[:, None] * second.softmax(1).double()
    wanted = expected.numpy().ravel().astype(np.float64)
    assert stats.chisquare(counts.ravel(), wanted * counts.sum() / wanted.sum()).pvalue > 1e-6
    # And it accepts as often as the rule of Leviathan et al. does for a draft that is certain; 5 sigma of a binomial.
    probability = float(first.softmax(0)[draft])
    assert abs(num_accepted - n * probability) < 5 * (n * probability * (1 - probability)) ** 0.5


@given(text=st.lists(st.integers(0, 2), min_size=1, max_size=60), steps=st.lists(st.integers(1, 7), max_size=12))
@settings(max_examples=200, deadline=None)
def test_ngram_index_finds_what_a_search_finds(text: list[int], steps: list[int]) -> None:
    index, length = NgramIndex(), 0
    for step in steps:
        length = min(length + step, len(text))
        seen = text[:length]
        expected = None
        for size in NGRAM_SIZES:
            ends = [end for end in range(size, length) if seen[end - size : end] == seen[-size:]]
            if ends:
                expected = ends[-1]
                break
        assert index.find(seen) == expected


def test_ngram_drafts_go_on_with_the_repetition() -> None:
    assert continuation([7, 1, 2, 3, 1], 2, 5) == [2, 3, 1, 2, 3]
    sequence = Sequence("s", [1, 2, 3, 1, 2], SamplingParams(max_tokens=9), seed=0)
    sequence.draft_limit = 4
    proposer = NgramProposer()
    proposer.propose([sequence])
    assert sequence.draft_token_ids == [3, 1, 2, 3]
    sequence.token_ids += [9]
    proposer.propose([sequence])
    assert sequence.draft_token_ids == []


def test_no_draft_beyond_the_last_token() -> None:
    sequence = Sequence("s", [1, 1, 1, 1], SamplingParams(max_tokens=3), seed=0)
    sequence.draft_limit = 8
    NgramProposer().propose([sequence])
    assert sequence.draft_token_ids == [1, 1]  # the step brings one token more


def test_length_adapts_to_what_was_accepted() -> None:
    assert next_draft_limit(3, 3, 3, highest=8) == 5
    assert next_draft_limit(7, 7, 7, highest=8) == 8
    assert next_draft_limit(5, 5, 4, highest=8) == 4
    assert next_draft_limit(1, 1, 0, highest=8) == 1


def test_an_engine_asks_for_as_many_drafts_as_were_worth_it(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path]
) -> None:
    """Of a model that it seldom agrees with: from five down to one, and up again where both agree."""
    engine = tiny_engine(speculative=tiny_checkpoint(21), num_speculative_tokens=5)
    engine.add_request("a", [1, 2, 3], SamplingParams(max_tokens=60, temperature=0, ignore_eos=True))
    limit, asked, num_tokens = 5, [], 0
    while engine.has_work():
        for output in engine.step():
            if num_tokens:
                assert output.num_draft_tokens == min(limit, 60 - num_tokens - 1)
                asked.append(output.num_draft_tokens)
                limit = next_draft_limit(limit, output.num_draft_tokens, output.num_accepted_tokens, highest=5)
            num_tokens += len(output.new_token_ids)
    assert asked[:5] == [5, 4, 3, 2, 1]


def test_drafts_never_cost_another_request_budget_or_blocks() -> None:
    tables = BlockTables(BlockPool(8), block_size=4)
    scheduler = Scheduler(tables, max_num_seqs=2, max_num_batched_tokens=12)
    sequences = [Sequence(name, [1] * 7, SamplingParams(max_tokens=30), seed=0) for name in "ab"]
    for sequence in sequences:
        scheduler.add(sequence)
    for _ in range(20):  # prefill, in as many steps as it takes
        scheduler.commit(scheduler.schedule())
        for sequence in sequences:
            if sequence.num_uncomputed_tokens == 0:
                sequence.token_ids.append(1)
        if all(sequence.num_output_tokens for sequence in sequences):
            break
    for sequence in sequences:
        sequence.draft_token_ids = [1] * 9
    plan = scheduler.schedule()
    assert plan.preempted == ()
    assert plan.num_tokens <= 12
    assert {chunk.sequence.request_id for chunk in plan.chunks} == {"a", "b"}
    scheduler.check_integrity()
    verified = next(chunk for chunk in plan.chunks if chunk.draft_token_ids)
    scheduler.commit(plan)
    scheduler.accept(verified.sequence, 0)
    assert len(verified.sequence.block_table) * 4 < verified.sequence.num_tokens + 4  # rejected drafts keep no block
    scheduler.check_integrity()


def test_no_drafts_in_a_batch_that_is_large_enough(
    tiny_engine: MakeEngine, tiny_checkpoint: Callable[..., Path], serve: Serve
) -> None:
    params = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True)
    asked = {"short": ([1, 2], SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)), "long": ([3, 4], params)}
    engine = tiny_engine(speculative=tiny_checkpoint(), num_speculative_tokens=4, speculative_max_seqs=1)
    for name, (prompt, chosen) in asked.items():
        engine.add_request(name, prompt, chosen)
    tokens: dict[str, list[int]] = {"short": [], "long": []}
    while engine.has_work():
        for output in engine.step():
            tokens[output.request_id] += output.new_token_ids
            assert output.num_draft_tokens == 0 or len(tokens["short"]) == 6
    assert tokens == serve(tiny_engine(), asked)
    assert engine.stats().num_accepted_tokens > 0


def test_draft_models_that_do_not_fit_are_refused(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, tiny_engine: MakeEngine
) -> None:
    pytest.importorskip("transformers")
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    }
    for name, settings_, message in (
        ("words", {"vocab_size": 65, "max_position_embeddings": 256}, "vocabulary of 65 tokens; the model has 64"),
        ("short", {"vocab_size": 64, "max_position_embeddings": 100}, "context of 100 tokens; give a max_model_len"),
    ):
        LlamaForCausalLM(LlamaConfig(**shape, **settings_)).save_pretrained(tmp_path / name)
        with pytest.raises(ConfigError, match=message):
            tiny_engine(speculative=tmp_path / name)
    with pytest.raises(ConfigError, match="must be \"ngram\" or the path of a draft model; 'ngrams' was given"):
        EngineConfig(model_path=tiny_checkpoint(), speculative="ngrams")


@pytest.mark.parametrize("order", ["decode-first", "prefill-first"])
def test_a_draft_model_catches_up_within_a_budget_of_one_token_for_each_seat(serve: Serve, order: str) -> None:
    """A piece of a prompt may be one token then, and looks like a decode to a recorded step."""
    asked = {
        str(index): (
            [10 + index + place for place in range(20 + 3 * index)],
            SamplingParams(max_tokens=30, temperature=0),
        )
        for index in range(2)
    }
    common: dict[str, Any] = {"model_path": bundled_folder("bundled:python-target"), "num_threads": 1}
    common |= {"max_num_seqs": 2, "max_num_batched_tokens": 2, "step_order": order}
    draft = bundled_folder("bundled:python-draft")
    assert serve(Engine(EngineConfig(**common, speculative=draft)), asked) == serve(
        Engine(EngineConfig(**common)), asked
    )
