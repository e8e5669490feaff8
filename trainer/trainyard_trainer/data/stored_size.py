"""How many parameters a stored model has, from the headers of its files."""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

_IN_A_LAYER = re.compile(r"\.\d+\.")
"""In the name of a parameter: the number of its layer, in all families that Trainyard trains."""


@dataclass(frozen=True, slots=True)
class StoredSize:
    """The size of a stored model."""

    parameters: int
    """All of them, tied ones counted once."""
    in_layers: int
    """Those of the layers; the rest are embeddings and head."""


def stored_size(folder: Path) -> StoredSize | None:
    """The size of the model in a folder; None where it is not there, or not readable yet.

    Only the headers are read, so that it takes milliseconds for a model of any size.
    """
    total = in_layers = 0
    files = sorted(folder.glob("model*.safetensors"))
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                    number = prod(tensors.get_slice(name).get_shape())
                    total += number
                    in_layers += number if _IN_A_LAYER.search(name) else 0
        except (SafetensorError, OSError):
            return None
    return StoredSize(total, in_layers) if files else None
