"""Names and values made to break out: they are refused, or stay the values that they are."""

import json
import random

import pytest
import yaml

from tests.support.rendered import (
    DEFAULTS,
    gang_of,
    golden_texts,
    objects_of,
    pod_templates_of,
    run_with,
    run_with_template,
    trainer_of,
)
from trainyard_api.problems import InvalidRunError
from trainyard_operator.resources import problems_of_templates

BREAKOUTS = [
    "x\n  hostNetwork: true",
    'x", "privileged": true, "y": "',
    "$(PET_NODE_RANK)",
    "{{ .Values.secret }}",
    "../../etc/passwd",
    "\u202egnp.exe",
    "; rm -rf /",
    "\u0000",
    "a" * 70_000,
]


@pytest.mark.parametrize("name", [*BREAKOUTS, "", "UPPER", "a_b", "a.b", "-a", "a-", "a" * 64, "caf\u00e9"])
def test_a_name_that_is_no_dns_label_never_becomes_an_object(name):
    with pytest.raises(InvalidRunError, match=r"metadata\.name"):
        run_with(metadata={"name": name})


@pytest.mark.parametrize("image", BREAKOUTS[:-1])
def test_an_image_that_is_no_reference_is_refused(image):
    with pytest.raises(InvalidRunError, match=r"spec\.workers\.image"):
        run_with(workers={"nodes": 2, "image": image})


@pytest.mark.parametrize("value", BREAKOUTS)
def test_a_hostile_value_of_the_template_stays_one_value(value):
    template = {
        "metadata": {"annotations": {"note": value}},
        "spec": {"containers": [{"name": "trainer", "env": [{"name": "NOTE", "value": value}]}]},
    }
    run = run_with(workers={"nodes": 2, "podTemplate": template})
    assert problems_of_templates(run, DEFAULTS) == []
    plain = run_with(workers={"nodes": 2})
    for before, after in zip(pod_templates_of(plain), pod_templates_of(run), strict=True):
        assert after["metadata"]["annotations"] == {"note": value}
        variables = trainer_of(after)["env"]
        assert variables[-1] == {"name": "NOTE", "value": value}
        assert variables[:-1] == trainer_of(before)["env"]
        assert {**after["spec"], "containers": 0} == {**before["spec"], "containers": 0}
    objects = objects_of(run)
    assert json.loads(json.dumps(objects)) == objects


@pytest.mark.parametrize("value", BREAKOUTS[:7])
def test_a_hostile_value_survives_yaml_as_one_value(value):
    template = {"metadata": {"annotations": {"note": value}}}
    objects = objects_of(run_with(workers={"nodes": 2, "podTemplate": template}))
    assert list(yaml.safe_load_all(golden_texts(objects)["train"])) == objects["train"]


@pytest.mark.parametrize("value", BREAKOUTS)
def test_a_hostile_variable_name_cannot_replace_a_variable_of_trainyard(value):
    template = {
        "spec": {"containers": [{"name": "trainer", "env": [{"name": f"PET_{value}", "value": "1"}]}]}
    }
    (problem,) = problems_of_templates(run_with(workers={"nodes": 2, "podTemplate": template}), DEFAULTS)
    assert problem.path.endswith(f"env[PET_{value}]")


VALID = {
    "metadata": {"labels": {"team": "a"}, "annotations": {"note": "b"}},
    "spec": {
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "a", "operator": "Exists"}, {"$patch": "merge", "key": "b"}],
        "volumes": [
            {"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}},
            {"name": "x", "hostPath": {"path": "/"}},
        ],
        "containers": [
            {
                "name": "trainer",
                "env": [{"name": "A", "value": "1"}],
                "resources": {"limits": {"memory": "8Gi", "cpu": 2}, "requests": {"memory": 1000}},
                "volumeMounts": [{"name": "x", "mountPath": "/x"}],
                "securityContext": {"capabilities": {"add": ["IPC_LOCK"]}},
            },
            {"name": "side", "image": "s"},
        ],
    },
}
REPLACEMENTS = [
    *(None, True, -1, 0, 2**63, 1.5, "", "trainer", "8Gi", [], {}, [{}], [None], *BREAKOUTS[:7]),
    *({"$patch": "delete"}, {"$patch": "replace"}, [{"$patch": "replace"}], {"$retainKeys": ["name"]}),
]
ADDED_KEYS = [
    "name",
    "hostname",
    "command",
    "emptyDir",
    "env",
    "$patch",
    "$retainKeys",
    "$setElementOrder/env",
]


def broken(chance, value):
    """The value with some of its parts replaced, removed or added."""
    if chance.random() < 0.03:
        return chance.choice(REPLACEMENTS)
    if isinstance(value, list):
        return [broken(chance, each) for each in value]
    if not isinstance(value, dict):
        return value
    parts = {key: broken(chance, each) for key, each in value.items() if chance.random() > 0.01}
    if chance.random() < 0.02:
        parts[chance.choice(ADDED_KEYS)] = chance.choice(REPLACEMENTS)
    return parts


def test_any_template_gives_pods_or_problems_and_never_another_error():
    chance = random.Random(11)
    built = refused = 0
    for _ in range(1500):
        run = run_with_template({key: broken(chance, part) for key, part in VALID.items()})
        problems = problems_of_templates(run, DEFAULTS)
        if problems:
            refused += 1
            assert all(problem.path and problem.problem and problem.remedy for problem in problems)
        else:
            built += 1
            assert len(gang_of(run)) == 2
    assert built > 200
    assert refused > 200
