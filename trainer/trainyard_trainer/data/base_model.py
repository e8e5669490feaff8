"""The stored models that a run reads: found, checked and described before any text is read."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.plan import RunPlan
from trainyard_api.rules.data_rules import KEEPS_TOKENIZER
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.data.base_config import (
    CONFIG,
    INDEX,
    MAXIMUM_JSON_BYTES,
    TOKENIZER,
    BaseConfig,
    check_config,
    check_weights,
    parse_object,
    weight_names,
)
from trainyard_trainer.data.existing_tokenizer import WHERE as TOKENIZER_FIELD
from trainyard_trainer.data.existing_tokenizer import parse_tokenizer, read_existing, vocabulary_hash
from trainyard_trainer.data.fetch_model import Choose, fetch_model, open_remote
from trainyard_trainer.data.files import sha256_of_file, write_hashed
from trainyard_trainer.data.manifest import BaseModelManifest, FileRecord, TokenizerManifest, content_hash
from trainyard_trainer.data.model_place import ModelPlace
from trainyard_trainer.data.parallel import Advance
from trainyard_trainer.data.sources import HASH_CACHE, FileHashes
from trainyard_trainer.data.special_tokens import Objective
from trainyard_trainer.data.steps import FinishedStep, StepOutcome, StepStore
from trainyard_trainer.training_record import TRAINING_RECORD

STEP = "base-model"


@dataclass(frozen=True)
class BaseModel:
    """A checked model."""

    manifest: BaseModelManifest
    """What it is."""
    step: FinishedStep
    """Its prepared folder."""
    folder: Path
    """Where its files lie: its own folder, or the prepared one where they were fetched."""
    place: ModelPlace
    """How the plan names it."""

    @property
    def where(self) -> str:
        """The field of the spec that names it."""
        return self.place.where


@dataclass(frozen=True)
class Models:
    """The stored models of a run."""

    base: BaseModel | None
    """The one that it starts from."""
    teacher: BaseModel | None
    """The one that it listens to."""
    is_aligned: bool = False
    """Whether the teacher reads the text by a tokenizer of its own."""

    @property
    def reader(self) -> BaseModel | None:
        """The model whose tokens the run reads; None where its tokenizer does not depend on a model."""
        return next(iter(self.readers), None)

    @property
    def readers(self) -> tuple[BaseModel, ...]:
        """The models that read the run's tokens."""
        models = (self.base, None if self.is_aligned else self.teacher)
        return tuple(model for model in models if model is not None)


@dataclass(frozen=True)
class ChosenTokenizer:
    """The tokenizer of a run that starts from a stored model."""

    content: bytes
    config: bytes
    where: str
    """The field of the spec that it comes from."""


def weights_folder(place: ModelPlace, prepared: Path, manifest: BaseModelManifest) -> Path:
    """Where the weights of a model lie."""
    return place.local or prepared / manifest.folder


def open_base_model(
    place: ModelPlace,
    spec: TrainingRunSpec,
    objective: Objective,
    store: StepStore,
    start: Callable[[], Advance],
) -> BaseModel:
    """Find and check a stored model, and keep its configuration in the prepared folder.

    A model of this machine's file systems is used where it is; others are fetched.

    Args:
        place: the model.
        spec: the run that needs it.
        objective: what it will be trained for.
        store: the prepared folder.
        start: called when bytes begin to be read; returns what is told of them.

    Raises:
        DataError: it is missing, damaged, unsafe or of an unknown kind.
        ConfigurationError: it does not fit the run's objective or its rows.
        TransientError: the hub cannot be reached.
    """
    choose = _choose(place, spec, objective)
    folder = place.local
    if folder is None:
        step = _fetched(place, choose, store, start)
        folder = step.folder
    else:
        step = _local(folder, place, choose, store, start)
    config = check_config((step.folder / CONFIG).read_bytes(), spec, objective, place)
    check_weights(folder, [name for name in step.manifest.details["files"] if name != CONFIG], place.where)
    return BaseModel(_described(place, step, config), step, folder, place)


