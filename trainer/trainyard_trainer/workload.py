"""What a run trains on and for: the data, the batches of a rank, and the loss around a Transformers model."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.aligned_batches import AlignedSource
from trainyard_trainer.batches import BatchSource, Supply
from trainyard_trainer.data.aligned_rows import open_aligned
from trainyard_trainer.data.dataset import PreparedData, open_prepared
from trainyard_trainer.data.labelled.class_weights import loss_weights
from trainyard_trainer.data.labelled.dataset import open_labelled
from trainyard_trainer.data.labelled.task import labelled_task
from trainyard_trainer.distillation.cache_place import CachePlace, cache_place
from trainyard_trainer.distillation.cached_rows import CachedRows
from trainyard_trainer.engine import COMPUTE_DTYPES
from trainyard_trainer.methods.objective import Objective, build_objective
from trainyard_trainer.models.distilled_model import Watched
from trainyard_trainer.models.language_model import LanguageModel
from trainyard_trainer.models.pretrained import ModelData
from trainyard_trainer.models.task_model import TaskModel, task_loss
from trainyard_trainer.task_batches import build_task_batches


@dataclass(frozen=True)
class Workload:
    """A language model's training or a task's.

    Attributes:
        data: what the model has to know of its data.
        num_rows: rows of an epoch.
        num_tokens: tokens of an epoch, padding not counted.
        labels: names of the classes; none where there are no classes.
        supply: the batches of a rank.
        model: the loss around a Transformers model.
        cache: where the teacher's predictions are kept; None where there is no cache.
    """

    data: ModelData
    num_rows: int
    num_tokens: int
    labels: tuple[str, ...]
    supply: Callable[[int], Supply]
    model: Callable[[PreTrainedModel], Watched]
    cache: CachePlace | None = None


def open_workload(plan: RunPlan) -> Workload:
    """Open the prepared data of a run.

    Raises:
        DataError: it is missing, damaged, or lacks what the objective needs.
    """
    fine_tuning = labelled_task(plan.spec)
    return _language_modeling(plan) if fine_tuning is None else _task(plan, fine_tuning)


def _language_modeling(plan: RunPlan) -> Workload:
    spec = plan.spec
    data = open_prepared(Path(plan.paths.run_folder))
    objective = build_objective(spec, data.manifest)
    place = cache_place(plan, data)

    aligned = open_aligned(data) if spec.aligns_tokens else None

    def supply(rank: int) -> Supply:
        source = row_source(plan, data, objective, rank)
        if place is not None:
            return replace(source, cached=CachedRows(place, place.open()))
        teacher = data.manifest.teacher_tokenizer
        if aligned is None or teacher is None:
            return source
        return AlignedSource(source, aligned, teacher.pad_token_id)

    return Workload(
        data=data,
        num_rows=len(data.train),
        num_tokens=data.train.num_tokens,
        labels=(),
        supply=supply,
        model=lambda model: language_model(spec, objective, model, most_places(plan)),
        cache=place,
    )


def row_source(plan: RunPlan, data: PreparedData, objective: Objective, rank: int) -> BatchSource:
    """The batches of a rank that trains a language model, or asks a teacher."""
    return BatchSource(
        train=data.train,
        validation=data.validation,
        objective=objective,
        batch=plan.batch,
        rank=rank,
        seed=plan.spec.training.seed,
        pad_token_id=data.manifest.tokenizer.pad_token_id,
        isolate_documents=plan.spec.data.packing.isolate_documents,
    )


def _task(plan: RunPlan, fine_tuning: FineTuning) -> Workload:
    data = open_labelled(Path(plan.paths.run_folder))
    labels = data.manifest.labels
    weights = None if labels is None else loss_weights(fine_tuning.class_balance, labels)
    loss = task_loss(fine_tuning)
    return Workload(
        data=data,
        num_rows=len(data.train),
        num_tokens=data.train.num_tokens,
        labels=() if labels is None else labels.names,
        supply=lambda rank: build_task_batches(plan, data, rank),
        model=lambda model: TaskModel(
            model, loss, None if weights is None else torch.from_numpy(weights), most_places(plan)
        ),
    )


def most_places(plan: RunPlan) -> int | None:
    """The most places that a micro-batch can have, where all ranks have to call the head equally often.

    Each call gathers the head's weights where the ranks share them. Else None.
    """
    if not plan.divides_weights:
        return None
    return plan.batch.micro_batch_size * plan.spec.data.sequence_length


def language_model(
    spec: TrainingRunSpec, objective: Objective, model: PreTrainedModel, most_places: int | None = None
) -> LanguageModel:
    """The loss of a language model around its network; see `LanguageModel` for `most_places`."""
    return LanguageModel(
        model,
        causal=objective.causal,
        isolate_documents=spec.data.packing.isolate_documents,
        mask_dtype=COMPUTE_DTYPES[spec.training.precision],
        most_places=most_places,
    )
