"""A published encoder for the tests: all-MiniLM-L6-v2, fetched once into the cache of the machine."""

import importlib.util
import os
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools" / "fetch_models.py"


def minilm_folder() -> Path:
    """Folder of the model, fetched when it is not there yet."""
    spec = importlib.util.spec_from_file_location("trainyard_fetch_models", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder: Path = tool.fetch_minilm(tool.cache_root(os.environ))
    return folder
