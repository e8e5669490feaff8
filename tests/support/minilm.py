"""A published encoder for the tests: all-MiniLM-L6-v2, fetched once into the cache of the machine."""

import os
from pathlib import Path

from tools.cache import cache_root
from tools.fetch_models import fetch_minilm


def minilm_folder() -> Path:
    """Folder of the model, fetched when it is not there yet."""
    return fetch_minilm(cache_root(os.environ))
