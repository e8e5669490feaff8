"""Which checkpoint a gang resumes from: rank 0 says which there are, and all ranks verify them together.

Only rank 0 looks into the folder of checkpoints. On a shared file system other ranks may see an older state
of it, and ranks that resume from different steps would train a model that nobody asked for.
"""

from pathlib import Path

from trainyard_api.errors import TransientError
from trainyard_trainer.checkpoint import (
    CheckpointManifest,
    CommittedCheckpoint,
    TrainState,
    clear_before_resuming,
    committed_at_step,
    committed_checkpoints,
    damage_of_file,
)
from trainyard_trainer.checkpoint_steps import checkpoint_name
from trainyard_trainer.distributed import Ranks
from trainyard_trainer.evaluation.selection import Selection
from trainyard_trainer.recorder import Recorder


def agree_on_checkpoint(folder: Path, ranks: Ranks, recorder: Recorder) -> CommittedCheckpoint | None:
    """The checkpoint that all ranks resume from, None when there is none; a collective.

    Args:
        folder: the checkpoints of the run; rank 0 clears it of what is damaged or unfinished.
        ranks: this process among the others.
        recorder: gets an event for each checkpoint that is passed over.

    Raises:
        DataError: a manifest is not one of Trainyard.
        TransientError: a rank does not see yet what rank 0 sees.
    """
    checkpoint, problems = newest_sound(folder, ranks)
    for problem in problems:
        recorder.event("CheckpointDamaged", problem)
    if ranks.is_first:
        clear_before_resuming(folder, checkpoint.step if checkpoint else -1)
    return checkpoint


def newest_sound(folder: Path, ranks: Ranks) -> tuple[CommittedCheckpoint | None, list[str]]:
    """The newest committed checkpoint whose files are intact, and what is wrong with those passed over."""
    problems: list[str] = []
    seen = committed_checkpoints(folder) if ranks.is_first else []
    for index in range(ranks.from_first(len(seen))):
        manifest = seen[index].manifest.model_dump_json(by_alias=True) if ranks.is_first else ""
        told = CheckpointManifest.model_validate_json(ranks.texts(manifest)[0])
        checkpoint = CommittedCheckpoint(folder / checkpoint_name(told.state.step), told)
        problem = damage_found_together(checkpoint, ranks)
        if problem is None:
            return checkpoint, problems
        problems.append(problem)
    return None, problems


def damage_found_together(checkpoint: CommittedCheckpoint, ranks: Ranks) -> str | None:
    """What is wrong with a checkpoint's files, None when nothing is; a collective.

    Each rank reads one file, then all ranks meet: nobody waits longer than one file takes (see
    `distributed.COLLECTIVE_TIMEOUT`). Rank 0 confirms what another rank finds, since a checkpoint that is
    passed over is lost.
    """
    files = checkpoint.manifest.files
    for start in range(0, len(files), ranks.world_size):
        share = files[start : start + ranks.world_size]
        own = share[ranks.rank : ranks.rank + 1]
        found = ranks.texts("".join(damage_of_file(checkpoint, file) or "" for file in own))
        for rank, problem in enumerate(found):
            if not problem:
                continue
            is_seen = ranks.texts((ranks.is_first and damage_of_file(checkpoint, share[rank])) or "")[0]
            if not is_seen:
                raise TransientError(
                    str(checkpoint.path),
                    f"rank {rank} sees another state of it than rank 0 does ({problem})",
                    "The gang starts again; a shared file system shows new files everywhere after a moment",
                )
            return is_seen
    return None


def resumed_state(
    checkpoint: CommittedCheckpoint | None, ranks: Ranks, recorder: Recorder, *, keeps_best: bool
) -> TrainState:
    """The state that training goes on from; a collective.

    A best checkpoint that is gone or damaged is forgotten, since no model could be exported from it: the next
    evaluations choose another.

    Args:
        checkpoint: what is resumed from.
        ranks: this process among the others.
        recorder: gets an event where the best checkpoint is lost.
        keeps_best: whether the model is exported from the best checkpoint.
    """
    if checkpoint is None:
        return TrainState()
    state = checkpoint.manifest.state
    best_step = state.selection.best_step
    if not keeps_best or best_step is None or best_step == state.step:
        return state
    problem = damage_at_step(checkpoint.path.parent, best_step, ranks)
    if problem is None:
        return state
    recorder.event("CheckpointDamaged", f"the best one: {problem}")
    return state.model_copy(update={"selection": Selection(), "evaluation_step": None})


def damage_at_step(folder: Path, step: int, ranks: Ranks) -> str | None:
    """What is wrong with the checkpoint of a step, or that there is none; None when nothing is."""
    seen = committed_at_step(folder, step) if ranks.is_first else None
    told = ranks.texts(seen.manifest.model_dump_json(by_alias=True) if seen is not None else "")[0]
    if not told:
        return f"there is none of step {step} in {folder}"
    manifest = CheckpointManifest.model_validate_json(told)
    return damage_found_together(CommittedCheckpoint(folder / checkpoint_name(step), manifest), ranks)
