"""Micro-batches of which the student writes some rows itself, for its teacher to judge (GKD).

What a row becomes is a function of the weights, the run's seed and the row's number in the stream of all
rows, so that a run that is stopped goes on as if it had not been.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from trainyard_api.plan import RunPlan
from trainyard_api.spec_distillation import OnPolicy
from trainyard_trainer.batches import Batch, MicroBatch, collate
from trainyard_trainer.compared_batches import ComparedBatch
from trainyard_trainer.data.dataset import Sample
from trainyard_trainer.data.manifest import TokenizerManifest
from trainyard_trainer.distillation.own_text import OwnText, finished, prompt_of, uniform_draws, written_rows
from trainyard_trainer.engine import Engine
from trainyard_trainer.methods.masking import MaskedRow
from trainyard_trainer.models.writing import WritingRules, write

_NOTHING = np.zeros(0, dtype=np.int32)


@dataclass(frozen=True)
class Writer:
    """Has the student write.

    Attributes:
        settings: how much and from what.
        tokenizer: the tokenizer of the run.
        seed: seed of the run.
        sequence_length: positions of a row.
        isolate_documents: whether positions restart at each document of a row.
        compared: where rows of the data are compared with the teacher.
        stops_early: see `WritingRules`.
    """

    settings: OnPolicy
    tokenizer: TokenizerManifest
    seed: int
    sequence_length: int
    isolate_documents: bool
    compared: Literal["All", "Labelled"]
    stops_early: bool

    def written(self, engine: Engine, batches: Sequence[Batch]) -> list[ComparedBatch]:
        """Micro-batches with the rows that the student writes in place of those of the data."""
        engine.eval()
        found = [self._written(engine, cast("MicroBatch", batch)) for batch in batches]
        engine.train()
        return found

    def _written(self, engine: Engine, batch: MicroBatch) -> ComparedBatch:
        rows = rows_of(batch)
        chosen = self.chosen(batch.first_row, rows)
        texts = self._texts(engine, batch.first_row, rows, chosen)
        return mixed(batch, rows, chosen, texts, self)

    def chosen(self, first_row: int, rows: Sequence["Row"]) -> list[OwnText]:
        """The rows that the student writes, and what it goes on from."""
        settings = self.settings
        numbers = np.arange(first_row, first_row + len(rows), dtype=np.int64)
        found = []
        for row in np.flatnonzero(written_rows(self.seed, numbers, settings.fraction)).tolist():
            document = rows[row].token_ids[: int(rows[row].document_lengths[0])]
            prompt = prompt_of(document, settings.prompt_tokens, self.tokenizer.suffix_token_id)
            limit = min(settings.maximum_new_tokens, self.sequence_length - len(prompt))
            found.append(OwnText(row, prompt, limit))
        return found

    def _texts(
        self, engine: Engine, first_row: int, rows: Sequence["Row"], chosen: Sequence[OwnText]
    ) -> list[NDArray[np.int64]]:
        """What the student writes in each of the chosen rows."""
        # Under ZeRO-3 every rank calls the model equally often, also one that has nothing to write.
        asked = list(chosen)
        if not self.stops_early and not asked:
            asked = [OwnText(0, rows[0].token_ids[:1].astype(np.int64), 0)]
        if not asked:
            return []
        longest = self.settings.maximum_new_tokens
        num_passes = (
            max(text.limit for text in asked) if self.stops_early else min(longest, self.sequence_length - 1)
        )
        numbers = np.array([first_row + text.row for text in asked], dtype=np.int64)
        end = self.tokenizer.suffix_token_id
        rules = WritingRules(
            temperature=self.settings.temperature,
            end_token_id=end,
            vocabulary_size=self.tokenizer.vocabulary_size,
            longest=self.sequence_length,
            stops_early=self.stops_early,
        )
        draws = uniform_draws(self.seed, numbers, num_passes)
        tokens = write(engine.next_logits, [text.prompt for text in asked], draws, rules, engine.ranks.device)
        pairs = zip(chosen, tokens[: len(chosen)], strict=True)
        return [finished(written, text.limit, end) for text, written in pairs]


def build_writer(plan: RunPlan, tokenizer: TokenizerManifest) -> Writer | None:
    """What has the student of a run write; None where it only reads."""
    distillation = plan.spec.distillation
    if distillation is None or distillation.on_policy is None or distillation.losses.logits is None:
        return None
    return Writer(
        settings=distillation.on_policy,
        tokenizer=tokenizer,
        seed=plan.spec.training.seed,
        sequence_length=plan.spec.data.sequence_length,
        isolate_documents=plan.spec.data.packing.isolate_documents,
        compared=distillation.losses.logits.positions,
        stops_early=plan.zero_stage < 3,
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a micro-batch without its padding.

    Attributes:
        token_ids: int32 [n].
        document_lengths: int32 [d], tokens of each document; sums to n.
        positions: int32 [m], the places to predict.
        labels: int32 [m], what stands there.
    """

    token_ids: NDArray[np.int32]
    document_lengths: NDArray[np.int32]
    positions: NDArray[np.int32]
    labels: NDArray[np.int32]


