"""Masked language modelling: predict hidden tokens from both sides."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from trainyard_api.spec_objectives import Masking
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.data.manifest import DataManifest
from trainyard_trainer.methods.masking import (
    SPECIAL,
    MaskedRow,
    choose_tokens,
    choose_whole_words,
    mask_generator,
    replace_tokens,
)


@dataclass(frozen=True)
class MaskedLanguageModeling:
    """BERT's objective with masks that are a pure function of (seed, stream, epoch, row).

    Attributes:
        masking: which tokens are hidden.
        seed: of the run.
        mask_token_id: what most of them become.
        random_token_ids: int32 [v], what some of them become.
        keeps_masks: whether every epoch has the masks of the first, as a cache of predictions needs.
    """

    masking: Masking
    seed: int
    mask_token_id: int
    random_token_ids: NDArray[np.int32]
    keeps_masks: bool = False

    causal = False

    @classmethod
    def from_spec(
        cls, masking: Masking, seed: int, manifest: DataManifest, *, keeps_masks: bool = False
    ) -> Self:
        """The objective for a prepared corpus; its tokenizer must have a mask token."""
        tokenizer = manifest.tokenizer
        if tokenizer.mask_token_id is None:
            raise ValueError("the tokenizer has no mask token")
        vocabulary = np.arange(tokenizer.vocabulary_size, dtype=np.int32)
        ordinary = np.setdiff1d(vocabulary, np.array(tokenizer.special_token_ids, dtype=np.int32))
        return cls(masking, seed, tokenizer.mask_token_id, ordinary.astype(np.int32), keeps_masks)

    def apply(
        self, sample: Sample, *, stream: Literal["train", "evaluation"], epoch: int, row: int
    ) -> MaskedRow:
        """Choose, hide and label tokens of a row; evaluation uses its own probability and the seed 0.

        Evaluation masks do not depend on the run's seed, so that the losses of two runs compare.
        """
        training = stream == "train"
        generator = mask_generator(
            self.seed if training else 0, stream, 0 if self.keeps_masks else epoch, row
        )
        probability = self.masking.probability if training else self.masking.evaluation_probability
        if self.masking.strategy == "WholeWord":
            places = choose_whole_words(sample.flags, probability, generator)
        else:
            places = choose_tokens((sample.flags & SPECIAL) == 0, probability, generator)
        return replace_tokens(
            sample.token_ids,
            places,
            mask_token_id=self.mask_token_id,
            random_token_ids=self.random_token_ids,
            generator=generator,
        )
