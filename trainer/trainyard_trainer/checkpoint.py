"""Checkpoints: committed or not existing, readable by any world size and ZeRO stage, free of pickle.

Layout of a committed checkpoint:

    checkpoints/step-00000200/manifest.json           CheckpointManifest; its presence under the final name is
    the commit checkpoints/step-00000200/rank-00000.safetensors  pieces of the fp32 weights and of the
    optimizer's state

A tensor's key is `kind|parameter|start`; see `engine_state`. Saving: every rank writes and hashes its own
file in a temporary folder, all ranks agree, rank 0 writes the manifest and renames the folder. DeepSpeed's
own `latest` file and `torch.save` formats are never used.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from trainyard_api.errors import DataError, StorageFullError, TransientError
from trainyard_api.model import ApiModel
from trainyard_api.policy.retention import checkpoints_to_delete
from trainyard_trainer.checkpoint_steps import MANIFEST, checkpoint_name
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.engine import Engine
from trainyard_trainer.engine_state import (
    WEIGHT,
    frozen_parameters,
    group_steps,
    loss_scale,
    optimizer_tensors,
    owned_pieces,
    parameter_shapes,
    pieces,
    set_group_steps,
    set_loss_scale,
    set_optimizer_tensor,
)
from trainyard_trainer.evaluation.selection import Selection
from trainyard_trainer.progress import timestamp, write_json_atomically

FORMAT_VERSION = 1
SET_ASIDE = "manifest-of-damaged.json"
"""What the manifest of a damaged checkpoint is called once it was passed over."""

WHOLE = "whole:"
"""Prefix of the kind of optimizer state that is not element-wise."""


class TrainState(ApiModel):
    """What the training loop has to remember; all else is a function of the step."""

    step: int = 0
    """Optimizer steps done."""
    tokens: int = 0
    """Tokens processed, padding not counted."""
    train_seconds: float = 0.0
    """Seconds of training over all attempts."""
    evaluation_loss: float | None = None
    """Newest loss on the held-out examples, a mean over predictions: nats, or squared error for numbers."""
    evaluation_step: int | None = None
    """Step at which it was measured."""
    metrics: dict[str, float] | None = None
    """Metrics of the task at that step, by name; not set where the run has no task."""
    selection: Selection = Selection()
    """Which evaluation was the best so far."""


class CheckpointFile(ApiModel):
    """One file of a checkpoint."""

    name: Annotated[str, Field(pattern=r"^rank-[0-9]{5,}\.safetensors$")]
    """Name in the checkpoint's folder."""
    size_bytes: int
    """Size."""
    sha256: str
    """Hash of its content, in hexadecimal."""


class CheckpointManifest(ApiModel):
    """What a committed checkpoint holds."""

    format_version: int
    """Version of this layout."""
    state: TrainState
    """The state of the training loop."""
    committed_at: str
    """When it was committed, RFC 3339."""
    data_hash: str
    """Hash of the data manifest it was trained on."""
    optimizer: str
    """Name of the optimizer."""
    world_size: int
    """Processes that wrote it."""
    zero_stage: int
    """ZeRO stage it was written under."""
    group_steps: list[int | None]
    """Step counts by parameter group."""
    loss_scale: float | None = None
    """Dynamic loss scale under FP16."""
    parameters: dict[str, list[int]]
    """Shape of every parameter that trains, tied ones once."""
    frozen: tuple[str, ...] = ()
    """Names of the parameters that keep their values, ascending; their values are not stored."""
    files: list[CheckpointFile]
    """The files, by rank."""


@dataclass(frozen=True)
class CommittedCheckpoint:
    """A checkpoint that may be resumed from."""

    path: Path
    manifest: CheckpointManifest

    @property
    def step(self) -> int:
        """Optimizer steps it holds."""
        return self.manifest.state.step

    @property
    def committed_at(self) -> str:
        """When it was committed, RFC 3339."""
        return self.manifest.committed_at


