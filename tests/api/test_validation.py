import copy
import os
import pickle
from pathlib import Path

import pytest
import yaml

from trainyard_api.errors import ConfigurationError
from trainyard_api.names import ExitCode
from trainyard_api.problems import InvalidRunError, Problem
from trainyard_api.rules.rule import Rule
from trainyard_api.schema_tree import minimal_value, node_at, schema_tree, walk
from trainyard_api.spec import TrainingRun, to_document
from trainyard_api.validation import load_run_file, validate_document
from trainyard_api.yaml_document import YamlProblemError, parse_yaml_document

RUN = """
apiVersion: trainyard.dev/v1alpha1
kind: TrainingRun
metadata: {name: speeches}
spec:
  pretraining: {objective: MaskedLM}
  model: {architecture: {preset: bert-mini}}
  tokenizer: {train: {algorithm: WordPiece, vocabularySize: 8192}}
  data:
    sources:
    - {name: speeches, uri: "file:///data/*.jsonl.gz", format: JsonLines}
  training:
    budget: {steps: 200}
    globalBatchSize: 64
    microBatchSize: 16
    optimizer: {learningRate: 5e-4}
"""


@pytest.fixture
def document():
    return parse_yaml_document(RUN)


def problems_of(document, extra_rules=()):
    with pytest.raises(InvalidRunError) as raised:
        validate_document(document, extra_rules)
    return raised.value.problems


def test_a_minimal_run_is_valid_and_its_numbers_may_be_written_as_in_json(document):
    run = validate_document(document)
    assert run.spec.training.optimizer.learning_rate == 0.0005
    assert run.spec.deepspeed.zero_stage == 1


def test_a_run_with_every_default_written_out_is_valid_and_equal(document):
    run = validate_document(document)
    assert validate_document(to_document(run)) == run


def test_a_causal_run_with_every_default_written_out_is_valid(document):
    document["spec"]["pretraining"] = {"objective": "CausalLM"}
    run = validate_document(document)
    assert validate_document(to_document(run)) == run


def test_snake_case_keys_are_refused_with_the_right_name(document):
    document["spec"]["training"]["gradient_clipping"] = 0.5
    (problem,) = problems_of(document)
    assert problem.path == "spec.training.gradient_clipping"
    assert problem.remedy == "Did you mean gradientClipping?"


def test_validation_leaves_the_document_as_it_was(document):
    document["spec"]["training"]["globalBatchSize"] = "64"
    before = copy.deepcopy(document)
    problems_of(document)
    assert document == before


def with_value_at(document, path, value):
    """A copy of the document with another value at a path, or None where the path leads nowhere."""
    changed = copy.deepcopy(document)
    *above, last = path.replace("[]", ".0").split(".")
    at = changed
    for part in above:
        at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        if not isinstance(at, (dict, list)) or at == []:
            return None
    at[int(last) if isinstance(at, list) else last] = value
    return changed


def outcome(document):
    try:
        return validate_document(document)
    except InvalidRunError as error:
        return error


@pytest.mark.parametrize("value", [None, "?", -1, [], {"?": 1}, True, 1e308])
def test_any_wrong_value_anywhere_gives_a_run_or_problems_but_never_another_error(document, value):
    paths = [path for path, _ in walk(schema_tree(TrainingRun)) if path]
    changed = [with_value_at(document, path, value) for path in paths]
    outcomes = [outcome(other) for other in changed if other is not None]
    errors = [found for found in outcomes if isinstance(found, InvalidRunError)]
    assert len(outcomes) > 80
    assert len(errors) > len(outcomes) // 3
    assert all(problem.problem and problem.remedy for error in errors for problem in error.problems)


def test_every_schema_node_accepts_its_minimal_value():
    tree = schema_tree(TrainingRun)
    run = minimal_value(tree)
    assert TrainingRun.model_validate(run, strict=True).metadata.name == "x"


