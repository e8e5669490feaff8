"""Labels of real text through the tokenizer of a published encoder, which divides many of its words."""

import gzip
import json
from itertools import islice

import pytest
from transformers import AutoTokenizer

from tests.support.corpus import brown_folder, spam_assassin_folder
from tests.support.labelled import prepare_labelled, task_plan
from tests.support.published_models import minilm_folder
from tools.corpora.brown import SENTENCES
from tools.corpora.spam_assassin import EMAILS
from trainyard_trainer.data.labelled.encode import NOT_PREDICTED
from trainyard_trainer.data.normalize import normalize


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(minilm_folder())


def records_of(path, *, every, count):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in islice(file, 0, every * count, every)]


def examples_of(data):
    for dataset in (data.train, data.validation):
        yield from map(dataset.sample, range(len(dataset)))


def test_each_tag_of_a_sentence_stands_at_the_first_piece_of_its_word(tokenizer, tmp_path):
    length = 48
    records = records_of(brown_folder() / SENTENCES, every=300, count=60)
    task = {"task": "TokenClassification"}
    data = prepare_labelled(task_plan(minilm_folder(), tmp_path, records, task, data__sequenceLength=length))
    names = data.manifest.labels.names
    by_words = {}
    num_words = num_divided = 0
    for record in records:
        row = tokenizer(record["words"], is_split_into_words=True, truncation=True, max_length=length)
        places = row.word_ids()
        firsts = [place for place, word in enumerate(places) if word not in {None, places[place - 1]}]
        num_words += len(firsts)
        num_divided += len([place for place in places if place is not None]) - len(firsts)
        by_words[tuple(row["input_ids"])] = (firsts, [record["tags"][places[place]] for place in firsts])
    assert num_divided > num_words / 10, "these words say nothing of pieces"
    examples = list(examples_of(data))
    assert len(examples) == len(by_words) == len(records)
    for example in examples:
        firsts, tags = by_words[tuple(example.token_ids.tolist())]
        labelled = [place for place, label in enumerate(example.labels.tolist()) if label != NOT_PREDICTED]
        assert labelled == firsts
        assert [names[example.labels[place]] for place in labelled] == tags


def test_an_email_is_cut_as_transformers_cuts_it_and_keeps_its_label(tokenizer, tmp_path):
    length = 96
    records = records_of(spam_assassin_folder() / EMAILS, every=100, count=60)
    task = {"task": "SequenceClassification"}
    data = prepare_labelled(task_plan(minilm_folder(), tmp_path, records, task, data__sequenceLength=length))
    names = data.manifest.labels.names
    assert len(names) == 2
    expected = {
        tuple(tokenizer(normalize(record["text"]), truncation=True, max_length=length)["input_ids"]): (
            record["label"]
        )
        for record in records
    }
    found = {tuple(example.token_ids.tolist()): names[example.labels] for example in examples_of(data)}
    assert found == expected
    assert len(found) > len(records) / 2
