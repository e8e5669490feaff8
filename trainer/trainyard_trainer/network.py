"""The model of a run with its weights on every rank: from the seed, a stored model, or a checkpoint."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_trainer.checkpoint import CommittedCheckpoint, load_model_weights
from trainyard_trainer.models.adaptation import Adapted
from trainyard_trainer.models.build import build_model, model_kind
from trainyard_trainer.models.distilled_model import is_projection
from trainyard_trainer.models.fit import adapt_as_told
from trainyard_trainer.models.pretrained import ModelData, load_base_model, model_config
from trainyard_trainer.models.student import student_of
from trainyard_trainer.recorder import Recorder


@dataclass(frozen=True)
class Network:
    """A model and what trains of it.

    Attributes:
        model: in fp32 on the CPU.
        adapted: paces, frozen parameters and adapter.
        projections: stored weights of what trained beside the model, by name.
    """

    model: PreTrainedModel
    adapted: Adapted
    projections: dict[str, torch.Tensor]


def build_network(
    plan: RunPlan,
    data: ModelData,
    checkpoint: CommittedCheckpoint | None,
    recorder: Recorder | None = None,
    *,
    teacher: PreTrainedModel | None = None,
) -> Network:
    """The model of a run, adapted as its spec says, with the weights of a checkpoint where there is one.

    Frozen parameters are in no checkpoint: they come from the stored model, whose hash is checked, or from
    the seed.

    Args:
        plan: the run.
        data: its prepared data.
        checkpoint: where it goes on from.
        recorder: told which stored model it starts from.
        teacher: the model that it is cut from, where it is; nothing is changed in it.

    Raises:
        ConfigurationError: the adaptation does not fit the model, or the teacher lacks the layers.
        DataError: the stored model changed, or the checkpoint is another model's.
    """
    spec, base, wanted = plan.spec, data.manifest.base_model, plan.spec.model.from_teacher
    kind = model_kind(spec)
    new_parameters: tuple[str, ...] = ()
    needs_base = checkpoint is None or bool(checkpoint.manifest.frozen)
    loaded = load_base_model(plan, data, kind) if needs_base else None
    if loaded is not None and base is not None:
        model, new_parameters = loaded.model, loaded.initialised
        if recorder is not None and checkpoint is None:
            recorder.started_from(base.run or base.uri, loaded.record(base.hash))
    elif needs_base and wanted is not None and teacher is not None:
        model = student_of(teacher, wanted).model
    else:
        model = build_model(model_config(spec, data), kind, seed=spec.training.seed)
    adapted = adapt_as_told(
        model, spec, kind, new_parameters=new_parameters, base=base.uri if base is not None else ""
    )
    projections = {} if checkpoint is None else _load(model, adapted, checkpoint)
    return Network(model, adapted, projections)


def _load(
    model: PreTrainedModel, adapted: Adapted, checkpoint: CommittedCheckpoint
) -> dict[str, torch.Tensor]:
    """Put the weights of a checkpoint into a model; what trained beside the model is returned.

    Raises:
        DataError: it holds other parameters than those that train.
    """
    stored = {name for name in checkpoint.manifest.parameters if not is_projection(name)}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if stored != trained or set(checkpoint.manifest.frozen) != adapted.frozen:
        different = sorted(stored ^ trained)[:3]
        raise DataError(
            str(checkpoint.path),
            f"it does not hold the weights that this run trains: {', '.join(different)}",
            "Use the run's own folder, or start a run of another name",
        )
    # Tied weights are stored once and frozen ones not at all, so names are missing.
    weights = load_model_weights(checkpoint)
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    return {name: tensor for name, tensor in weights.items() if is_projection(name)}
