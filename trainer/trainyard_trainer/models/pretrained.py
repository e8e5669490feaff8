"""Models that start from stored weights: what Transformers may see, load and initialise."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.base_config import CONFIG
from trainyard_trainer.data.base_model import weights_folder
from trainyard_trainer.data.files import sha256_of_file
from trainyard_trainer.data.labelled.task import PROBLEM_TYPES
from trainyard_trainer.data.manifest import BaseModelManifest, DataManifest
from trainyard_trainer.data.model_place import ModelPlace, base_field, base_place
from trainyard_trainer.models.architecture import served_objective
from trainyard_trainer.models.build import AUTO_CLASSES, ModelKind, build_config
from trainyard_trainer.models.student import student_config
from trainyard_trainer.training_record import StartRecord

POOLER = "pooler"
"""Part of BERT's body between the first token and the head of a classifier; language models have none."""

NUMBER = "value"
"""Name of the one output of a regression."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with stored weights."""

    model: PreTrainedModel
    """In fp32 on the CPU."""
    initialised: tuple[str, ...]
    """Weights of the head that the stored model lacks, drawn from the seed; ascending."""
    unused: tuple[str, ...]
    """Stored weights that the objective has no place for, such as another head; ascending."""

    def record(self, base_hash: str) -> StartRecord:
        """What the run folder keeps of it."""
        return StartRecord(hash=base_hash, initialised=self.initialised, unused=self.unused)


class ModelData(Protocol):
    """What a model has to know of its data.

    Attributes:
        manifest: what was prepared.
        prepared: the prepared folder of the storage.
        tokenizer_folder: the tokenizer; stock Transformers loads it.
    """

    @property
    def manifest(self) -> DataManifest: ...  # noqa: D102 - see the class
    @property
    def prepared(self) -> Path: ...  # noqa: D102
    @property
    def tokenizer_folder(self) -> Path: ...  # noqa: D102


def model_config(
    spec: TrainingRunSpec, data: ModelData, special_token_ids: dict[str, int] | None = None
) -> PreTrainedConfig:
    """The Transformers configuration of a run: the stored model's own, or that of an architecture.

    Args:
        spec: the desired state.
        data: the prepared data, which holds the configuration of a stored model.
        special_token_ids: see `build_config`; a stored model keeps its own.

    Raises:
        ConfigurationError: preset or override is wrong.
        DataError: the stored configuration was changed.
    """
    base, teacher = data.manifest.base_model, data.manifest.teacher
    if spec.model.from_teacher is not None and teacher is not None:
        of_teacher = stored_config(data.prepared, teacher, "spec.distillation.teacher")
        config = student_config(of_teacher, spec.model.from_teacher)
    elif base is None:
        config = _new_config(spec, data.manifest, special_token_ids)
    else:
        config = stored_config(data.prepared, base, base_field(spec))
    if spec.fine_tuning is not None:
        _set_task(config, spec.fine_tuning, data.manifest)
    return config


def stored_config(prepared: Path, base: BaseModelManifest, where: str) -> PreTrainedConfig:
    """The configuration of a stored model, as it was checked.

    Raises:
        DataError: it was changed since; the error names the field `where`.
    """
    folder = prepared / base.folder
    _check_files(folder, [CONFIG], base, where)
    return cast("PreTrainedConfig", AutoConfig.from_pretrained(folder, local_files_only=True))


def _new_config(
    spec: TrainingRunSpec, manifest: DataManifest, special_token_ids: dict[str, int] | None
) -> PreTrainedConfig:
    """The configuration of a model with random weights."""
    architecture = spec.model.architecture
    if architecture is None:
        raise ConfigurationError("spec.model", "the model to start from was not prepared", "Prepare again")
    tokenizer = manifest.tokenizer
    # Where the end of a document also pads, a padding row, which starts at zero and gets no gradient as an
    # input (Llama), would be the row of a token that every document has.
    is_shared = tokenizer.pad_token_id in {tokenizer.prefix_token_id, tokenizer.suffix_token_id}
    return build_config(
        architecture,
        vocabulary_size=tokenizer.vocabulary_size,
        pad_token_id=None if is_shared else tokenizer.pad_token_id,
        objective=served_objective(spec),
        special_token_ids=special_token_ids,
    )


