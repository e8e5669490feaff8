"""From the last committed checkpoint to a Hugging Face folder that stock Transformers loads."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from trainyard_api.errors import ConfigurationError, DataError, StorageFullError
from trainyard_api.names import File
from trainyard_api.plan import RunPlan
from trainyard_api.status import ModelStatus
from trainyard_trainer.checkpoint import (
    CommittedCheckpoint,
    committed_at_step,
    damage,
    latest_committed,
)
from trainyard_trainer.checkpoint_steps import MANIFEST
from trainyard_trainer.comparison import compare_with_teacher
from trainyard_trainer.evaluation.evaluator import keeps_best
from trainyard_trainer.export_weights import TrainedAdapter, trained_weights
from trainyard_trainer.model_card import render_model_card
from trainyard_trainer.models.build import AUTO_CLASSES, ModelKind, model_kind
from trainyard_trainer.models.pretrained import ModelData, model_config
from trainyard_trainer.progress import timestamp, write_json_atomically, write_text_atomically
from trainyard_trainer.task_result import TaskResult, read_task_result
from trainyard_trainer.training_record import (
    TRAINING_RECORD,
    RecordedBase,
    RecordedCheckpoint,
    TrainingRecord,
    describe_file,
    export_key,
    files_are_intact,
    package_versions,
    read_start_record,
    read_training_record,
    sha256_of,
    source_commit,
)
from trainyard_trainer.workload import open_workload

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
)
"""Files of a tokenizer by the names that Transformers reads."""

SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")
Judged = Callable[[PreTrainedModel, Path, TrainingRecord], TrainingRecord]
"""From a loaded model, the folder that it was loaded from and its record to a record that tells more."""

MODEL_CARD = "README.md"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ModelToExport:
    """What goes into the folder."""

    config: PreTrainedConfig
    """The architecture."""
    kind: ModelKind
    """Decides the class that loads it."""
    weights: dict[str, torch.Tensor]
    """fp32 weights by their Transformers names, tied ones once."""
    tokenizer_folder: Path
    """The tokenizer it was trained with."""
    adapter: TrainedAdapter | None = None
    """The adapter that was trained, stored alone too."""


def export(plan: RunPlan, *, clock: Callable[[], float] = time.time) -> ModelStatus:
    """Write `<run folder>/model`, or reuse it when it was exported from the same inputs.

    Args:
        plan: the run.
        clock: Unix time in seconds.

    Raises:
        DataError: there is no committed checkpoint, it is damaged, or the tokenizer does not fit.
        StorageFullError: no space is left.
    """
    checkpoint = _sound_checkpoint(Path(plan.paths.checkpoints), best=keeps_best(plan.spec))
    data = open_workload(plan).data
    folder = Path(plan.paths.model)
    manifest_sha256 = sha256_of(checkpoint.path / MANIFEST)
    key = export_key(plan.spec, data.manifest.hash, manifest_sha256)
    existing = read_training_record(folder)
    if existing is not None and existing.key == key and files_are_intact(folder, existing):
        return _status(folder, existing)

    # A stage tells its progress in progress.json; bars of Transformers would only fill its log.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    weights = trained_weights(plan, data, checkpoint)
    config = model_config(plan.spec, data, special_token_ids(data.tokenizer_folder))
    record = _record(
        plan,
        data,
        checkpoint,
        key=key,
        manifest_sha256=manifest_sha256,
        num_parameters=sum(tensor.numel() for tensor in weights.model.values()),
        now=clock(),
    )
    model = ModelToExport(
        config, model_kind(plan.spec), weights.model, data.tokenizer_folder, weights.adapter
    )
    return _status(folder, write_model_folder(folder, model, record, partial(_compared, plan)))


def _sound_checkpoint(folder: Path, *, best: bool) -> CommittedCheckpoint:
    """The newest checkpoint, or the one of the best evaluation that it tells of."""
    checkpoint = latest_committed(folder)
    if checkpoint is None:
        raise DataError(str(folder), "there is no committed checkpoint to export", "Train first")
    best_step = checkpoint.manifest.state.selection.best_step if best else None
    if best_step is not None:
        chosen = committed_at_step(folder, best_step)
        if chosen is None:
            raise DataError(
                str(folder),
                f"the checkpoint of step {best_step}, where the evaluation was best, is gone",
                "Restore it, or remove the later ones and start the run again to train those steps again",
            )
        checkpoint = chosen
    problem = damage(checkpoint)
    if problem is not None:
        raise DataError(
            str(checkpoint.path),
            problem,
            "Remove the folder and start the run again to train those steps again",
        )
    return checkpoint


def _record(  # noqa: PLR0913 - the record brings everything about a model together
    plan: RunPlan,
    data: ModelData,
    checkpoint: CommittedCheckpoint,
    *,
    key: str,
    manifest_sha256: str,
    num_parameters: int,
    now: float,
) -> TrainingRecord:
    state = checkpoint.manifest.state
    return TrainingRecord(
        key=key,
        run=plan.name,
        objective=plan.spec.language_modeling.objective if plan.spec.language_modeling else "",
        parameters=num_parameters,
        steps=state.step,
        tokens=state.tokens,
        training_seconds=round(state.train_seconds, 3),
        seed=plan.spec.training.seed,
        evaluation_loss=state.evaluation_loss,
        evaluation=_evaluation(Path(plan.paths.run_folder), checkpoint.step),
        unigram_entropy=data.manifest.unigram_entropy,
        frequency_loss=data.manifest.frequency_loss,
        data_hash=data.manifest.hash,
        base=_base(Path(plan.paths.run_folder), data),
        data=data.manifest.model_dump(mode="json", by_alias=True),
        spec=plan.spec,
        checkpoint=RecordedCheckpoint(
            step=checkpoint.step, committed_at=checkpoint.committed_at, manifest_sha256=manifest_sha256
        ),
        versions=package_versions(),
        git_commit=source_commit(Path(__file__).parent),
        created_at=timestamp(now),
    )


def _compared(
    plan: RunPlan, exported: PreTrainedModel, folder: Path, record: TrainingRecord
) -> TrainingRecord:
    """The record with the model beside its teacher, where it has one.

    A teacher that is gone by now, or too large for the machine that exports, does not keep a trained model
    from being exported; the record says so.
    """
    adapter = plan.spec.fine_tuning.adaptation.adapter if plan.spec.fine_tuning is not None else None
    if plan.spec.distillation is None:
        return record
    size_bytes = _weights_bytes(folder)
    if adapter is not None and not adapter.merge:
        from trainyard_trainer.models.adapters import load_adapter  # noqa: PLC0415 - slow to import

        load_adapter(folder / File.ADAPTER, exported, adapter)
        size_bytes += _weights_bytes(folder / File.ADAPTER)
    try:
        comparison = compare_with_teacher(plan, exported, size_bytes)
    except (ConfigurationError, DataError) as error:
        return record.model_copy(update={"comparison_problem": str(error)})
    return record.model_copy(update={"comparison": comparison})


def _base(run_folder: Path, data: ModelData) -> RecordedBase | None:
    """Where the first weights came from; the run folder tells which of them the stored model lacked."""
    base = data.manifest.base_model
    if base is None:
        return None
    recorded = RecordedBase(run=base.run, uri=base.uri, hash=base.hash, model_type=base.model_type)
    start = read_start_record(run_folder)
    if start is None or start.hash != base.hash:
        return recorded
    return recorded.model_copy(update={"initialised": start.initialised, "unused": start.unused})


def _evaluation(run_folder: Path, step: int) -> TaskResult | None:
    """How well the weights of a step do their task."""
    result = read_task_result(run_folder)
    return result if result is not None and result.step == step else None


def _status(folder: Path, record: TrainingRecord) -> ModelStatus:
    return ModelStatus(
        uri=folder.as_uri(),
        parameters=record.parameters,
        evaluation_loss=record.evaluation_loss,
        metrics=record.evaluation.metrics if record.evaluation else None,
        comparison=record.comparison,
    )


def special_token_ids(tokenizer_folder: Path) -> dict[str, int]:
    """The ids of the tokenizer's special tokens by their configuration names; those it lacks are left out."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    ids = {name: getattr(tokenizer, name) for name in SPECIAL_TOKENS}
    return {name: token_id for name, token_id in ids.items() if token_id is not None}


