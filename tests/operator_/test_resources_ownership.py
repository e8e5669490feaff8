"""What a podTemplate may not do, and that everything else passes."""

from dataclasses import replace

import pytest

from tests.support.rendered import DEFAULTS, SAMPLES, pod_templates_of, run_with, run_with_template
from trainyard_api.validation import load_run_file
from trainyard_operator.resources import problems_of_templates
from trainyard_operator.resources.pod_security import violations

T = "spec.workers.podTemplate"
C = f"{T}.spec.containers[trainer]"


def problems(template):
    return problems_of_templates(run_with_template(template), DEFAULTS)


def trainer(**fields):
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


@pytest.mark.parametrize(
    ("template", "path", "remedy"),
    [
        ({"spec": {"restartPolicy": "Always"}}, f"{T}.spec.restartPolicy", "spec.restartPolicy"),
        ({"spec": {"restartPolicy": None}}, f"{T}.spec.restartPolicy", "spec.restartPolicy"),
        ({"spec": {"hostname": "me"}}, f"{T}.spec.hostname", "rank 0"),
        ({"spec": {"hostnameOverride": "me"}}, f"{T}.spec.hostnameOverride", "rank 0"),
        ({"spec": {"subdomain": "mine"}}, f"{T}.spec.subdomain", "rank 0"),
        (
            {"spec": {"activeDeadlineSeconds": 5}},
            f"{T}.spec.activeDeadlineSeconds",
            "spec.activeDeadlineSeconds",
        ),
        ({"spec": {"priorityClassName": "high"}}, f"{T}.spec.priorityClassName", "spec.scheduling"),
        (
            {"spec": {"ephemeralContainers": [{"name": "x"}]}},
            f"{T}.spec.ephemeralContainers",
            "kubectl debug",
        ),
        ({"metadata": {"name": "mine"}}, f"{T}.metadata.name", "Remove it"),
        ({"metadata": None}, f"{T}.metadata.labels", "Add labels only"),
        ({"metadata": {"$patch": "replace"}}, f"{T}.metadata.labels", "Add labels only"),
        ({"metadata": {"labels": None}}, f"{T}.metadata.labels", "Add labels only"),
        (
            {"metadata": {"labels": {"$patch": "replace", "team": "a"}}},
            f"{T}.metadata.labels",
            "Add labels only",
        ),
        ({"metadata": {"finalizers": ["a/b"]}}, f"{T}.metadata.finalizers", "Remove it"),
        ({"metadata": {"ownerReferences": []}}, f"{T}.metadata.ownerReferences", "Remove it"),
        (
            {"metadata": {"labels": {"trainyard.dev/run": "x"}}},
            f"{T}.metadata.labels.trainyard.dev/run",
            "another",
        ),
        (
            {"metadata": {"labels": {"trainyard.dev/stage": None}}},
            f"{T}.metadata.labels.trainyard.dev/stage",
            "another",
        ),
        (
            {"metadata": {"annotations": {"trainyard.dev/y": "z"}}},
            f"{T}.metadata.annotations.trainyard.dev/y",
            "another",
        ),
        (
            {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
            f"{T}.metadata.labels.app.kubernetes.io/managed-by",
            "another",
        ),
        (
            {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "q"}}},
            f"{T}.metadata.labels.kueue.x-k8s.io/queue-name",
            "spec.scheduling.queueName",
        ),
        (
            {"metadata": {"annotations": {"kueue.x-k8s.io/pod-group-total-count": "9"}}},
            f"{T}.metadata.annotations.kueue.x-k8s.io/pod-group-total-count",
            "spec.workers.nodes",
        ),
        (trainer(command=["sh"]), f"{C}.command", "plan decides"),
        (trainer(args=["--x"]), f"{C}.args", "plan decides"),
        (trainer(image="other"), f"{C}.image", "spec.workers.image"),
        (trainer(stdin=True), f"{C}.stdin", "standard input"),
        (trainer(tty=True), f"{C}.tty", "attached"),
        (trainer(restartPolicy="Always"), f"{C}.restartPolicy", "spec.restartPolicy"),
        (trainer(terminationMessagePath="/x"), f"{C}.terminationMessagePath", "why the container ended"),
        (
            trainer(terminationMessagePolicy="File"),
            f"{C}.terminationMessagePolicy",
            "why the container ended",
        ),
        (trainer(env=[{"name": "PET_NNODES", "value": "9"}]), f"{C}.env[PET_NNODES]", "another name"),
        (
            trainer(env=[{"name": "PET_RDZV_BACKEND", "value": "c10d"}]),
            f"{C}.env[PET_RDZV_BACKEND]",
            "another name",
        ),
        (trainer(env=[{"name": "RANK", "value": "0"}]), f"{C}.env[RANK]", "another name"),
        (
            trainer(env=[{"name": "JOB_COMPLETION_INDEX", "value": "0"}]),
            f"{C}.env[JOB_COMPLETION_INDEX]",
            "another name",
        ),
        (
            trainer(env=[{"name": "TRAINYARD_POD_NAME", "$patch": "delete"}]),
            f"{C}.env[TRAINYARD_POD_NAME]",
            "another name",
        ),
        (
            trainer(env=[{"name": "TRAINYARD_PROGRESS_URL", "value": "https://evil"}]),
            f"{C}.env[TRAINYARD_PROGRESS_URL]",
            "another name",
        ),
        (
            trainer(env=[{"name": "KUBEFLOW_TRAINER_SERVER_TOKEN", "value": "/x"}]),
            f"{C}.env[KUBEFLOW_TRAINER_SERVER_TOKEN]",
            "another name",
        ),
        (
            trainer(volumeMounts=[{"name": "x", "mountPath": "/etc/trainyard"}]),
            f"{C}.volumeMounts[/etc/trainyard]",
            "another path",
        ),
        (
            trainer(volumeMounts=[{"mountPath": "/data", "$patch": "delete"}]),
            f"{C}.volumeMounts[/data]",
            "another path",
        ),
        (
            trainer(volumeMounts=[{"mountPath": "/data", "readOnly": True}]),
            f"{C}.volumeMounts[/data]",
            "another path",
        ),
        (
            {"spec": {"volumes": [{"name": "plan", "emptyDir": {}}]}},
            f"{T}.spec.volumes[plan]",
            "another name",
        ),
        (
            {"spec": {"volumes": [{"name": "progress", "$patch": "delete"}]}},
            f"{T}.spec.volumes[progress]",
            "another name",
        ),
        (trainer(resources={"limits": {"nvidia.com/gpu": 8}}), f"{C}.resources.limits", "accelerator.count"),
        (
            {"spec": {"containers": [{"name": "trainer", "$patch": "delete"}]}},
            f"{T}.spec.containers",
            "Leave it in",
        ),
        ({"spec": {"containers": [{"image": "x"}]}}, f"{T}.spec.containers[0]", "Set name"),
    ],
)
def test_a_template_that_changes_what_trainyard_owns_is_refused_with_field_and_remedy(template, path, remedy):
    (problem,) = problems(template)
    assert problem.path == path
    assert remedy in problem.remedy


