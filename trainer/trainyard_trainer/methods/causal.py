"""Causal language modelling: predict each token from those before it in its document."""

from typing import Literal

import numpy as np

from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.methods.masking import MaskedRow


class CausalLanguageModeling:
    """Each token but a document's last predicts the next one; no prediction crosses documents."""

    causal = True

    def apply(
        self, sample: Sample, *, stream: Literal["train", "evaluation"], epoch: int, row: int
    ) -> MaskedRow:
        """See all tokens; predict at every place that has a next token in the same document."""
        del stream, epoch, row  # nothing is random here
        predicts = np.ones(len(sample.token_ids), dtype=np.bool_)
        predicts[np.cumsum(sample.document_lengths) - 1] = False
        positions = np.flatnonzero(predicts)
        return MaskedRow(
            token_ids=sample.token_ids,
            positions=positions.astype(np.int32),
            labels=sample.token_ids[positions + 1].astype(np.int32),
        )
