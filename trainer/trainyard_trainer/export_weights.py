"""The weights of a checkpoint as stock Transformers and PEFT name them, frozen ones and adapters included."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainyard_api.names import File
from trainyard_api.plan import RunPlan
from trainyard_trainer.checkpoint import CommittedCheckpoint, load_model_weights
from trainyard_trainer.models.distilled_model import is_projection
from trainyard_trainer.models.pretrained import ModelData
from trainyard_trainer.models.teacher import load_teacher
from trainyard_trainer.network import build_network

if TYPE_CHECKING:
    from peft import LoraConfig


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter and what trained beside it.

    Attributes:
        config: PEFT's configuration.
        weights: fp32, by their names in the model with the adapter.
        body_prefix: `base_model_prefix` of the model.
    """

    config: "LoraConfig"
    weights: dict[str, torch.Tensor]
    body_prefix: str

    def save(self, model_folder: Path) -> None:
        """Store it in a folder of a model, as `PeftModel.from_pretrained` reads it."""
        from trainyard_trainer.models.adapters import save_adapter  # noqa: PLC0415 - slow to import

        save_adapter(model_folder / File.ADAPTER, self.config, self.weights, self.body_prefix)


@dataclass(frozen=True)
class TrainedWeights:
    """What a run made.

    Attributes:
        model: fp32 weights by their Transformers names, tied ones once.
        adapter: the adapter that was trained, alone.
    """

    model: dict[str, torch.Tensor]
    adapter: TrainedAdapter | None = None


def trained_weights(plan: RunPlan, data: ModelData, checkpoint: CommittedCheckpoint) -> TrainedWeights:
    """The weights to export.

    An adapter is added to the model's weights, or, where `merge` is false, left out of them.

    Raises:
        DataError: the stored model that holds the frozen weights changed.
    """
    stored = {
        name: tensor for name, tensor in load_model_weights(checkpoint).items() if not is_projection(name)
    }
    if not checkpoint.manifest.frozen:
        return TrainedWeights(stored)
    teacher = load_teacher(plan, data) if plan.spec.model.from_teacher is not None else None
    network = build_network(plan, data, checkpoint, teacher=teacher)
    config, tuning = network.adapted.adapter, plan.spec.fine_tuning
    adapter = None
    if config is not None and tuning is not None and tuning.adaptation.adapter is not None:
        from trainyard_trainer.models.adapters import merge_adapter, remove_adapter  # noqa: PLC0415

        adapter = TrainedAdapter(config, stored, network.model.base_model_prefix)
        if tuning.adaptation.adapter.merge:
            merge_adapter(network.model)
        else:
            remove_adapter(network.model)
    weights = {name: parameter.detach() for name, parameter in network.model.named_parameters()}
    return TrainedWeights(weights, adapter)
