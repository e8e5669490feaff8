"""The chart and the install manifest, as a real API server and real Helm take them."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.cluster.kubectl import Kubectl
from tests.cluster.locations import REPOSITORY
from tests.support.chart_values import MONITORING_KINDS, PERMUTATIONS
from tests.support.helm import CHART, NAMESPACE, RELEASE, Object
from tests.support.permissions import of_rules, used_permissions

pytestmark = pytest.mark.control_plane

QUICKSTART = REPOSITORY / "manifests" / "samples" / "quickstart.yaml"
INSTALL = REPOSITORY / "manifests" / "install.yaml"
PLACE = ("--namespace", NAMESPACE)
DEFINITION = "customresourcedefinition.apiextensions.k8s.io/trainingruns.trainyard.dev"
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:trainyard-operator"
FOR_EVERYBODY = {"selfsubjectaccessreviews", "selfsubjectrulesreviews", "selfsubjectreviews"}
OWN_KINDS = (
    "clusterroles,clusterrolebindings,customresourcedefinitions,roles,rolebindings,serviceaccounts,services,"
    "deployments,configmaps,secrets,networkpolicies,poddisruptionbudgets"
)


def left_of(kubectl: Kubectl) -> set[str]:
    """Names of the objects that belong to a release."""
    listed = kubectl.run(
        "get",
        OWN_KINDS,
        "--all-namespaces",
        f"--selector=app.kubernetes.io/instance={RELEASE}",
        "--output=name",
    )
    return set(listed.split())


def everything(kubectl: Kubectl) -> set[str]:
    """Names of all objects of these kinds in the operator's namespace, but those of every namespace."""
    listed = kubectl.run("get", OWN_KINDS, f"--namespace={NAMESPACE}", "--output=name")
    cluster_wide = ("clusterrole", "customresourcedefinition")
    of_every_namespace = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return {name for name in listed.split() if not name.startswith(cluster_wide)} - of_every_namespace


