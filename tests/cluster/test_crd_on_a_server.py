"""The CRD as a real API server takes it."""

import json
import re
from typing import Any

import pytest
import yaml

from tests.cluster.locations import REPOSITORY
from trainyard_api.crd import PRINTER_COLUMNS
from trainyard_api.immutability import MUTABLE_FIELDS, has_mutable_part
from trainyard_api.problems import InvalidRunError
from trainyard_api.schema_tree import schema_tree, walk, without_indices
from trainyard_api.spec import TrainingRun, to_document
from trainyard_api.status import TrainingRunStatus
from trainyard_api.validation import load_run_file

pytestmark = pytest.mark.control_plane

SAMPLES = sorted((REPOSITORY / "manifests" / "samples").glob("*.yaml"))
INVALID = sorted((REPOSITORY / "tests" / "data" / "invalid").glob("*.yaml"))
QUICKSTART = REPOSITORY / "manifests" / "samples" / "quickstart.yaml"

FREE_FORM = "CEL cannot look into a free-form object; the operator can"
FAR_FROM_THE_TASK = "whether a field has a meaning follows from the task, which the operator's rules know"
ADMITTED = {
    "copied-from-a-cluster": "a server overwrites what it owns itself, so that this does no harm",
    "date-as-name": "kubectl reads a date as text",
    "deepspeed-not-an-object": FREE_FORM,
    "deepspeed-owned-keys": FREE_FORM,
    "deepspeed-unknown-keys": FREE_FORM,
    "hostile-bad-date": "kubectl reads a bad date as text",
    "hostile-date-inside-free-form": "kubectl reads a date as text",
    "hostile-duplicate-key": "kubectl keeps the last of equal keys",
    "hostile-number-key": "kubectl reads a number as a key as text",
    "hostile-two-documents": "kubectl applies each document of a file",
    "labels-of-pretraining": FAR_FROM_THE_TASK,
}
"""Files that `trainyard validate` refuses and a server admits, each with the reason."""

REFUSED_BY_KUBECTL = {
    "hostile-alias-bomb": "excessive aliasing",
    "hostile-control-character": "control characters are not allowed",
    "hostile-empty": "no objects passed",
    "hostile-merge-bomb": "excessive aliasing",
    "hostile-only-a-list": "invalid object",
    "hostile-self-reference": "contains itself",
    "hostile-syntax": "did not find expected",
    "hostile-tab": "cannot start any token",
    "not-finite": r"unsupported value: \+Inf",
    "several-mistakes-at-once": r"unsupported value: \+Inf",
    "wrong-kind": 'no matches for kind "TrainJob"',
}
"""Files that never reach the server, each with what kubectl says of them."""

OTHER_FIELD = {
    "hostile-python-tag": "spec.model.architecture.preset",
    "micro-batch-too-large": "spec.training.globalBatchSize",
    "sources-repeat-text": "spec.data.sources",
    "sources-share-a-name": "spec.data.sources[1]",
}
"""Files of which the server names another field than `trainyard validate` does, or that one does not."""


def document(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text())
    found["spec"].update(spec)
    return found


def changed(path: str, value: Any) -> dict[str, Any]:
    """The quickstart with one field of another value."""
    found = document()
    *above, last = path.split(".")
    parent = found
    for part in above:
        parent = parent.setdefault(part, {})
    parent[last] = value
    return found


def problem_paths(path):
    with pytest.raises(InvalidRunError) as raised:
        load_run_file(path)
    return [problem.path for problem in raised.value.problems]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
@pytest.mark.usefixtures("crd")
def test_the_server_refuses_what_validate_refuses_and_names_the_field(cluster, path):
    done = cluster.kubectl.attempt("apply", "--dry-run=server", "-f", str(path))
    if path.stem in ADMITTED:
        assert done.returncode == 0, f"{path.stem} is refused now: take it from the table\n{done.stderr}"
        return
    assert done.returncode == 1, f"the server admits {path.stem}"
    if path.stem in REFUSED_BY_KUBECTL:
        assert re.search(REFUSED_BY_KUBECTL[path.stem], done.stderr)
    else:
        fields = [OTHER_FIELD[path.stem]] if path.stem in OTHER_FIELD else problem_paths(path)
        assert any(field in done.stderr for field in fields), done.stderr


def test_the_tables_name_files_that_exist():
    stems = {path.stem for path in INVALID}
    assert {*ADMITTED, *REFUSED_BY_KUBECTL, *OTHER_FIELD} <= stems


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("crd")
def test_every_sample_is_admitted_without_a_warning(cluster, path):
    done = cluster.kubectl.attempt("apply", "--dry-run=server", "-f", str(path))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


