"""Stored models with random weights that are sure of what they say, so that there is something to imitate."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from trainyard_api.spec_objectives import FineTuning
from trainyard_trainer.data.base_config import JSON_NAMES
from trainyard_trainer.data.labelled.task import PROBLEM_TYPES
from trainyard_trainer.models.build import ModelKind, build_model


def make_sure(model: Path, weight: str, factor: float) -> Path:
    """Multiply a weight of a stored model, and with it the logits."""
    weights = load_file(model / "model.safetensors")
    weights[weight] *= factor
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def store_classifier(base: Path, folder: Path, task: FineTuning, names: Sequence[str]) -> Path:
    """A classifier of texts or words with the shape and the tokenizer of a stored encoder.

    Args:
        base: the encoder.
        folder: where to store it.
        task: what it does.
        names: names of its classes, or of its one number.
    """
    config = AutoConfig.from_pretrained(base, local_files_only=True)
    kind: ModelKind = "TokenClassification"
    if task.task == "SequenceClassification":
        kind, config.problem_type = task.task, PROBLEM_TYPES[task.problem]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    model: Any = build_model(config, kind, seed=12)
    with torch.no_grad():
        model.classifier.weight.mul_(30.0)
    model.save_pretrained(folder)
    for name in set(JSON_NAMES) - {"config.json"}:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    return folder
