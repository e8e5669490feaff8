"""Rules about a run's model, for `trainyard_api.validation`; they need neither torch nor Transformers."""

from trainyard_api.errors import ConfigurationError
from trainyard_api.spec import TrainingRun
from trainyard_trainer.models.architecture import (
    OVERRIDES_PATH,
    architecture_problems,
    resolve_architecture,
)


def model_rules(run: TrainingRun) -> list[ConfigurationError]:
    """Every problem of preset, overrides and row length; none where the run starts from no architecture."""
    architecture, pretraining = run.spec.model.architecture, run.spec.pretraining
    if architecture is None or pretraining is None:
        return []
    problems = architecture_problems(architecture, pretraining.objective)
    if problems:
        return problems
    resolved = resolve_architecture(architecture, pretraining.objective)
    length, longest = run.spec.data.sequence_length, resolved.maximum_positions
    if length <= longest:
        return []
    override = resolved.preset.family.named("max_position_embeddings")
    return [
        ConfigurationError(
            "spec.data.sequenceLength",
            f"{length} is more than the {longest} positions of {architecture.preset}",
            f"Set it to at most {longest}, or set {OVERRIDES_PATH}.{override} to {length}",
        )
    ]