@pytest.mark.usefixtures("crd")
def test_defaults_are_written_when_a_run_is_created(kubectl):
    kubectl.apply(document())
    created = kubectl.get("trainingrun", "quickstart")["spec"]
    assert created == to_document(load_run_file(QUICKSTART))["spec"]


@pytest.mark.usefixtures("crd")
def test_a_run_is_found_by_its_short_name_and_category_and_shown_in_columns(kubectl):
    kubectl.apply(document())
    progress = {
        "stage": "Train",
        "step": 42,
        "percent": 16.8,
        "loss": 5.25,
        "tokensPerSecond": 8000.0,
        "etaSeconds": 120,
        "updatedAt": "2026-01-01T00:00:00Z",
    }
    status = {"phase": "Running", "restarts": 1, "progress": progress}
    patch = json.dumps({"status": status})
    kubectl.run("patch", "trun", "quickstart", "--subresource=status", "--type=merge", "-p", patch)
    header, row = kubectl.run("get", "trun").splitlines()
    assert header.split() == [column.upper() for column in ("Name", *(name for name, *_ in PRINTER_COLUMNS))]
    assert row.split()[:-1] == ["quickstart", "Running", "42", "16.8", "5.25", "8000", "120", "1"]
    assert kubectl.run("get", "training", "--output=name") == "trainingrun.trainyard.dev/quickstart\n"


@pytest.mark.usefixtures("crd")
def test_the_status_is_a_subresource_that_a_change_of_the_spec_cannot_touch(kubectl):
    kubectl.apply({**document(), "status": {"phase": "Succeeded"}})
    assert "status" not in kubectl.get("trun", "quickstart")
    patch = ["patch", "trun", "quickstart", "--subresource=status", "--type=merge", "-p"]
    kubectl.run(*patch, '{"status": {"phase": "Running"}, "spec": {"suspend": true}}')
    run = kubectl.get("trun", "quickstart")
    assert run["status"]["phase"] == "Running"
    assert run["spec"]["suspend"] is False
    assert run["metadata"]["generation"] == 1


MUTABLE_VALUES = {
    "spec.suspend": True,
    "spec.training.budget": {"epochs": 2.5},
    "spec.activeDeadlineSeconds": 60,
    "spec.queueDeadlineSeconds": 60,
    "spec.startupDeadlineSeconds": 60,
    "spec.stallTimeoutSeconds": 60,
    "spec.ttlSecondsAfterFinished": 60,
    "spec.workers.nodes": 1,
    "spec.restartPolicy": {"maxRestarts": 9},
    "spec.checkpoint.keep": 9,
    "spec.scheduling": {"queueName": "team"},
}
IMMUTABLE_VALUES = {
    "spec.model": {"architecture": {"preset": "bert-tiny"}},
    "spec.model.architecture.overrides": {"num_hidden_layers": 3},
    "spec.pretraining.masking.probability": 0.2,
    "spec.tokenizer.train.lowercase": True,
    "spec.data.sequenceLength": 64,
    "spec.data.sources": [{"name": "addresses", "uri": "file:///other.jsonl", "format": "JsonLines"}],
    "spec.training.globalBatchSize": 64,
    "spec.training.microBatchSize": 8,
    "spec.training.optimizer.learningRate": 0.002,
    "spec.training.schedule.warmupSteps": 20,
    "spec.training.precision": "BF16",
    "spec.training.gradientClipping": 2.0,
    "spec.training.seed": 8,
    "spec.training.evaluation.everySteps": 10,
    "spec.deepspeed": {"zeroStage": 2},
    "spec.workers.processesPerNode": 2,
    "spec.workers.image": "registry.example/trainer:1",
    "spec.workers.accelerator": {"resourceName": "amd.com/gpu"},
    "spec.workers.resources": {"limits": {"cpu": "2"}},
    "spec.workers.podTemplate": {"spec": {"nodeSelector": {"zone": "a"}}},
    "spec.storage": {"volumeClaim": {"claimName": "training"}},
    "spec.checkpoint.everySteps": 25,
    "spec.bias": {"audit": {"lexicon": "default"}},
}


