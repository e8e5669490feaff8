"""Rows of one batch as tensors."""

from collections.abc import Sequence
from typing import Literal

import torch

from trainyard_trainer.batches import padded_length
from trainyard_trainer.predict.predictor import Part


def padded(
    parts: Sequence[Part], pad_token_id: int, side: Literal["left", "right"] = "right"
) -> dict[str, torch.Tensor]:
    """The arguments of a Transformers model: input_ids, attention_mask, token_type_ids, int64 [rows, length].

    Args:
        parts: the rows.
        pad_token_id: what fills them up.
        side: where they are filled up; on the left where text is to be continued.
    """
    length = padded_length(max(len(part.token_ids) for part in parts))
    shape = (len(parts), length)
    rows = {
        "input_ids": torch.full(shape, pad_token_id),
        "attention_mask": torch.zeros(shape, dtype=torch.int64),
        "token_type_ids": torch.zeros(shape, dtype=torch.int64),
    }
    for number, part in enumerate(parts):
        size = len(part.token_ids)
        place = slice(length - size, length) if side == "left" else slice(0, size)
        rows["input_ids"][number, place] = torch.tensor(part.token_ids)
        rows["attention_mask"][number, place] = 1
        rows["token_type_ids"][number, place] = torch.tensor(part.token_type_ids)
    return rows
