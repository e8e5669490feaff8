"""Checkpoints on disk: what counts as committed, what is refused, and how divided tensors are read back."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainyard_api.errors import DataError
from trainyard_trainer.checkpoint import (
    CheckpointFile,
    CheckpointManifest,
    PieceReader,
    TrainState,
    clear_before_resuming,
    committed_checkpoints,
    damage,
    delete_old_checkpoints,
    is_committed,
    latest_committed,
    load_model_weights,
)
from trainyard_trainer.checkpoint_steps import checkpoint_name
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.resume import newest_sound

ALONE = Ranks(rank=0, local_rank=0, world_size=1, device=torch.device("cpu"))
WEIGHT = torch.arange(12, dtype=torch.float32)


def write_checkpoint(
    folder: Path,
    step: int,
    ranks: list[Mapping[str, torch.Tensor]],
    shapes: dict[str, list[int]] | None = None,
) -> Path:
    """A committed checkpoint with one file per rank."""
    path = folder / checkpoint_name(step)
    path.mkdir(parents=True)
    files = []
    for rank, tensors in enumerate(ranks):
        file = path / f"rank-{rank:05d}.safetensors"
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, file)
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        files.append(CheckpointFile(name=file.name, size_bytes=file.stat().st_size, sha256=digest))
    manifest = CheckpointManifest(
        format_version=1,
        state=TrainState(step=step),
        committed_at="2026-11-23T08:00:00Z",
        data_hash="data",
        optimizer="AdamW",
        world_size=len(ranks),
        zero_stage=1,
        group_steps=[None],
        parameters=shapes or {"w": [3, 4]},
        files=files,
    )
    (path / "manifest.json").write_text(manifest.model_dump_json(by_alias=True, exclude_none=True))
    return path


def divided(*bounds: int) -> list[Mapping[str, torch.Tensor]]:
    """WEIGHT cut at the bounds, a rank each."""
    edges = [0, *bounds, len(WEIGHT)]
    return [{f"weight|w|{a}": WEIGHT[a:b]} for a, b in itertools.pairwise(edges)]


@pytest.mark.parametrize("bounds", [(), (6,), (1, 2, 11), (4, 8)])
def test_weights_are_put_together_however_they_were_divided(tmp_path: Path, bounds: tuple[int, ...]) -> None:
    write_checkpoint(tmp_path, 1, divided(*bounds))
    checkpoint = latest_committed(tmp_path)
    assert checkpoint is not None
    assert load_model_weights(checkpoint)["w"].tolist() == WEIGHT.view(3, 4).tolist()


@pytest.mark.parametrize(("start", "numel"), [(0, 12), (3, 5), (5, 2), (11, 1)])
def test_any_range_can_be_read_across_pieces(tmp_path: Path, start: int, numel: int) -> None:
    write_checkpoint(tmp_path, 1, divided(4, 6))
    checkpoint = latest_committed(tmp_path)
    assert checkpoint is not None
    read = PieceReader(checkpoint).read("weight", "w", start, numel)
    assert read.tolist() == WEIGHT[start : start + numel].tolist()


def test_a_missing_piece_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, divided(4, 6)[:2])
    checkpoint = latest_committed(tmp_path)
    assert checkpoint is not None
    with pytest.raises(DataError, match="weight of w has 6 of 12 elements"):
        load_model_weights(checkpoint)


def test_only_folders_with_a_manifest_under_their_final_name_are_committed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 3, divided())
    write_checkpoint(tmp_path, 12, divided())
    write_checkpoint(tmp_path, 20, divided()).rename(tmp_path / ".step-00000020.tmp")
    (write_checkpoint(tmp_path, 30, divided()) / "manifest.json").unlink()
    assert [checkpoint.step for checkpoint in committed_checkpoints(tmp_path)] == [12, 3]


def test_without_checkpoints_there_is_no_newest_one(tmp_path: Path) -> None:
    assert latest_committed(tmp_path / "missing") is None
    assert newest_sound(tmp_path, ALONE) == (None, [])


@pytest.mark.parametrize("harm", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_passed_over_with_its_reason(tmp_path: Path, harm: str) -> None:
    write_checkpoint(tmp_path, 1, divided(6))
    file = write_checkpoint(tmp_path, 2, divided(6)) / "rank-00001.safetensors"
    content = bytearray(file.read_bytes())
    if harm == "cut":
        file.write_bytes(content[:-1])
    elif harm == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    sound, problems = newest_sound(tmp_path, ALONE)
    assert sound is not None
    assert sound.step == 1
    assert damage(sound) is None
    assert len(problems) == 1
    assert "rank-00001.safetensors" in problems[0]


def test_a_manifest_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, divided())
    (path / "manifest.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(DataError, match=r"step-00000001/manifest\.json: this is not a checkpoint manifest"):
        latest_committed(tmp_path)


def test_a_file_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, 1, divided())
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("rank-00000.safetensors", "../../secret.safetensors"))
    with pytest.raises(DataError, match="not a checkpoint manifest"):
        latest_committed(tmp_path)


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30, 4):
        write_checkpoint(tmp_path, step, divided())
    delete_old_checkpoints(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000004", "step-00000030"]


def test_a_damaged_checkpoint_that_was_passed_over_costs_no_sound_one_its_place(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, divided())
    damaged = write_checkpoint(tmp_path, 3, divided())
    (damaged / "rank-00000.safetensors").unlink()
    clear_before_resuming(tmp_path, step=1)
    write_checkpoint(tmp_path, 2, divided())
    delete_old_checkpoints(tmp_path, keep=1)
    sound, problems = newest_sound(tmp_path, ALONE)
    assert sound is not None
    assert (sound.step, problems) == (2, [])
    assert not is_committed(tmp_path, 3)


def test_what_an_interrupted_save_left_is_cleared_away(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, 1, divided())
    write_checkpoint(tmp_path, 2, divided()).rename(tmp_path / ".step-00000002.tmp")
    clear_before_resuming(tmp_path, step=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_there_may_be_nothing_to_clear_before_the_first_start(tmp_path: Path) -> None:
    clear_before_resuming(tmp_path / "missing", step=-1)
    assert not (tmp_path / "missing").exists()