def choose_tokenizer(plan: RunPlan, reader: BaseModel) -> ChosenTokenizer:
    """A model's own tokenizer, or the one of the spec.

    The vocabulary of a model to start from has to be the same; see `check_teacher_tokenizer` for a teacher's.

    Args:
        plan: the run.
        reader: the model whose tokens it reads; see `Models`.

    Raises:
        ConfigurationError: the spec trains a new one.
        DataError: there is none, or the spec's has another vocabulary.
    """
    spec = plan.spec.tokenizer
    if spec is not None and spec.train is not None:
        raise ConfigurationError("spec.tokenizer.train", *KEEPS_TOKENIZER)
    own = own_tokenizer(reader)
    if spec is None or spec.uri is None:
        if own is None:
            raise DataError(
                reader.where,
                f"{reader.folder} has no {TOKENIZER}",
                "Set spec.tokenizer.uri to the model's tokenizer",
            )
        return own
    chosen = ChosenTokenizer(*read_existing(spec.uri, plan.mounts), TOKENIZER_FIELD)
    if own is not None and reader.place.role == "the model to start from":
        _check_vocabulary(chosen, own, spec.uri, reader)
    return chosen


def check_rows_of_embedding(tokenizer: TokenizerManifest, base: BaseModel, where: str) -> None:
    """Refuse a tokenizer with more entries than the model has rows; more rows than entries are padding.

    Raises:
        DataError: some tokens would have no row.
    """
    rows = base.manifest.vocabulary_size
    if tokenizer.vocabulary_size > rows:
        raise DataError(
            where,
            f"the tokenizer has {tokenizer.vocabulary_size} entries and the model of {base.manifest.uri} "
            f"{rows} rows",
            "Use the tokenizer that the model was trained with",
        )


def own_tokenizer(model: BaseModel) -> ChosenTokenizer | None:
    """The tokenizer that is stored with a model, if one is."""
    if not (model.folder / TOKENIZER).is_file():
        return None
    return ChosenTokenizer(*read_existing(str(model.folder), {}, model.where), model.where)


def read_config(model: BaseModel) -> dict[str, Any]:
    """The configuration of a checked model."""
    return parse_object(_read_bounded(model.step.folder / CONFIG, model.where), model.where, CONFIG)


def _check_vocabulary(chosen: ChosenTokenizer, own: ChosenTokenizer, uri: str, base: BaseModel) -> None:
    given, expected = parse_tokenizer(chosen.content, chosen.where), parse_tokenizer(own.content, own.where)
    hashes = vocabulary_hash(given), vocabulary_hash(expected)
    if hashes[0] != hashes[1]:
        raise DataError(
            chosen.where,
            f"the vocabulary of {uri} ({given.get_vocab_size()} entries, hash {hashes[0][:12]}) is not that "
            f"of {base.manifest.uri} ({expected.get_vocab_size()} entries, hash {hashes[1][:12]})",
            "Remove spec.tokenizer to use the model's own",
        )


def _local(
    folder: Path, place: ModelPlace, choose: Choose, store: StepStore, start: Callable[[], Advance]
) -> FinishedStep:
    """The step of a model that stays where it is; only its configuration is copied."""
    where = place.where
    if not (folder / CONFIG).is_file():
        remedy = (
            "Let that run succeed first; its folder must lie in the same storage"
            if place.run is not None
            else "Name the folder of a stored model, or map it with --mount"
        )
        raise DataError(where, f"{folder} holds no model: it has no {CONFIG}", remedy)
    config = _read_bounded(folder / CONFIG, where)
    weights = choose([path.name for path in folder.iterdir() if path.is_file()], folder)
    hashes = FileHashes(store.root, start())
    local = fsspec.filesystem("file")
    records = [FileRecord(name=CONFIG, size_bytes=len(config), sha256=hashlib.sha256(config).hexdigest())]
    for name in weights:
        path = str((folder / name).absolute())
        info = local.info(path)
        records.append(FileRecord(name=name, size_bytes=info["size"], sha256=hashes(local, path, info)))
    with store.locked(HASH_CACHE):
        hashes.save()
    _check_record(folder, records, where)

    def body(target: Path) -> StepOutcome:
        copied = write_hashed(target, CONFIG, config)
        counts = {"bytes": sum(record.size_bytes for record in records)}
        return StepOutcome((copied,), counts, _details(records))

    return store.run(STEP, {"files": [[record.name, record.sha256] for record in records]}, body)