def is_committed(folder: Path, step: int) -> bool:
    """Whether a step has a committed checkpoint."""
    return (folder / checkpoint_name(step) / MANIFEST).is_file()


def delete_old_checkpoints(folder: Path, keep: int, best_step: int | None = None) -> None:
    """Delete all but the newest checkpoints; the manifest goes first, so that a half-deleted one is none.

    Args:
        folder: the checkpoints.
        keep: how many of the newest stay.
        best_step: step of one that stays beside them, however old.
    """
    by_step = {checkpoint.step: checkpoint.path for checkpoint in committed_checkpoints(folder)}
    protected = () if best_step is None else (best_step,)
    for step in checkpoints_to_delete(sorted(by_step), keep, protected):
        (by_step[step] / MANIFEST).unlink()
        shutil.rmtree(by_step[step])


def committed_checkpoints(folder: Path) -> list[CommittedCheckpoint]:
    """All committed checkpoints, newest first. Temporary folders and folders without a manifest are none."""
    found = []
    for path in sorted(folder.glob("step-*"), reverse=True):
        manifest = path / MANIFEST
        if not manifest.is_file():
            continue
        try:
            content = CheckpointManifest.model_validate_json(manifest.read_bytes())
        except ValidationError as error:
            raise DataError(
                str(manifest), "this is not a checkpoint manifest of Trainyard", "Remove the folder to go on"
            ) from error
        found.append(CommittedCheckpoint(path, content))
    return found


def committed_at_step(folder: Path, step: int) -> CommittedCheckpoint | None:
    """The committed checkpoint of a step, not verified; None when there is none."""
    found = (checkpoint for checkpoint in committed_checkpoints(folder) if checkpoint.step == step)
    return next(found, None)


def latest_committed(folder: Path) -> CommittedCheckpoint | None:
    """The newest committed checkpoint, not verified; None when there is none."""
    return next(iter(committed_checkpoints(folder)), None)


def damage(checkpoint: CommittedCheckpoint) -> str | None:
    """What is wrong with a checkpoint's files, by size and hash; None when nothing is."""
    problems = (damage_of_file(checkpoint, file) for file in checkpoint.manifest.files)
    return next((problem for problem in problems if problem is not None), None)


def damage_of_file(checkpoint: CommittedCheckpoint, file: CheckpointFile) -> str | None:
    """What is wrong with one file of a checkpoint, by size and hash; None when nothing is."""
    path = checkpoint.path / file.name
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != file.size_bytes:
        return f"{path} has {path.stat().st_size} bytes instead of {file.size_bytes}"
    if _sha256(path) != file.sha256:
        return f"the content of {path} does not match its hash"
    return None


