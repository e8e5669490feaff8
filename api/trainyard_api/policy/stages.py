"""Which stage an attempt starts with, and which follows."""

from trainyard_api.names import Stage

_FOLLOWING = {Stage.READ: Stage.PREPARE, Stage.CACHE: Stage.TRAIN, Stage.TRAIN: Stage.EXPORT}


def first_stage(
    *, prepared: bool, last_stage: Stage | None, num_shards: int, has_cache: bool = False
) -> Stage:
    """The stage of a new attempt: what is done already is not done again.

    Args:
        prepared: whether the data was prepared by an earlier attempt.
        last_stage: stage in which the attempt before ended; None when this is the first.
        num_shards: `data.preparation.shards`.
        has_cache: whether the teacher's predictions are written before training.
    """
    if not prepared:
        is_read = num_shards == 1 or last_stage is Stage.PREPARE
        return Stage.PREPARE if is_read else Stage.READ
    if last_stage in {Stage.TRAIN, Stage.EXPORT}:
        return last_stage
    return Stage.CACHE if has_cache else Stage.TRAIN


def following_stage(stage: Stage, *, has_cache: bool = False) -> Stage | None:
    """The stage after one that succeeded; None after the last.

    Args:
        stage: what is done.
        has_cache: whether the teacher's predictions are written before training.
    """
    if stage is Stage.PREPARE:
        return Stage.CACHE if has_cache else Stage.TRAIN
    return _FOLLOWING.get(stage)
