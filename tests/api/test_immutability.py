import copy

import pytest

from trainyard_api.immutability import Difference, immutable_differences
from trainyard_api.validation import validate_document

DOCUMENT = {
    "apiVersion": "trainyard.dev/v1alpha1",
    "kind": "TrainingRun",
    "metadata": {"name": "speeches"},
    "spec": {
        "pretraining": {"objective": "MaskedLM"},
        "model": {"architecture": {"preset": "bert-mini"}},
        "tokenizer": {"train": {"algorithm": "WordPiece", "vocabularySize": 8192}},
        "data": {"sources": [{"name": "a", "uri": "file:///a.txt", "format": "Text"}]},
        "training": {
            "budget": {"steps": 100},
            "globalBatchSize": 8,
            "microBatchSize": 2,
            "optimizer": {"learningRate": 1e-3},
        },
    },
}


def changed(path, value):
    document = copy.deepcopy(DOCUMENT)
    *above, last = path.split(".")
    at = document["spec"]
    for part in above:
        at = at[int(part)] if part.isdigit() else at.setdefault(part, {})
    at[last] = value
    return validate_document(document)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("suspend", True),
        ("training.budget", {"epochs": 2.0}),
        ("activeDeadlineSeconds", 60),
        ("ttlSecondsAfterFinished", 60),
        ("workers.nodes", 2),
        ("restartPolicy.maxRestarts", 9),
        ("checkpoint.keep", 1),
        ("scheduling.queueName", "team"),
        ("workers.processesPerNode", 1),
        ("checkpoint.everySteps", 500),
    ],
)
def test_mutable_fields_and_defaults_written_out_make_no_difference(path, value):
    assert immutable_differences(validate_document(DOCUMENT), changed(path, value)) == []


@pytest.mark.parametrize(
    ("path", "value", "difference"),
    [
        ("model.architecture.preset", "bert-tiny", ("model.architecture.preset", "bert-mini", "bert-tiny")),
        ("training.seed", 7, ("training.seed", 0, 7)),
        ("data.sources.0.weight", 2.0, ("data.sources[0].weight", 1.0, 2.0)),
        ("checkpoint.everySteps", 10, ("checkpoint.everySteps", 500, 10)),
        (
            "model.architecture.overrides",
            {"num_hidden_layers": 2},
            ("model.architecture.overrides.num_hidden_layers", None, 2),
        ),
        (
            "tokenizer",
            {"train": {"algorithm": "BPE", "vocabularySize": 8192}},
            ("tokenizer.train.algorithm", "WordPiece", "BPE"),
        ),
    ],
)
def test_a_change_of_model_or_data_is_shown_with_both_values(path, value, difference):
    where, old, new = difference
    found = immutable_differences(validate_document(DOCUMENT), changed(path, value))
    assert found == [Difference(f"spec.{where}", old, new)]


def test_another_number_of_sources_is_one_difference():
    document = copy.deepcopy(DOCUMENT)
    document["spec"]["data"]["sources"].append({"name": "b", "uri": "file:///b.txt", "format": "Text"})
    (found,) = immutable_differences(validate_document(DOCUMENT), validate_document(document))
    assert found.path == "spec.data.sources"


def test_a_difference_reads_as_one_line():
    assert (
        str(Difference("spec.tokenizer.uri", None, "file:///t")) == "spec.tokenizer.uri: not set -> file:///t"
    )
