"""The strategic merge of podTemplate, case by case, and what happens to a pod."""

import copy

import pytest

from tests.support.rendered import gang_of, pod_templates_of, run_with, run_with_template, trainer_of
from trainyard_api.errors import ConfigurationError
from trainyard_operator.resources.pod_template import MERGE_KEYS, strategic_merge


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3, "z": 4}}, {"a": {"x": 1, "y": 3, "z": 4}}),
        ({"a": 1, "b": 2}, {"a": None}, {"b": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"x": None}}, {"a": {"y": 2}}),
        ({"a": 1}, {"b": None}, {"a": 1}),
        ({}, {"a": {"x": None, "y": 1}}, {"a": {"y": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"args": ["x", "y"]}, {"args": []}, {"args": []}),
        ({"nodeSelector": {"a": "1"}}, {"nodeSelector": {"b": "2"}}, {"nodeSelector": {"a": "1", "b": "2"}}),
        ({"labels": {"x": "1"}}, {"labels": {"env": "prod"}}, {"labels": {"x": "1", "env": "prod"}}),
    ],
)
def test_objects_merge_by_key_null_removes_and_plain_lists_are_replaced(base, patch, merged):
    assert strategic_merge(base, patch, "t") == merged


@pytest.mark.parametrize(
    ("name", "old", "patch", "merged"),
    [
        (
            "containers",
            [{"name": "a", "image": "i"}],
            [{"name": "a", "tty": True}],
            [{"name": "a", "image": "i", "tty": True}],
        ),
        ("containers", [{"name": "a"}], [{"name": "b"}], [{"name": "a"}, {"name": "b"}]),
        ("initContainers", [], [{"name": "a", "image": "i"}], [{"name": "a", "image": "i"}]),
        ("imagePullSecrets", [{"name": "a"}], [{"name": "a"}, {"name": "b"}], [{"name": "a"}, {"name": "b"}]),
        (
            "hostAliases",
            [{"ip": "1.1.1.1", "hostnames": ["a"]}],
            [{"ip": "1.1.1.1", "hostnames": ["b"]}],
            [{"ip": "1.1.1.1", "hostnames": ["b"]}],
        ),
        ("schedulingGates", [{"name": "a"}], [{"name": "b"}], [{"name": "a"}, {"name": "b"}]),
        (
            "resourceClaims",
            [{"name": "a", "resourceClaimName": "x"}],
            [{"name": "a", "resourceClaimName": "y"}],
            [{"name": "a", "resourceClaimName": "y"}],
        ),
        (
            "topologySpreadConstraints",
            [{"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1}],
            [{"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2}],
            [
                {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 1},
                {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
            ],
        ),
        (
            "ports",
            [{"containerPort": 80}],
            [{"containerPort": 80, "protocol": "TCP", "name": "web"}],
            [{"containerPort": 80, "protocol": "TCP", "name": "web"}],
        ),
        (
            "ports",
            [{"containerPort": 80}],
            [{"containerPort": 80, "protocol": "UDP"}],
            [{"containerPort": 80}, {"containerPort": 80, "protocol": "UDP"}],
        ),
        (
            "volumeMounts",
            [{"mountPath": "/a", "name": "x"}],
            [{"mountPath": "/a", "readOnly": True}],
            [{"mountPath": "/a", "name": "x", "readOnly": True}],
        ),
        (
            "volumeDevices",
            [{"devicePath": "/d", "name": "x"}],
            [{"devicePath": "/e", "name": "y"}],
            [{"devicePath": "/d", "name": "x"}, {"devicePath": "/e", "name": "y"}],
        ),
        (
            "env",
            [{"name": "A", "value": "1"}],
            [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
            [{"name": "A", "value": "2"}, {"name": "B", "value": "3"}],
        ),
        (
            "env",
            [{"name": "A", "value": "1"}],
            [{"name": "A", "valueFrom": {"fieldRef": {}}}],
            [{"name": "A", "valueFrom": {"fieldRef": {}}}],
        ),
        (
            "volumes",
            [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
            [{"name": "v", "emptyDir": {"sizeLimit": "2Gi"}}],
            [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}],
        ),
        (
            "volumes",
            [{"name": "v", "emptyDir": {}}],
            [{"name": "v", "hostPath": {"path": "/x"}}],
            [{"name": "v", "hostPath": {"path": "/x"}}],
        ),
        (
            "tolerations",
            [{"key": "a", "operator": "Exists"}],
            [{"key": "b", "operator": "Exists"}],
            [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}],
        ),
        (
            "tolerations",
            [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 30}],
            [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 300}],
            [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 300}],
        ),
        (
            "tolerations",
            [],
            [{"key": "a", "value": "x"}, {"key": "a", "value": "y"}],
            [{"key": "a", "value": "x"}, {"key": "a", "value": "y"}],
        ),
        ("tolerations", [{"key": "a"}], [{"operator": "Exists"}], [{"key": "a"}, {"operator": "Exists"}]),
    ],
)
def test_lists_of_kubernetes_merge_by_their_keys(name, old, patch, merged):
    assert strategic_merge({name: old}, {name: patch}, "t") == {name: merged}


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"a": {"x": 1}}, {"a": {"$patch": "replace", "y": 2}}, {"a": {"y": 2}}),
        ({"a": {"x": 1}}, {"a": {"$patch": "merge", "y": 2}}, {"a": {"x": 1, "y": 2}}),
        ({"a": {"x": 1}, "b": 1}, {"a": {"$patch": "delete"}}, {"b": 1}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"$retainKeys": ["y", "z"], "z": 3}}, {"a": {"y": 2, "z": 3}}),
        (
            {"env": [{"name": "A"}, {"name": "B"}]},
            {"env": [{"name": "A", "$patch": "delete"}]},
            {"env": [{"name": "B"}]},
        ),
        ({"env": [{"name": "A"}]}, {"env": [{"name": "Z", "$patch": "delete"}]}, {"env": [{"name": "A"}]}),
        ({"env": [{"name": "A"}]}, {"env": [{"$patch": "replace"}, {"name": "B"}]}, {"env": [{"name": "B"}]}),
        (
            {"env": [{"name": "A", "value": "1"}]},
            {"env": [{"name": "A", "$patch": "replace", "value": "2"}]},
            {"env": [{"name": "A", "value": "2"}]},
        ),
        ({"tolerations": [{"key": "a"}]}, {"tolerations": [{"$patch": "replace"}]}, {"tolerations": []}),
    ],
)
def test_the_directives_of_a_strategic_merge_patch_work(base, patch, merged):
    assert strategic_merge(base, patch, "t") == merged


