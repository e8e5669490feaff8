"""A student that writes rows itself: which ones, from what, and where its teacher judges them."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainyard_api.spec_distillation import OnPolicy
from trainyard_api.spec_model import Architecture
from trainyard_trainer.batches import collate
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.data.manifest import TokenizerManifest
from trainyard_trainer.distillation.own_text import finished, prompt_of, uniform_draws, written_rows
from trainyard_trainer.methods.causal import CausalLanguageModeling
from trainyard_trainer.methods.loss_terms import LossTerm, term_factors
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.writing import WritingRules, drawn_tokens, write
from trainyard_trainer.on_policy import Writer

BOS, EOS, PAD = 1, 2, 0
TOKENIZER = TokenizerManifest(
    folder="",
    hash="",
    vocabulary_size=40,
    pad_token_id=PAD,
    prefix_token_id=BOS,
    suffix_token_id=EOS,
    special_token_ids=(0, 1, 2),
)
DOCUMENTS = (
    [[BOS, 5, 9, 30, 12, 7, EOS], [BOS, 11, 12, 13, EOS]],
    [[BOS, 8, EOS]],
    [[BOS, 21, 22, 23, 24, 25, 26, 27, 28, 29]],
    [[31, 32, 33, EOS], [BOS, 14, 15]],
)


@pytest.fixture(scope="module", params=["llama-tiny", "gpt2-tiny"])
def model(request):
    config = build_config(
        Architecture(preset=request.param), vocabulary_size=48, pad_token_id=PAD, objective="CausalLM"
    )
    network = build_model(config, "CausalLM", seed=5).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(4.0)
    return LanguageModel(network, causal=True, isolate_documents=True, mask_dtype=torch.float32)


def writer(positions="All", *, stops_early=True, **settings):
    return Writer(
        settings=OnPolicy(**{"fraction": 0.5, "prompt_tokens": 3, "maximum_new_tokens": 6, **settings}),
        tokenizer=TOKENIZER,
        seed=7,
        sequence_length=16,
        isolate_documents=True,
        compared=positions,
        stops_early=stops_early,
    )


def engine_of(model):
    """What a writer needs of an engine."""

    def next_logits(*arguments):
        with torch.no_grad():
            return model.next_logits(*arguments)

    nothing = lambda: None  # noqa: E731 - stands for two calls
    ranks = SimpleNamespace(device=torch.device("cpu"))
    return SimpleNamespace(next_logits=next_logits, eval=nothing, train=nothing, ranks=ranks)


def batch_of(rows, first_row=0):
    samples = [
        Sample(
            np.concatenate([np.array(document, dtype=np.int32) for document in row]),
            np.zeros(sum(map(len, row)), dtype=np.uint8),
            np.array([len(document) for document in row], dtype=np.int32),
        )
        for row in rows
    ]
    objective = CausalLanguageModeling()
    masked = [objective.apply(sample, stream="train", epoch=0, row=0) for sample in samples]
    return collate(samples, masked, pad_token_id=PAD, isolate_documents=True, first_row=first_row)


def rows_in(batch):
    """The tokens of each row, padding left out."""
    return [
        ids[documents >= 0].tolist()
        for ids, documents in zip(batch.input_ids, batch.document_ids, strict=True)
    ]


def test_the_part_of_the_rows_that_is_written_is_the_fraction_and_follows_from_their_numbers():
    numbers = np.arange(20_000)
    chosen = written_rows(3, numbers, 0.3)
    assert chosen.mean() == pytest.approx(0.3, abs=0.01)
    assert np.array_equal(chosen[500:600], written_rows(3, numbers[500:600], 0.3))
    assert not np.array_equal(chosen, written_rows(4, numbers, 0.3))
    assert written_rows(3, numbers, 1.0).all()
    assert not written_rows(3, numbers, 0.0).any()


def test_draws_are_uniform_and_those_of_a_row_do_not_depend_on_the_rows_beside_it():
    draws = uniform_draws(3, np.arange(2_000), 16)
    assert draws.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.min() >= 0.0
    assert draws.max() < 1.0
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.06
    assert np.array_equal(draws[70:71, :9], uniform_draws(3, np.array([70]), 9))


@pytest.mark.parametrize(
    ("document", "expected"),
    [([1, 5, 6, 7, 2], [1, 5, 6]), ([1, 5, 2], [1, 5]), ([1, 5], [1, 5]), ([2], [2]), ([1, 2], [1])],
)
def test_a_prompt_is_the_beginning_of_a_document_without_its_end(document, expected):
    assert prompt_of(np.array(document), 3, EOS).tolist() == expected


@pytest.mark.parametrize(
    ("tokens", "limit", "expected"),
    [([5, 6, 2, 9], 4, [5, 6, 2]), ([5, 6, 7], 2, [5, 6]), ([5, 6, 2], 2, [5, 6]), ([], 3, []), ([5], 0, [])],
)
def test_a_row_ends_with_its_end_token_or_its_limit(tokens, limit, expected):
    assert finished(tokens, limit, EOS).tolist() == expected


def test_tokens_are_drawn_by_their_shares():
    logits = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).repeat(5, 1)
    draws = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.9999], dtype=torch.float64)
    assert drawn_tokens(logits, 1.0, draws).tolist() == [0, 0, 1, 1, 2]
    sharp = drawn_tokens(logits, 0.1, torch.linspace(0.01, 0.99, 5, dtype=torch.float64))
    assert sharp.tolist() == [1] * 5


def test_text_that_is_written_with_a_cache_is_that_of_the_whole_model(model):
    """Prompts of two lengths, drawn again token by token with a pass over everything before."""
    prompts = [np.array([BOS, 5, 9, 30]), np.array([BOS, 8])]
    draws = uniform_draws(1, np.arange(2), 6)
    rules = WritingRules(0.7, EOS, 40, 16, stops_early=False)
    found = write(engine_of(model).next_logits, prompts, draws, rules, torch.device("cpu"))
    for prompt, tokens, own in zip(prompts, found, draws, strict=True):
        ids = torch.tensor(prompt)[None]
        for draw, token in zip(own, tokens, strict=True):
            with torch.no_grad():
                states = model.model.base_model(input_ids=ids).last_hidden_state[:, -1]
                logits = model.project(states)[:, :40]
            expected = drawn_tokens(logits, 0.7, torch.tensor([draw]))
            assert token == expected.item()
            ids = torch.cat([ids, expected[:, None]], dim=1)


def test_a_row_is_the_same_whatever_rows_are_beside_it_and_whether_passes_stop_early(model):
    whole = writer(fraction=1.0).written(engine_of(model), [batch_of(DOCUMENTS)])
    parts = writer(fraction=1.0).written(
        engine_of(model), [batch_of([row], first_row=number) for number, row in enumerate(DOCUMENTS)]
    )
    assert rows_in(whole[0].own) == [row for part in parts for row in rows_in(part.own)]
    assert sum(part.num_compared for part in parts) == whole[0].num_compared
    for number, row in enumerate(rows_in(whole[0].own)):
        assert row[:2] == DOCUMENTS[number][0][:2]


@pytest.mark.parametrize("positions", ["All", "Labelled"])
def test_written_rows_are_compared_where_they_were_written_and_the_others_as_before(model, positions):
    batch = batch_of(DOCUMENTS)
    author = writer(positions)
    (mixed,) = author.written(engine_of(model), [batch])
    chosen = written_rows(7, np.arange(4), 0.5)
    assert 0 < chosen.sum() < 4
    length = mixed.own.input_ids.shape[1]
    predicted, compared = (
        [places[places // length == row] - row * length for row in range(4)]
        for places in (mixed.own.predicted_places, mixed.places)
    )
    for row, ids in enumerate(rows_in(mixed.own)):
        if chosen[row]:
            prompt = min(3, len(DOCUMENTS[row][0]) - (DOCUMENTS[row][0][-1] == EOS))
            assert ids[:prompt] == DOCUMENTS[row][0][:prompt]
            assert prompt < len(ids) <= prompt + 6
            assert compared[row].tolist() == list(range(prompt - 1, len(ids) - 1))
            assert not len(predicted[row])
        else:
            assert ids == [*itertools.chain.from_iterable(DOCUMENTS[row])]
            everywhere = list(range(len(ids)))
            assert compared[row].tolist() == (everywhere if positions == "All" else predicted[row].tolist())
            assert len(predicted[row]) == len(ids) - len(DOCUMENTS[row])
    assert mixed.num_labels == sum(map(len, predicted))
    assert mixed.num_tokens == sum(map(len, rows_in(mixed.own)))


def test_every_pass_is_made_where_ranks_share_their_weights_even_with_nothing_to_write(model):
    calls = []
    engine = engine_of(model)
    shared = SimpleNamespace(
        **{**vars(engine), "next_logits": lambda *given: calls.append(given) or engine.next_logits(*given)}
    )
    author = writer(fraction=0.0, stops_early=False)
    batch = batch_of(DOCUMENTS)
    (mixed,) = author.written(shared, [batch])
    assert len(calls) == 6
    assert torch.equal(mixed.own.input_ids, batch.input_ids)
    calls.clear()
    writer(fraction=0.0).written(shared, [batch])
    assert not calls


def test_the_mean_of_compared_places_is_over_all_of_a_step():
    counts = SimpleNamespace(loss_weight=3.0, num_labels=3, num_tokens=9, num_compared=12)
    assert term_factors([LossTerm("logits", 6.0, "Compared")], counts) == (0.5,)
