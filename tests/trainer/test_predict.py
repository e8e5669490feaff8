"""`trainyard predict`, with small real models as runs export them."""

import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from tests.support.base_models import store_model
from tests.support.commands import command_caller
from trainyard_api.errors import DataError
from trainyard_api.names import ExitCode
from trainyard_api.spec import TrainingRun, to_document
from trainyard_trainer.predict.fields import messages_of, words_of
from trainyard_trainer.predict.records import InputRecord, read_records
from trainyard_trainer.progress import write_json_atomically
from trainyard_trainer.training_record import RecordedCheckpoint, TrainingRecord

TEMPLATE = "{% for message in messages %}<{{ message.role }}> {{ message.content }} {% endfor %}<assistant>"
CLASSES = {
    "SequenceClassification": AutoModelForSequenceClassification,
    "TokenClassification": AutoModelForTokenClassification,
    "InstructionTuning": AutoModelForCausalLM,
}
TEXTS = [
    "The state of the union is strong",
    "Peace",
    "We shall build roads and bridges, and schools for all",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("encoder") / "base")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    return store_model(tmp_path_factory.mktemp("decoder") / "base", "llama-tiny")


def store_run(folder, base, labels=(), sequence_length=32, source=None, **fine_tuning):
    """A run folder with the model that a fine-tuning run leaves, its head with random weights."""
    model = folder / "model"
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
    regression = {"num_labels": 1} if fine_tuning.get("problem") == "Regression" else {}
    torch.manual_seed(3)
    network = CLASSES[fine_tuning["task"]].from_pretrained(base, **(names if labels else regression))
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    network.save_pretrained(model)
    AutoTokenizer.from_pretrained(base).save_pretrained(model)
    document = {
        "metadata": {"name": "task"},
        "spec": {
            "fineTuning": fine_tuning,
            "model": {"pretrained": {"uri": base.as_uri()}},
            "data": {
                "sources": [
                    {"name": "a", "uri": "file:///a.jsonl", "format": "JsonLines", **(source or {})},
                ],
                "sequenceLength": sequence_length,
            },
            "training": {
                "budget": {"steps": 1},
                "globalBatchSize": 1,
                "microBatchSize": 1,
                "optimizer": {"learningRate": 1e-3},
            },
        },
    }
    run = TrainingRun.model_validate(document)
    (folder / "run.yaml").write_text(yaml.safe_dump(to_document(run)))
    record = TrainingRecord(
        key="k",
        run="task",
        objective=fine_tuning["task"],
        parameters=1,
        steps=1,
        tokens=1,
        training_seconds=1.0,
        seed=0,
        data_hash="ab",
        data={},
        spec=run.spec,
        checkpoint=RecordedCheckpoint(step=1, committed_at="2026-11-25T08:00:00Z", manifest_sha256="e"),
        versions={},
        created_at="2026-11-25T08:00:00Z",
    )
    write_json_atomically(model / "training_record.json", record)
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    return command_caller(monkeypatch, capsys)


def write_texts(path, texts=TEXTS, field="text"):
    path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts))
    return path


def predicted(call, folder, file, *options):
    code, out, err = call("predict", folder, "--input", file, *options)
    assert code == ExitCode.SUCCEEDED, err
    return [json.loads(line) for line in out.splitlines()]


