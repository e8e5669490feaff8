"""Preparation of a run's data, from sources to rows: `prepare`, the file to read first.

    base model -> extract (one step per source) -> deduplicate -> tokenizer -> tokenize -> pack
    base model -> tokenizer -> encode (one step per source) -> choose, where a task has labels

Where `data.preparation.shards` is above 1, `read_shard` in other processes has made the units of extract or
encode before, and `prepare` finds them there (`unit_steps`).

Each step is addressed by the hash of its inputs, so that a second run reuses everything, and a change
redoes only what depends on it.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import File
from trainyard_api.plan import RunPlan
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.align_step import AlignedText, Alignment, align_tokens
from trainyard_trainer.data.base_model import (
    BaseModel,
    ChosenTokenizer,
    Models,
    check_rows_of_embedding,
    choose_tokenizer,
    open_base_model,
    read_config,
)
from trainyard_trainer.data.checks import check_rows, check_source, packing_warnings
from trainyard_trainer.data.deduplicate import DUPLICATES, deduplicate
from trainyard_trainer.data.described_sources import describe_sources
from trainyard_trainer.data.existing_tokenizer import parse_config, read_existing
from trainyard_trainer.data.extract import finish_extraction
from trainyard_trainer.data.extract_work import extract_settings, extract_work
from trainyard_trainer.data.labelled.chat import chosen_template
from trainyard_trainer.data.labelled.class_weights import refuse_given_weights
from trainyard_trainer.data.labelled.prepare import (
    LabelledSteps,
    check_examples,
    label_manifest,
    label_warnings,
    source_place,
)
from trainyard_trainer.data.labelled.task import labelled_task, objective_of
from trainyard_trainer.data.manifest import (
    DataManifest,
    SplitManifest,
    TokenizerManifest,
    hash_of,
)
from trainyard_trainer.data.model_place import ModelPlace, base_place, teacher_place
from trainyard_trainer.data.pack_step import PackOptions, pack_shards
from trainyard_trainer.data.parallel import Pool
from trainyard_trainer.data.progress import PrepareReport, StepProgress
from trainyard_trainer.data.read_share import WorkOf, read_share
from trainyard_trainer.data.shards import open_token_shard
from trainyard_trainer.data.sources import (
    HASH_CACHE,
    FileHashes,
    InputFile,
    contents_hash,
    list_files,
)
from trainyard_trainer.data.special_tokens import Objective
from trainyard_trainer.data.steps import FinishedStep, StepOutcome, StepStore
from trainyard_trainer.data.teacher_task import check_teacher_task
from trainyard_trainer.data.teacher_tokenizer import check_teacher_tokenizer, teacher_tokenizer
from trainyard_trainer.data.text_shards import TextShard, list_shards
from trainyard_trainer.data.tokenize_step import TokenizeTask, tokenize_shard
from trainyard_trainer.data.tokenizer import RECIPE, check_vocabulary_size
from trainyard_trainer.data.tokenizer_step import (
    TrainingTask,
    describe_tokenizer,
    train_in_process,
    write_existing,
    write_trained,
)
from trainyard_trainer.data.unit_steps import UnitReader
from trainyard_trainer.data.units import divide
from trainyard_trainer.progress import write_json_atomically


def prepare(
    plan: RunPlan,
    *,
    report: PrepareReport,
    cores: int,
    should_stop: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> DataManifest:
    """Run or reuse every preparation step, and write `data.json` into the run folder.

    Args:
        plan: the run.
        report: told about progress as (step, done, total or None, unit).
        cores: worker processes at most; 0 takes all cores that this process may use.
        should_stop: whether to give up.
        clock: seconds that only grow.

    Raises:
        DataError: a source or tokenizer cannot be used, or there is too little text.
        ConfigurationError: the spec cannot work.
        StorageFullError: no space is left.
        PreemptedError: should_stop became true.
    """
    manifest = _preparation(plan, report, cores, should_stop, clock).run()
    run_folder = Path(plan.paths.run_folder)
    run_folder.mkdir(parents=True, exist_ok=True)
    write_json_atomically(run_folder / File.DATA, manifest)
    return manifest


def read_shard(  # noqa: PLR0913 - as `prepare`, and which shard
    plan: RunPlan,
    shard: int,
    *,
    report: PrepareReport,
    cores: int,
    should_stop: Callable[[], bool],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Read the units of one shard, or find that they are read; `prepare` needs those of all shards.

    Args:
        plan: the run.
        shard: number of the shard, from 0.
        report: as for `prepare`.
        cores: as for `prepare`.
        should_stop: as for `prepare`.
        clock: as for `prepare`.

    Raises:
        as `prepare`.
    """
    _preparation(plan, report, cores, should_stop, clock).read(shard)


