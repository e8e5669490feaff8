"""The corpora of the tools: what they deliver, and what is refused."""

import gzip
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from tests.support.corpus import brown_folder, spam_assassin_folder
from tools.corpora import brown, records, sotu, spam_assassin
from trainyard_api.errors import DataError

ADDRESS = {"year": 1790, "name": "A Name", "party": "none", "text": "We met. It went well. All agreed."}


def write_tarball(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, mode="w:gz") as archive:
        for name, content in members.items():
            information = tarfile.TarInfo(name)
            information.size = len(content)
            archive.addfile(information, io.BytesIO(content))
    return path


def records_of(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def test_the_addresses_are_all_there_in_the_order_of_their_years(sotu_addresses):
    found = records_of(sotu_addresses)
    years = [record["year"] for record in found]
    assert len(found) == 233
    assert years == sorted(years)
    assert (years[0], years[-1]) == (1790, 2021)
    assert all(list(record) == ["year", "name", "party", "text"] for record in found)
    assert sum(len(record["text"].split()) for record in found) == 1_794_884


def test_the_paragraphs_are_short_and_hold_every_word_of_the_addresses_in_order(
    sotu_addresses, sotu_paragraphs
):
    addresses, paragraphs = records_of(sotu_addresses), records_of(sotu_paragraphs)
    words = [word for record in paragraphs for word in record["text"].split()]
    assert words == [word for record in addresses for word in record["text"].split()]
    assert 50 < len(words) / len(paragraphs) < 150


def test_every_conversation_asks_for_a_passage_and_answers_with_its_speaker_and_year(sotu_paragraphs):
    passages = records_of(sotu_paragraphs)
    conversations = records_of(sotu_paragraphs.with_name(sotu.CONVERSATIONS))
    for passage, record in zip(passages, conversations, strict=True):
        question, answer = record["messages"]
        assert (question["role"], answer["role"]) == ("user", "assistant")
        quoted = question["content"].partition("\n\n")[2].split()
        assert quoted == passage["text"].split()[:100]
        assert answer["content"] == f"{passage['name']} said this in {passage['year']}."


def test_every_email_has_its_text_and_the_label_of_its_group():
    found = records_of(spam_assassin_folder() / spam_assassin.EMAILS)
    assert Counter((email["label"], email["group"]) for email in found) == {
        ("ham", "easy-ham-1"): 2500,
        ("ham", "easy-ham-2"): 1400,
        ("ham", "hard-ham-1"): 250,
        ("spam", "spam-1"): 500,
        ("spam", "spam-2"): 1396,
    }
    assert all(email["text"].strip() for email in found)


def test_every_word_of_the_brown_corpus_has_a_tag_and_every_sentence_a_genre():
    found = records_of(brown_folder() / brown.SENTENCES)
    assert len(found) == 57_340
    assert all(len(sentence["words"]) == len(sentence["tags"]) > 0 for sentence in found)
    assert sum(len(sentence["words"]) for sentence in found) == brown.NUM_WORDS
    assert {sentence["genre"] for sentence in found} == set(brown.GENRES.values())
    assert found[0]["words"][:4] == ["The", "Fulton", "County", "Grand"]
    assert found[0]["tags"][:4] == ["at", "np", "nn", "jj"]


@pytest.mark.parametrize(
    ("tag", "base"),
    [
        ("nn", "nn"),
        ("NN-TL-HL", "nn"),
        ("fw-nn", "nn"),
        ("dt+bez-nc", "dt"),
        ("--", "--"),
        ("---hl", "--"),
        ("dod*", "dod*"),
        ("*-tl", "*"),
        ("np$-tl", "np$"),
    ],
)
def test_a_base_tag_tells_nothing_of_the_place_of_a_word(tag, base):
    assert brown.base_tag(tag) == base


def test_a_word_that_holds_a_slash_keeps_it_and_one_without_a_tag_is_refused():
    assert list(brown.split_sentences("\n\t1/2/cd of//in\n\n")) == [(["1/2", "of/"], ["cd", "in"])]
    with pytest.raises(DataError, match="'word' is no word/tag"):
        list(brown.split_sentences("a/at word"))


def test_members_outside_the_data_folder_are_ignored(monkeypatch, tmp_path):
    monkeypatch.setattr(sotu, "NUM_ADDRESSES", 1)
    content = json.dumps(ADDRESS).encode()
    members = {"../../1790_escape_n.json": content, "package/data/1790_a_name_n.json": content}
    tarball = write_tarball(tmp_path / "x.tgz", members)
    assert sotu.read_addresses(tarball) == [sotu.Address(**ADDRESS)]


@pytest.mark.parametrize(
    "read",
    [sotu.read_addresses, spam_assassin.read_emails, brown.read_sentences],
    ids=lambda read: read.__name__,
)
def test_a_package_with_another_number_of_records_is_refused(read, tmp_path):
    with pytest.raises(DataError, match=r"it holds 0 \w+-?\w*, not \d+"):
        read(write_tarball(tmp_path / "x.tgz", {"package/README": b"empty"}))


def test_an_archive_that_unpacks_to_too_much_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "MAXIMUM_UNPACKED_BYTES", 1000)
    with pytest.raises(DataError, match="unpacks to more than 1000 bytes"):
        sotu.read_addresses(write_tarball(tmp_path / "x.tgz", {"package/large": bytes(1001)}))