def test_the_api_server_admits_every_option_without_a_warning(helm, empty_cluster, home):
    rendered = [each for values in PERMUTATIONS.values() for each in helm.template(values)]
    different = {json.dumps(each): each for each in rendered if each["kind"] not in MONITORING_KINDS}
    done = empty_cluster.kubectl.attempt(
        "create", "--dry-run=server", "--validate=strict", "--filename=-", documents=list(different.values())
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(different) > 2 * len(PERMUTATIONS)


def test_install_upgrade_and_uninstall_leave_the_definition_with_its_runs(installer, empty_cluster, home):
    kubectl = empty_cluster.kubectl
    notes = installer.run("install", RELEASE, str(CHART), *PLACE, "--wait", "--timeout=150s")
    assert "kubectl -n trainyard rollout status deployment/trainyard-operator" in notes
    assert 'PersistentVolumeClaim "trainyard"' in notes
    assert "pull trainyard-operator:0.1.0 and" in notes
    assert "WARNING" not in notes
    deployment = kubectl.in_namespace(NAMESPACE).get("deployment/trainyard-operator")
    assert deployment["status"]["readyReplicas"] == 2
    kubectl.in_namespace(NAMESPACE).run("apply", f"--filename={QUICKSTART}")

    values = {"replicas": 1, "logLevel": "DEBUG", "watchNamespaces": [NAMESPACE]}
    installer.run("upgrade", RELEASE, str(CHART), *PLACE, "--wait", "--timeout=150s", values=values)
    deployment = kubectl.in_namespace(NAMESPACE).get("deployment/trainyard-operator")
    assert deployment["spec"]["replicas"] == 1
    assert "poddisruptionbudget.policy/trainyard-operator" not in left_of(kubectl)

    installer.run("uninstall", RELEASE, *PLACE, "--wait", "--timeout=150s")
    assert left_of(kubectl) == {DEFINITION}
    assert everything(kubectl) == set()
    runs = kubectl.in_namespace(NAMESPACE).list("trainingruns")
    assert [run["metadata"]["name"] for run in runs] == ["quickstart"]

    installer.run("install", RELEASE, str(CHART), *PLACE, values={"crds": {"keep": False}})
    installer.run("uninstall", RELEASE, *PLACE, "--wait", "--timeout=150s")
    assert left_of(kubectl) == everything(kubectl) == set()


def test_the_install_manifest_brings_everything_and_takes_it_away(empty_cluster):
    kubectl = empty_cluster.kubectl
    kubectl.run("apply", f"--filename={INSTALL}", "--dry-run=client", "--validate=strict")
    kubectl.run("apply", "--server-side", f"--filename={INSTALL}")
    kubectl.wait("condition=Available", "deployment/trainyard-operator", *PLACE)
    kubectl.wait("condition=Established", DEFINITION)
    again = kubectl.run("apply", "--server-side", f"--filename={INSTALL}")
    assert len(again.splitlines()) == len([each for each in documents(INSTALL) if each])
    kubectl.run("delete", f"--filename={INSTALL}", "--wait")
    assert left_of(kubectl) == set()
    assert kubectl.attempt("get", "namespace", NAMESPACE).returncode == 1


def remove(kubectl: Kubectl, objects: list[Object]) -> None:
    kubectl.run("delete", "--filename=-", documents=objects)


def documents(path: Path):
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def test_the_install_manifest_is_the_chart_and_its_namespace(helm):
    namespace, *objects = documents(INSTALL)
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", NAMESPACE)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    rendered = helm.template(PERMUTATIONS["a definition that goes"])
    assert [(each["kind"], each["metadata"]["name"]) for each in objects] == [
        (each["kind"], each["metadata"]["name"]) for each in rendered
    ]
    assert [each.get("spec") for each in objects] == [each.get("spec") for each in rendered]
    assert re.search("helm", INSTALL.read_text(encoding="utf-8").replace("Helm", ""), re.IGNORECASE) is None


def test_the_api_server_grants_exactly_what_the_source_uses(helm, empty_cluster, home):
    kubectl = empty_cluster.kubectl
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": NAMESPACE},
    }

    def granted(values):
        roles = [each for each in helm.template(values) if "Role" in each["kind"]]
        kubectl.apply(roles)
        answer = kubectl.as_user(ACCOUNT).run(
            "create", "--filename=-", "--output=json", "--validate=false", documents=review
        )
        remove(kubectl, roles)
        rights = of_rules(json.loads(answer)["status"]["resourceRules"])
        return {right for right in rights if right.resource not in FOR_EVERYBODY}

    assert granted({}) == used_permissions()
    assert granted({"watchNamespaces": [NAMESPACE]}) == used_permissions()


def test_who_may_edit_a_namespace_may_run_trainings_there_and_who_may_view_it_may_look(
    helm, empty_cluster, home
):
    kubectl = empty_cluster.kubectl
    definition, *roles = [
        each for each in helm.template() if each["kind"] in ("CustomResourceDefinition", "ClusterRole")
    ]
    kubectl.apply([definition, *roles])
    for user, role in (("jane", "edit"), ("joe", "view")):
        kubectl.run("create", "rolebinding", user, f"--clusterrole={role}", f"--user={user}", *PLACE)
    kubectl.wait("condition=Established", DEFINITION)
    kubectl.wait("jsonpath={.rules[?(@.apiGroups[0]=='trainyard.dev')].verbs[0]}", "clusterrole/view")

    def can(user, verb, resource="trainingruns"):
        return kubectl.as_user(user).attempt("auth", "can-i", verb, resource, *PLACE).stdout.strip()

    answers = {
        (user, verb): can(user, verb) for user in ("jane", "joe") for verb in ("create", "delete", "watch")
    }
    kubectl.run(
        "delete",
        "--filename=-",
        documents={"apiVersion": "v1", "kind": "List", "items": [definition, *roles]},
    )
    assert answers == {
        ("jane", "create"): "yes",
        ("jane", "delete"): "yes",
        ("jane", "watch"): "yes",
        ("joe", "create"): "no",
        ("joe", "delete"): "no",
        ("joe", "watch"): "yes",
    }
