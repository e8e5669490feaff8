"""The exported model, loaded by stock Transformers, has the loss that training measured."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from tests.support.gang import run_gang
from tests.support.runs import prepared_plan, run_of, write_plan
from trainyard_api.plan import RunPlan
from trainyard_trainer.batches import BatchSource, MicroBatch
from trainyard_trainer.data.dataset import open_prepared
from trainyard_trainer.export import export
from trainyard_trainer.methods.objective import build_objective
from trainyard_trainer.progress import read_history

CAUSAL = {
    "pretraining__objective": "CausalLM",
    "model__architecture": {"preset": "llama-tiny"},
    "tokenizer__train": {"algorithm": "BPE", "vocabularySize": 2048},
}


def held_out_batches(plan: RunPlan) -> list[MicroBatch]:
    """What the evaluation of a single process sees."""
    data = open_prepared(Path(plan.paths.run_folder))
    source = BatchSource(
        train=data.train,
        validation=data.validation,
        objective=build_objective(plan.spec, data.manifest),
        batch=plan.batch.model_copy(update={"world_size": 1}),
        rank=0,
        seed=plan.spec.training.seed,
        pad_token_id=data.manifest.tokenizer.pad_token_id,
        isolate_documents=True,
    )
    return list(source.evaluation_batches(plan.spec.training.evaluation.maximum_sequences))


def stock_loss_sum(model: torch.nn.Module, batch: MicroBatch) -> float:
    """Summed loss of a batch when every document goes through the model alone, as a user would call it."""
    labels = torch.full(batch.input_ids.shape, -100)
    labels.view(-1)[batch.predicted_places] = batch.labels
    total = 0.0
    for row in range(len(batch.input_ids)):
        for document in batch.document_ids[row].unique():
            if document < 0:
                continue
            here = batch.document_ids[row] == document
            logits = model(input_ids=batch.input_ids[row, here][None]).logits[0]
            total += float(cross_entropy(logits, labels[row, here], ignore_index=-100, reduction="sum"))
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "auto_model"),
    [({}, AutoModelForMaskedLM), (CAUSAL, AutoModelForCausalLM)],
    ids=["masked", "causal"],
)
def test_stock_transformers_gives_the_loss_that_training_measured(
    changes, auto_model, sotu_paragraphs: Path, tmp_path: Path
) -> None:
    run = run_of(sotu_paragraphs, training__evaluation={"maximumSequences": 32}, **changes)
    plan = prepared_plan(run, tmp_path, 2)
    run_gang("losses.py", 2, str(tmp_path / "losses.json"), "0", str(write_plan(plan, tmp_path / "p.json")))
    history = read_history(Path(plan.paths.run_folder))
    (measured,) = [record.evaluation_loss for record in history if record.evaluation_loss is not None]

    export(plan)
    model = auto_model.from_pretrained(plan.paths.model).eval()
    batches = held_out_batches(plan)
    with torch.no_grad():
        loss_sum = sum(stock_loss_sum(model, batch) for batch in batches)
    assert loss_sum / sum(batch.num_labels for batch in batches) == pytest.approx(measured, abs=1e-3)