def _set_task(config: PreTrainedConfig, fine_tuning: FineTuning, manifest: DataManifest) -> None:
    """Put the classes of a task into a configuration, where stock Transformers looks for them."""
    if fine_tuning.task == "SequenceClassification":
        config.problem_type = PROBLEM_TYPES[fine_tuning.problem]
    elif fine_tuning.task != "TokenClassification":
        return
    names = manifest.labels.names if manifest.labels is not None and manifest.labels.names else (NUMBER,)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def load_base_model(plan: RunPlan, data: ModelData, kind: ModelKind) -> LoadedModel | None:
    """The stored model that a run starts from; None where its weights are random.

    Raises:
        DataError: see `load_stored_model`.
    """
    place, base = base_place(plan), data.manifest.base_model
    if place is None or base is None:
        return None
    config = model_config(plan.spec, data)
    return load_stored_model(place, data.prepared, base, config, kind, seed=plan.spec.training.seed)


def load_stored_model(  # noqa: PLR0913 - what describes a model, and what it is loaded as
    place: ModelPlace,
    prepared: Path,
    base: BaseModelManifest,
    config: PreTrainedConfig,
    kind: ModelKind,
    *,
    seed: int,
) -> LoadedModel:
    """A stored model, equal on every rank.

    Args:
        place: how the plan names it.
        prepared: the prepared folder of the storage.
        base: what it was when it was checked.
        config: its configuration, with the run's own classes.
        kind: what it computes behind its body.
        seed: decides the weights that it lacks.

    Raises:
        DataError: its files changed since they were checked, or its weights do not fit its configuration.
    """
    where = place.where
    weights = [file.name for file in base.files if file.name != CONFIG]
    folder = weights_folder(place, prepared, base)
    _check_files(folder, weights, base, where)
    with _only(folder, weights) as view, _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "CausalLM":
            # Transformers looks for these settings of generation, and fails where it finds none.
            GenerationConfig.from_model_config(config).save_pretrained(view)
        try:
            model, info = AUTO_CLASSES[kind].from_pretrained(
                view,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                output_loading_info=True,
                attn_implementation="sdpa",
                dtype=torch.float32,
            )
        except (RuntimeError, ValueError) as error:
            raise DataError(
                where, f"the weights of {folder} do not fit its {CONFIG}: {error}", "Store the model again"
            ) from error
    loaded = LoadedModel(
        cast("PreTrainedModel", model),
        tuple(sorted(info["missing_keys"])),
        tuple(sorted(info["unexpected_keys"])),
    )
    _check_body(loaded, folder, where)
    return loaded


def _check_body(loaded: LoadedModel, folder: Path, where: str) -> None:
    """Refuse stored weights that lack a part of the body or have more of it: the configuration is another's.

    Only heads may differ, since each objective has its own, and the pooler, which only classifiers use.
    """
    body = loaded.model.base_model
    prefix = f"{loaded.model.base_model_prefix}."
    parts = {name for name, _ in body.named_children()}
    pooler = f"{prefix}{POOLER}."
    lacking = [name for name in loaded.initialised if name.startswith(prefix) and not name.startswith(pooler)]
    foreign = [name for name in loaded.unused if name.removeprefix(prefix).partition(".")[0] in parts]
    for names, problem in (
        (lacking, f"the weights of {folder} lack"),
        (foreign, f"the {CONFIG} of {folder} has no place for"),
    ):
        if names:
            raise DataError(where, f"{problem} {', '.join(names[:3])}", "Store the model again, whole")


def _check_files(folder: Path, names: list[str], base: BaseModelManifest, where: str) -> None:
    """Refuse files that are not those that Prepare checked."""
    expected = {file.name: file.sha256 for file in base.files}
    for name in names:
        try:
            found = sha256_of_file(folder / name)
        except OSError as error:
            raise DataError(
                where, f"{folder / name} cannot be read: {error.strerror}", "Restore it and run again"
            ) from error
        if found != expected[name]:
            raise DataError(
                where, f"{folder / name} changed since it was checked", "Run again to check it anew"
            )


@contextmanager
def _only(folder: Path, names: list[str]) -> Iterator[Path]:
    """A folder with nothing but some files of another: Transformers would follow an adapter beside them."""
    with tempfile.TemporaryDirectory(prefix="trainyard-model-") as temporary:
        view = Path(temporary)
        for name in names:
            (view / name).symlink_to((folder / name).resolve())
        yield view


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the report and bars of Transformers; an event tells what was initialised."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
