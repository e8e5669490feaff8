"""The tables of a report: the run's facts by subject. A table with no rows is left out."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from trainyard_api.spec_distillation import Distillation
from trainyard_api.spec_model import Model
from trainyard_trainer.report_comparison import COMPARISON_COLUMNS, comparison_note, comparison_rows
from trainyard_trainer.report_evaluation import class_rows, held_out_words, metric_rows, task_rows, task_words
from trainyard_trainer.report_facts import RunFacts
from trainyard_trainer.report_format import format_bytes, format_number, format_seconds
from trainyard_trainer.task_result import TaskResult
from trainyard_trainer.training_record import TrainingRecord


@dataclass(frozen=True)
class Table:
    """Rows of text."""

    title: str
    rows: list[list[str]]
    columns: list[str] = field(default_factory=list)
    """Headings; a table without has names in its first column."""
    note: str = ""


def make_tables(facts: RunFacts) -> list[Table]:
    """Every table that has rows."""
    made = [
        *task_tables(facts.evaluation),
        teacher_table(facts.record),
        run_table(facts),
        batch_table(facts),
        warnings_table(facts.data),
        sources_table(facts.data),
        data_table(facts.data),
        preparation_table(facts.data),
        attempts_table(facts),
        checkpoints_table(facts),
        versions_table(facts),
    ]
    return [table for table in made if table.rows]


def task_tables(result: TaskResult | None) -> list[Table]:
    """Metrics, classes and kinds of spans of a task."""
    if result is None:
        return []
    note = f"{held_out_words(result)}, step {result.step:,}"
    made = [Table("Metrics", metric_rows(result), ["metric", "value", "interval"], note)]
    for title, classes in (("Classes", result.classes), ("Spans", result.span_classes)):
        rows = class_rows(classes)
        note = f"the {len(rows)} most frequent of {len(classes):,}" if len(rows) < len(classes) else ""
        columns = ["class", "precision", "recall", "F1", "true", "predicted"]
        made.append(Table(title, rows, columns, note))
    return made


def teacher_table(record: TrainingRecord | None) -> Table:
    """The student beside its teacher."""
    if record is None or record.comparison is None:
        rows = [["not compared", record.comparison_problem]] if record and record.comparison_problem else []
        return Table("Student and teacher", rows)
    rows = comparison_rows(record.comparison)
    return Table("Student and teacher", rows, COMPARISON_COLUMNS, comparison_note(record.comparison))


def words(name: str) -> str:
    """A camelCase or snake_case name as words without its unit: importSeconds becomes import."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").lower()
    return spaced.removeprefix("num ").removesuffix(" seconds").removesuffix(" bytes")


