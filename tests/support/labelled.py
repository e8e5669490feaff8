"""Small runs with labelled data: records, plans and the prepared examples."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.support.base_models import start_from
from tests.support.preparation import TEXTS, make_plan, run
from trainyard_api.plan import RunPlan
from trainyard_trainer.data.labelled.dataset import LabelledData, open_labelled

CHAT_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)
"""A template in the manner of ChatML, over the special tokens of the tokenizers that Trainyard trains."""


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Store records as JSON Lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def labelled_texts(labels: Sequence[Any], num_records: int = 200) -> list[dict[str, Any]]:
    """Texts that differ, with the labels in turn."""
    return [
        {"text": text, "label": labels[number % len(labels)]}
        for number, text in enumerate(TEXTS[:num_records])
    ]


def task_plan(
    base: Path, folder: Path, records: Sequence[Mapping[str, Any]], task: Mapping[str, Any], **changes: Any
) -> RunPlan:
    """The plan of a run that learns a task from records.

    Args:
        base: the stored model to start from.
        folder: where everything is written.
        records: the only source.
        task: `spec.fineTuning`.
        changes: see `make_plan`.
    """
    write_records(folder / "texts.jsonl", records)
    start = {**start_from(base), "pretraining": None, "fineTuning": dict(task)}
    return make_plan(folder, **{**start, **changes})


def prepare_labelled(plan: RunPlan, *, cores: int = 1) -> LabelledData:
    """Prepare the examples of a plan and open them."""
    run(plan, cores=cores)
    return open_labelled(Path(plan.paths.run_folder))