def clear_before_resuming(folder: Path, step: int) -> None:
    """Remove unfinished checkpoints, and take the commit from those newer than the step resumed from.

    Those were passed over as damaged. Committed, they would count among the newest that are kept, so that
    every sound one would be deleted instead, and their steps would not be saved again.

    Args:
        folder: the checkpoints of a run that nobody writes now.
        step: of the newest sound one; -1 when there is none.
    """
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left)
    for checkpoint in committed_checkpoints(folder):
        if checkpoint.step > step:
            (checkpoint.path / MANIFEST).rename(checkpoint.path / SET_ASIDE)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class PieceReader:
    """Reads element ranges of parameters from the files of a checkpoint, however they were divided."""

    def __init__(self, checkpoint: CommittedCheckpoint) -> None:
        self._checkpoint = checkpoint
        self._files = [
            safe_open(checkpoint.path / file.name, framework="pt") for file in checkpoint.manifest.files
        ]
        self._index: dict[tuple[str, str], list[tuple[int, int, str]]] = defaultdict(list)
        for number, file in enumerate(self._files):
            for key in file.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118 - safe_open is no mapping
                kind, parameter, start = key.split("|")
                self._index[kind, parameter].append((int(start), number, key))
        for entries in self._index.values():
            entries.sort()

    def kinds_of(self, parameter: str) -> list[str]:
        """Kinds that are stored for a parameter, the weight left out."""
        return sorted(kind for kind, name in self._index if name == parameter and kind != WEIGHT)

    def whole(self, kind: str, parameter: str) -> torch.Tensor:
        """A tensor that is not divided."""
        _, number, key = self._index[kind, parameter][0]
        return cast("torch.Tensor", self._files[number].get_tensor(key))  # type: ignore[no-untyped-call]

    def read(self, kind: str, parameter: str, start: int, numel: int) -> torch.Tensor:
        """Elements start .. start + numel of a flattened parameter, [numel] in fp32.

        Raises:
            DataError: the checkpoint does not hold all of them.
        """
        values = torch.empty(numel)
        num_found = 0
        for piece_start, number, key in self._index[kind, parameter]:
            piece = self._files[number].get_slice(key)  # type: ignore[no-untyped-call]
            piece_numel = piece.get_shape()[0]
            first, last = max(start, piece_start), min(start + numel, piece_start + piece_numel)
            if first < last:
                values[first - start : last - start] = piece[first - piece_start : last - piece_start]
                num_found += last - first
        if num_found != numel:
            raise DataError(
                str(self._checkpoint.path),
                f"{kind} of {parameter} has {num_found} of {numel} elements",
                "Remove the folder to resume from the checkpoint before it",
            )
        return values


def load_model_weights(checkpoint: CommittedCheckpoint) -> dict[str, torch.Tensor]:
    """The weights of a committed checkpoint in fp32 by their Transformers names, tied ones once.

    Frozen ones are not among them.

    Raises:
        DataError: weights are missing.
    """
    reader = PieceReader(checkpoint)
    return {
        name: reader.read(WEIGHT, name, 0, _numel(shape)).view(shape)
        for name, shape in checkpoint.manifest.parameters.items()
    }


def _numel(shape: list[int]) -> int:
    return int(torch.Size(shape).numel())


def restore_engine(engine: Engine, checkpoint: CommittedCheckpoint) -> None:
    """Put the exact master weights and optimizer state of a checkpoint into an engine.

    The model must have been built with the checkpoint's weights before, since DeepSpeed makes the bf16
    parameters from them; here the fp32 originals replace the masters it made from those.
    """
    reader = PieceReader(checkpoint)
    for piece in pieces(engine):
        piece.weight.copy_(reader.read(WEIGHT, piece.parameter, piece.start, piece.numel))
        for kind in reader.kinds_of(piece.parameter):
            if kind.startswith(WHOLE):
                key, values = kind.removeprefix(WHOLE), reader.whole(kind, piece.parameter)
                set_optimizer_tensor(engine, piece, key, values, elementwise=False)
            else:
                values = reader.read(kind, piece.parameter, piece.start, piece.numel)
                set_optimizer_tensor(engine, piece, kind, values, elementwise=True)
    set_group_steps(engine, checkpoint.manifest.group_steps)
    set_loss_scale(engine, checkpoint.manifest.loss_scale)


def save_checkpoint(  # noqa: PLR0913 - what a manifest states
    folder: Path, engine: Engine, state: TrainState, *, data_hash: str, optimizer_name: str, now: float
) -> Path:
    """Write and commit a checkpoint, return its folder; a collective that succeeds on all ranks or none.

    Raises:
        StorageFullError: some rank had no space left.
        TransientError: some rank could not write for another reason.
    """
    ranks = engine.ranks
    final = folder / checkpoint_name(state.step)
    temporary = folder / f".{checkpoint_name(state.step)}.tmp"
    failure = _attempt(lambda: _make_empty(temporary)) if ranks.is_first else None
    _agree(ranks, failure, temporary)
    failure = _attempt(lambda: _write_rank_file(temporary, engine))
    _agree(ranks, failure, temporary)
    shapes = {name: list(shape) for name, shape in parameter_shapes(engine).items()}
    manifest = CheckpointManifest(
        format_version=FORMAT_VERSION,
        state=state,
        committed_at=timestamp(now),
        data_hash=data_hash,
        optimizer=optimizer_name,
        world_size=ranks.world_size,
        zero_stage=engine.zero_stage,
        group_steps=group_steps(engine),
        loss_scale=loss_scale(engine),
        parameters=shapes,
        frozen=frozen_parameters(engine),
        files=[],
    )
    if ranks.is_first:
        failure = _attempt(lambda: _commit(temporary, final, manifest, ranks.world_size))
    _agree(ranks, failure, temporary)
    return final