def _check_record(folder: Path, records: list[FileRecord], where: str) -> None:
    """Refuse files of an exported model that are not those of its training record.

    Raises:
        DataError: one was changed or damaged since.
    """
    path = folder / TRAINING_RECORD
    recorded = parse_object(_read_bounded(path, where), where, path.name) if path.is_file() else {}
    files = recorded.get("files")
    for record in records:
        described = files.get(record.name) if isinstance(files, dict) else None
        if isinstance(described, dict) and described.get("sha256") != record.sha256:
            raise DataError(
                where,
                f"{folder / record.name} is not what {TRAINING_RECORD} beside it describes",
                f"Export the model again, or remove {TRAINING_RECORD} if it was changed on purpose",
            )


def _fetched(
    place: ModelPlace, choose: Choose, store: StepStore, start: Callable[[], Advance]
) -> FinishedStep:
    """The step of a model that is copied from elsewhere."""
    remote = open_remote(place.reference, place.where)

    def body(target: Path) -> StepOutcome:
        weights = fetch_model(remote, target, choose, start())
        files = tuple(_stored(path) for path in sorted(target.iterdir()))
        used = [file for file in files if file.name in {CONFIG, *weights}]
        return StepOutcome(files, {"bytes": sum(file.size_bytes for file in files)}, _details(used))

    return store.run(STEP, {"uri": place.reference, **remote.identity}, body)


def _choose(place: ModelPlace, spec: TrainingRunSpec, objective: Objective) -> Choose:
    """Checks the small files of a model, and tells which files hold its weights."""

    def choose(names: Iterable[str], folder: Path) -> tuple[str, ...]:
        where = place.where
        check_config(_read_bounded(folder / CONFIG, where), spec, objective, place)
        present = list(names)
        index = _read_bounded(folder / INDEX, where) if INDEX in present else None
        return weight_names(present, index, where)

    return choose


def _read_bounded(path: Path, where: str) -> bytes:
    size_bytes = path.stat().st_size
    if size_bytes > MAXIMUM_JSON_BYTES:
        raise DataError(
            where, f"{path} has {size_bytes} bytes, more than {MAXIMUM_JSON_BYTES}", "Store the model again"
        )
    return path.read_bytes()


def _stored(path: Path) -> FileRecord:
    """A fetched file, brought to the disk and described."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return FileRecord(name=path.name, size_bytes=path.stat().st_size, sha256=sha256_of_file(path))


def _details(records: Iterable[FileRecord]) -> dict[str, object]:
    return {"files": {record.name: [record.size_bytes, record.sha256] for record in records}}


def _described(place: ModelPlace, step: FinishedStep, config: BaseConfig) -> BaseModelManifest:
    files = tuple(
        FileRecord(name=name, size_bytes=size_bytes, sha256=sha256)
        for name, (size_bytes, sha256) in sorted(step.manifest.details["files"].items())
    )
    reference = place.reference
    return BaseModelManifest(
        run=place.run,
        uri=reference if "://" in reference else Path(reference).as_uri(),
        hash=content_hash(files),
        folder=step.folder.name,
        files=files,
        model_type=config.model_type,
        vocabulary_size=config.vocabulary_size,
        maximum_positions=config.maximum_positions,
    )
