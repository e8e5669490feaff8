"""One rank of two that see different folders; stores what each part came to, once per rank.

usage: checkpoint_agreement.py OUTPUT_FOLDER BLOCKED_PLAN.json PLAN.json

BLOCKED_PLAN cannot make its folder of checkpoints. The other is stopped after 3 steps, and its second half is
trained while rank 1 sees no manifest, as on a shared file system that shows changes late.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.programs.losses import stop_after
from trainyard_api.errors import TrainyardError
from trainyard_api.names import ExitCode
from trainyard_api.plan import RunPlan
from trainyard_trainer import resume
from trainyard_trainer.checkpoint import CheckpointFile, CommittedCheckpoint, latest_committed
from trainyard_trainer.checkpoint_steps import MANIFEST
from trainyard_trainer.distributed import Ranks, join_gang, leave_gang
from trainyard_trainer.resume import newest_sound
from trainyard_trainer.signals import StopRequest
from trainyard_trainer.startup import Startup
from trainyard_trainer.train import Trainer, run, set_up

ESTIMATED_STEPS = 2
"""What the token budget is taken to allow; it allows more."""


def trainer_of(plan: RunPlan, ranks: Ranks) -> Trainer:
    """A trainer whose estimate of the last step is too low."""
    trainer = set_up(plan, ranks, StopRequest(), Startup(lambda: 0.0, 0.0), lambda: 0.0)
    trainer.planned_steps = ESTIMATED_STEPS
    return trainer


@contextmanager
def hidden(name: str, ranks: Ranks) -> Iterator[None]:
    """Let rank 1 see no file of a name."""
    is_file = Path.is_file

    def is_seen(path: Path) -> bool:
        return (path.name != name or ranks.is_first) and is_file(path)

    Path.is_file = is_seen  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Path.is_file = is_file  # type: ignore[method-assign]


def error_of_blocked_save(plan: RunPlan, ranks: Ranks) -> str:
    """What a save says where no folder can be made."""
    if ranks.is_first:
        Path(plan.paths.checkpoints).write_text("in the way")
    ranks.barrier()
    trainer = trainer_of(plan, ranks)
    try:
        run(trainer)
    except TrainyardError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def files_read(folder: Path, ranks: Ranks) -> list[str]:
    """The files that this rank reads to verify the newest checkpoint."""
    read = []
    damage_of_file = resume.damage_of_file  # type: ignore[attr-defined]

    def noted(checkpoint: CommittedCheckpoint, file: CheckpointFile) -> str | None:
        read.append(file.name)
        return damage_of_file(checkpoint, file)

    resume.damage_of_file = noted  # type: ignore[attr-defined]
    newest_sound(folder, ranks)
    resume.damage_of_file = damage_of_file  # type: ignore[attr-defined]
    return read


def error_of_unseen_file(folder: Path, ranks: Ranks) -> str:
    """What a resume says when rank 1 lacks its file."""
    with hidden("rank-00001.safetensors", ranks):
        try:
            newest_sound(folder, ranks)
        except TrainyardError as error:
            return f"{type(error).__name__}: {error}"
    return "none"


def step_after_damage(folder: Path, ranks: Ranks) -> int:
    """The step that is resumed from once the second file of the newest checkpoint is damaged."""
    newest = latest_committed(folder)
    assert newest is not None
    if ranks.is_first:
        file = newest.path / "rank-00001.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    ranks.barrier()
    sound, problems = newest_sound(folder, ranks)
    assert sound is not None
    assert len(problems) == 1
    return sound.step - newest.step


def main() -> None:
    """Part after part."""
    output = Path(sys.argv[1])
    blocked, plan = (RunPlan.model_validate_json(Path(path).read_text()) for path in sys.argv[2:])
    ranks = join_gang(plan)
    told: dict[str, object] = {"blocked": error_of_blocked_save(blocked, ranks)}
    first = trainer_of(plan, ranks)
    stop_after(first, 3)
    assert run(first) is ExitCode.PREEMPTED
    with hidden(MANIFEST, ranks):
        second = trainer_of(plan, ranks)
        told["resumed_at"] = second.state.step
        assert run(second) is ExitCode.SUCCEEDED
    ranks.barrier()
    told["read"] = files_read(second.checkpoints, ranks)
    told["unseen"] = error_of_unseen_file(second.checkpoints, ranks)
    told["steps_back"] = step_after_damage(second.checkpoints, ranks)
    (output / f"rank-{ranks.rank}.json").write_text(json.dumps(told))
    leave_gang()


if __name__ == "__main__":
    main()
