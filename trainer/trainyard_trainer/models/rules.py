"""Rules about a run's model, for `trainyard_api.validation`; they need neither torch nor Transformers."""

from collections.abc import Iterable

from trainyard_api.problems import Problem
from trainyard_api.rules.rule import Rule
from trainyard_api.spec import TrainingRun
from trainyard_trainer.models.architecture import (
    OVERRIDES_PATH,
    architecture_problems,
    resolve_architecture,
    served_objective,
)

_ARCHITECTURE_FIELDS = ("spec.model.architecture", "spec.pretraining.objective", "spec.fineTuning.task")


def model_problems(run: TrainingRun) -> Iterable[Problem]:
    """What is wrong with preset and overrides; nothing where the run starts from no architecture."""
    architecture = run.spec.model.architecture
    if architecture is None:
        return
    for error in architecture_problems(architecture, served_objective(run.spec)):
        yield Problem(error.where, error.problem, error.remedy)


def position_problems(run: TrainingRun) -> Iterable[Problem]:
    """Rows longer than the model's positions; nothing where the architecture itself is wrong."""
    architecture = run.spec.model.architecture
    if architecture is None or any(model_problems(run)):
        return
    resolved = resolve_architecture(architecture, served_objective(run.spec))
    length, longest = run.spec.data.sequence_length, resolved.maximum_positions
    if length > longest:
        override = resolved.preset.family.named("max_position_embeddings")
        yield Problem(
            "spec.data.sequenceLength",
            f"{length} is more than the {longest} positions of {architecture.preset}",
            f"Set it to at most {longest}, or set {OVERRIDES_PATH}.{override} to {length}",
        )


def student_layer_problems(run: TrainingRun) -> Iterable[Problem]:
    """Layers that are compared with the teacher's, and that the architecture does not have."""
    distillation, architecture = run.spec.distillation, run.spec.model.architecture
    if distillation is None or architecture is None or any(model_problems(run)):
        return
    resolved = resolve_architecture(architecture, served_objective(run.spec))
    num_layers = int(resolved.value("num_hidden_layers"))
    override = resolved.preset.family.named("num_hidden_layers")
    named = {f"layerMap[{index}].student": pair.student for index, pair in enumerate(distillation.layer_map)}
    relations = distillation.losses.relations
    if relations is not None and relations.student_layer is not None:
        named["losses.relations.studentLayer"] = relations.student_layer
    for place, layer in named.items():
        if layer > num_layers:
            yield Problem(
                f"spec.distillation.{place}",
                f"there is no layer {layer}; {architecture.preset} has {num_layers} here",
                f"Name a layer from 1 to {num_layers}, or set {OVERRIDES_PATH}.{override}",
            )


MODEL_RULES = (
    Rule(
        fields=_ARCHITECTURE_FIELDS,
        problem="the preset must exist and serve the objective, and the overrides must fit it",
        remedy="List the presets with `trainyard presets`",
        check=model_problems,
    ),
    Rule(
        fields=(*_ARCHITECTURE_FIELDS, "spec.data.sequenceLength"),
        problem="a row must not be longer than the model's positions",
        remedy="Lower data.sequenceLength or raise the model's positions",
        check=position_problems,
    ),
    Rule(
        fields=(*_ARCHITECTURE_FIELDS, "spec.distillation.layerMap", "spec.distillation.losses.relations"),
        problem="the layers that are compared must be layers of the student",
        remedy="Name layers from 1 to the number of the student's",
        check=student_layer_problems,
    ),
)
"""The rules of this module, as `extra_rules` of `trainyard_api.validation`."""