def amend_checkpoint(folder: Path, ranks: Ranks, state: TrainState) -> None:
    """Give a committed checkpoint what was measured on it later; its tensors stay as they are."""
    if not ranks.is_first:
        return
    path = folder / checkpoint_name(state.step) / MANIFEST
    manifest = CheckpointManifest.model_validate_json(path.read_bytes())
    if manifest.state != state:
        write_json_atomically(path, manifest.model_copy(update={"state": state}))


def _make_empty(temporary: Path) -> None:
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)


def _rank_tensors(engine: Engine) -> dict[str, torch.Tensor]:
    tensors = {}
    for piece in owned_pieces(engine):
        tensors[f"{WEIGHT}|{piece.parameter}|{piece.start}"] = piece.weight.float().cpu()
        for key, elementwise, values in optimizer_tensors(engine, piece):
            kind = key if elementwise else f"{WHOLE}{key}"
            tensors[f"{kind}|{piece.parameter}|{piece.start}"] = values.cpu()
    return tensors


def _write_rank_file(temporary: Path, engine: Engine) -> None:
    path = temporary / f"rank-{engine.ranks.rank:05d}.safetensors"
    tensors = _rank_tensors(engine)
    needed_bytes = sum(tensor.nbytes for tensor in tensors.values())
    if shutil.disk_usage(temporary).free < needed_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    # Clones, since safetensors refuses views that share the storage of one flat partition.
    save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    _sync(path)
    record = CheckpointFile(name=path.name, size_bytes=path.stat().st_size, sha256=_sha256(path))
    write_json_atomically(path.with_suffix(".json"), record)


def _commit(temporary: Path, final: Path, manifest: CheckpointManifest, world_size: int) -> None:
    """Gather the ranks' records into the manifest and rename the folder; the rename is the commit."""
    records = [temporary / f"rank-{rank:05d}.json" for rank in range(world_size)]
    files = [CheckpointFile.model_validate(json.loads(record.read_text())) for record in records]
    for record in records:
        record.unlink()
    write_json_atomically(temporary / MANIFEST, manifest.model_copy(update={"files": files}))
    _sync(temporary)
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    _sync(final.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _attempt(write: Callable[[], None]) -> OSError | SafetensorError | None:
    """What went wrong, handed back so that the other ranks can be told before anybody raises."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        return error
    return None


def _is_full_disk(error: OSError | SafetensorError | None) -> bool:
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error is not None and "os error 28" in str(error)


def _agree(ranks: Ranks, failure: OSError | SafetensorError | None, temporary: Path) -> None:
    """Go on only when every rank could write; otherwise remove what was written and raise on all ranks."""
    num_failed, num_full = ranks.sums([float(failure is not None), float(_is_full_disk(failure))])
    if not num_failed:
        return
    if ranks.is_first:
        shutil.rmtree(temporary, ignore_errors=True)
    if num_full:
        raise StorageFullError(
            str(temporary.parent),
            "no space is left for a checkpoint; the ones before it are intact",
            "Free space, lower checkpoint.keep, or use a larger volume, and start the run again",
        ) from failure
    raise TransientError(
        str(temporary.parent), f"a rank could not write its checkpoint ({failure})", "Look at the ranks' logs"
    ) from failure