def test_a_classifier_tells_label_and_scores_in_the_order_of_the_input(encoder, call, tmp_path):
    folder = store_run(tmp_path, encoder, ["ham", "spam", "other"], task="SequenceClassification")
    file = write_texts(tmp_path / "in.jsonl")
    found = predicted(call, folder, file)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    network = AutoModelForSequenceClassification.from_pretrained(folder / "model").eval()
    for text, prediction in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            scores = network(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
        assert prediction["label"] == network.config.id2label[int(scores.argmax())]
        assert prediction["score"] == max(prediction["scores"].values())
        assert prediction["scores"]["spam"] == pytest.approx(float(scores[1]), abs=2e-6)
    one_by_one = predicted(call, folder, file, "--batch-size", 1)
    assert [prediction["label"] for prediction in one_by_one] == [prediction["label"] for prediction in found]


def test_a_text_is_read_as_training_reads_it(encoder, call, tmp_path):
    """Normalised, and what spells a special token is text."""
    folder = store_run(tmp_path, encoder, ["ham", "spam"], task="SequenceClassification")
    texts = ["we  of\u00a0word7 ", "we  of word7", "[SEP] [SEP]", "[ SEP ] [ SEP ]"]
    spaced, plain, spelt, apart = predicted(call, folder, write_texts(tmp_path / "in.jsonl", texts))
    assert spaced == plain
    assert spelt == apart


def test_a_text_longer_than_a_row_is_cut_and_the_prediction_says_so(encoder, call, tmp_path):
    folder = store_run(tmp_path, encoder, ["a", "b"], sequence_length=8, task="SequenceClassification")
    short, long = predicted(call, folder, write_texts(tmp_path / "in.jsonl", ["peace", "peace " * 40]))
    assert "truncated" not in short
    assert long["truncated"] is True


def test_pairs_many_labels_and_numbers_have_predictions_of_their_own(encoder, call, tmp_path):
    records = "".join(json.dumps({"premise": text, "hypothesis": "peace"}) + "\n" for text in TEXTS)
    (tmp_path / "in.jsonl").write_text(records)
    source = {"textField": "premise", "secondTextField": "hypothesis"}
    common = {"source": source, "task": "SequenceClassification"}
    (tmp_path / "many").mkdir()
    many = store_run(tmp_path / "many", encoder, ["a", "b"], problem="MultiLabel", **common)
    for prediction in predicted(call, many, tmp_path / "in.jsonl"):
        likely = {name for name, score in prediction["scores"].items() if score >= 0.5}
        assert set(prediction["labels"]) == likely
    (tmp_path / "number").mkdir()
    number = store_run(tmp_path / "number", encoder, problem="Regression", **common)
    values = predicted(call, number, tmp_path / "in.jsonl")
    assert all(set(prediction) == {"value"} for prediction in values)
    assert len({prediction["value"] for prediction in values}) == 3


def test_a_tagger_gives_every_word_a_tag_also_where_the_text_is_longer_than_a_row(encoder, call, tmp_path):
    folder = store_run(tmp_path, encoder, ["NN", "VB"], sequence_length=8, task="TokenClassification")
    words = [
        "Unbelievable",
        "bridges",
        "connect",
        "extraordinarily",
        "many",
        "strong",
        "states",
        "of",
        "the",
        "union",
    ]
    records = [{"words": words}, {"words": " ".join(words[:2])}, {"words": []}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    long, short, nothing = predicted(call, folder, tmp_path / "in.jsonl")
    assert long["words"] == words
    assert len(long["tags"]) == len(long["scores"]) == len(words)
    assert set(long["tags"]) <= {"NN", "VB"}
    assert short["words"] == words[:2]
    assert nothing == {"words": [], "tags": [], "scores": []}


def test_a_word_without_tokens_is_refused_wherever_it_stands(encoder, call, tmp_path):
    folder = store_run(tmp_path, encoder, ["NN", "VB"], sequence_length=8, task="TokenClassification")
    for words in (["\u200b"], ["peace", "\u200b", "peace"], ["peace", "\u200b"]):
        (tmp_path / "in.jsonl").write_text(json.dumps({"words": words}) + "\n")
        code, _, err = call("predict", folder, "--input", tmp_path / "in.jsonl")
        assert code == ExitCode.INVALID_DATA
        assert "line 1: the tokenizer makes nothing of the word" in err


def test_answers_are_generated_and_do_not_depend_on_the_batch(decoder, call, tmp_path):
    folder = store_run(tmp_path, decoder, task="InstructionTuning", chatTemplate=TEMPLATE)
    conversations = [[{"role": "user", "content": text}] for text in TEXTS]
    records = [{"messages": messages} for messages in conversations] + [{"text": TEXTS[0]}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    options = ("--maximum-new-tokens", 6)
    together = predicted(call, folder, tmp_path / "in.jsonl", *options)
    alone = predicted(call, folder, tmp_path / "in.jsonl", *options, "--batch-size", 1)
    assert together == alone
    assert together[0] == together[3], "a text stands for a message of the user"
    assert any(prediction["text"] for prediction in together)


def test_every_format_gives_the_same_records(tmp_path):
    rows = [{"text": 'a, "b"\nc'}, {"text": "d"}]
    lines = "".join(json.dumps(row) + "\n\n" for row in rows)
    (tmp_path / "in.jsonl").write_text(lines)
    with gzip.open(tmp_path / "in.jsonl.gz", "wt") as file:
        file.write(lines)
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows(rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    for name in ("in.jsonl", "in.jsonl.gz", "in.csv", "in.parquet"):
        assert [record.fields for record in read_records(tmp_path / name)] == rows, name


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("in.jsonl", '{"text": "a"}\n{"text": \n', "line 2: broken JSON"),
        ("in.jsonl", '["a"]\n', "line 1: not a JSON object"),
        ("in.jsonl", b'{"text": "\xff"}\n', "line 1: not UTF-8"),
        ("in.csv", "text,label\na\n", "line 2: 1 columns instead of the header's 2"),
        ("in.csv", 'text\n"a"b\n', "it is no CSV at line 2"),
        ("in.parquet", "text", "it is not a Parquet file"),
        ("in.jsonl.gz", "text", "it is damaged, or not in the format of its ending"),
    ],
)
def test_a_broken_record_is_an_error_that_names_its_place(name, content, problem, tmp_path):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=problem):
        list(read_records(tmp_path / name))


@pytest.fixture
def classifier(encoder, tmp_path):
    return store_run(tmp_path, encoder, ["ham", "spam"], task="SequenceClassification")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("in.jsonl", '{"body": "a"}', "line 1: it has no field 'text', only body"),
        ("in.jsonl", '{"text": 3}', "line 1: field 'text' holds int, not text"),
        ("in.jsonl", '{"text": "\\ud800"}', "line 1: field 'text' is not UTF-8, or holds a lone surrogate"),
        ("in.txt", "a", "--input: the ending of in.txt tells no format"),
        ("missing.jsonl", None, "cannot be read: No such file or directory"),
    ],
)
def test_input_that_cannot_be_read_is_refused_and_leaves_no_output(name, content, problem, classifier, call):
    tmp_path = classifier
    if content is not None:
        (tmp_path / name).write_text(content)
    output = tmp_path / "out.jsonl"
    code, out, err = call("predict", classifier, "--input", tmp_path / name, "--output", output)
    assert code == (ExitCode.INVALID_CONFIGURATION if name == "in.txt" else ExitCode.INVALID_DATA)
    assert out == ""
    assert problem in err
    assert not output.exists()
    assert not list(tmp_path.glob(".out*"))


