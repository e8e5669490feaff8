"""What every pre-training objective offers: from a row of tokens to what is seen and what is predicted."""

from typing import Literal, Protocol

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.data.manifest import DataManifest
from trainyard_trainer.methods.masking import MaskedRow


class Objective(Protocol):
    """Turns rows into predictions to make; a pure function of its arguments."""

    causal: bool
    """Whether a token may only see those before it."""

    def apply(
        self, sample: Sample, *, stream: Literal["train", "evaluation"], epoch: int, row: int
    ) -> MaskedRow:
        """What the model sees of a row, where it has to predict, and what."""


def build_objective(spec: TrainingRunSpec, manifest: DataManifest) -> Objective:
    """The objective of a run.

    Raises:
        ConfigurationError: the run does not pre-train.
        DataError: the tokenizer lacks what the objective needs.
    """
    from trainyard_trainer.methods.causal import CausalLanguageModeling  # noqa: PLC0415 - they import this module
    from trainyard_trainer.methods.masked import MaskedLanguageModeling  # noqa: PLC0415

    pretraining = spec.language_modeling
    if pretraining is None:
        raise ConfigurationError("spec", "it trains no language model", "Set spec.pretraining")
    if pretraining.objective == "CausalLM":
        return CausalLanguageModeling()
    if manifest.tokenizer.mask_token_id is None:
        raise DataError(
            "spec.tokenizer", "the tokenizer has no mask token", "Use one that has, or spec.tokenizer.train"
        )
    return MaskedLanguageModeling.from_spec(
        pretraining.masking, spec.training.seed, manifest, keeps_masks=spec.caches_teacher
    )
