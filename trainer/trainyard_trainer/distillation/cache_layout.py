"""What a cache keeps of a teacher's prediction at one place, and for whom it may be used.

A place takes the same number of bytes everywhere, so that it is found without an index: the most likely
tokens with their log-probability (fp16), then either tokens drawn from the rest or nothing more of it, then
the log-probability of the rest and the entropy of the whole (fp16 each). Token ids take two bytes in
vocabularies up to 65,536 and four above.
"""

from typing import Any

import numpy as np

from trainyard_api.errors import ConfigurationError
from trainyard_api.model import ApiModel
from trainyard_api.rules.distillation_rules import MAXIMUM_CACHE_BYTES
from trainyard_api.spec_distillation import TeacherCache
from trainyard_api.spec_objectives import Masking
from trainyard_trainer.data.manifest import hash_of
from trainyard_trainer.data.shards import token_dtype

FORMAT_VERSION = 1
"""Changes when the bytes or their meaning do; part of the key."""


class CacheLayout(ApiModel):
    """What is kept of each place."""

    vocabulary_size: int
    """Tokens that teacher and student have; the teacher's columns behind them are padding."""
    temperature: float
    """Divisor of the teacher's logits; a student is compared at the same one."""
    top_entries: int
    """Most likely tokens that are kept with their probability."""
    tail_samples: int
    """Tokens drawn from the rest, with replacement; 0 keeps the rest as one bucket."""

    @property
    def record(self) -> np.dtype[Any]:
        """The bytes of one place."""
        ids = token_dtype(self.vocabulary_size)
        return np.dtype(
            [
                ("top_ids", ids, (self.top_entries,)),
                ("top_log_probabilities", "<f2", (self.top_entries,)),
                ("tail_ids", ids, (self.tail_samples,)),
                ("tail_log_probability", "<f2"),
                ("entropy", "<f2"),
            ]
        )


class CacheInputs(ApiModel):
    """Everything that decides what a teacher predicts where."""

    teacher: str
    """Hash of the teacher's configuration and weights."""
    tokenizer: str
    """Hash of the vocabulary."""
    data: str
    """Hash of the prepared data, which has the length of the rows in it."""
    objective: str
    """MaskedLM or CausalLM."""
    masking: Masking | None
    """Which tokens are hidden (MaskedLM)."""
    masking_seed: int | None
    """Decides which tokens are hidden (MaskedLM); a sample keeps its mask as long as the cache is used."""
    sampling_seed: int
    """Decides what is drawn from the rest."""
    positions: str
    """All or Labelled: which tokens of a row have a place."""
    isolate_documents: bool
    """Whether a token sees only its own document."""
    precision: str
    """Number format in which the teacher computes."""


def cache_layout(cache: TeacherCache, *, vocabulary_size: int, temperature: float) -> CacheLayout:
    """The layout that a spec asks for.

    Raises:
        ConfigurationError: a place would take more than 100 bytes.
    """
    layout = CacheLayout(
        vocabulary_size=vocabulary_size,
        temperature=temperature,
        top_entries=min(cache.top_entries, vocabulary_size - 1),
        tail_samples=cache.tail_samples if cache.tail == "Sampled" else 0,
    )
    num_bytes = layout.record.itemsize
    if num_bytes > MAXIMUM_CACHE_BYTES:
        raise ConfigurationError(
            "spec.distillation.teacherCache",
            f"it takes {num_bytes} bytes a token in a vocabulary of {vocabulary_size}",
            f"Lower topEntries or tailSamples until it takes {MAXIMUM_CACHE_BYTES}",
        )
    return layout


def cache_key(inputs: CacheInputs, layout: CacheLayout) -> str:
    """SHA-256 that two caches share only if one may stand in for the other."""
    return hash_of([FORMAT_VERSION, inputs.model_dump(mode="json"), layout.model_dump(mode="json")])
