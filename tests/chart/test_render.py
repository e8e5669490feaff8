"""What the chart renders, with each of its options."""

import copy
import json
import re

import pytest
import yaml

from tests.cluster.recipes import KUBERNETES_VERSION
from tests.support.chart_values import PERMUTATIONS, leaves
from tests.support.helm import CHART, environment_of, of_kind, operator_pod
from tools.chart.readme import documented_values
from tools.chart.settings_schema import OWN_VALUES, camel_case
from trainyard_api.crd import custom_resource_definition
from trainyard_api.names import Label
from trainyard_operator.resources.pod_security import violations
from trainyard_operator.settings import Settings

CLUSTER_WIDE = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
POD_FIELDS = {
    "metadata.name": "trainyard-operator-0",
    "metadata.namespace": "trainyard",
    "status.podIP": "192.0.2.7",
}
EACH = pytest.mark.parametrize("values", PERMUTATIONS.values(), ids=list(PERMUTATIONS))


def settings_of(objects) -> Settings:
    return Settings.from_environment(environment_of(objects, POD_FIELDS))


def names(objects, kind):
    return [each["metadata"]["name"] for each in of_kind(objects, kind)]


@pytest.mark.parametrize("name", ["defaults", "one namespace", "everything for monitoring", "where pods run"])
def test_lint_finds_nothing(helm, name):
    arguments = ("lint", "--strict", str(CHART), "--kube-version", KUBERNETES_VERSION)
    done = helm.attempt(*arguments, values=PERMUTATIONS[name])
    assert done.returncode == 0, done.stdout
    assert "1 chart(s) linted, 0 chart(s) failed" in done.stdout


@EACH
def test_pods_satisfy_restricted(helm, values):
    pod = operator_pod(helm.template(values))
    assert violations(pod) == []
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"]["memory"]
    assert container["resources"]["requests"]["cpu"]


@EACH
def test_the_operator_reads_its_environment(helm, values):
    objects = helm.template(values)
    known = {f"TRAINYARD_{name.upper()}" for name in Settings.model_fields}
    assert set(environment_of(objects)) - known == set()
    settings = settings_of(objects)
    assert settings.identity == "trainyard-operator-0"
    assert settings.pod_address == "192.0.2.7"
    service = f"{settings.progress_service}.{settings.operator_namespace}.svc"
    assert settings.progress_url == f"https://{service}:{settings.progress_port}"
    assert settings.progress_service in names(objects, "Service")


