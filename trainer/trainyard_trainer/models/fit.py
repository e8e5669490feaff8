"""Whether what a run says of layers and parameters fits its model: Prepare asks, before a gang starts."""

from collections.abc import Collection

import torch
from transformers import PreTrainedModel

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_objectives import Adaptation
from trainyard_trainer.models.adaptation import Adapted, adapt
from trainyard_trainer.models.build import AUTO_CLASSES, ModelKind, model_kind
from trainyard_trainer.models.pretrained import ModelData, model_config


def adapt_as_told(
    model: PreTrainedModel,
    spec: TrainingRunSpec,
    kind: ModelKind,
    *,
    new_parameters: Collection[str] = (),
    base: str = "",
) -> Adapted:
    """Put in the adapter of a run and freeze what it says.

    Args:
        model: with its first weights.
        spec: the desired state.
        kind: what the model computes behind its body.
        new_parameters: names of those that the stored model lacks.
        base: where the model to start from lies.

    Raises:
        ConfigurationError: the adaptation, or a rule of the optimizer, does not fit the model.
    """
    return adapt(
        model,
        spec.fine_tuning.adaptation if spec.fine_tuning is not None else Adaptation(),
        spec.training.optimizer,
        new_parameters=new_parameters,
        has_task_head=kind in {"SequenceClassification", "TokenClassification"},
        seed=spec.training.seed,
        base=base,
    )


def check_fit(spec: TrainingRunSpec, data: ModelData, num_steps: int | None) -> None:
    """Adapt the model of a run without its weights: names and shapes decide whether that works.

    Args:
        spec: the desired state.
        data: the prepared data.
        num_steps: optimizer steps of the run; None where the clock ends it.

    Raises:
        ConfigurationError: the adaptation, or a rule of the optimizer, does not fit the model, or a layer
            would begin to train after the end.
        DataError: the stored configuration was changed.
    """
    kind = model_kind(spec)
    with torch.device("meta"):
        model: PreTrainedModel = AUTO_CLASSES[kind].from_config(  # type: ignore[no-untyped-call]
            model_config(spec, data)
        )
        adapted = adapt_as_told(model, spec, kind)
    refuse_late_layers(adapted, num_steps)


def refuse_late_layers(adapted: Adapted, num_steps: int | None) -> None:
    """Refuse gradual unfreezing that does not come to all layers that are to train.

    Raises:
        ConfigurationError: the run ends before.
    """
    latest = max(pace.first_step for name, pace in adapted.paces.items() if name not in adapted.frozen)
    if num_steps is not None and latest >= num_steps:
        raise ConfigurationError(
            "spec.fineTuning.adaptation.unfreezeEverySteps",
            f"the lowest layer would begin to train after {latest} steps, and the run has {num_steps}",
            "Lower it, raise training.budget, or keep the lower layers as they are by frozenLayers",
        )