def write_model_folder(
    folder: Path, model: ModelToExport, record: TrainingRecord, judged: Judged | None = None
) -> TrainingRecord:
    """Write the folder under a temporary name, load it with stock Transformers, compare, and rename it.

    Args:
        folder: where the model goes.
        model: the model.
        record: how it came about.
        judged: adds to the record what the loaded model shows.

    Returns:
        The record as it was written, with the hashes of the files.

    Raises:
        DataError: what Transformers loads differs from the checkpoint.
        StorageFullError: no space is left.
    """
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        _write_files(temporary, model)
        loaded = verify_model_folder(temporary, model)
        if judged is not None:
            record = judged(loaded, temporary, record)
        card = render_model_card(record, weights_bytes=_weights_bytes(temporary))
        write_text_atomically(temporary / MODEL_CARD, card)
        files = (path for path in temporary.rglob("*") if path.is_file())
        names = sorted(path.relative_to(temporary).as_posix() for path in files)
        complete = record.model_copy(
            update={"files": {name: describe_file(temporary / name) for name in names}}
        )
        write_json_atomically(temporary / TRAINING_RECORD, complete)
        _replace_folder(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                str(folder), "no space is left for the model", "Free space and start the run again"
            ) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return complete


def _weights_bytes(folder: Path) -> int:
    """Size of the files of weights in a folder."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_files(folder: Path, model: ModelToExport) -> None:
    network = _network(model)
    network.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (model.tokenizer_folder / name).is_file():
            shutil.copyfile(model.tokenizer_folder / name, folder / name)
    if model.adapter is not None:
        model.adapter.save(folder)


def _network(model: ModelToExport) -> PreTrainedModel:
    """The model with the checkpoint's weights; made without storage, so that no weights are drawn in vain.

    Raises:
        DataError: the checkpoint belongs to another architecture.
    """
    with torch.device("meta"):
        network: PreTrainedModel = AUTO_CLASSES[model.kind].from_config(  # type: ignore[no-untyped-call]
            model.config, dtype=torch.float32
        )
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    foreign = [name for name, tensor in model.weights.items() if shapes.get(name) != tensor.shape]
    if foreign:
        raise DataError(
            "checkpoint",
            f"it holds weights of another architecture: {foreign[:3]}",
            "Export the run's own checkpoint",
        )
    network.load_state_dict(model.weights, strict=False, assign=True)
    network.tie_weights()
    missing = [name for name, parameter in network.named_parameters() if parameter.is_meta]
    if missing:
        raise DataError("checkpoint", f"it lacks weights: {missing[:3]}", "Export an undamaged checkpoint")
    if model.kind == "CausalLM":
        network.generation_config = GenerationConfig.from_model_config(model.config)
    return network


def verify_model_folder(folder: Path, model: ModelToExport) -> PreTrainedModel:
    """Load the folder as a user would and compare every weight bit by bit.

    Returns:
        What was loaded.

    Raises:
        DataError: keys are missing or unexpected, a weight differs, ties are lost, or the tokenizer does not
        fit.
    """
    loaded, info = AUTO_CLASSES[model.kind].from_pretrained(
        folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
    )
    remedy = "This is a fault of the export; the checkpoint is intact"
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise DataError(str(folder), f"Transformers reports {kind}: {sorted(info[kind])[:3]}", remedy)
    state = loaded.state_dict()
    changed = [name for name, tensor in model.weights.items() if not torch.equal(state[name], tensor)]
    if changed:
        raise DataError(str(folder), f"weights changed on the way: {changed[:3]}", remedy)
    head = loaded.get_output_embeddings()
    tied = head is not None and head.weight is loaded.get_input_embeddings().weight
    if head is not None and tied != model.config.tie_word_embeddings:
        raise DataError(str(folder), "tied embeddings were not restored as they were", remedy)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > model.config.vocab_size:
        raise DataError(
            str(folder),
            f"the tokenizer has {len(tokenizer)} entries and the model {model.config.vocab_size}",
            "Export with the tokenizer that the run was trained with",
        )
    return cast("PreTrainedModel", loaded)


def _replace_folder(temporary: Path, folder: Path) -> None:
    """Put a finished folder in its place; after a crash in between, the next export makes it again."""
    for path in (*temporary.rglob("*"), temporary):
        _sync(path)
    if folder.exists():
        shutil.rmtree(folder)
    temporary.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
