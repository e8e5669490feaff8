"""The rights of the operator are exactly those that its source needs."""

import pytest

from tests.support.chart_values import PERMUTATIONS
from tests.support.helm import NAMESPACE, of_kind
from tests.support.permissions import Permission, granted_permissions, used_permissions

ACCOUNT = "trainyard-operator"
TOKEN_REVIEW = Permission("authentication.k8s.io", "tokenreviews", "create")
MAXIMUM_PERMISSIONS = 45
LIMITED_TO_NAMES = {
    ("configmaps", "update"),
    ("leases", "get"),
    ("leases", "update"),
    ("endpointslices", "create"),
    ("endpointslices", "patch"),
}


def of_operator(objects):
    return granted_permissions(objects, ACCOUNT)


def test_the_source_is_understood():
    used = used_permissions()
    assert {
        Permission("", "pods", "deletecollection"),
        Permission("", "pods", "watch"),
        Permission("", "configmaps", "update"),
        Permission("trainyard.dev", "trainingruns", "list"),
        Permission("trainyard.dev", "trainingruns/status", "patch"),
        Permission("coordination.k8s.io", "leases", "create"),
        Permission("coordination.k8s.io", "leases", "update"),
        Permission("discovery.k8s.io", "endpointslices", "patch"),
        TOKEN_REVIEW,
    } <= used


def test_cluster_wide_the_operator_may_do_what_it_does_and_nothing_else(helm):
    granted = of_operator(helm.template())
    assert set(granted) == {"", NAMESPACE}
    assert granted[""] | granted[NAMESPACE] == used_permissions()
    assert granted[""] & granted[NAMESPACE] == set()
    assert {permission.resource for permission in granted[NAMESPACE]} == {"leases", "endpointslices"}


def test_in_namespaced_mode_only_token_reviews_are_cluster_wide(helm):
    granted = of_operator(helm.template({"watchNamespaces": ["research", "speech"]}))
    assert set(granted) == {"", NAMESPACE, "research", "speech"}
    assert granted[""] == {TOKEN_REVIEW}
    assert granted["research"] == granted["speech"]
    assert granted[""] | granted[NAMESPACE] | granted["research"] == used_permissions()
    assert {permission.resource for permission in granted[NAMESPACE]} == {
        "leases",
        "endpointslices",
        "configmaps",
    }


def test_without_token_reviews_nothing_at_all_is_cluster_wide(helm):
    objects = helm.template(PERMUTATIONS["a namespace without cluster-wide rights"])
    assert of_kind(objects, "ClusterRole") == of_kind(objects, "ClusterRoleBinding") == []
    granted = of_operator(objects)
    assert granted[NAMESPACE] == used_permissions() - {TOKEN_REVIEW}


def test_with_a_certificate_by_others_no_authority_is_published_in_the_own_namespace(helm):
    values = {**PERMUTATIONS["a certificate by others"], "watchNamespaces": ["research"]}
    granted = of_operator(helm.template(values))
    assert {permission.resource for permission in granted[NAMESPACE]} == {"leases", "endpointslices"}


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["research"]}], ids=["cluster", "namespace"])
def test_there_are_few_rights_no_secrets_no_wildcards_and_no_way_to_more(helm, values):
    granted = set().union(*of_operator(helm.template(values)).values())
    assert len(granted) <= MAXIMUM_PERMISSIONS
    words = {word for permission in granted for word in permission}
    assert (
        words & {"*", "secrets", "bind", "escalate", "impersonate", "pods/exec", "serviceaccounts/token"}
        == set()
    )


@pytest.mark.parametrize("values", [{}, {"watchNamespaces": ["research"]}], ids=["cluster", "namespace"])
def test_what_has_a_known_name_is_limited_to_it(helm, values):
    objects = helm.template(values)
    rules = [rule for each in objects if each["kind"] in ("Role", "ClusterRole") for rule in each["rules"]]
    pairs = [
        ((resource, verb), rule.get("resourceNames"))
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if (resource, verb) in LIMITED_TO_NAMES
    ]
    assert {pair for pair, _ in pairs} == LIMITED_TO_NAMES
    assert all(names for _, names in pairs)


def test_the_roles_of_people_cover_the_resource_and_not_its_status(helm):
    roles = [
        role
        for role in of_kind(helm.template(), "ClusterRole")
        if any("aggregate-to" in label for label in role["metadata"]["labels"])
    ]
    assert [role["metadata"]["name"] for role in roles] == ["trainyard-edit", "trainyard-view"]
    assert {resource for role in roles for rule in role["rules"] for resource in rule["resources"]} == {
        "trainingruns"
    }
    verbs = {role["metadata"]["name"]: role["rules"][0]["verbs"] for role in roles}
    assert verbs["trainyard-view"] == ["get", "list", "watch"]
    assert "create" in verbs["trainyard-edit"]
