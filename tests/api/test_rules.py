import pytest

from trainyard_api.deepspeed_keys import ALLOWED_KEYS, OWNED_KEYS, UNSUPPORTED_KEYS, ValueType, refused_keys
from trainyard_api.problems import InvalidRunError
from trainyard_api.rules.all_rules import ALL_RULES
from trainyard_api.schema_tree import is_free_form, node_at, schema_tree
from trainyard_api.spec import TrainingRun
from trainyard_api.validation import validate_document


def run_document(**spec):
    return {
        "apiVersion": "trainyard.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": {"name": "speeches"},
        "spec": {
            "pretraining": {"objective": "MaskedLM"},
            "model": {"architecture": {"preset": "bert-mini"}},
            "tokenizer": {"uri": "file:///tokenizer.json"},
            "data": {"sources": [{"name": "a", "uri": "file:///a.txt", "format": "Text"}]},
            "training": training(),
            **spec,
        },
    }


def training(**fields):
    return {
        "budget": {"steps": 100},
        "globalBatchSize": 8,
        "microBatchSize": 2,
        "optimizer": {"learningRate": 1e-3},
        **fields,
    }


def optimizer(**fields):
    return training(optimizer={"learningRate": 1e-3, **fields})


@pytest.mark.parametrize(
    "spec",
    [
        {"pretraining": {"objective": "CausalLM"}},
        {"pretraining": {"objective": "CausalLM", "masking": {"probability": 0.30}}},
        {"training": optimizer(name="SGD", nesterov=True)},
        {"training": optimizer(name="SGD", momentum=0.0)},
        {"training": optimizer(name="Lion", beta2=0.99)},
        {"training": {**optimizer(name="Adafactor"), "precision": "FP32"}, "deepspeed": {"zeroStage": 0}},
        {"training": training(schedule={"name": "WarmupStableDecay", "warmupSteps": 50, "decaySteps": 50})},
        {"training": training(budget={"epochs": 0.5}, schedule={"warmupSteps": 1000})},
        {"training": training(budget={"wallClockSeconds": 60})},
        {"training": training(precision="FP16"), "workers": {"accelerator": {"count": 1}}},
        {"workers": {"nodes": 2, "processesPerNode": 2}},
        {"workers": {"processesPerNode": 4, "accelerator": {"count": 4}}},
        {"workers": {"resources": {"limits": {"cpu": 4}}, "podTemplate": {"spec": {"nodeSelector": {}}}}},
        {"storage": {"uri": "file:///runs"}},
        {"storage": {"volumeClaim": {"claimName": "training"}}},
        {"deepspeed": {"config": {"steps_per_print": 10, "zero_optimization": {"overlap_comm": True}}}},
        {"bias": {"gates": []}},
        {"scheduling": {"queueName": "team"}, "ttlSecondsAfterFinished": 0},
    ],
)
def test_a_run_that_fulfils_the_rules_is_accepted(spec):
    assert isinstance(validate_document(run_document(**spec)), TrainingRun)


@pytest.mark.parametrize(
    ("uri", "text_format", "is_valid"),
    [
        ("file:///a/*.parquet", "Parquet", True),
        ("file:///a/*.parquet", "JsonLines", False),
        ("file:///a/x.ndjson.zst", "Text", False),
        ("file:///a/x.JSONL.GZ", "JsonLines", True),
        ("file:///a/x.json", "JsonLines", True),
        ("s3://bucket/x.txt", "Text", True),
        ("FILE:///a/x.txt", "Text", True),
        ("/a/x.txt", "Text", False),
        ("a/x.txt", "Text", False),
        ("file:a/x.txt", "Text", False),
        ("file://a/x.txt", "Text", False),
        ("https://host/x.txt?version=3", "Text", True),
        ("hf://datasets/org/name@main/x.txt", "Text", True),
        ("S3://bucket/x.txt", "Text", True),
        ("file:///a/..b/x..txt", "Text", True),
        ("file:///a/../x.txt", "Text", False),
        ("s3://bucket/..", "Text", False),
        ("data://text,x", "Text", False),
        ("memory://x.txt", "Text", False),
        ("filecache://x.txt", "Text", False),
        ("filecache::s3://bucket/x.txt", "Text", False),
        ("zip://*.txt::file:///a/x.zip", "Text", False),
        ("file:///a/x.zip::zip", "Text", False),
    ],
)
def test_source_uris_are_absolute_and_fit_their_format(uri, text_format, is_valid):
    document = run_document(data={"sources": [{"name": "a", "uri": uri, "format": text_format}]})
    if is_valid:
        validate_document(document)
    else:
        with pytest.raises(InvalidRunError, match=r"spec\.data\.sources\[0\]"):
            validate_document(document)