def immutable_parts() -> list[str]:
    """The fields of objects that may change in part."""
    return [
        path
        for path, _ in walk(schema_tree(TrainingRun))
        if path.startswith("spec.") and "[]" not in path
        and (path.rpartition(".")[0] == "spec" or has_mutable_part(path.rpartition(".")[0]))
        and not any(path == field or path.startswith(f"{field}.") for field in MUTABLE_FIELDS)
        and not has_mutable_part(path)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def existing_run(crd, cluster, core_api):
    name = "immutability"
    core_api.create_namespace({"metadata": {"name": name}})
    kubectl = cluster.kubectl.in_namespace(name)
    kubectl.apply(document())
    yield kubectl
    core_api.delete_namespace(name)


@pytest.mark.parametrize("path", MUTABLE_VALUES)
def test_a_mutable_field_may_change(existing_run, path):
    existing_run.run("replace", "--dry-run=server", "-f", "-", documents=changed(path, MUTABLE_VALUES[path]))


@pytest.mark.parametrize("path", IMMUTABLE_VALUES)
def test_an_immutable_field_may_not_change(existing_run, path):
    replacement = changed(path, IMMUTABLE_VALUES[path])
    done = existing_run.attempt("replace", "--dry-run=server", "-f", "-", documents=replacement)
    assert done.returncode == 1
    refused = re.findall(r"(spec[.\w\[\]]*) is immutable\. Create a new TrainingRun instead", done.stderr)
    assert refused, done.stderr
    for field in refused:
        assert f"{path}.".startswith(f"{field}.") or field.startswith((f"{path}.", f"{path}[")), done.stderr


def test_an_immutable_field_may_not_disappear(existing_run):
    replacement = document()
    del replacement["spec"]["tokenizer"]
    done = existing_run.attempt("replace", "--dry-run=server", "-f", "-", documents=replacement)
    assert "spec.tokenizer is immutable" in done.stderr


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.workers.image", "registry.example/trainer:1"),
        ("spec.training.evaluation.maximumSequences", 8),
        ("spec.data.preparation.deduplicate.near", {"threshold": 0.9}),
    ],
)
def test_an_immutable_field_may_not_appear(existing_run, path, value):
    replacement = changed(path, value)
    done = existing_run.attempt("replace", "--dry-run=server", "-f", "-", documents=replacement)
    assert f"{path} is immutable" in done.stderr


AMOUNTS = [
    {"limits": {"cpu": 2, "memory": "8Gi"}},
    {"limits": {"cpu": 0.5, "memory": "1e9"}, "requests": {"cpu": "250m"}},
    {"limits": {"cpu": ".5", "hugepages-2Mi": "64Mi", "example.com/port": 1}},
]


@pytest.mark.usefixtures("crd")
@pytest.mark.parametrize("resources", AMOUNTS, ids=str)
def test_amounts_of_resources_may_be_text_or_numbers_and_may_not_change(kubectl, resources):
    kubectl.apply(changed("spec.workers.resources", resources))
    replacement = changed("spec.workers.resources", {"limits": {**resources["limits"], "cpu": 3}})
    done = kubectl.attempt("replace", "--dry-run=server", "-f", "-", documents=replacement)
    assert "spec.workers.resources.limits is immutable" in done.stderr


SOURCE = document()["spec"]["data"]["sources"][0]


@pytest.mark.parametrize(
    ("sources", "refused"),
    [
        ([SOURCE, {**SOURCE, "name": "more", "uri": "file:///more.jsonl"}], "spec.data.sources"),
        ([{**SOURCE, "name": "another"}], "spec.data.sources"),
        ([{**SOURCE, "weight": 2.0}], "spec.data.sources[].weight"),
    ],
)
def test_sources_may_neither_come_go_nor_change(existing_run, sources, refused):
    replacement = changed("spec.data.sources", sources)
    done = existing_run.attempt("replace", "--dry-run=server", "-f", "-", documents=replacement)
    assert f"{refused} is immutable" in done.stderr


def test_every_field_is_tried():
    assert MUTABLE_VALUES.keys() == set(MUTABLE_FIELDS)
    tried = tuple(f"{path}." for path in IMMUTABLE_VALUES)
    untried = [path for path in immutable_parts() if not any(field.startswith(f"{path}.") for field in tried)]
    assert untried == ["spec.fineTuning", "spec.distillation"]  # no run has them and the sample's method


@pytest.mark.usefixtures("crd")
def test_kubectl_explains_every_field(cluster):
    """`kubectl explain` prints what OpenAPI v3 says, which is read here once instead of once per field."""
    openapi = cluster.kubectl.raw("/openapi/v3/apis/trainyard.dev/v1alpha1")
    schema = next(
        schema for name, schema in openapi["components"]["schemas"].items() if name.endswith(".TrainingRun")
    )
    described = {without_indices(path): node.get("description") for path, node in walk(schema)}
    for model, start in ((TrainingRun, ""), (TrainingRunStatus, "status")):
        for path, node in walk(schema_tree(model), start):
            if path.startswith(("spec", "status")) and not path.endswith("[]"):
                assert described[path] == " ".join(node["description"].split()), path
    page = cluster.kubectl.run("explain", "trun.spec.training.globalBatchSize")
    assert "Rows per optimizer step over all processes." in page
