"""Eight made-up examples of three classes, of unequal length, and a tiny classifier for them."""

import torch
from transformers import PreTrainedModel

from trainyard_api.spec_model import Architecture
from trainyard_trainer.models.build import build_config, build_model

CLASS_WEIGHTS = torch.tensor([0.2, 0.8, 2.0])
LABELS = torch.tensor([0, 0, 0, 2, 1, 0, 0, 2])
TOKEN_IDS = torch.tensor([[(7 * row + 3 * place) % 50 + 6 for place in range(8)] for row in range(8)])
TOKEN_IDS[1, 5:] = 0
TOKEN_IDS[6, 3:] = 0


def tiny_classifier() -> PreTrainedModel:
    """A BERT of two layers with three classes; equal in every process."""
    config = build_config(
        Architecture(preset="bert-tiny"), vocabulary_size=64, pad_token_id=0, objective="MaskedLM"
    )
    config.id2label = {number: f"class-{number}" for number in range(3)}
    config.label2id = {name: number for number, name in config.id2label.items()}
    config.problem_type = "single_label_classification"
    return build_model(config, "SequenceClassification", seed=5)
