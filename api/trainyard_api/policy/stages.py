"""Which stage an attempt starts with, and which follows."""

from trainyard_api.names import Stage

_FOLLOWING = {Stage.READ: Stage.PREPARE, Stage.PREPARE: Stage.TRAIN, Stage.TRAIN: Stage.EXPORT}


def first_stage(*, prepared: bool, last_stage: Stage | None, num_shards: int) -> Stage:
    """The stage of a new attempt: what is done already is not done again.

    Args:
        prepared: whether the data was prepared by an earlier attempt.
        last_stage: stage in which the attempt before ended; None when this is the first.
        num_shards: `data.preparation.shards`.
    """
    if not prepared:
        is_read = num_shards == 1 or last_stage is Stage.PREPARE
        return Stage.PREPARE if is_read else Stage.READ
    return Stage.EXPORT if last_stage is Stage.EXPORT else Stage.TRAIN


def following_stage(stage: Stage) -> Stage | None:
    """The stage after one that succeeded; None after the last."""
    return _FOLLOWING.get(stage)