def scalar(name: str, value: object) -> str:
    """A value of a manifest, by the unit that its name tells."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    lowered = name.lower()
    if lowered.endswith("seconds"):
        return format_seconds(value)
    if lowered.endswith("bytes"):
        return format_bytes(value)
    if "efficiency" in lowered or "fraction" in lowered:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if isinstance(value, int) else format_number(value)


def run_table(facts: RunFacts) -> Table:
    """What was asked for."""
    spec = facts.spec
    if spec is None:
        return Table("Run", [])
    training = spec.training
    budget = {words(key): value for key, value in training.budget.model_dump(exclude_none=True).items()}
    rows = [
        ["run folder", str(facts.folder)],
        ["objective", spec.pretraining.objective]
        if spec.pretraining
        else ["task", task_words(spec.fine_tuning) if spec.fine_tuning else ""],
        ["budget", ", ".join(f"{value:,} {key}" for key, value in budget.items())],
        ["optimizer", f"{training.optimizer.name}, peak learning rate {training.optimizer.learning_rate}"],
        ["schedule", f"{training.schedule.name}, {training.schedule.warmup_steps} steps of warm-up"],
        ["precision", training.precision],
        ["gradient clipping", format_number(training.gradient_clipping)],
        ["sequence length", f"{spec.data.sequence_length:,} tokens"],
        ["seed", str(training.seed)],
    ]
    if spec.model.architecture:
        overrides = ", ".join(f"{key}: {value}" for key, value in spec.model.architecture.overrides.items())
        rows.insert(
            1, ["architecture", spec.model.architecture.preset + (f" with {overrides}" if overrides else "")]
        )
    elif start := starting_model(spec.model):
        rows.insert(1, ["starts from", start])
    if spec.distillation is not None:
        rows += teacher_rows(spec.distillation)
    modeling = spec.language_modeling
    if modeling is not None and modeling.objective == "MaskedLM":
        masking = modeling.masking
        shares = [f"{100 * share:g} %" for share in (masking.probability, masking.evaluation_probability)]
        rows.append(["masking", f"{shares[0]} by {masking.strategy}, {shares[1]} in evaluation"])
    if spec.fine_tuning:
        rows += task_rows(spec.fine_tuning)
    return Table("Run", rows)


def teacher_rows(distillation: Distillation) -> list[list[str]]:
    """What a student listens to."""
    teacher, losses = distillation.teacher, distillation.losses.model_dump(by_alias=True, exclude_none=True)
    terms = ", ".join(f"{name} x {format_number(term['weight'])}" for name, term in losses.items())
    return [["teacher", starting_model(Model(**teacher.model_dump()))], ["terms of the loss", terms]]


def starting_model(model: Model) -> str:
    """The stored model that a run starts from, in words; empty where it starts from an architecture."""
    if model.from_run is not None:
        return f"the model of the run {model.from_run.name}"
    if model.from_teacher is not None:
        return "layers of its teacher"
    return f"the model {model.pretrained.uri}" if model.pretrained is not None else ""


def batch_table(facts: RunFacts) -> Table:
    """How the global batch is divided."""
    if facts.plan is None:
        return Table("Batch", [])
    batch = facts.plan.batch
    factors = f"{batch.micro_batch_size} rows x {batch.accumulation_steps} passes"
    rows = [
        ["rows per optimizer step", f"{batch.global_batch_size:,}"],
        ["division", f"{factors} x {batch.world_size} processes"],
        [
            "positions per optimizer step",
            f"{batch.global_batch_size * facts.plan.spec.data.sequence_length:,}",
        ],
    ]
    positions = sum(record.positions or 0 for record in facts.steps)
    if positions:
        tokens = sum(record.tokens or 0 for record in facts.steps)
        rows.append(["positions that held tokens", f"{100 * tokens / positions:.1f} %"])
    seconds = sum(record.step_seconds or 0.0 for record in facts.steps)
    if seconds:
        waited = sum(record.data_seconds or 0.0 for record in facts.steps)
        rows.append(["time waiting for data", f"{100 * waited / seconds:.2f} % of the steps"])
    return Table("Batch", rows)


def sources_table(data: Mapping[str, Any]) -> Table:
    """What came from each source."""
    sources = [source for source in data.get("sources") or [] if isinstance(source, dict)]
    names = list(dict.fromkeys(key for source in sources for key in source if _is_shown(source[key])))
    rows = [[scalar(name, source.get(name, "")) for name in names] for source in sources]
    return Table("Sources", rows, [words(name) for name in names])


def _is_shown(value: object) -> bool:
    """Whether a value fits into a cell: no lists, objects or hashes."""
    return isinstance(value, int | float) or (
        isinstance(value, str) and not re.fullmatch(r"[0-9a-f]{32,}", value)
    )


def data_table(data: Mapping[str, Any]) -> Table:
    """Counts of the whole corpus."""
    rows = [[words(name), scalar(name, value)] for name, value in data.items() if _is_shown(value)]
    for part in ("tokenizer", "train", "validation"):
        content = data.get(part)
        if isinstance(content, dict):
            rows += [
                [f"{part}: {words(name)}", scalar(name, value)]
                for name, value in content.items()
                if _is_shown(value) and name != "folder"
            ]
    if isinstance(data.get("hash"), str):
        rows.append(["data hash", data["hash"]])
    return Table("Data", rows)


def preparation_table(data: Mapping[str, Any]) -> Table:
    """Seconds of each step of the preparation."""
    steps = data.get("steps")
    rows = [
        [
            str(step.get("name", "")),
            format_seconds(float(step["seconds"])),
            "yes" if step.get("reused") else "no",
        ]
        for step in steps or []
        if isinstance(step, dict) and isinstance(step.get("seconds"), int | float)
    ]
    return Table("Preparation", rows, ["step", "time", "reused"])


def warnings_table(data: Mapping[str, Any]) -> Table:
    """What preparation found that a person should look at."""
    return Table("Warnings", [[str(warning)] for warning in data.get("warnings") or []], ["about the data"])


def attempts_table(facts: RunFacts) -> Table:
    """Each start of the gang."""
    rows = []
    for attempt in facts.status.attempts:
        failure = attempt.failure
        cause = ""
        if failure is not None:
            rank = f"rank {failure.rank}, " if failure.rank is not None else ""
            cause = f"{rank}{failure.reason}, exit code {failure.exit_code}"
        rows.append(
            [str(attempt.number), attempt.outcome, attempt.started_at, attempt.finished_at or "", cause]
        )
    return Table("Attempts", rows, ["attempt", "outcome", "started", "ended", "first failure"])


def checkpoints_table(facts: RunFacts) -> Table:
    """The newest committed checkpoints, and how long each took."""
    commits = [event for event in facts.events if event.type == "CheckpointCommitted"]
    rows = [
        [
            event.message,
            str(event.attempt),
            "" if event.seconds is None else format_seconds(event.seconds),
            "" if before is None else format_seconds(max(event.time - before.time, 0.0)),
        ]
        for before, event in pairwise([None, *commits])
        if event is not None
    ]
    note = f"the last 10 of {len(rows)}" if len(rows) > 10 else ""
    return Table(
        "Checkpoints", rows[-10:], ["checkpoint", "attempt", "time to write", "after the last"], note
    )


def versions_table(facts: RunFacts) -> Table:
    """Versions of what decided the result."""
    if facts.record is None:
        return Table("Versions", [])
    rows = [[name, version] for name, version in facts.record.versions.items()]
    if facts.record.git_commit:
        rows.append(["Trainyard's commit", facts.record.git_commit])
    return Table("Versions", rows)
