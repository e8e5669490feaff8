import itertools
import re

import jsonschema
import pytest
import yaml

from trainyard_api import generate
from trainyard_api.api_reference import api_reference
from trainyard_api.crd import custom_resource_definition, custom_resource_definition_yaml
from trainyard_api.immutability import MUTABLE_FIELDS, is_mutable
from trainyard_api.names import ExitCode, Reason
from trainyard_api.rules.all_rules import ALL_RULES
from trainyard_api.schema_tree import node_at, schema_tree, walk
from trainyard_api.spec import TrainingRun

STRUCTURAL_KEYWORDS = {
    "type", "description", "format", "enum", "pattern", "default", "required", "properties", "items",
    "additionalProperties", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength",
    "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "nullable",
    "x-kubernetes-preserve-unknown-fields", "x-kubernetes-int-or-string", "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys", "x-kubernetes-map-type", "x-kubernetes-validations",
}  # fmt: skip


@pytest.fixture(scope="module")
def version():
    (only,) = custom_resource_definition()["spec"]["versions"]
    return only


@pytest.fixture(scope="module")
def root(version):
    return version["schema"]["openAPIV3Schema"]


def schemas(schema, path=""):
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from schemas(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from schemas(schema["additionalProperties"], f"{path}{{}}")


def at(root, path):
    return next(schema for found, schema in schemas(root) if found == path)


def test_the_schema_uses_only_keywords_of_structural_schemas(root):
    for path, schema in schemas(root):
        assert schema.keys() <= STRUCTURAL_KEYWORDS, path
        is_amount = re.fullmatch(r"spec\.workers\.resources\.(limits|requests)\.[a-z-]+", path)
        assert is_amount or isinstance(schema["type"], str), path
        assert not ("properties" in schema and "additionalProperties" in schema), path
        for bound in ("exclusiveMinimum", "exclusiveMaximum"):
            assert schema.get(bound, True) is True, path
            assert bound not in schema or bound.replace("exclusiveM", "m") in schema, path


def test_every_field_of_the_spec_and_the_status_is_described(root):
    for path, schema in schemas(root):
        if path and path != "metadata" and not path.endswith(("[]", "{}")):
            assert schema.get("description"), path


def test_every_field_of_the_pydantic_schema_is_in_the_crd(root):
    in_crd = {path for path, _ in schemas(root)}
    in_models = {path for path, _ in walk(schema_tree(TrainingRun)) if path.startswith("spec")}
    assert in_models <= in_crd


def test_free_form_objects_keep_unknown_fields(root):
    free = [path for path, schema in schemas(root) if schema.get("x-kubernetes-preserve-unknown-fields")]
    assert "spec.deepspeed.config" in free
    assert "spec.workers.podTemplate.spec" in free
    assert "spec.data.preparation.filters[]" in free


@pytest.mark.parametrize(
    ("path", "members"),
    [
        ("spec.workers.resources", {"limits", "requests", "claims"}),
        ("spec.workers.podTemplate", {"metadata", "spec"}),
    ],
)
def test_objects_of_kubernetes_name_their_members_so_that_others_are_refused(root, path, members):
    assert at(root, path)["properties"].keys() == members
    assert "x-kubernetes-preserve-unknown-fields" not in at(root, path)


def test_defaults_are_whole_and_fit_their_own_schema(root):
    for path, schema in schemas(root):
        if "default" in schema:
            draft_2020 = {key: value for key, value in schema.items() if not key.startswith("x-")}
            jsonschema.validate(schema["default"], strip_exclusive(draft_2020))
            assert None not in (schema["default"].values() if isinstance(schema["default"], dict) else []), (
                path
            )


def strip_exclusive(schema):
    """A schema without OpenAPI's exclusive bounds, which JSON Schema writes in another way."""
    if isinstance(schema, list):
        return [strip_exclusive(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: strip_exclusive(value)
        for key, value in schema.items()
        if not (key.startswith("exclusive") and value is True)
    }


def test_the_status_has_no_defaults(root):
    assert not [path for path, schema in schemas(root) if path.startswith("status") and "default" in schema]


def test_optional_fields_are_neither_required_nor_null(root):
    budget = at(root, "spec.training.budget")
    assert "required" not in budget
    assert budget["properties"]["epochs"] == {
        "type": "number",
        "description": "Passes over the training data.",
        "minimum": 0.0,
        "exclusiveMinimum": True,
    }


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if rule.cel], ids=lambda rule: rule.problem[:50])
def test_each_rule_with_cel_stands_at_its_node_with_its_message(root, rule):
    validations = at(root, rule.node)["x-kubernetes-validations"]
    (stated,) = (each for each in validations if each["rule"] == rule.cel)
    assert stated["message"] == rule.message
    assert rule.node + stated.get("fieldPath", "") == (rule.field or rule.node)


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if rule.cel], ids=lambda rule: rule.problem[:50])
def test_the_fields_that_cel_reads_exist_at_its_node(rule):
    tree = schema_tree(TrainingRun)
    for members, call in set(re.findall(r"self((?:\.[a-zA-Z0-9_]+)+)(\(?)", rule.cel)):
        reference = members.rpartition(".")[0] if call else members
        assert node_at(tree, rule.node + reference) is not None, reference
    assert node_at(tree, rule.field or rule.node) is not None