STORED_MODELS = {
    "spec.model.pretrained.uri": lambda uri: {"model": {"pretrained": {"uri": uri}}},
    "spec.distillation.teacher.pretrained.uri": lambda uri: {
        "pretraining": None,
        "distillation": {"teacher": {"pretrained": {"uri": uri}}},
    },
}


@pytest.mark.parametrize("path", STORED_MODELS)
@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("file:///models/x", None),
        (f"hf://org/name@{'0' * 40}", None),
        ("hf://org/name@main", "named without its commit"),
        ("HF://org/name", "named without its commit"),
        ("models/x", "has no scheme"),
        ("memory://x", "no place that a run reads from"),
        ("https://user:secret@host/x", "holds a user name or password"),
    ],
)
def test_a_stored_model_lies_where_a_run_reads_and_never_moves(uri, problem, path):
    document = run_document(**STORED_MODELS[path](uri))
    document["spec"] = {name: value for name, value in document["spec"].items() if value is not None}
    found = [each for each in _problems_of(document) if each.path == path]
    assert len(found) == (problem is not None)
    assert all(problem in each.problem for each in found)


def _problems_of(document):
    try:
        validate_document(document)
    except InvalidRunError as error:
        return error.problems
    return ()


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.problem[:50])
def test_a_rule_reads_fields_that_exist_and_its_cel_stands_at_a_node_that_exists(rule):
    tree = schema_tree(TrainingRun)
    assert all(node_at(tree, field) is not None for field in rule.fields)
    assert rule.cel is None or not is_free_form(node_at(tree, rule.node))
    assert not rule.message.endswith(".")
    assert "\n" not in rule.message


def test_a_deepspeed_key_is_owned_allowed_or_unsupported_but_never_two_of_them():
    assert not OWNED_KEYS.keys() & ALLOWED_KEYS
    assert not OWNED_KEYS.keys() & UNSUPPORTED_KEYS
    assert not UNSUPPORTED_KEYS & ALLOWED_KEYS.keys()


@pytest.mark.parametrize("key", sorted(OWNED_KEYS.keys() | UNSUPPORTED_KEYS))
def test_a_deepspeed_key_that_does_not_pass_is_refused_with_a_remedy(key):
    name, _, inner = key.partition(".")
    (refused,) = refused_keys({name: {inner: 1}} if inner else {name: 1})
    assert refused.key == key
    assert refused.remedy


VALUES = {
    ValueType.BOOLEAN: ([True, False], [1, "true", None]),
    ValueType.WHOLE_NUMBER: ([0, 50_000_000, 5e7], ["big", 0.5, -1, True, float("inf"), None]),
    ValueType.TEXT: (["fp32"], [32, None]),
    ValueType.OBJECT: ([{}], ["on", True, [], None]),
}


@pytest.mark.parametrize("key", sorted(ALLOWED_KEYS))
def test_an_allowed_deepspeed_key_passes_with_a_value_of_its_type_and_no_other(key):
    name, _, inner = key.partition(".")
    right, wrong = VALUES[ALLOWED_KEYS[key]]
    for value in right:
        assert not list(refused_keys({name: {inner: value}} if inner else {name: value}))
    for value in wrong:
        (refused,) = refused_keys({name: {inner: value}} if inner else {name: value})
        assert refused.key == key
        assert f"must be {ALLOWED_KEYS[key]}, not {value!r}" in refused.problem


def test_a_wrong_value_names_its_place_and_what_to_write():
    (refused,) = refused_keys({"zero_optimization": {"reduce_bucket_size": "big"}})
    assert refused.key == "zero_optimization.reduce_bucket_size"
    assert refused.problem == "this must be a whole number of 0 or more, not 'big'"
    assert refused.remedy == "Write a whole number of 0 or more, such as 50000000"