def test_output_goes_to_a_file_whole(classifier, call, tmp_path):
    output = tmp_path / "out.jsonl"
    code, out, err = call(
        "predict", classifier, "--input", write_texts(tmp_path / "in.jsonl"), "--output", output
    )
    assert (code, out) == (ExitCode.SUCCEEDED, "")
    assert "3 predictions" in err
    assert len(output.read_text().splitlines()) == 3


def test_an_output_that_cannot_be_written_is_refused(classifier, call, tmp_path):
    file = write_texts(tmp_path / "in.jsonl")
    code, _, err = call("predict", classifier, "--input", file, "--output", tmp_path / "no" / "out.jsonl")
    assert code == ExitCode.INVALID_CONFIGURATION
    assert "--output" in err


def test_a_run_without_an_exported_model_cannot_predict(call, tmp_path):
    (tmp_path / "run.yaml").write_text("metadata: {name: x}")
    code, _, err = call("predict", tmp_path, "--input", write_texts(tmp_path / "in.jsonl"))
    assert code == ExitCode.INVALID_DATA
    assert "there is no exported model" in err


def test_a_model_without_a_task_cannot_predict(classifier, call, tmp_path):
    path = classifier / "model" / "training_record.json"
    record = json.loads(path.read_text())
    record["spec"]["fineTuning"] = None
    record["spec"]["pretraining"] = {"objective": "MaskedLM"}
    path.write_text(json.dumps(record))
    code, _, err = call("predict", classifier, "--input", write_texts(tmp_path / "in.jsonl"))
    assert code == ExitCode.INVALID_CONFIGURATION
    assert "its model was made by pre-training, and has no task to predict for" in err


def test_a_damaged_model_is_an_error(classifier, call, tmp_path):
    weights = classifier / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    code, _, err = call("predict", classifier, "--input", write_texts(tmp_path / "in.jsonl"))
    assert code == ExitCode.INVALID_DATA
    assert "the model cannot be loaded" in err


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"messages": []}, "it has no messages: nothing is left to answer"),
        ({"messages": [{"role": "user"}]}, "holds a message without role and content"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "nothing is left to answer"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "exceed the"),
        ({"text": "end </s> of"}, "line 1: a message spells the special token '</s>'"),
    ],
)
def test_a_conversation_that_cannot_be_answered_is_refused(record, problem, decoder, call, tmp_path):
    folder = store_run(tmp_path, decoder, task="InstructionTuning", chatTemplate=TEMPLATE)
    (tmp_path / "in.jsonl").write_text(json.dumps(record) + "\n")
    code, _, err = call("predict", folder, "--input", tmp_path / "in.jsonl")
    assert code == ExitCode.INVALID_DATA
    assert problem in err


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (["a", "b c"], ["a", "b c"]),
        ("a  b c", ["a", "b", "c"]),
        ('["a", "b c"]', ["a", "b c"]),
        ("[laughs] a", ["[laughs]", "a"]),
        ("[1]", ["[1]"]),
        ("", []),
        ([], []),
    ],
)
def test_words_are_a_list_also_in_json_as_csv_holds_it_or_a_text(value, words):
    assert words_of(InputRecord("x, line 1", {"words": value}), "words") == words


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("a", "holds no list of messages in JSON"),
        ([], "it has no messages: nothing is left to answer. End it with a message of the user"),
        ([{"role": "user"}], "holds a message without role and content"),
        ([{"role": "pirate", "content": "x"}], "holds the role 'pirate'"),
        ([{"role": "assistant", "content": "x"}], "nothing is left to answer"),
        ([{"role": "user", "content": 3}], "field 'messages' holds int, not text"),
    ],
)
def test_messages_that_cannot_be_answered_are_refused_by_record(value, problem):
    with pytest.raises(DataError, match=problem) as raised:
        messages_of(InputRecord("x, line 1", {"messages": value}), "messages", "text")
    assert raised.value.where == "x, line 1"


def test_messages_in_json_are_read_as_training_reads_them():
    conversation = [{"role": "user", "content": "x"}]
    record = InputRecord("x, line 1", {"messages": json.dumps(conversation)})
    assert messages_of(record, "messages", "text") == conversation
