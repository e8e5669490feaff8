"""Which checkpoints may go."""

from collections.abc import Collection, Iterable


def checkpoints_to_delete(steps: Iterable[int], keep: int, protected: Collection[int] = ()) -> list[int]:
    """The committed checkpoints to delete, oldest first.

    Args:
        steps: optimizer steps of the committed checkpoints, in any order.
        keep: how many of the newest stay, at least 1.
        protected: steps that stay in any case, such as the one being exported.

    Raises:
        ValueError: `keep` is below 1; the last checkpoint must never go.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    return [step for step in sorted(set(steps))[:-keep] if step not in protected]
