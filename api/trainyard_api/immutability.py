"""Which fields of a run may change once it exists, and what differs between two specs in the others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainyard_api.spec import TrainingRun, to_document

MUTABLE_FIELDS = (
    "spec.suspend",
    "spec.training.budget",
    "spec.activeDeadlineSeconds",
    "spec.queueDeadlineSeconds",
    "spec.startupDeadlineSeconds",
    "spec.stallTimeoutSeconds",
    "spec.ttlSecondsAfterFinished",
    "spec.workers.nodes",
    "spec.restartPolicy",
    "spec.checkpoint.keep",
    "spec.scheduling",
)
"""Fields that do not define the model or its data; everything else of the spec is immutable."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A field that differs between two runs."""

    path: str
    """Field, such as spec.model.architecture.preset."""
    old: Any
    """Its value in the old run; None when it was not set."""
    new: Any
    """Its value in the new run; None when it is not set."""

    def __str__(self) -> str:
        """One line: path, old value, new value."""
        return f"{self.path}: {self.values}"

    @property
    def values(self) -> str:
        """Old and new value for people."""
        return f"{_shown(self.old)} -> {_shown(self.new)}"


def immutable_differences(old: TrainingRun, new: TrainingRun) -> list[Difference]:
    """The immutable fields in which two runs differ, defaults included, in spec order."""
    return list(_differences("spec", to_document(old)["spec"], to_document(new)["spec"]))


def is_mutable(path: str) -> bool:
    """Whether a field, with everything below it, may change."""
    return any(path == field or path.startswith(f"{field}.") for field in MUTABLE_FIELDS)


def has_mutable_part(path: str) -> bool:
    """Whether a part of an object may change while the rest may not."""
    return any(field.startswith(f"{path}.") for field in MUTABLE_FIELDS)


def _differences(path: str, old: Any, new: Any) -> Iterator[Difference]:
    """Differences at the deepest objects and list items that both have."""
    if is_mutable(path) or old == new:
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(f"{path}.{key}", old.get(key), new.get(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (old_item, new_item) in enumerate(zip(old, new, strict=True)):
            yield from _differences(f"{path}[{index}]", old_item, new_item)
    else:
        yield Difference(path, old, new)


def _shown(value: Any) -> str:
    """A value for people."""
    return "not set" if value is None else str(value)