def test_a_path_of_list_items_finds_its_node():
    tree = schema_tree(TrainingRun)
    assert node_at(tree, "spec.data.sources[].uri")["type"] == "string"
    assert node_at(tree, "spec.data.sources.uri") is None


@pytest.mark.parametrize("document", [None, [], "text", 3])
def test_a_document_that_is_no_object_is_refused(document):
    (problem,) = problems_of(document)
    assert problem.problem == "the document is not an object"


def preset_rule(name):
    def check(run):
        if run.spec.model.architecture and run.spec.model.architecture.preset != name:
            yield Problem("spec.model.architecture.preset", "unknown preset", f"Write {name}")

    return Rule(("spec.model.architecture.preset",), "unknown preset", "Write a known one", check)


def test_extra_rules_are_checked_beside_those_of_the_api(document):
    document["spec"]["training"]["globalBatchSize"] = 60
    paths = [problem.path for problem in problems_of(document, [preset_rule("bert-tiny")])]
    assert paths == ["spec.training.globalBatchSize", "spec.model.architecture.preset"]


def test_rules_are_checked_on_the_sound_parts_of_a_broken_document(document):
    document["spec"]["data"]["sources"][0]["weight"] = "much"
    paths = [problem.path for problem in problems_of(document, [preset_rule("bert-tiny")])]
    assert paths == ["spec.data.sources[0].weight", "spec.model.architecture.preset"]


def test_a_rule_is_not_checked_where_a_field_it_reads_is_broken(document):
    document["spec"]["model"]["architecture"]["preset"] = 3
    (problem,) = problems_of(document, [preset_rule("bert-tiny")])
    assert problem.problem == "found the number 3"


def test_the_error_holds_every_problem_as_text_and_survives_a_process_pool(document):
    document["spec"]["training"]["budget"] = {}
    document["spec"]["pretraining"] = {"objective": "CausalLM", "masking": {"probability": 0.2}}
    with pytest.raises(InvalidRunError) as raised:
        validate_document(document)
    error = raised.value
    assert str(error).startswith("TrainingRun: 2 problems\n- spec.training.budget: none of steps")
    assert error.exit_code == ExitCode.INVALID_CONFIGURATION
    copied = pickle.loads(pickle.dumps(error))  # noqa: S301 - what a process pool does
    assert copied.problems == error.problems


def test_an_error_of_a_file_names_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(InvalidRunError) as raised:
        load_run_file(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_valid_file_is_loaded_also_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(RUN, encoding="utf-8-sig")
    assert load_run_file(path).metadata.name == "speeches"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"a: \xff\n", "byte 3 is not UTF-8"),
        (b"#" * 1_048_577, "the file is larger than 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_small_text_is_refused(tmp_path, content, problem):
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as raised:
        load_run_file(path)
    assert (raised.value.where, raised.value.problem) == (str(path), problem)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    with pytest.raises(ConfigurationError, match="cannot read the file"):
        load_run_file(tmp_path / name)


def test_an_endless_file_is_read_only_up_to_the_limit():
    with pytest.raises(ConfigurationError, match="larger than"):
        load_run_file(Path(os.devnull).with_name("zero"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("+2E+2", 200.0),
        ("12", 12),
        ("1e", "1e"),
    ],
)
def test_numbers_are_read_as_json_and_kubectl_read_them(text, value):
    assert parse_yaml_document(text) == value


def test_aliases_and_merges_of_a_usual_size_are_kept():
    text = "a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}\n"
    assert parse_yaml_document(text) == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_a_json_file_is_a_yaml_file(document):
    assert parse_yaml_document(yaml.safe_dump(document, default_flow_style=True)) == document


@pytest.mark.parametrize(
    "text",
    ["!!python/name:os.system", "? [1]\n: 2", "a: b: c", "'", "%", "&", "*a", "\x00", "!!int x", "{[1]: 2}"],
)
def test_broken_yaml_gives_a_problem_with_a_remedy(text):
    with pytest.raises(YamlProblemError) as raised:
        parse_yaml_document(text)
    assert raised.value.found.problem
    assert raised.value.found.remedy