def _preparation(
    plan: RunPlan,
    report: PrepareReport,
    cores: int,
    should_stop: Callable[[], bool],
    clock: Callable[[], float],
) -> "_Preparation":
    prepared = Path(plan.paths.prepared)
    prepared.mkdir(parents=True, exist_ok=True)
    pool = Pool(cores or len(os.sched_getaffinity(0)), should_stop)
    return _Preparation(
        plan=plan,
        store=StepStore(prepared, should_stop, clock),
        pool=pool,
        reader=UnitReader(prepared, plan.spec.data.preparation.shards, pool),
        progress=StepProgress(report, should_stop, clock),
    )


@dataclass(frozen=True)
class _Preparation:
    """The steps of one run, each in a method."""

    plan: RunPlan
    store: StepStore
    pool: Pool
    reader: UnitReader
    progress: StepProgress

    def run(self) -> DataManifest:
        models = self.models()
        files = self.list_sources()
        task = labelled_task(self.plan.spec)
        if task is not None:
            return self.labelled(task, models, files)
        extracted = [self.extract(number, files[number]) for number in range(len(files))]
        shards = list_shards(extracted)
        deduplicated = self.deduplicate(extracted, shards)
        if models.reader is None:
            tokenizer_step = self.tokenizer(extracted, deduplicated, shards)
        else:
            tokenizer_step = self.tokenizer_of(models.reader, models)
        tokenizer = describe_tokenizer(tokenizer_step)
        tokenized = self.tokenize(deduplicated, tokenizer_step, tokenizer, shards)
        aligned = self.align(models, deduplicated, tokenizer_step, shards)
        packed = self.pack(tokenized, tokenizer, shards)
        steps = (*extracted, deduplicated, tokenizer_step, tokenized)
        if aligned is None:
            return self.manifest(files, extracted, deduplicated, (*steps, packed), tokenizer, models)
        manifest = self.manifest(
            files, extracted, deduplicated, (*steps, aligned.step, packed), tokenizer, models
        )
        return manifest.model_copy(update={"teacher_tokenizer": aligned.tokenizer}).with_hash()

    def read(self, shard: int) -> None:
        task, root = labelled_task(self.plan.spec), self.store.root
        work_of: WorkOf = partial(extract_work, self.plan.spec.data, folder=root)
        if task is not None:
            tokenizer_step = self.tokenizer_of_task(self.models())
            steps = LabelledSteps(self.plan, task, self.store, self.reader, self.progress)
            work_of = partial(
                steps.encode_work,
                folder=root,
                tokenizer_step=tokenizer_step,
                tokenizer=describe_tokenizer(tokenizer_step),
            )
        read_share(self.plan, shard, self.store, self.reader, self.progress, work_of)

    def tokenizer_of_task(self, models: Models) -> FinishedStep:
        return self.stored_tokenizer() if models.reader is None else self.tokenizer_of(models.reader, models)

    def labelled(self, task: FineTuning, models: Models, files: list[list[InputFile]]) -> DataManifest:
        tokenizer_step = self.tokenizer_of_task(models)
        tokenizer = describe_tokenizer(tokenizer_step)
        steps = LabelledSteps(self.plan, task, self.store, self.reader, self.progress)
        encoded = [
            steps.encode(number, found, tokenizer_step, tokenizer) for number, found in enumerate(files)
        ]
        chosen = steps.choose(encoded, tokenizer)
        labels = label_manifest(task, chosen)
        refuse_given_weights(task.class_balance, labels)
        if (teacher := models.teacher) is not None:
            names = () if labels is None else labels.names
            check_teacher_task(read_config(teacher), task, names, teacher.where)
        finished = (*encoded, tokenizer_step, chosen)
        manifest = self.manifest(files, encoded, chosen, finished, tokenizer, models)
        described = {"labels": labels, "warnings": label_warnings(encoded, chosen, labels)}
        return manifest.model_copy(update=described).with_hash()

    @property
    def objective(self) -> Objective:
        task = labelled_task(self.plan.spec)
        if task is not None:
            return objective_of(task)
        if self.plan.spec.language_modeling is None:
            raise ConfigurationError("spec", "it trains no language model", "Set spec.pretraining")
        return self.plan.spec.language_modeling.objective

    def models(self) -> Models:
        return Models(
            base=self.stored_model(base_place(self.plan), "base model"),
            teacher=self.stored_model(teacher_place(self.plan), "teacher"),
            is_aligned=self.plan.spec.aligns_tokens,
        )

    def stored_model(self, place: ModelPlace | None, name: str) -> BaseModel | None:
        if place is None:
            return None
        return open_base_model(
            place,
            self.plan.spec,
            self.objective,
            self.store,
            lambda: self.progress.start(name, None, "bytes"),
        )

    def list_sources(self) -> list[list[InputFile]]:
        advance = self.progress.start("list", None, "bytes")
        hashes = FileHashes(self.store.root, advance)
        sources = self.plan.spec.data.sources
        files = [
            list_files(source, source_place(number), self.plan.mounts, hashes, advance)
            for number, source in enumerate(sources)
        ]
        with self.store.locked(HASH_CACHE):
            hashes.save()
        return files

    def extract(self, number: int, files: list[InputFile]) -> FinishedStep:
        data, source = self.plan.spec.data, self.plan.spec.data.sources[number]
        total = sum(file.size_bytes for file in files)

        def body(folder: Path) -> StepOutcome:
            units = divide(files, source)
            work = extract_work(data, number, files, dict(enumerate(units)), folder)
            advance = self.progress.start(f"extract {source.name}", total, "bytes")
            return finish_extraction(folder, self.reader.read(work, advance), units)

        inputs = {"files": contents_hash(files), **extract_settings(data, number)}
        step = self.store.run("extract", inputs, body)
        check_source(step, source, source_place(number), data.preparation.maximum_invalid_fraction)
        return step

    def deduplicate(self, extracted: list[FinishedStep], shards: list[TextShard]) -> FinishedStep:
        exact = self.plan.spec.data.preparation.deduplicate.exact
        sources = [step.manifest.key for step in extracted]
        total = sum(shard.num_documents for shard in shards)

        def body(folder: Path) -> StepOutcome:
            advance = self.progress.start("deduplicate", total, "documents")
            if not exact:
                return StepOutcome(
                    (), {"documents": total, "duplicates": 0}, {"perSource": [0] * len(sources)}
                )
            return deduplicate(shards, len(extracted), folder, advance)

        return self.store.run("deduplicate", {"sources": list(sources), "exact": exact}, body)

    def tokenizer(
        self, extracted: list[FinishedStep], deduplicated: FinishedStep, shards: list[TextShard]
    ) -> FinishedStep:
        spec, objective = self.plan.spec.tokenizer, self.objective
        if spec is None or spec.train is None:
            return self.stored_tokenizer()
        check_vocabulary_size(spec.train, objective)
        training = TrainingTask(
            spec=spec.train,
            objective=objective,
            shards=shards,
            duplicates=_duplicates_file(deduplicated),
            validation_fraction=self.plan.spec.data.validation_fraction,
            num_characters=sum(step.manifest.counts["characters"] for step in extracted),
        )
        num_passes = 1 if spec.train.algorithm == "BPE" else 2
        total = num_passes * sum(shard.size_bytes for shard in shards)

        def body(folder: Path) -> StepOutcome:
            advance = self.progress.start("tokenizer", total, "bytes")
            [(content, characters)] = self.pool.run(train_in_process, [training], advance, always_spawn=True)
            return write_trained(folder, content, characters, objective)

        inputs = {
            "train": spec.train.model_dump(mode="json"),
            "objective": objective,
            "text": deduplicated.manifest.key,
            "validationFraction": training.validation_fraction,
            "recipe": RECIPE,
        }
        return self.store.run("tokenizer", inputs, body)

    def tokenizer_of(self, reader: BaseModel, models: Models) -> FinishedStep:
        chosen = choose_tokenizer(self.plan, reader)
        step = self.existing_tokenizer(chosen)
        for model in models.readers:
            check_rows_of_embedding(describe_tokenizer(step), model, chosen.where)
        check_teacher_tokenizer(chosen, models)
        return step

    def stored_tokenizer(self) -> FinishedStep:
        spec = self.plan.spec.tokenizer
        if spec is None or spec.uri is None:
            raise ConfigurationError(
                "spec.tokenizer", "it is not set", "Set tokenizer.train or tokenizer.uri"
            )
        found = read_existing(spec.uri, self.plan.mounts)
        return self.existing_tokenizer(ChosenTokenizer(*found, where="spec.tokenizer.uri"))

    def existing_tokenizer(self, chosen: ChosenTokenizer, name: str = "tokenizer") -> FinishedStep:
        content, config, objective = chosen.content, chosen.config, self.objective
        inputs = {"content": hash_of(content.hex()), "config": hash_of(config.hex()), "objective": objective}
        task, template = labelled_task(self.plan.spec), ""
        if task is not None and task.task == "InstructionTuning":
            template = chosen_template(task.chat_template, parse_config(config, chosen.where))
            inputs["template"] = template
        return self.store.run(
            name,
            inputs,
            lambda folder: write_existing(folder, content, config, objective, chosen.where, template),
        )

    def tokenize(
        self,
        deduplicated: FinishedStep,
        tokenizer_step: FinishedStep,
        tokenizer: TokenizerManifest,
        shards: list[TextShard],
    ) -> FinishedStep:
        names = [f"{number:06d}" for number in range(len(shards))]

        def body(folder: Path) -> StepOutcome:
            tasks = [
                TokenizeTask(
                    shard=shard,
                    name=name,
                    duplicates=_duplicates_file(deduplicated),
                    tokenizer_folder=tokenizer_step.folder,
                    vocabulary_size=tokenizer.vocabulary_size,
                    folder=folder,
                )
                for shard, name in zip(shards, names, strict=True)
            ]
            advance = self.progress.start("tokenize", sum(shard.size_bytes for shard in shards), "bytes")
            results = self.pool.run(tokenize_shard, tasks, advance)
            counts = {
                "documents": sum(result.documents for result in results),
                "tokens": sum(result.tokens for result in results),
                "shards": len(results),
                "shards_by_reference": sum(result.used_reference for result in results),
            }
            files = tuple(file for result in results for file in result.files)
            return StepOutcome(files, counts, {"shards": list(names)})

        inputs = {"text": deduplicated.manifest.key, "tokenizer": tokenizer.hash}
        return self.store.run("tokenize", inputs, body)

    def align(
        self,
        models: Models,
        deduplicated: FinishedStep,
        tokenizer_step: FinishedStep,
        shards: list[TextShard],
    ) -> Alignment | None:
        if models.teacher is None or not models.is_aligned:
            return None
        teacher_step = self.existing_tokenizer(teacher_tokenizer(models.teacher), "teacher-tokenizer")
        check_rows_of_embedding(describe_tokenizer(teacher_step), models.teacher, models.teacher.where)
        text = AlignedText(shards, _duplicates_file(deduplicated), deduplicated.manifest.key)
        return align_tokens(text, (tokenizer_step, teacher_step), self.store, self.pool, self.progress)

    def pack(
        self, tokenized: FinishedStep, tokenizer: TokenizerManifest, shards: list[TextShard]
    ) -> FinishedStep:
        data = self.plan.spec.data
        options = PackOptions(
            sequence_length=data.sequence_length,
            objective=self.objective,
            enabled=data.packing.enabled,
            seed=self.plan.spec.training.seed,
            validation_fraction=data.validation_fraction,
            weights=tuple(source.weight for source in data.sources),
            vocabulary_size=tokenizer.vocabulary_size,
        )

        def body(folder: Path) -> StepOutcome:
            advance = self.progress.start("pack", tokenized.manifest.counts["tokens"], "tokens")
            opened = [
                (open_token_shard(tokenized.folder, f"{number:06d}", options.vocabulary_size), shard.source)
                for number, shard in enumerate(shards)
            ]
            return pack_shards(opened, options, folder, advance)

        inputs = {
            "tokens": tokenized.manifest.key,
            "sequenceLength": options.sequence_length,
            "objective": options.objective,
            "packing": options.enabled,
            "seed": options.seed,
            "validationFraction": options.validation_fraction,
            "weights": list(options.weights),
        }
        return self.store.run("pack", inputs, body)

    def manifest(  # noqa: PLR0913, PLR0917 - the record brings everything about the data together
        self,
        files: list[list[InputFile]],
        extracted: list[FinishedStep],
        deduplicated: FinishedStep,
        steps: tuple[FinishedStep, ...],
        tokenizer: TokenizerManifest,
        models: Models,
    ) -> DataManifest:
        packed = steps[-1].manifest
        train, validation = (
            SplitManifest(**{name: packed.counts[f"{split}_{name}"] for name in SplitManifest.model_fields})
            for split in ("train", "validation")
        )
        data = self.plan.spec.data
        is_labelled = labelled_task(self.plan.spec) is not None
        (check_examples if is_labelled else check_rows)(train, validation, self.plan.spec)
        positions = train.rows * data.sequence_length
        manifest = DataManifest(
            prepared=os.path.relpath(self.store.root, self.plan.paths.run_folder),
            sequence_length=data.sequence_length,
            sources=describe_sources(data.sources, files, extracted, deduplicated),
            steps=tuple(step.summary() for step in steps),
            tokenizer=tokenizer,
            base_model=models.base.manifest if models.base is not None else None,
            teacher=models.teacher.manifest if models.teacher is not None else None,
            unigram_entropy=packed.details["unigramEntropy"],
            frequency_loss=packed.details[
                "frequencyLoss"
                if is_labelled
                else "maskedFrequencyLoss"
                if self.objective == "MaskedLM"
                else "unigramEntropy"
            ],
            train=train,
            validation=validation,
            packing_efficiency=train.tokens / positions,
            warnings=() if is_labelled else packing_warnings(train, self.plan.spec),
        )
        return manifest.with_hash()


def _duplicates_file(deduplicated: FinishedStep) -> Path | None:
    return deduplicated.folder / DUPLICATES if deduplicated.manifest.files else None
