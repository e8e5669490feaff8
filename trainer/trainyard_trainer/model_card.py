"""The model card (README.md) of an exported model, in the shape that the Hugging Face hub reads."""

from importlib.resources import files
from typing import Any

import jinja2
import yaml

from trainyard_api.spec_model import Model
from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.report_comparison import COMPARISON_COLUMNS, comparison_note, comparison_rows
from trainyard_trainer.report_evaluation import (
    METRIC_WORDS,
    class_rows,
    frequent_class,
    metric_rows,
    task_rows,
)
from trainyard_trainer.report_tables import starting_model
from trainyard_trainer.training_record import TrainingRecord

PIPELINE_TAGS = {
    "MaskedLM": "fill-mask",
    "CausalLM": "text-generation",
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "InstructionTuning": "text-generation",
}
AUTO_CLASSES = {
    "MaskedLM": "AutoModelForMaskedLM",
    "CausalLM": "AutoModelForCausalLM",
    "SequenceClassification": "AutoModelForSequenceClassification",
    "TokenClassification": "AutoModelForTokenClassification",
    "InstructionTuning": "AutoModelForCausalLM",
}
TASK_TAGS = {
    "SequenceClassification": "text-classification",
    "TokenClassification": "token-classification",
    "InstructionTuning": "instruction-tuning",
}
KINDS = {
    "SequenceClassification": "classifier of texts",
    "TokenClassification": "tagger of words",
    "InstructionTuning": "language model that follows instructions",
}


def render_model_card(record: TrainingRecord, *, weights_bytes: int) -> str:
    """The card as Markdown with YAML front matter.

    Args:
        record: how the model came about; its list of files is not used.
        weights_bytes: size of the weights.
    """
    fine_tuning = record.spec.fine_tuning
    common = {
        "record": record,
        "training": record.spec.training,
        "data": record.spec.data,
        "weights_megabytes": weights_bytes / 1e6,
        "comparison": comparison_text(record),
    }
    if fine_tuning is not None and fine_tuning.task != "ContinuedPretraining":
        return _render("task_card.md.j2", **common, **task_facts(record, fine_tuning))
    return _render("model_card.md.j2", **common, **language_model_facts(record))


def comparison_text(record: TrainingRecord) -> str:
    """The model beside its teacher, as Markdown; empty where it has none."""
    distillation = record.spec.distillation
    if distillation is None:
        return ""
    teacher = code_span(starting_model(Model(**distillation.teacher.model_dump())))
    parts = [f"It was trained to imitate {teacher}."]
    if record.comparison is not None:
        rows = [COMPARISON_COLUMNS, ["---"] * len(COMPARISON_COLUMNS), *comparison_rows(record.comparison)]
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
        parts.append(comparison_note(record.comparison))
    if record.comparison_problem:
        parts.append(f"It was not compared with it: {code_span(record.comparison_problem)}")
    return "\n\n".join(parts)


def language_model_facts(record: TrainingRecord) -> dict[str, Any]:
    """What the card of a language model tells beside the record."""
    objective = record.objective
    tags = ["trainyard", "pretraining", "masked-lm" if objective == "MaskedLM" else "causal-lm"]
    started = record.spec.pretraining or record.spec.fine_tuning
    start = "from layers of its teacher" if record.spec.model.from_teacher else "from random weights"
    return {
        "start": "further" if record.base else start,
        "front_matter": _front_matter(objective, tags),
        "architecture": record.spec.model.architecture,
        "masking": started.masking if started else None,
        "auto_class": AUTO_CLASSES[objective],
    }


def task_facts(record: TrainingRecord, fine_tuning: FineTuning) -> dict[str, Any]:
    """What the card of a fine-tuned model tells beside the record."""
    task, evaluation = fine_tuning.task, record.evaluation
    settings = fine_tuning.evaluation
    chosen_by = METRIC_WORDS[evaluation.metric] if evaluation and settings.keep_best else ""
    return {
        "front_matter": _front_matter(task, ["trainyard", "fine-tuning", TASK_TAGS[task]]),
        "kind": KINDS[task],
        "fine_tuning": fine_tuning,
        "settings": task_rows(fine_tuning),
        "evaluation": evaluation,
        "metrics": metric_rows(evaluation) if evaluation else [],
        "classes": class_rows(evaluation.span_classes or evaluation.classes) if evaluation else [],
        "frequent_class": frequent_class(evaluation) if evaluation else None,
        "chosen_by": chosen_by,
        "auto_class": AUTO_CLASSES[task],
    }


def _front_matter(purpose: str, tags: list[str]) -> str:
    """The YAML that the hub reads."""
    content = {"library_name": "transformers", "pipeline_tag": PIPELINE_TAGS[purpose], "tags": tags}
    return yaml.safe_dump(content, sort_keys=False).strip()


def _render(name: str, **facts: Any) -> str:
    """A template with its facts."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown; text from users goes through the `code` filter
    )
    environment.filters["code"] = code_span
    template = environment.from_string(
        files("trainyard_trainer").joinpath(f"templates/{name}").read_text(encoding="utf-8")
    )
    return template.render(**facts)


def code_span(text: object) -> str:
    """Text as a Markdown code span, in which nothing but a back-tick or a line end has a meaning."""
    plain = " ".join(str(text).split()).replace("`", "'").replace("|", "\\|")
    return f"`{plain or ' '}`"
