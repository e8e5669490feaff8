"""Values that the chart refuses, and that its documents are up to date."""

import json

import pytest

from tests.cluster.locations import REPOSITORY
from tests.support.helm import CHART
from tools.chart.__main__ import chart_files, generated_files
from tools.chart.readme import documented_values

REFUSED = {
    "a name with a typo": ({"replica": 3}, "'replica' not allowed"),
    "a nested name with a typo": ({"metrics": {"serviceMonitor": {"enable": True}}}, "'enable' not allowed"),
    "an unknown setting": ({"settings": {"leaseSeconds": 3}}, "'leaseSeconds' not allowed"),
    "a setting that the chart sets": ({"settings": {"workerImage": "x"}}, "'workerImage' not allowed"),
    "a setting of the wrong type": ({"settings": {"workers": "many"}}, "/settings/workers"),
    "a setting out of range": ({"settings": {"requestBurst": 0}}, "/settings/requestBurst"),
    "no replica": ({"replicas": 0}, "/replicas"),
    "a text for a number": ({"replicas": "2"}, "/replicas"),
    "a privileged port": ({"progress": {"port": 443}}, "/progress/port"),
    "a log level in lower case": ({"logLevel": "info"}, "/logLevel"),
    "a namespace that is none": ({"watchNamespaces": ["Research"]}, "/watchNamespaces/0"),
    "a namespace twice": ({"watchNamespaces": ["a", "a"]}, "/watchNamespaces"),
    "namespaces as text": ({"watchNamespaces": "a,b"}, "/watchNamespaces"),
    "a digest without its kind": ({"image": {"digest": "0123"}}, "/image/digest"),
    "a label that is no text": ({"extraLabels": {"a": 1}}, "/extraLabels/a"),
    "a quantity that is none": ({"resources": {"limits": {"memory": "lots"}}}, "/resources/limits/memory"),
    "a link that is none": (
        {"metrics": {"prometheusRule": {"runbookBaseUrl": "docs"}}},
        "/metrics/prometheusRule/runbookBaseUrl",
    ),
    "replicas that would all act": (
        {"replicas": 2, "settings": {"leaderElection": False}},
        "several replicas would act at once: set replicas to 1",
    ),
    "one port for two": ({"progress": {"port": 8080}}, "progress.port and metrics.port are equal"),
    "rights for everybody": (
        {"serviceAccount": {"create": False}},
        "serviceAccount.create is false and serviceAccount.name is empty",
    ),
}


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=list(REFUSED))
def test_refuses(helm, values, message):
    done = helm.try_template(values)
    assert done.returncode != 0
    assert message in done.stderr


def test_derived_files_are_up_to_date(helm):
    found = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in generated_files(REPOSITORY)}
    assert "manifests/install.yaml" in found
    stale = [name for name, text in generated_files(REPOSITORY).items() if text != found[name]]
    assert stale == [], "run `make generate`"


def test_without_helm_the_rest_is_generated_all_the_same(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("TRAINYARD_CACHE", str(tmp_path))
    files = generated_files(REPOSITORY)
    assert set(files) == {f"charts/trainyard/{name}" for name in chart_files(CHART)}
    assert "make cluster-binaries" in capsys.readouterr().err


SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("replicas: 2\n", "replicas: values.yaml does not say what it means"),
        ("# Copies.\ncopies: 2\n", "copies: values.schema.json does not know it"),
        ("crds:\n  install: true\n", r"crds\.install: values.yaml does not say"),
        ("[]\n", "no mapping"),
    ],
)
def test_a_value_without_a_comment_or_a_type_cannot_be_added(values, message):
    with pytest.raises(ValueError, match=message):
        list(documented_values(values, SCHEMA))


def test_every_object_of_the_schema_is_closed_or_free():
    def open_objects(node, path):
        if isinstance(node, dict):
            if (
                "properties" in node
                and node.get("type") == "object"
                and node.get("additionalProperties") is not False
            ):
                yield path
            for name, child in node.items():
                yield from open_objects(child, f"{path}/{name}")

    assert list(open_objects(SCHEMA, "")) == []


def test_every_default_is_in_values_yaml():
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    documented = {path for path, *_ in documented_values(text, SCHEMA)}

    def options(node, prefix):
        for name, child in node["properties"].items():
            path = f"{prefix}{name}"
            if path not in documented and "properties" in child:
                yield from options(child, f"{path}.")
            else:
                yield path

    assert set(options(SCHEMA, "")) - documented == {"global"}
