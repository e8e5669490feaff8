"""The language model: isolated documents, and a loss only where something is predicted."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from trainyard_api.spec_model import Architecture
from trainyard_trainer.batches import MicroBatch, collate
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.methods.causal import CausalLanguageModeling
from trainyard_trainer.methods.losses import cross_entropy_sum
from trainyard_trainer.methods.masking import MaskedRow
from trainyard_trainer.models.build import build_config, build_model
from trainyard_trainer.models.language_model import LanguageModel, attention_mask

VOCABULARY = 320
PRESETS = [
    ("bert-tiny", "MaskedLM"),
    ("modernbert-tiny", "MaskedLM"),
    ("llama-tiny", "CausalLM"),
    ("gpt2-tiny", "CausalLM"),
]


def language_model(preset: str, objective: str, *, isolate: bool = True) -> LanguageModel:
    overrides = {"local_attention": 8} if preset.startswith("modernbert") else {}
    config = build_config(
        Architecture(preset=preset, overrides=overrides),
        vocabulary_size=VOCABULARY,
        pad_token_id=0,
        objective=objective,
    )
    model = build_model(config, objective, seed=1).eval()
    return LanguageModel(
        model, causal=objective == "CausalLM", isolate_documents=isolate, mask_dtype=torch.float32
    )


def sample_of(lengths: list[int], seed: int) -> Sample:
    token_ids = np.random.default_rng(seed).integers(5, VOCABULARY, sum(lengths)).astype(np.int32)
    return Sample(token_ids, np.ones(sum(lengths), dtype=np.uint8), np.array(lengths, dtype=np.int32))


def batch_of(samples: list[Sample], *, isolate: bool = True) -> MicroBatch:
    rows = [CausalLanguageModeling().apply(sample, stream="train", epoch=0, row=0) for sample in samples]
    return collate(samples, rows, pad_token_id=0, isolate_documents=isolate, first_row=0)


def logits(model: LanguageModel, batch: MicroBatch) -> torch.Tensor:
    """Logits at every place, [rows, length, vocabulary]."""
    captured = []
    hook = model.model.get_output_embeddings().register_forward_hook(lambda *parts: captured.append(parts[2]))
    everywhere = torch.arange(batch.num_positions)
    with torch.no_grad():
        model(
            batch.input_ids, batch.position_ids, batch.document_ids, everywhere, torch.zeros_like(everywhere)
        )
    hook.remove()
    return captured[0].view(*batch.input_ids.shape, -1)


@pytest.mark.parametrize(("preset", "objective"), PRESETS)
def test_a_packed_document_has_the_logits_it_has_alone(preset: str, objective: str) -> None:
    model = language_model(preset, objective)
    packed = sample_of([20, 11, 7], seed=1)
    other_row = sample_of([5, 25], seed=2)
    together = logits(model, batch_of([packed, other_row]))
    start = 0
    for length in packed.document_lengths.tolist():
        alone = Sample(
            packed.token_ids[start : start + length], packed.flags[start : start + length], np.array([length])
        )
        expected = logits(model, batch_of([alone]))[0, :length]
        assert torch.allclose(together[0, start : start + length], expected, atol=1e-5)
        start += length


@pytest.mark.parametrize(("preset", "objective"), PRESETS)
def test_a_row_alone_has_the_logits_of_stock_transformers(preset: str, objective: str) -> None:
    model = language_model(preset, objective)
    sample = sample_of([29], seed=3)
    with torch.no_grad():
        expected = model.model(input_ids=torch.from_numpy(sample.token_ids.astype(np.int64))[None]).logits[0]
    assert torch.allclose(logits(model, batch_of([sample]))[0, :29], expected, atol=1e-5)


def test_documents_see_each_other_when_they_are_not_isolated() -> None:
    model = language_model("bert-tiny", "MaskedLM", isolate=False)
    packed = sample_of([8, 8], seed=4)
    alone = Sample(packed.token_ids[:8], packed.flags[:8], np.array([8]))
    together = logits(model, batch_of([packed], isolate=False))[0, :8]
    assert not torch.allclose(together, logits(model, batch_of([alone], isolate=False))[0, :8], atol=1e-3)


@pytest.mark.parametrize(("preset", "objective"), PRESETS)
def test_the_loss_equals_cross_entropy_over_full_logits(preset: str, objective: str) -> None:
    model = language_model(preset, objective)
    batch = batch_of([sample_of([12, 9], seed=5), sample_of([15], seed=6)])
    loss = model(*batch.model_arguments(torch.device("cpu")))
    flat = logits(model, batch).flatten(0, 1)[batch.predicted_places]
    assert loss.item() == pytest.approx(cross_entropy(flat, batch.labels, reduction="sum").item(), rel=1e-5)


@pytest.mark.parametrize("num_positions", [0, 1, 7, 8, 29])
def test_a_chunked_loss_and_its_gradients_equal_the_whole_one(num_positions: int) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 11)
    labels = torch.randint(11, (num_positions,))
    states = torch.randn(num_positions, 6)
    results = []
    for chunk in (4, 1000):
        hidden = states.clone().requires_grad_()
        head.zero_grad()
        loss = cross_entropy_sum(hidden, labels, head, chunk_positions=chunk)
        loss.backward()
        results.append((loss.detach(), hidden.grad.clone(), head.weight.grad.clone()))
    for chunked, whole in zip(*results, strict=True):
        assert torch.allclose(chunked, whole, atol=1e-5)


@pytest.mark.parametrize("num_positions", [0, 1, 9, 12])
def test_the_head_is_called_as_often_as_for_the_most_places_a_micro_batch_can_have(
    num_positions: int,
) -> None:
    # Under ZeRO stage 3 a call is a collective: a rank with fewer places would leave the others waiting.
    calls = []
    head = torch.nn.Linear(6, 11)

    def counted(states: torch.Tensor) -> torch.Tensor:
        calls.append(len(states))
        return head(states)

    hidden = torch.randn(num_positions, 6, requires_grad=True)
    labels = torch.zeros(num_positions, dtype=torch.int64)
    loss = cross_entropy_sum(hidden, labels, counted, most_places=12, chunk_positions=4)
    loss.backward()
    assert len(calls) == 2 * 3  # forward, and again in the backward pass
    assert max(calls) <= 4
    expected = cross_entropy(head(hidden), labels, reduction="sum")
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_micro_batch_without_predictions_has_loss_zero_and_gradients_zero() -> None:
    model = language_model("bert-tiny", "MaskedLM")
    sample = sample_of([9], seed=7)
    nothing = MaskedRow(sample.token_ids, np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32))
    batch = collate([sample], [nothing], pad_token_id=0, isolate_documents=True, first_row=0)
    loss = model(*batch.model_arguments(torch.device("cpu")))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_the_mask_lets_a_token_see_its_document_only_and_padding_see_padding() -> None:
    document_ids = torch.tensor([[0, 0, 1, -1]])
    seen = attention_mask(document_ids, causal=False, isolate_documents=True, dtype=torch.float32) == 0
    assert seen[0, 0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    causal = attention_mask(document_ids, causal=True, isolate_documents=True, dtype=torch.float32) == 0
    assert causal[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_full_rows_of_one_document_need_no_mask() -> None:
    document_ids = torch.zeros(2, 8, dtype=torch.int64)
    assert attention_mask(document_ids, causal=True, isolate_documents=True, dtype=torch.float32) is None
