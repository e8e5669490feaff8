"""`training_record.json` beside an exported model: how it came about, and what is needed to repeat it."""

import hashlib
import json
import math
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field, JsonValue

from trainyard_api.model import ApiModel
from trainyard_api.names import File
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.status import TeacherComparison, Timestamp
from trainyard_trainer.task_result import TaskResult

FORMAT_VERSION = 1
TRAINING_RECORD = "training_record.json"
RECORDED_PACKAGES = (
    "trainyard",
    "torch",
    "deepspeed",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pydantic",
    "pytorch-optimizer",
)


class RecordedFile(ApiModel):
    """One file of the exported model."""

    size_bytes: int
    """Size."""
    sha256: str
    """Hash of its content, in hexadecimal."""


class RecordedCheckpoint(ApiModel):
    """The checkpoint that the model was exported from."""

    step: int
    """Optimizer steps it holds."""
    committed_at: Timestamp
    """When it was committed."""
    manifest_sha256: str
    """Hash of its manifest, which holds the hashes of its files."""


class StartRecord(ApiModel):
    """How training took over the stored model, as `start.json` of the run folder."""

    hash: str
    """Hash of the stored model."""
    initialised: tuple[str, ...]
    """Weights that it lacks and that were drawn from the seed."""
    unused: tuple[str, ...]
    """Its weights that the objective has no place for."""


class RecordedBase(ApiModel):
    """The stored model that training started from."""

    run: str | None = None
    """Name of the run that made it, where the spec names one."""
    uri: str
    """Where it was read."""
    hash: str
    """SHA-256 over the names and hashes of its files."""
    model_type: str
    """Its architecture."""
    initialised: tuple[str, ...] = ()
    """Weights that it lacks and that were drawn from the seed."""
    unused: tuple[str, ...] = ()
    """Its weights that the objective has no place for."""


class TrainingRecord(ApiModel):
    """How an exported model came about."""

    format_version: int = FORMAT_VERSION
    """Version of this layout."""
    key: str
    """Hash of the inputs of the export; an equal key means an equal model."""
    run: str
    """Name of the run."""
    objective: str
    """MaskedLM or CausalLM."""
    parameters: int
    """Number of parameters, tied ones counted once."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens processed, padding not counted."""
    training_seconds: float
    """Seconds of optimizer steps over all attempts."""
    seed: int
    """Decides initial weights, data order, masks and dropout."""
    evaluation_loss: float | None = None
    """Loss on the held-out examples, a mean over predictions: nats, or squared error for numbers."""
    evaluation: TaskResult | None = None
    """How well the model does its task; not set where the run has none."""
    comparison: TeacherComparison | None = None
    """The model beside its teacher; not set where it has none."""
    comparison_problem: str = ""
    """Why it could not be compared with its teacher; empty where it was, or has none."""
    unigram_entropy: float | None = None
    """Entropy of the token frequencies of the training text, in nats per token."""
    frequency_loss: float | None = None
    """Lowest loss of a model that knows token frequencies but no context, in nats per predicted token."""
    data_hash: str
    """Hash of the data manifest."""
    base: RecordedBase | None = None
    """The model that training started from; not set where its weights were random."""
    data: JsonValue
    """The data manifest."""
    spec: TrainingRunSpec
    """The desired state of the run."""
    checkpoint: RecordedCheckpoint
    """Where the weights come from."""
    versions: dict[str, str]
    """Versions of Python and of the packages that decide the result."""
    git_commit: str | None = None
    """Commit of Trainyard's own source, where it runs from a work tree."""
    files: dict[str, RecordedFile] = Field(default_factory=dict)
    """The files of the model's folder, by name."""
    created_at: Timestamp
    """When the model was exported."""

    @property
    def perplexity(self) -> float | None:
        """exp(evaluation loss); for a masked model that is over the hidden tokens only."""
        return None if self.evaluation_loss is None else math.exp(self.evaluation_loss)


def read_training_record(model_folder: Path) -> TrainingRecord | None:
    """The record of an exported model, or None where there is no model."""
    path = model_folder / TRAINING_RECORD
    return TrainingRecord.model_validate_json(path.read_bytes()) if path.is_file() else None


def read_start_record(run_folder: Path) -> StartRecord | None:
    """How a run took over the model that it started from, or None where it did not start from one."""
    path = run_folder / File.START
    return StartRecord.model_validate_json(path.read_bytes()) if path.is_file() else None


def export_key(spec: TrainingRunSpec, data_hash: str, checkpoint_manifest_sha256: str) -> str:
    """Hash of what the exported model is a function of."""
    parts = {"pretraining", "fine_tuning", "model", "training"}
    inputs = {
        "format": FORMAT_VERSION,
        "spec": spec.model_dump(mode="json", by_alias=True, include=parts),
        "data": data_hash,
        "checkpoint": checkpoint_manifest_sha256,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def describe_file(path: Path) -> RecordedFile:
    """Size and hash of a file."""
    return RecordedFile(size_bytes=path.stat().st_size, sha256=sha256_of(path))


def sha256_of(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_are_intact(model_folder: Path, record: TrainingRecord) -> bool:
    """Whether every recorded file still has its recorded content."""
    return all(
        (model_folder / name).is_file() and describe_file(model_folder / name) == recorded
        for name, recorded in record.files.items()
    )


def package_versions() -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def source_commit(source_folder: Path) -> str | None:
    """The git commit of a work tree, or None outside of one or without git."""
    try:
        done = subprocess.run(
            ["git", "-C", str(source_folder), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