@pytest.mark.parametrize(
    ("base", "patch", "where", "problem"),
    [
        ({"a": {"x": 1}}, {"a": [1]}, "t.a", "not an object"),
        ({"a": {"x": 1}}, {"a": "text"}, "t.a", "not an object"),
        ({"a": [1]}, {"a": {"x": 1}}, "t.a", "not a list"),
        ({"env": [{"name": "A"}]}, {"env": "A"}, "t.env", "not a list"),
        ({"env": []}, {"env": ["A=1"]}, "t.env[0]", "not an object"),
        ({"env": []}, {"env": [{"name": "A"}, {"value": "1"}]}, "t.env[1]", "name is missing"),
        ({"env": []}, {"env": [{"name": {}}]}, "t.env[0]", "name is missing"),
        ({"env": []}, {"env": [{"name": "A"}, {"name": "A"}]}, "t.env[1]", "env A is already in this list"),
        (
            {"topologySpreadConstraints": []},
            {"topologySpreadConstraints": [{"topologyKey": "zone"}]},
            "t.topologySpreadConstraints[0]",
            "whenUnsatisfiable is missing",
        ),
        ({}, {"$setElementOrder/env": []}, "t.$setElementOrder/env", "does not know this directive"),
        ({}, {"a": {"$deleteFromPrimitiveList/b": [1]}}, "t.a.$deleteFromPrimitiveList/b", "does not know"),
        ({}, {"$patch": "delete"}, "t.$patch", "'delete' cannot be done here"),
        ({}, {"a": {"$patch": "frobnicate"}}, "t.a.$patch", "'frobnicate' cannot be done here"),
        ({}, {"a": {"$retainKeys": "x"}}, "t.a.$retainKeys", "not a list of field names"),
        ({"env": []}, {"env": [{"name": "A", "$patch": "other"}]}, "t.env[0].$patch", "cannot be done here"),
    ],
)
def test_a_patch_that_cannot_be_meant_is_refused_at_its_field(base, patch, where, problem):
    with pytest.raises(ConfigurationError) as raised:
        strategic_merge(base, patch, "t")
    assert raised.value.where == where
    assert problem in raised.value.problem
    assert raised.value.remedy