def test_sources_are_a_map_by_name_so_that_names_are_unique(root):
    assert at(root, "spec.data.sources")["x-kubernetes-list-map-keys"] == ["name"]


def transitions(root):
    """The rules that keep a field as it is, by the path that the API server names."""
    found = {}
    for path, schema in schemas(root):
        for rule in schema.get("x-kubernetes-validations", []):
            if "oldSelf" in rule["rule"]:
                found.setdefault(path + rule.get("fieldPath", ""), []).append(rule["rule"])
    return found


@pytest.mark.parametrize(
    "field",
    [
        "spec.model.architecture.preset", "spec.model.architecture.overrides", "spec.data.sources",
        "spec.data.sources[].uri", "spec.data.preparation.filters", "spec.deepspeed.zeroStage",
        "spec.bias.gates", "spec.training.optimizer.learningRate", "spec.training.seed",
        "spec.workers.image", "spec.checkpoint.everySteps",
    ],
)  # fmt: skip
def test_fields_that_define_the_model_and_its_data_are_immutable(root, field):
    assert transitions(root)[field]


def test_every_field_of_the_spec_is_mutable_or_kept_as_it_is(root):
    kept = transitions(root)
    for path, schema in schemas(at(root, "spec"), "spec"):
        is_free = any(path.startswith((f"{field}.", f"{field}[", f"{field}{{")) for field in kept)
        if "properties" not in schema and not is_free and not is_mutable(path):
            assert path in kept, path


def test_an_optional_field_without_a_default_neither_appears_nor_disappears(root):
    kept = transitions(root)
    for path, schema in schemas(at(root, "spec"), "spec"):
        for name, child in schema.get("properties", {}).items():
            field = f"{path}.{name}"
            is_sure = name in schema.get("required", []) or "default" in child
            if not is_sure and not is_mutable(field) and "oldSelf" in str(child):
                assert f"has(self.{name}) == has(oldSelf.{name})" in kept[field]


def test_rules_of_the_spec_compare_with_the_old_value_at_the_very_value(root):
    """Looking up a field of an object would cost far more, for each status that is written."""
    for rule in itertools.chain.from_iterable(transitions(root).values()):
        assert not re.search(r"(?<!has\()oldSelf\.(?!size\(|exists\()", rule), rule


@pytest.mark.parametrize("path", MUTABLE_FIELDS)
def test_mutable_fields_have_no_transition_rule(root, path):
    assert at(root, path) is not None
    assert not [field for field in transitions(root) if f"{field}.".startswith(f"{path}.")]
    assert not [field for field in transitions(root) if f"{path}.".startswith(f"{field}.")]


def test_the_status_has_one_owner(root):
    assert root["properties"]["status"]["x-kubernetes-map-type"] == "atomic"


def test_the_resource_is_named_and_shown_as_designed(version):
    definition = custom_resource_definition()
    names = definition["spec"]["names"]
    assert definition["metadata"]["name"] == "trainingruns.trainyard.dev"
    assert (names["shortNames"], names["categories"]) == (["trun"], ["training"])
    assert version["subresources"] == {"status": {}}
    assert [column["name"].upper() for column in version["additionalPrinterColumns"]] == [
        "PHASE", "STEP", "PROGRESS", "LOSS", "TOKENS/S", "ETA", "RESTARTS", "AGE",
    ]  # fmt: skip


def test_printer_columns_point_to_fields_of_the_schema(root, version):
    for column in version["additionalPrinterColumns"]:
        if column["jsonPath"].startswith(".status"):
            assert at(root, column["jsonPath"].lstrip("."))["type"] == column["type"]


def test_the_yaml_of_the_crd_reads_back_without_anchors():
    text = custom_resource_definition_yaml()
    assert yaml.safe_load(text) == custom_resource_definition()
    assert not re.search(r"[&*]id\d", text)


def test_generation_writes_files_that_its_check_accepts(tmp_path, capsys):
    assert generate.main(["--root", str(tmp_path), "--check"]) == 1
    assert generate.main(["--root", str(tmp_path)]) == 0
    assert generate.main(["--root", str(tmp_path), "--check"]) == 0
    (tmp_path / "manifests" / "crd.yaml").write_text("edited by hand\n", encoding="utf-8")
    capsys.readouterr()
    assert generate.main(["--root", str(tmp_path), "--check"]) == 1
    assert "-edited by hand" in capsys.readouterr().out


def test_the_generated_files_of_the_repository_are_current(request):
    lines = generate.differences(request.config.rootpath)
    assert not lines, "\n".join(lines[:40])


def test_the_reference_names_every_field_exit_code_and_reason():
    page = api_reference()
    for path, _ in walk(schema_tree(TrainingRun)):
        if path.startswith("spec.") and not path.endswith("[]"):
            assert f"`{path}`" in page
    assert all(f"| {code.value} | {code.name} |" in page for code in ExitCode)
    assert all(f"`{reason.value}`" in page for reason in Reason)


def test_differences_are_unified_diffs(tmp_path):
    lines = generate.differences(tmp_path)
    assert lines[0].startswith("--- manifests/crd.yaml")