def rows_of(batch: MicroBatch) -> list[Row]:
    """The rows of a micro-batch."""
    length = batch.input_ids.shape[1]
    places, labels = batch.predicted_places.numpy(), batch.labels.numpy()
    rows = []
    for number, (ids, documents) in enumerate(zip(batch.input_ids, batch.document_ids, strict=True)):
        is_token = documents >= 0
        own = places // length == number
        rows.append(
            Row(
                token_ids=ids[is_token].numpy().astype(np.int32),
                document_lengths=np.bincount(documents[is_token].numpy()).astype(np.int32),
                positions=(places[own] - number * length).astype(np.int32),
                labels=labels[own].astype(np.int32),
            )
        )
    return rows


def mixed(
    batch: MicroBatch,
    rows: Sequence[Row],
    chosen: Sequence[OwnText],
    texts: Sequence[NDArray[np.int64]],
    writer: Writer,
) -> ComparedBatch:
    """A micro-batch in which some rows are a prompt and what the student wrote.

    Such a row has no labels and is compared where each written token is predicted; a row of the data is
    compared as without it.

    Args:
        batch: the micro-batch.
        rows: its rows.
        chosen: those that the student wrote.
        texts: what it wrote, int64 [k] each.
        writer: how rows are laid out.
    """
    mixture, compared = list(rows), [_compared(row, writer.compared) for row in rows]
    for own, text in zip(chosen, texts, strict=True):
        ids = np.concatenate([own.prompt, text]).astype(np.int32)
        mixture[own.row] = Row(ids, np.array([len(ids)], dtype=np.int32), _NOTHING, _NOTHING)
        compared[own.row] = np.arange(len(own.prompt) - 1, len(ids) - 1, dtype=np.int64)
    collated = collate(
        [
            Sample(row.token_ids, np.zeros(len(row.token_ids), np.uint8), row.document_lengths)
            for row in mixture
        ],
        [MaskedRow(row.token_ids, row.positions, row.labels) for row in mixture],
        pad_token_id=writer.tokenizer.pad_token_id,
        isolate_documents=writer.isolate_documents,
        first_row=batch.first_row,
    )
    length = collated.input_ids.shape[1]
    places = np.concatenate([found + number * length for number, found in enumerate(compared)])
    return ComparedBatch(collated, torch.from_numpy(places))


def _compared(row: Row, positions: Literal["All", "Labelled"]) -> NDArray[np.int64]:
    """Where a row of the data is compared, int64 [c]."""
    if positions == "All":
        return np.arange(len(row.token_ids), dtype=np.int64)
    return row.positions.astype(np.int64)
