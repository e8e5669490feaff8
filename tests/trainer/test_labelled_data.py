"""Labelled records become examples: labels, special tokens, division, duplicates, and what is refused."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from tests.support.base_models import store_model
from tests.support.labelled import labelled_texts, prepare_labelled, task_plan, write_records
from tests.support.preparation import TEXTS
from trainyard_api.errors import ConfigurationError, DataError
from trainyard_trainer.data.normalize import document_hash
from trainyard_trainer.data.split import is_validation

SINGLE = {"task": "SequenceClassification"}
MULTI = {"task": "SequenceClassification", "problem": "MultiLabel"}
REGRESSION = {"task": "SequenceClassification", "problem": "Regression"}
WORDS = {"task": "TokenClassification"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("base") / "model")


def texts_of(data, dataset):
    tokenizer = AutoTokenizer.from_pretrained(data.tokenizer_folder)
    return {tokenizer.decode(dataset.sample(index).token_ids) for index in range(len(dataset))}


def labels_of(dataset):
    return [dataset.sample(index).labels for index in range(len(dataset))]


def test_an_example_is_what_transformers_makes_of_its_text(base, tmp_path):
    records = labelled_texts(["spam", "ham", "ham"])
    data = prepare_labelled(task_plan(base, tmp_path, records, SINGLE, data__sequenceLength=16))
    assert data.manifest.labels.names == ("ham", "spam")
    tokenizer = AutoTokenizer.from_pretrained(base)
    expected = {
        tuple(tokenizer(record["text"], truncation=True, max_length=16)["input_ids"]): record["label"]
        for record in records
    }
    found = {}
    for dataset in (data.train, data.validation):
        for index in range(len(dataset)):
            sample = dataset.sample(index)
            assert len(sample.token_ids) == dataset.lengths[index]
            found[tuple(sample.token_ids.tolist())] = data.manifest.labels.names[sample.labels]
    assert found == expected
    assert len(data.train) + len(data.validation) == len(records)


def test_labels_are_counted_and_the_frequencies_alone_give_a_loss(base, tmp_path):
    data = prepare_labelled(task_plan(base, tmp_path, labelled_texts([3, 20, 20, 20]), SINGLE))
    labels = data.manifest.labels
    assert labels.names == ("3", "20")  # whole numbers by their value
    assert labels.training_counts == tuple(np.bincount(labels_of(data.train)).tolist())
    assert labels.validation_counts == tuple(np.bincount(labels_of(data.validation)).tolist())
    assert data.train.class_numbers.tolist() == labels_of(data.train)
    shares = np.array(labels.training_counts) / sum(labels.training_counts)
    assert data.manifest.frequency_loss == pytest.approx(-(shares * np.log(shares)).sum())


def test_a_pair_of_texts_is_one_row_with_types(base, tmp_path):
    records = [{**record, "other": "word1 of"} for record in labelled_texts([True, False])]
    plan = task_plan(base, tmp_path, records, SINGLE, data__sources__0__secondTextField="other")
    data = prepare_labelled(plan)
    assert data.manifest.labels.names == ("false", "true")
    sample = data.train.sample(0)
    separator = data.manifest.tokenizer.suffix_token_id
    assert (sample.token_ids == separator).sum() == 2
    first = sample.token_ids.tolist().index(separator)
    assert sample.token_type_ids.tolist() == [0] * (first + 1) + [1] * (len(sample.token_ids) - first - 1)


def test_any_number_of_classes_becomes_zeros_and_ones(base, tmp_path):
    records = labelled_texts([["b", "a"], [], ["b"], ["b", "b"]])
    data = prepare_labelled(task_plan(base, tmp_path, records, MULTI))
    assert data.manifest.labels.names == ("a", "b")
    found = {tuple(labels.tolist()) for labels in labels_of(data.train)}
    assert found == {(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)}
    total = np.sum(labels_of(data.train), axis=0)
    assert data.manifest.labels.training_counts == tuple(total.astype(int).tolist())


def test_numbers_stay_numbers(base, tmp_path):
    data = prepare_labelled(task_plan(base, tmp_path, labelled_texts([1, 2.5, -3]), REGRESSION))
    numbers = np.concatenate(labels_of(data.train))
    assert set(numbers.tolist()) == {1.0, 2.5, -3.0}
    assert data.manifest.labels.names == ()
    assert data.manifest.frequency_loss == pytest.approx(numbers.var())


def test_the_first_token_of_each_word_has_its_label_and_words_that_are_cut_have_none(base, tmp_path):
    records = [
        {"words": text.split(), "tags": ["N" if "word" in word else "O" for word in text.split()]}
        for text in TEXTS[:100]
    ]
    data = prepare_labelled(task_plan(base, tmp_path, records, WORDS, data__sequenceLength=24))
    tokenizer = AutoTokenizer.from_pretrained(base)
    names = data.manifest.labels.names
    expected = set()
    for record in records:
        row = tokenizer(record["words"], is_split_into_words=True, truncation=True, max_length=24)
        words, labels = row.word_ids(), []
        for place, word in enumerate(words):
            is_first = word is not None and words[place - 1] != word
            labels.append(names.index(record["tags"][word]) if is_first else -100)
        expected.add((tuple(row["input_ids"]), tuple(labels)))
    found = {
        (tuple(sample.token_ids.tolist()), tuple(sample.labels.tolist()))
        for dataset in (data.train, data.validation)
        for sample in map(dataset.sample, range(len(dataset)))
    }
    assert found == expected
    predicted = [label for labels in labels_of(data.train) for label in labels if label != -100]
    assert data.manifest.labels.training_counts == tuple(np.bincount(predicted).tolist())
    assert any("longer than data.sequenceLength" in warning for warning in data.manifest.warnings)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("task", [SINGLE, MULTI, WORDS], ids=["class", "classes", "words"])
def test_other_formats_give_the_examples_of_json_lines(ending, task, base, tmp_path):
    labels = ["a", "b"] if task == SINGLE else [["a"], ["a", "b"]]
    records = labelled_texts(labels, 100)
    if task == WORDS:
        records = [{"words": text.split(), "tags": ["x", *["y"] * text.count(" ")]} for text in TEXTS[:100]]
    as_lines = prepare_labelled(task_plan(base, tmp_path / "lines", records, task))
    path = tmp_path / f"records.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            for record in records:
                cells = {
                    name: json.dumps(value) if isinstance(value, list) else value
                    for name, value in record.items()
                }
                writer.writerow(cells)
    source = {"uri": str(path), "format": "CSV" if ending == "csv" else "Parquet"}
    found = prepare_labelled(task_plan(base, tmp_path / "other", records, task, source=source))
    assert found.manifest.labels == as_lines.manifest.labels
    assert texts_of(found, found.validation) == texts_of(as_lines, as_lines.validation)


def test_the_examples_do_not_depend_on_the_number_of_cores_and_are_reused(base, tmp_path, monkeypatch):
    monkeypatch.setattr("trainyard_trainer.data.units.UNIT_BYTES", 4000)
    records = labelled_texts(["b", "a", "c"])
    one = prepare_labelled(task_plan(base, tmp_path / "one", records, SINGLE))
    many_plan = task_plan(base, tmp_path / "many", records, SINGLE)
    many = prepare_labelled(many_plan, cores=2)
    assert one.manifest.hash == many.manifest.hash
    assert len(one.train.shards) > 1
    assert labels_of(one.train) == labels_of(many.train)
    again = prepare_labelled(many_plan)
    assert all(step.reused for step in again.manifest.steps)


def with_test_set(base, folder, records, test_records, **source):
    """A plan whose second source is held out whole."""
    first = {"name": "texts", "uri": f"{folder}/texts.jsonl", "format": "JsonLines", "split": "Train"}
    second = {"name": "test", "uri": f"{folder}/test.jsonl", "format": "JsonLines", "split": "Validation"}
    write_records(folder / "test.jsonl", test_records)
    return task_plan(base, folder, records, SINGLE, data__sources=[{**first, **source}, second])


def test_an_example_that_is_held_out_whole_is_not_trained_on(base, tmp_path):
    records = labelled_texts(["a", "b"], 60)
    data = prepare_labelled(with_test_set(base, tmp_path, records, records[:10], weight=2.0))
    assert len(data.validation) == 10
    assert len(data.train) == 2 * 50
    assert not texts_of(data, data.train) & texts_of(data, data.validation)
    assert [source.duplicates for source in data.manifest.sources] == [10, 0]
    assert data.manifest.train.documents == 50


REFUSED = {
    "no label": (
        [{"text": text} for text in TEXTS[:50]],
        SINGLE,
        "sources[0].labelField",
        "no record of .* has it; they have text",
    ),
    "label of the wrong type": (
        labelled_texts([0.5, 1.5]),
        SINGLE,
        "sources[0].labelField",
        "200 of 200 records .* holds float, not a label",
    ),
    "label is null": (labelled_texts([None, None]), SINGLE, "sources[0].labelField", "'label' is empty"),
    "text for a number": (labelled_texts(["high"]), REGRESSION, "sources[0].labelField", "not a number"),
    "one class": (labelled_texts(["spam"]), SINGLE, "sources[0].labelField", "only the label 'spam'"),
    "empty class": (
        labelled_texts(["a", "b"]),
        {**SINGLE, "labels": ["a", "b", "c"]},
        "spec.fineTuning.labels",
        "the label 'c' without any training example",
    ),
    "label that is not given": (
        labelled_texts(["a", "b", "z"]),
        {**SINGLE, "labels": ["a", "b"]},
        "sources[0].labelField",
        "the label 'z' of the training examples: none of spec.fineTuning.labels",
    ),
    "words without labels": (
        [{"words": ["a", "b"], "tags": ["X"]}] * 20,
        WORDS,
        "sources[0].wordsField",
        "holds 2 words, and field 'tags' 1 labels",
    ),
    "weights of other classes": (
        labelled_texts(["a", "b"]),
        {**SINGLE, "classBalance": {"classWeights": "Given", "givenWeights": {"a": 1.0, "c": 2.0}}},
        "spec.fineTuning.classBalance.givenWeights",
        "no weight for 'b'; no class 'c'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_cannot_be_learnt_are_refused_by_field(name, base, tmp_path):
    records, task, where, problem = REFUSED[name]
    with pytest.raises((DataError, ConfigurationError), match=problem) as raised:
        prepare_labelled(task_plan(base, tmp_path, records, task))
    assert raised.value.where.endswith(where)
    assert not (tmp_path / "out" / "run" / "data.json").exists()


def test_a_held_out_label_that_training_never_saw_is_refused(base, tmp_path):
    test_records = [{"text": "another one", "label": "c"}]
    plan = with_test_set(base, tmp_path, labelled_texts(["a", "b"], 40), test_records)
    with pytest.raises(DataError, match="the label 'c' of held-out examples: training has none of them"):
        prepare_labelled(plan)


def test_an_example_with_the_only_label_of_its_kind_is_trained_on(base, tmp_path):
    records = [
        *labelled_texts(["a", "b"], 100),
        *({"text": f"only {n}", "label": f"c{n}"} for n in range(60)),
    ]
    plan = task_plan(base, tmp_path, records, SINGLE, data__validationFraction=0.3)
    data = prepare_labelled(plan)
    labels = data.manifest.labels
    assert len(labels.names) == 62
    assert min(labels.training_counts) == 1
    assert sum(labels.validation_counts) == len(data.validation) > 0
    assert [count > 0 for count in labels.validation_counts] == [True, True, *[False] * 60]
    assert any("no other training example has" in warning for warning in data.manifest.warnings)
    assert len(data.train) + len(data.validation) == len(records)


def test_of_a_class_that_is_held_out_whole_only_the_first_example_is_trained_on(base, tmp_path):
    records = [
        *labelled_texts(["a", "b"], 100),
        *({"text": f"rare {n}", "label": f"c{n % 30}"} for n in range(90)),
    ]
    plan = task_plan(base, tmp_path, records, SINGLE, data__validationFraction=0.5)
    labels = prepare_labelled(plan).manifest.labels
    counts = list(zip(labels.training_counts, labels.validation_counts, strict=True))
    assert (1, 2) in counts, "a class whose three examples are held out keeps two of them"
    assert all(trained for trained, _ in counts)


def test_a_mistyped_label_of_a_held_out_example_is_told_as_such(base, tmp_path):
    records = [*labelled_texts(["a", "b"], 100), *({"text": f"t{n}", "label": "z"} for n in range(40))]
    plan = task_plan(base, tmp_path, records, {**SINGLE, "labels": ["a", "b"]})
    with pytest.raises(DataError, match="the label 'z' of the training examples: none of spec"):
        prepare_labelled(plan)
    hashes = {text: np.frombuffer(document_hash(text), dtype=np.uint64) for text in TEXTS[100:]}
    held_out = next(text for text in hashes if is_validation(hashes[text][np.newaxis], 0.1)[0])
    one = [*labelled_texts(["a", "b"], 100), {"text": held_out, "label": "z"}]
    plan = task_plan(base, tmp_path / "one", one, {**SINGLE, "labels": ["a", "b"]})
    with pytest.raises(DataError, match="the label 'z' of held-out examples: none of spec"):
        prepare_labelled(plan)


def test_a_decoder_is_refused_for_classification(tmp_path):
    base = store_model(tmp_path / "base" / "model", "llama-tiny")
    plan = task_plan(base, tmp_path, labelled_texts(["a", "b"]), SINGLE)
    with pytest.raises(ConfigurationError, match="serves CausalLM, not MaskedLM") as raised:
        prepare_labelled(plan)
    assert raised.value.where == "spec.fineTuning.task"
