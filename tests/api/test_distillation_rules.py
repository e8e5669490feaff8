import pytest

from tests.api.test_rules import run_document
from trainyard_api.problems import InvalidRunError
from trainyard_api.spec_distillation import Distillation
from trainyard_api.validation import validate_document

TEACHER = {"teacher": {"fromRun": {"name": "large"}}}
HALF = {"fromTeacher": {"everyNthLayer": 2}}
ALL_LAYER_TERMS = {"logits": {}, "labels": {}, "hiddenStates": {}, "attentions": {}, "relations": {}}
LAYER_MAP = [{"student": 0, "teacher": 0}, {"student": 2, "teacher": 4}]


def problems_of(distillation, model=HALF, objective="MaskedLM", **spec):
    document = run_document(
        pretraining={"objective": objective}, distillation={**TEACHER, **distillation}, model=model, **spec
    )
    if "tokenizer" not in spec:
        del document["spec"]["tokenizer"]
    try:
        validate_document(document)
    except InvalidRunError as error:
        return [(problem.path, problem.problem) for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("distillation", "rest"),
    [
        ({}, {}),
        ({}, {"model": {"architecture": {"preset": "bert-mini"}}}),
        ({}, {"model": {"fromTeacher": {"layers": [1, 3, 6], "width": {"hiddenSize": 128}}}}),
        ({"teacher": {"pretrained": {"uri": "file:///teacher"}}}, {}),
        ({"losses": ALL_LAYER_TERMS, "layerMap": LAYER_MAP}, {}),
        ({"losses": {"logits": {"divergence": "JensenShannon", "teacherShare": 0.3}}}, {}),
        ({"teacherCache": {}}, {}),
        ({"teacherCache": {"topEntries": 24, "tail": "Bucket"}}, {}),
        ({"teacherCache": {"topEntries": 0, "tailSamples": 48}}, {}),
        ({"onPolicy": {"fraction": 0.5}}, {"objective": "CausalLM"}),
        (
            {"tokenizerMismatch": "Align", "losses": {"sortedLogits": {}, "labels": {}}},
            {
                "tokenizer": {"train": {"algorithm": "BPE", "vocabularySize": 8192}},
                "model": {"architecture": {"preset": "llama-tiny"}},
                "objective": "CausalLM",
            },
        ),
    ],
)
def test_nothing_is_wrong_with_sound_distillation_but_that_parts_of_it_are_not_built_yet(distillation, rest):
    assert {problem for _, problem in problems_of(distillation, **rest)} <= {"not supported yet"}


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification", "InstructionTuning"])
def test_a_student_of_a_task_may_have_a_teacher(task):
    document = run_document(distillation=TEACHER, model=HALF, fineTuning={"task": task})
    del document["spec"]["pretraining"]
    del document["spec"]["tokenizer"]
    source = {"name": "texts", "uri": "file:///data/texts.jsonl", "format": "JsonLines"}
    document["spec"]["data"]["sources"] = [source]
    validate_document(document)


def test_a_student_from_random_weights_without_a_teacher_still_needs_a_tokenizer():
    document = run_document()
    del document["spec"]["tokenizer"]
    with pytest.raises(InvalidRunError, match="no tokenizer of its own"):
        validate_document(document)


def test_the_losses_are_the_teachers_predictions_and_the_labels_unless_some_are_named():
    plain = Distillation.model_validate(TEACHER)
    named = Distillation.model_validate({**TEACHER, "losses": {"hiddenStates": {}}})
    assert plain.losses.logits is not None
    assert plain.losses.labels is not None
    assert (named.losses.logits, named.losses.labels) == (None, None)


def test_a_cache_takes_at_most_a_hundred_bytes_a_token():
    too_large = problems_of({"teacherCache": {"topEntries": 24, "tailSamples": 1}})
    assert too_large[0] == ("spec.distillation.teacherCache", "it takes more than 100 bytes a token")


@pytest.mark.parametrize(("problem", "is_refused"), [("Regression", True), ("MultiLabel", False)])
def test_numbers_cannot_be_compared_as_sorted_probabilities(problem, is_refused):
    tuning = {"task": "SequenceClassification", "problem": problem}
    document = run_document(
        fineTuning=tuning, distillation={**TEACHER, "losses": {"sortedLogits": {}}}, model=HALF
    )
    del document["spec"]["pretraining"]
    with pytest.raises(InvalidRunError) as raised:
        validate_document(document)
    paths = [found.path for found in raised.value.problems]
    assert ("spec.distillation.losses.sortedLogits" in paths) is is_refused