@EACH
def test_every_object_has_our_labels_and_a_place(helm, values):
    objects = helm.template(values)
    places = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(set(places)) == len(places)
    for each in objects:
        assert ("namespace" not in each["metadata"]) == (each["kind"] in CLUSTER_WIDE)
        assert len(each["metadata"]["name"]) <= 63
        labels = each["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == "trainyard"
        assert labels["app.kubernetes.io/instance"] == "trainyard"
        assert labels[Label.MANAGED_BY] == "Helm"


@EACH
def test_selectors_find_the_pods_and_a_users_labels_do_not_change_them(helm, values):
    objects = helm.template(values)
    labels = operator_pod(objects)["metadata"]["labels"]
    (deployment,) = of_kind(objects, "Deployment")
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    selectors += [
        each["spec"]["selector"] for each in of_kind(objects, "Service") if "selector" in each["spec"]
    ]
    selectors += [each["spec"]["selector"]["matchLabels"] for each in of_kind(objects, "PodDisruptionBudget")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    assert len(selectors) >= 2
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert selectors[0] == {
        "app.kubernetes.io/name": "trainyard",
        "app.kubernetes.io/instance": "trainyard",
        "app.kubernetes.io/component": "operator",
    }


def options() -> list[str]:
    """Paths of all values, but not of what is in free objects."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    return [path for path, *_ in documented_values(text, schema)]


def without(values, path):
    """Values with one of them left to its default."""
    changed = copy.deepcopy(values)
    *parents, last = path.split(".")
    parent = changed
    for part in parents:
        parent = parent[part]
    del parent[last]
    return changed


def rendered_or_refused(helm, values):
    """The objects of the chart; None where it refuses the values."""
    done = helm.try_template(values)
    return None if done.returncode else [each for each in yaml.safe_load_all(done.stdout) if each]


@pytest.mark.parametrize("option", options())
def test_every_option_is_tested_and_changes_something_by_itself(helm, option):
    tested = [values for values in PERMUTATIONS.values() if option in leaves(values)]
    assert tested
    assert any(
        helm.template(values) != rendered_or_refused(helm, without(values, option)) for values in tested
    )


def test_a_narrow_network_policy_lets_in_and_out_only_what_it_names(helm):
    values = PERMUTATIONS["a narrow network policy"]["networkPolicy"]
    (policy,) = of_kind(helm.template(PERMUTATIONS["a narrow network policy"]), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    _, metrics = policy["spec"]["ingress"]
    assert metrics["from"] == values["metricsFrom"]
    _, requests = policy["spec"]["egress"]
    assert requests["to"] == values["apiServerTo"]
    assert [port["port"] for port in requests["ports"]] == values["apiServerPorts"]
    assert of_kind(helm.template(PERMUTATIONS["no network policy"]), "NetworkPolicy") == []


def test_every_setting_of_the_operator_can_be_set_in_one_place():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    further = set(schema["properties"]["settings"]["properties"])
    assert further == {camel_case(name) for name in set(Settings.model_fields) - OWN_VALUES}
    text = (CHART / "templates" / "_environment.tpl").read_text(encoding="utf-8")
    set_by_templates = {
        name.lower() for name in re.findall(r"name: TRAINYARD_([A-Z_]+)$", text, re.MULTILINE)
    }
    assert set_by_templates == OWN_VALUES


def test_settings_arrive_as_they_were_written(helm):
    settings = settings_of(helm.template(PERMUTATIONS["settings"]))
    assert settings.requests_per_second == 50
    assert settings.request_burst == 100_000
    assert settings.lease_renew_deadline_seconds == 7.5
    assert settings.termination_grace_seconds == 600


def test_without_options_the_operator_has_its_own_defaults(helm):
    settings = settings_of(helm.template())
    derived = OWN_VALUES - {"namespaces", "default_claim_name", "cluster_domain", "log_level"}
    assert settings.model_dump(exclude=derived) == Settings().model_dump(exclude=derived)


def test_images_are_named_by_digest_else_by_tag_else_by_version(helm):
    def images(values):
        objects = helm.template(values)
        (container,) = operator_pod(objects)["spec"]["containers"]
        return container["image"], settings_of(objects).worker_image

    version = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))["appVersion"]
    assert images({}) == (f"trainyard-operator:{version}", f"trainyard-trainer:{version}")
    assert images(PERMUTATIONS["images by tag"]) == (
        "mirror.example:5000/trainyard/operator:1.2.3",
        "mirror.example/trainer:1.2.3",
    )
    digest = PERMUTATIONS["images by digest"]["image"]["digest"]
    assert images(PERMUTATIONS["images by digest"]) == (
        f"trainyard-operator@{digest}",
        f"trainyard-trainer@{digest}",
    )


def test_the_definition_is_the_one_of_the_schema_and_stays_unless_it_is_told_to_go(helm):
    (kept,) = of_kind(helm.template(), "CustomResourceDefinition")
    assert kept["spec"] == custom_resource_definition()["spec"]
    assert kept["metadata"]["name"] == custom_resource_definition()["metadata"]["name"]
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    (going,) = of_kind(helm.template(PERMUTATIONS["a definition that goes"]), "CustomResourceDefinition")
    assert "annotations" not in going["metadata"]
    assert of_kind(helm.template(PERMUTATIONS["rights by others"]), "CustomResourceDefinition") == []


def test_probes_ask_the_metrics_port_for_what_it_serves(helm):
    (container,) = operator_pod(helm.template(PERMUTATIONS["other ports"]))["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"progress": 9443, "metrics": 9090}
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness", "startup")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "liveness": "/healthz",
        "readiness": "/readyz",
        "startup": "/healthz",
    }
    assert {probe["port"] for probe in probes.values()} == {"metrics"}


def test_the_progress_service_has_no_selector_since_the_leader_writes_its_endpoints(helm):
    objects = helm.template()
    settings = settings_of(objects)
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Service")}
    progress = services[settings.progress_service]
    assert "selector" not in progress
    assert [(port["name"], port["port"]) for port in progress["ports"]] == [
        ("progress", settings.progress_port)
    ]


def test_a_certificate_by_others_is_mounted_where_the_operator_looks_for_it(helm):
    objects = helm.template(PERMUTATIONS["a certificate by others"])
    settings = settings_of(objects)
    spec = operator_pod(objects)["spec"]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == "certificate"]
    assert volume["secret"]["secretName"] == "progress-tls"
    (mount,) = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["name"] == "certificate"]
    files = (settings.certificate_file, settings.certificate_key_file, settings.certificate_authority_file)
    assert files == tuple(f"{mount['mountPath']}/{name}" for name in ("tls.crt", "tls.key", "ca.crt"))


def test_the_network_policy_lets_pods_of_runs_in_and_requests_out(helm):
    (policy,) = of_kind(helm.template(), "NetworkPolicy")
    progress, metrics = policy["spec"]["ingress"]
    assert progress["from"] == [
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {Label.MANAGED_BY: "trainyard"}}}
    ]
    assert [port["port"] for port in progress["ports"]] == [8443]
    assert "from" not in metrics
    assert [port["port"] for port in metrics["ports"]] == [8080]
    names_, requests = policy["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in names_["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert [port["port"] for port in requests["ports"]] == [443, 6443]


def test_only_pods_of_the_namespaces_that_are_served_reach_the_progress_port(helm):
    (policy,) = of_kind(helm.template({"watchNamespaces": ["research", "2024"]}), "NetworkPolicy")
    (peer,) = policy["spec"]["ingress"][0]["from"]
    assert peer == {
        "namespaceSelector": {
            "matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["research", "2024"]}
            ]
        },
        "podSelector": {"matchLabels": {Label.MANAGED_BY: "trainyard"}},
    }


def test_a_disruption_budget_needs_a_second_replica(helm):
    assert len(of_kind(helm.template(), "PodDisruptionBudget")) == 1
    assert of_kind(helm.template({"replicas": 1}), "PodDisruptionBudget") == []


def test_topology_constraints_select_the_operators_pods(helm):
    pod = operator_pod(helm.template(PERMUTATIONS["where pods run"]))
    constraints = pod["spec"]["topologySpreadConstraints"]
    assert [constraint["topologyKey"] for constraint in constraints] == ["zone", "rack"]
    for constraint in constraints:
        assert constraint["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()


def test_two_teams_may_give_their_releases_one_name(helm):
    values = {"watchNamespaces": ["runs"], "crds": {"install": False}}
    places = [
        {
            (each["kind"], each["metadata"]["name"])
            for each in helm.template(values, namespace=team)
            if each["kind"] in CLUSTER_WIDE
        }
        for team in ("speech", "vision")
    ]
    assert len(places[0]) == 2
    assert places[0].isdisjoint(places[1])


def texts(node, path=""):
    """Everything that Kubernetes takes for text only, by its path."""
    if isinstance(node, dict):
        for name, child in node.items():
            is_text = name in (
                "name",
                "namespace",
                "serviceAccountName",
                "priorityClassName",
                "secretName",
                "image",
            )
            is_text |= path.endswith(("labels", "matchLabels", "selector", "annotations"))
            if is_text and not isinstance(child, dict | list):
                yield f"{path}.{name}", child
            yield from texts(child, f"{path}.{name}")
    elif isinstance(node, list):
        for child in node:
            yield from texts(child, f"{path}[]")


def test_names_of_digits_and_words_of_yaml_stay_text(helm):
    values = {
        "watchNamespaces": ["2024", "true"],
        "serviceAccount": {"name": "12"},
        "imagePullSecrets": ["null"],
        "priorityClassName": "1e3",
        "progress": {"certificateSecretName": "0x1"},
        "image": {"repository": "12", "tag": "30"},
    }
    objects = helm.template(values, release="17", namespace="2024")
    found = [place for each in objects if each["kind"] != "CustomResourceDefinition" for place in texts(each)]
    assert {"12", "null", "1e3", "0x1", "12:30", "17", "2024", "true"} <= {value for _, value in found}
    assert [place for place, value in found if not isinstance(value, str)] == []
    assert settings_of(objects).namespaces == ("2024", "true")


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("trainyard", "trainyard-operator"),
        ("lab", "lab-trainyard-operator"),
        ("my-trainyard", "my-trainyard-operator"),
    ],
)
def test_objects_are_named_after_the_release(helm, release, expected):
    assert names(helm.template(release=release), "Deployment") == [expected]
