"""What the operator renders, as a real API server takes it that enforces Pod Security `restricted`."""

from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster
from tests.support.readme import blocks
from tests.support.rendered import ROOT, SAMPLES, objects_of, run_with
from trainyard_api.spec import TrainingRun
from trainyard_api.validation import validate_document

pytestmark = pytest.mark.control_plane

DRY_RUN = ("create", "--dry-run=server", "--validate=strict", "-f", "-")


def in_namespace(path, namespace):
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    document["metadata"]["namespace"] = namespace
    return validate_document(document)


def everything(run: TrainingRun) -> list[dict[str, Any]]:
    return [each for objects in objects_of(run, attempt=1).values() for each in objects]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_the_objects_of_a_sample_are_admitted_under_restricted_without_a_warning(
    cluster: Cluster, restricted_namespace, path
):
    run = in_namespace(path, restricted_namespace)
    objects = everything(run)
    done = cluster.kubectl.attempt(*DRY_RUN, documents=objects)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(objects)


VARIANTS: dict[str, dict[str, Any]] = {
    "devices, shared memory and threads": {
        "workers": {
            "nodes": 1,
            "processesPerNode": 2,
            "accelerator": {"resourceName": "nvidia.com/gpu", "count": 2},
            "resources": {"limits": {"memory": "64Gi", "cpu": 16}, "requests": {"memory": "1e9", "cpu": 0.5}},
        }
    },
    "a device with a place": {
        "workers": {
            "image": "registry.example/trainer-for-tpu:1",
            "processesPerNode": 2,
            "accelerator": {
                "resourceName": "google.com/tpu",
                "count": 2,
                "type": "tpu-v5-lite-podslice",
                "topology": "2x4",
            },
        }
    },
    "a queue": {"scheduling": {"queueName": "team"}},
    "a template with directives": {
        "workers": {
            "nodes": 2,
            "podTemplate": {
                "metadata": {"annotations": {"note": "a\nb"}},
                "spec": {
                    "tolerations": [
                        {
                            "key": "node.kubernetes.io/not-ready",
                            "effect": "NoExecute",
                            "operator": "Exists",
                            "tolerationSeconds": 5,
                        },
                        {"operator": "Exists"},
                    ],
                    "initContainers": [
                        {
                            "name": "proxy",
                            "image": "proxy:1",
                            "restartPolicy": "Always",
                            "securityContext": {
                                "allowPrivilegeEscalation": False,
                                "capabilities": {"drop": ["ALL"]},
                            },
                        }
                    ],
                    "volumes": [
                        {"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}},
                        {"name": "x", "emptyDir": {}},
                    ],
                    "containers": [
                        {
                            "name": "trainer",
                            "env": [
                                {"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
                            ],
                            "volumeMounts": [{"name": "x", "mountPath": "/data/x"}],
                        }
                    ],
                },
            },
        }
    },
}


@pytest.mark.parametrize("spec", VARIANTS.values(), ids=list(VARIANTS))
def test_what_a_run_adds_to_its_pods_is_admitted_too(cluster: Cluster, restricted_namespace, spec):
    run = run_with(metadata={"namespace": restricted_namespace}, **spec)
    done = cluster.kubectl.attempt(*DRY_RUN, documents=everything(run))
    assert (done.returncode, done.stderr) == (0, "")


def test_the_claim_and_the_pod_of_the_guide_are_admitted(cluster: Cluster, restricted_namespace):
    page = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    objects = list(yaml.safe_load_all(blocks("yaml", page)[0]))
    done = cluster.kubectl.in_namespace(restricted_namespace).attempt(*DRY_RUN, documents=objects)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("name", ["7" * 63, "a" * 61 + "-b", "0"])
def test_the_longest_and_oddest_names_are_admitted(cluster: Cluster, restricted_namespace, name):
    run = run_with(metadata={"name": name, "namespace": restricted_namespace})
    done = cluster.kubectl.attempt(*DRY_RUN, documents=everything(run))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_template_that_weakens_security_is_refused_by_such_a_namespace(
    cluster: Cluster, restricted_namespace
):
    template = {"spec": {"volumes": [{"name": "host", "hostPath": {"path": "/usr"}}]}}
    run = run_with(
        metadata={"namespace": restricted_namespace}, workers={"nodes": 2, "podTemplate": template}
    )
    done = cluster.kubectl.attempt(*DRY_RUN, documents=objects_of(run)["train"])
    assert done.returncode == 1
    assert 'violates PodSecurity "restricted' in done.stderr
    assert "hostPath" in done.stderr
