"""What a run folder tells: every file is optional, and one that cannot be read is named, not fatal."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from trainyard_api.names import File
from trainyard_api.plan import RunPlan
from trainyard_api.progress import EventRecord, HistoryRecord
from trainyard_api.spec import TrainingRunSpec
from trainyard_api.status import TrainingRunStatus
from trainyard_trainer.progress import read_events, read_history, read_progress
from trainyard_trainer.task_result import TaskResult, read_task_result
from trainyard_trainer.training_record import TrainingRecord, read_training_record

Content = TypeVar("Content")


@dataclass
class RunFacts:
    """Everything that could be read of a run folder."""

    folder: Path
    problems: list[str] = field(default_factory=list)
    """Files that could not be read, and why."""
    document: dict[str, Any] = field(default_factory=dict)
    """The run's manifest."""
    plan: RunPlan | None = None
    status: TrainingRunStatus = field(default_factory=TrainingRunStatus)
    history: list[HistoryRecord] = field(default_factory=list)
    events: list[EventRecord] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    """The data manifest."""
    record: TrainingRecord | None = None
    evaluation: TaskResult | None = None
    """How well the weights that are (to be) exported do their task."""

    @property
    def name(self) -> str:
        """The run's name."""
        metadata = self.document.get("metadata")
        named = metadata.get("name") if isinstance(metadata, dict) else None
        return str(named or (self.plan.name if self.plan else self.folder.name))

    @property
    def spec(self) -> TrainingRunSpec | None:
        """The desired state."""
        return self.plan.spec if self.plan else None

    @property
    def steps(self) -> list[HistoryRecord]:
        """Records of optimizer steps."""
        return [record for record in self.history if record.loss is not None]

    @property
    def evaluations(self) -> list[HistoryRecord]:
        """Records of evaluations."""
        return [record for record in self.history if record.evaluation_loss is not None]

    @property
    def unigram_entropy(self) -> float | None:
        """Entropy of the token frequencies of the training text, in nats per token."""
        value = self.data.get("unigramEntropy")
        return float(value) if isinstance(value, int | float) else None

    @property
    def frequency_loss(self) -> float | None:
        """Lowest loss of a model that knows token frequencies but no context."""
        value = self.data.get("frequencyLoss")
        return float(value) if isinstance(value, int | float) else None


def read_run_facts(folder: Path) -> RunFacts:
    """Read what there is of a run folder."""
    facts = RunFacts(folder)

    def read(name: str, reader: Callable[[Path], Content], default: Content) -> Content:
        path = folder / name
        if not path.exists():
            return default
        try:
            return reader(path)
        except (OSError, ValueError, ValidationError, yaml.YAMLError) as error:
            facts.problems.append(f"{name} could not be read: {str(error).splitlines()[0]}")
            return default

    facts.document = read(File.RUN, _read_yaml_mapping, {})
    facts.plan = read(File.PLAN, lambda path: RunPlan.model_validate_json(path.read_bytes()), None)
    facts.status = read(
        File.STATUS,
        lambda path: TrainingRunStatus.model_validate_json(path.read_bytes()),
        TrainingRunStatus(),
    )
    if facts.status.progress is None:
        report = read(File.PROGRESS, lambda path: read_progress(path.parent), None)
        progress = report.progress if report else None
        facts.status = facts.status.model_copy(update={"progress": progress})
    facts.history = read(File.HISTORY, lambda path: read_history(path.parent), [])
    facts.events = read(File.EVENTS, lambda path: read_events(path.parent), [])
    facts.data = read(File.DATA, _read_json_mapping, {})
    facts.record = read(File.MODEL, read_training_record, None)
    facts.evaluation = read(File.EVALUATION, lambda path: read_task_result(path.parent), None)
    return facts


def _read_yaml_mapping(path: Path) -> dict[str, Any]:
    return _mapping(yaml.safe_load(path.read_text(encoding="utf-8")))


def _read_json_mapping(path: Path) -> dict[str, Any]:
    return _mapping(json.loads(path.read_bytes()))


def _mapping(content: object) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError("it holds no mapping")  # noqa: TRY004 - content, not an argument, is wrong
    return content