def test_neither_base_nor_patch_is_changed():
    base = {"a": {"x": 1}, "env": [{"name": "A", "value": "1"}], "volumes": [{"name": "v", "emptyDir": {}}]}
    patch = {"a": {"x": None}, "env": [{"name": "A", "value": "2"}], "volumes": [{"$patch": "replace"}]}
    before = copy.deepcopy((base, patch))
    strategic_merge(base, patch, "t")
    assert (base, patch) == before


def test_the_merge_keys_are_fields_of_the_pod_models_of_kubernetes():
    from kubernetes.aio.client import models

    fields = {
        **models.V1Container.attribute_map,
        **models.V1PodSpec.attribute_map,
    }
    kinds = {
        attribute: kind
        for model in (models.V1Container, models.V1PodSpec)
        for attribute, kind in model.openapi_types.items()
    }
    by_name = {name: kinds[attribute] for attribute, name in fields.items()}
    for name, keys in MERGE_KEYS.items():
        model = getattr(models, by_name[name].removeprefix("List[").removesuffix("]"))
        assert set(keys) <= set(model.attribute_map.values()), name


TEMPLATE = {
    "metadata": {"labels": {"team": "speech"}, "annotations": {"sidecar.istio.io/inject": "false"}},
    "spec": {
        "nodeSelector": {"pool": "gpu"},
        "serviceAccountName": "trainer",
        "containers": [
            {
                "name": "trainer",
                "env": [{"name": "NCCL_DEBUG", "value": "WARN"}, {"name": "HOME", "value": "/scratch"}],
                "volumeMounts": [{"name": "corpus", "mountPath": "/data/corpus"}],
            },
            {"name": "watcher", "image": "watcher:1"},
        ],
        "volumes": [{"name": "corpus", "hostPath": {"path": "/corpus"}}],
    },
}


def test_a_template_shapes_the_pods_of_every_stage_and_leaves_the_rest_as_it_was():
    plain = pod_templates_of(run_with(workers={"nodes": 2}))
    shaped = pod_templates_of(run_with(workers={"nodes": 2, "podTemplate": TEMPLATE}))
    assert len(shaped) == 5
    for before, after in zip(plain, shaped, strict=True):
        assert after["metadata"]["labels"] == {**before["metadata"]["labels"], "team": "speech"}
        assert after["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
        assert after["spec"]["nodeSelector"] == {"pool": "gpu"}
        assert after["spec"]["serviceAccountName"] == "trainer"
        assert after["spec"]["volumes"] == [*before["spec"]["volumes"], *TEMPLATE["spec"]["volumes"]]
        assert after["spec"]["containers"][1] == {"name": "watcher", "image": "watcher:1"}
        old, new = trainer_of(before), trainer_of(after)
        assert new["volumeMounts"] == [*old["volumeMounts"], {"name": "corpus", "mountPath": "/data/corpus"}]
        variables = {each["name"]: each.get("value") for each in old["env"]}
        assert {each["name"]: each.get("value") for each in new["env"]} == {
            **variables,
            "NCCL_DEBUG": "WARN",
            "HOME": "/scratch",
        }
        for key in old.keys() - {"env", "volumeMounts"}:
            assert new[key] == old[key]


def test_variables_of_the_plan_come_before_those_of_the_template_that_may_refer_to_them():
    template = {
        "spec": {"containers": [{"name": "trainer", "env": [{"name": "X", "value": "$(PET_NODE_RANK)"}]}]}
    }
    for pod in gang_of(run_with(workers={"nodes": 2, "podTemplate": template})):
        names = [each["name"] for each in trainer_of(pod)["env"]]
        assert names.index("PET_NODE_RANK") < names.index("X")
        assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "template",
    [
        {"spec": None},
        {"spec": {"$patch": "delete"}},
        {"spec": {"$patch": "replace", "nodeName": "n"}},
        {"spec": {"containers": None}},
        {"spec": {"containers": [{"name": "trainer", "$patch": "delete"}]}},
    ],
)
def test_a_template_without_the_worker_container_builds_no_pods(template):
    with pytest.raises(ConfigurationError, match="takes the container trainer away"):
        gang_of(run_with_template(template))
