"""Models that start from stored weights: what Transformers may see, load and initialise."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from trainyard_api.errors import ConfigurationError, DataError
from trainyard_api.plan import RunPlan
from trainyard_api.spec import TrainingRunSpec
from trainyard_trainer.data.base_config import CONFIG, base_field
from trainyard_trainer.data.base_model import weights_folder
from trainyard_trainer.data.dataset import PreparedData
from trainyard_trainer.data.files import sha256_of_file
from trainyard_trainer.data.manifest import BaseModelManifest
from trainyard_trainer.models.build import AUTO_CLASSES, build_config
from trainyard_trainer.models.families import Objective
from trainyard_trainer.training_record import StartRecord


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


def model_config(
    spec: TrainingRunSpec, data: PreparedData, special_token_ids: dict[str, int] | None = None
) -> PreTrainedConfig:
    """The Transformers configuration of a run: the stored model's own, or that of an architecture.

    Args:
        spec: the desired state.
        data: the prepared data, which holds the configuration of a stored model.
        special_token_ids: see `build_config`; a stored model keeps its own.

    Raises:
        ConfigurationError: the run does not pre-train, or preset or override is wrong.
        DataError: the stored configuration was changed.
    """
    base = data.manifest.base_model
    if base is not None:
        folder = data.prepared / base.folder
        _check_files(folder, [CONFIG], base, base_field(spec))
        return cast("PreTrainedConfig", AutoConfig.from_pretrained(folder, local_files_only=True))
    if spec.model.architecture is None or spec.pretraining is None:
        raise ConfigurationError("spec", "only pretraining is supported yet", "Set spec.pretraining")
    tokenizer = data.manifest.tokenizer
    # Where the end of a document also pads, a padding row, which starts at zero and gets no gradient as an
    # input (Llama), would be the row of a token that every document has.
    is_shared = tokenizer.pad_token_id in {tokenizer.prefix_token_id, tokenizer.suffix_token_id}
    return build_config(
        spec.model.architecture,
        vocabulary_size=tokenizer.vocabulary_size,
        pad_token_id=None if is_shared else tokenizer.pad_token_id,
        objective=spec.pretraining.objective,
        special_token_ids=special_token_ids,
    )


def load_base_model(
    plan: RunPlan, data: PreparedData, base: BaseModelManifest, objective: Objective
) -> LoadedModel:
    """The stored model that a run starts from, equal on every rank.

    Raises:
        DataError: its files changed since they were checked, or its weights do not fit its configuration.
    """
    where = base_field(plan.spec)
    config = model_config(plan.spec, data)
    weights = [file.name for file in base.files if file.name != CONFIG]
    folder = weights_folder(plan, data.prepared, base)
    _check_files(folder, weights, base, where)
    with _only(folder, weights) as view, _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.spec.training.seed)
        if objective == "CausalLM":
            # Transformers looks for these settings of generation, and fails where it finds none.
            GenerationConfig.from_model_config(config).save_pretrained(view)
        try:
            model, info = AUTO_CLASSES[objective].from_pretrained(
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

    Only heads may differ, since each objective has its own.
    """
    body = loaded.model.base_model
    prefix = f"{loaded.model.base_model_prefix}."
    parts = {name for name, _ in body.named_children()}
    lacking = [name for name in loaded.initialised if name.startswith(prefix)]
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