@pytest.mark.parametrize(
    ("template", "path", "remedy"),
    [
        ({"spec": {"nodeSelecter": {"a": "b"}}}, f"{T}.spec.nodeSelecter", "Did you mean nodeSelector?"),
        ({"spec": {"volume": []}}, f"{T}.spec.volume", "Did you mean volumes?"),
        ({"metadata": {"label": {}}}, f"{T}.metadata.label", "Did you mean labels?"),
        (
            trainer(volumeMounts=[{"name": "x", "mount_path": "/x"}]),
            f"{T}.spec.containers[0].volumeMounts[0].mount_path",
            "Did you mean mountPath?",
        ),
        ({"spec": {"nodeSelector": {"gpu": True}}}, f"{T}.spec.nodeSelector.gpu", "Write text, in quotes"),
        (
            trainer(env=[{"name": "A", "value": 1}]),
            f"{T}.spec.containers[0].env[0].value",
            "Write text, in quotes",
        ),
        ({"spec": {"hostNetwork": "yes"}}, f"{T}.spec.hostNetwork", "Write true or false"),
        (
            {"spec": {"terminationGracePeriodSeconds": "60"}},
            f"{T}.spec.terminationGracePeriodSeconds",
            "Write a whole number",
        ),
        (
            {"spec": {"terminationGracePeriodSeconds": True}},
            f"{T}.spec.terminationGracePeriodSeconds",
            "Write a whole number",
        ),
        (
            {"spec": {"containers": {"name": "trainer"}}},
            f"{T}.spec.containers",
            "Begin each item with a hyphen",
        ),
        ({"spec": {"containers": ["trainer"]}}, f"{T}.spec.containers[0]", "Write its fields as key: value"),
        (
            {"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "8GiB"}}]}},
            f"{T}.spec.volumes[0].emptyDir.sizeLimit",
            "16Gi",
        ),
        (
            trainer(resources={"limits": {"memory": "lots"}}),
            f"{T}.spec.containers[0].resources.limits.memory",
            "16Gi",
        ),
        (trainer(command="sh"), f"{T}.spec.containers[0].command", "Begin each item with a hyphen"),
    ],
)
def test_a_field_that_pods_do_not_have_or_of_another_kind_is_refused_with_what_was_meant(
    template, path, remedy
):
    (problem,) = problems(template)
    assert problem.path == path
    assert remedy in problem.remedy


def test_every_problem_is_told_at_once():
    template = {
        "metadata": {"name": "x"},
        "spec": {"hostname": "y", "containers": [{"name": "trainer", "command": ["z"], "tty": True}]},
    }
    assert [problem.path for problem in problems(template)] == [
        f"{T}.metadata.name",
        f"{T}.spec.hostname",
        f"{C}.command",
        f"{C}.tty",
    ]


@pytest.mark.parametrize(
    "template",
    [
        {},
        {"metadata": {"labels": {"team": "a", "kueue.x-k8s.io/podset-x": "y"}}},
        {"spec": {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet", "hostIPC": True}},
        {
            "spec": {
                "securityContext": {"runAsUser": 0, "runAsNonRoot": False},
                "automountServiceAccountToken": True,
            }
        },
        {"spec": {"terminationGracePeriodSeconds": 600, "schedulerName": "volcano", "nodeName": "n1"}},
        {"spec": {"volumes": [{"name": "data", "hostPath": {"path": "/srv"}}]}},
        {"spec": {"volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "16Gi"}}]}},
        {"spec": {"initContainers": [{"name": "proxy", "image": "p", "restartPolicy": "Always"}]}},
        {
            "spec": {
                "containers": [{"name": "side", "image": "s", "command": ["x"], "env": [{"name": "RANK"}]}]
            }
        },
        {
            "spec": {
                "affinity": {
                    "nodeAffinity": {
                        "requiredDuringSchedulingIgnoredDuringExecution": {
                            "nodeSelectorTerms": [
                                {"matchExpressions": [{"key": "k", "operator": "In", "values": ["v"]}]}
                            ]
                        }
                    }
                }
            }
        },
        trainer(
            env=[
                {"name": "NCCL_IB_HCA", "value": "mlx5"},
                {"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            ],
            envFrom=[{"secretRef": {"name": "hub"}}],
        ),
        trainer(resources={"limits": {"rdma/ib": 1, "memory": "64Gi"}, "requests": {"cpu": 8}}),
        trainer(securityContext={"capabilities": {"add": ["IPC_LOCK"]}, "readOnlyRootFilesystem": False}),
        trainer(
            volumeMounts=[{"name": "corpus", "mountPath": "/data/corpus", "readOnly": True}],
            livenessProbe={"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5},
        ),
        trainer(livenessProbe={"httpGet": {"path": "/", "port": 8080}}),
    ],
)
def test_whatever_else_a_pod_can_have_is_passed_on(template):
    assert problems(template) == []


def test_a_run_needs_an_image_and_storage_on_a_cluster():
    bare = replace(DEFAULTS, image="", default_claim_name="")
    assert [problem.path for problem in problems_of_templates(run_with(), bare)] == [
        "spec.workers.image",
        "spec.storage.volumeClaim",
    ]
    own = run_with(workers={"nodes": 2, "image": "trainer:1"}, storage={"volumeClaim": {"claimName": "team"}})
    assert problems_of_templates(own, bare) == []


def test_a_folder_of_one_machine_is_no_storage_for_pods():
    (problem,) = problems_of_templates(run_with(storage={"uri": "file:///runs"}), DEFAULTS)
    assert problem.path == "spec.storage.uri"
    assert "volumeClaim" in problem.remedy


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_can_be_built_and_fits_pod_security_restricted(path):
    run = load_run_file(path)
    assert problems_of_templates(run, DEFAULTS) == []
    for pod in pod_templates_of(run):
        assert violations(pod) == []


def test_a_template_may_weaken_security_and_the_namespace_decides():
    template = {
        "spec": {
            "hostNetwork": True,
            "volumes": [{"name": "host", "hostPath": {"path": "/usr"}}],
            "containers": [{"name": "trainer", "securityContext": {"runAsUser": 0}}],
        }
    }
    assert problems(template) == []
    for pod in pod_templates_of(run_with(workers={"nodes": 2, "podTemplate": template})):
        assert violations(pod) == ["hostNetwork", "volume type hostPath", "trainer: runAsUser"]
