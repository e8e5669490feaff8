"""Fixtures that every test may use."""

from pathlib import Path

import pytest

from tests.support.corpus import sotu_folder

# Scenarios and scenes hold assertions too.
pytest.register_assert_rewrite("tests.cluster.scenarios", "tests.cluster.scene")

pytest_plugins = ["tests.cluster.fixtures", "tests.cluster.operator_fixtures"]


@pytest.fixture(scope="session")
def sotu_corpus() -> Path:
    """Folder of the State of the Union corpus."""
    return sotu_folder()


@pytest.fixture(scope="session")
def sotu_addresses(sotu_corpus: Path) -> Path:
    """File of the 233 State of the Union addresses; JSON Lines with year, name, party and text."""
    return sotu_corpus / "addresses.jsonl.gz"


@pytest.fixture(scope="session")
def sotu_paragraphs(sotu_corpus: Path) -> Path:
    """File of short passages of the addresses, 1 to 6 sentences each; the same fields."""
    return sotu_corpus / "paragraphs.jsonl.gz"
