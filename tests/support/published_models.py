"""Published models for the tests, fetched once into the cache of the machine."""

import os
from pathlib import Path

from tools.cache import cache_root
from tools.dequantize_smollm2 import dequantized_smollm2
from tools.fetch_models import fetch_minilm


def minilm_folder() -> Path:
    """Folder of the encoder all-MiniLM-L6-v2, fetched when it is not there yet."""
    return fetch_minilm(cache_root(os.environ))


def smollm2_folder() -> Path:
    """Folder of the decoder SmolLM2-135M-Instruct, fetched and dequantised when it is not there yet."""
    return dequantized_smollm2(cache_root(os.environ))
