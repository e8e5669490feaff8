"""Real text for the tests: the State of the Union corpus, fetched once into the cache of the machine."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

TOOL = Path(__file__).parents[2] / "tools" / "fetch_corpora.py"


def load_corpus_tool() -> ModuleType:
    """The corpus tool as a module."""
    spec = importlib.util.spec_from_file_location("trainyard_fetch_corpora", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sotu_folder() -> Path:
    """Folder of the corpus, fetched when it is not there yet."""
    tool = load_corpus_tool()
    folder: Path = tool.fetch_sotu(tool.cache_root(os.environ))
    return folder
