"""The preparation steps of a task's examples: encode, one of each source, and choose."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainyard_api.errors import DataError
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.labelled.chat import ChatTemplate
from trainyard_trainer.data.labelled.choose_step import ChooseOptions, choose_step
from trainyard_trainer.data.labelled.encode_step import (
    EncodeResult,
    EncodeTask,
    check_encoded,
    encode_unit,
    finish_encoding,
)
from trainyard_trainer.data.labelled.labels import LabelSettings
from trainyard_trainer.data.labelled.shards import ExampleShard
from trainyard_trainer.data.labelled.task import columns_of, has_classes, label_kind
from trainyard_trainer.data.manifest import LabelManifest, SplitManifest, TokenizerManifest
from trainyard_trainer.data.normalize import NORMALIZATION
from trainyard_trainer.data.progress import StepProgress
from trainyard_trainer.data.sources import InputFile, contents_hash
from trainyard_trainer.data.steps import FinishedStep, StepOutcome, StepStore
from trainyard_trainer.data.tokenizer_step import CONFIG_FILE
from trainyard_trainer.data.unit_steps import UnitReader, UnitWork
from trainyard_trainer.data.units import Unit, divide

LARGE_CUT_FRACTION = 0.05
"""From this fraction of cut examples on, a person is told."""


@dataclass(frozen=True)
class LabelledSteps:
    """Makes or reuses the steps of one run.

    Attributes:
        plan: the run.
        task: what is learnt.
        store: the prepared folder.
        reader: reads units of sources.
        progress: told about the work done.
    """

    plan: RunPlan
    task: FineTuning
    store: StepStore
    reader: UnitReader
    progress: StepProgress

    def encode(
        self, number: int, files: list[InputFile], tokenizer_step: FinishedStep, tokenizer: TokenizerManifest
    ) -> FinishedStep:
        """The examples of one source.

        Raises:
            DataError: it cannot be used.
            ConfigurationError: the chat template cannot.
        """
        source, where = self.plan.spec.data.sources[number], source_place(number)

        def body(folder: Path) -> StepOutcome:
            units = divide(files, source)
            work = self.encode_work(number, files, dict(enumerate(units)), folder, tokenizer_step, tokenizer)
            total = sum(file.size_bytes for file in files)
            advance = self.progress.start(f"encode {source.name}", total, "bytes")
            return finish_encoding(folder, self.reader.read(work, advance), units)

        settings = self._encode_settings(number, tokenizer_step, tokenizer)
        inputs = {"files": contents_hash(files), **settings}
        step = self.store.run("encode", inputs, body)
        maximum_invalid_fraction = self.plan.spec.data.preparation.maximum_invalid_fraction
        check_encoded(step, source, where, maximum_invalid_fraction)
        return step

    def encode_work(  # noqa: PLR0913, PLR0917 - what is read, and what it is encoded with
        self,
        number: int,
        files: Sequence[InputFile],
        units: Mapping[int, Unit],
        folder: Path,
        tokenizer_step: FinishedStep,
        tokenizer: TokenizerManifest,
    ) -> UnitWork[EncodeTask, EncodeResult]:
        """What is to be read of one source.

        Args:
            number: of the source.
            files: of it.
            units: to read, by their numbers.
            folder: where to write.
            tokenizer_step: the tokenizer.
            tokenizer: the same, described.

        Raises:
            ConfigurationError: the chat template cannot be used.
        """
        data, template = self.plan.spec.data, self._template(tokenizer_step)
        if template is not None:
            template.check()
        tasks = [
            EncodeTask(
                number=index,
                unit=unit,
                folder=folder,
                task=self.task,
                source=data.sources[number],
                where=source_place(number),
                tokenizer_folder=tokenizer_step.folder,
                sequence_length=data.sequence_length,
                normalize=data.preparation.normalize,
                minimum_characters=data.preparation.minimum_characters,
                template=template,
            )
            for index, unit in units.items()
        ]
        settings = self._encode_settings(number, tokenizer_step, tokenizer)
        return UnitWork("encode", encode_unit, EncodeResult, tasks, files, settings)

    def _encode_settings(
        self, number: int, tokenizer_step: FinishedStep, tokenizer: TokenizerManifest
    ) -> dict[str, object]:
        """What the examples of a source depend on beside its files."""
        data, source = self.plan.spec.data, self.plan.spec.data.sources[number]
        template = self._template(tokenizer_step)
        return {
            "format": source.format,
            "columns": [[column.name, column.named_by] for column in columns_of(self.task, source)],
            "labels": label_kind(self.task),
            "tokenizer": tokenizer.hash,
            "template": None if template is None else [template.text, dict(template.special_tokens)],
            "sequenceLength": data.sequence_length,
            "normalization": NORMALIZATION if data.preparation.normalize else None,
            "minimumCharacters": data.preparation.minimum_characters,
        }

    def choose(self, encoded: Sequence[FinishedStep], tokenizer: TokenizerManifest) -> FinishedStep:
        """The examples to train on and those held out.

        Raises:
            DataError: the labels or the division cannot work.
            ConfigurationError: the same of what the spec says of them.
        """
        data = self.plan.spec.data
        kind = label_kind(self.task)
        column = columns_of(self.task, data.sources[0])[-1].named_by
        options = ChooseOptions(
            sources=tuple(data.sources),
            validation_fraction=data.validation_fraction,
            exact=data.preparation.deduplicate.exact,
            labels=LabelSettings(kind, tuple(self.task.labels), f"{source_place(0)}.{column}"),
            vocabulary_size=tokenizer.vocabulary_size,
            special_token_ids=tokenizer.special_token_ids,
        )
        shards = [
            ExampleShard(step.folder, name, number, kind, tuple(names))
            for number, step in enumerate(encoded)
            for name, names in step.manifest.details["shards"].items()
        ]

        def body(folder: Path) -> StepOutcome:
            self.progress.start("choose", None, "examples")
            outcome = choose_step(shards, options, folder)
            return StepOutcome(outcome.files, outcome.counts, {**outcome.details, "kind": kind})

        inputs = {
            "examples": [step.manifest.key for step in encoded],
            "splits": [source.split for source in data.sources],
            "weights": [source.weight for source in data.sources],
            "validationFraction": data.validation_fraction,
            "exact": options.exact,
            "kind": kind,
            "labels": list(options.labels.given),
        }
        return self.store.run("choose", inputs, body)

    def _template(self, tokenizer_step: FinishedStep) -> ChatTemplate | None:
        """The template that was stored with the tokenizer."""
        if self.task.task != "InstructionTuning":
            return None
        config = json.loads((tokenizer_step.folder / CONFIG_FILE).read_bytes())
        special = {name: token for name, token in config.items() if name.endswith("_token")}
        return ChatTemplate(config["chat_template"], special)


def source_place(number: int) -> str:
    """The place of a source in the spec."""
    return f"spec.data.sources[{number}]"


def label_manifest(task: FineTuning, chosen: FinishedStep) -> LabelManifest | None:
    """The labels in the manifest of a run; None where text is learnt."""
    kind = label_kind(task)
    if not has_classes(kind) and kind != "Number":
        return None
    details = chosen.manifest.details
    return LabelManifest(
        names=tuple(details["names"]),
        training_counts=tuple(details["trainingCounts"]),
        validation_counts=tuple(details["validationCounts"]),
    )


def check_examples(train: SplitManifest, validation: SplitManifest, spec: TrainingRunSpec) -> None:
    """Refuse a division that leaves nothing to judge by, or not one batch to learn from.

    Raises:
        DataError: names the field.
    """
    splits = {source.split for source in spec.data.sources}
    if not validation.rows:
        raise DataError(
            "spec.data.validationFraction" if "ByHash" in splits else "spec.data.sources",
            f"none of {train.documents} examples is held out to evaluate on",
            "Raise data.validationFraction, or add a source with split: Validation",
        )
    batch = spec.training.global_batch_size
    if train.rows < batch:
        raise DataError(
            "spec.training.globalBatchSize",
            f"there are {train.rows} training examples, fewer than one batch of {batch}",
            "Lower globalBatchSize, or add examples",
        )


def label_warnings(
    encoded: Sequence[FinishedStep], chosen: FinishedStep, manifest: LabelManifest | None
) -> tuple[str, ...]:
    """What a person should know about the examples."""
    warnings = []
    if moved := chosen.manifest.counts["moved"]:
        warnings.append(
            f"{moved} examples are trained on that the hash would hold out: "
            "no other training example has one of their labels"
        )
    documents = sum(step.manifest.counts["documents"] for step in encoded)
    cut = sum(step.manifest.counts["truncated"] for step in encoded)
    if cut >= LARGE_CUT_FRACTION * documents:
        warnings.append(
            f"{cut} of {documents} examples are longer than data.sequenceLength and were cut; "
            "a larger one keeps them whole"
        )
    if manifest is not None and 0 in manifest.validation_counts:
        absent = [
            name for name, count in zip(manifest.names, manifest.validation_counts, strict=True) if not count
        ]
        shown = ", ".join(absent[:10])
        warnings.append(f"No held-out example has {len(absent)} of the classes, such as {shown}")
    return tuple(warnings)
